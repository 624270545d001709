"""One known way in which an installation is broken, found before it shows as a traceback from deep inside.

A package index without CPU builds of torchvision, torchaudio and torchcodec gives their CUDA builds, and beside a
CPU build of torch these break ``import transformers``. Text models need none of the three.
"""

from __future__ import annotations

import sys
from importlib import metadata

from lipo_e_ray.types import InputError

_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_install() -> None:
    """Raises ``InputError`` when torch is a CPU build and one of its companions is not."""
    torch = _version("torch")
    if torch is None:
        raise InputError("expected PyTorch, found none; install an extra: pip install 'lipo-e-ray[cpu]' or '[gpu]'")
    if not torch.endswith("+cpu"):
        return
    foreign = [f"{name} {version}" for name in _COMPANIONS if (version := _version(name)) and "+cpu" not in version]
    if foreign:
        raise InputError(
            f"torch {torch} beside CUDA builds ({', '.join(foreign)}) cannot load text models; "
            f"run: pip uninstall -y {' '.join(_COMPANIONS)}"
        )


if __name__ == "__main__":
    try:
        check_install()
    except InputError as error:
        sys.exit(str(error))
