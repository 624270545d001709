from importlib import metadata

import pytest

from lipo_e_ray.install_check import check_install
from lipo_e_ray.types import InputError


def installed(monkeypatch, **versions):
    def version(package):
        if package not in versions:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(metadata, "version", version)


def test_a_cuda_companion_beside_a_cpu_torch_is_named_with_its_remedy(monkeypatch):
    installed(monkeypatch, torch="2.13.0+cpu", torchvision="0.28.0")
    with pytest.raises(InputError, match=r"torchvision 0\.28\.0.*pip uninstall -y torchvision"):
        check_install()


@pytest.mark.parametrize(
    "versions",
    [
        {"torch": "2.13.0+cpu"},
        {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"},
        {"torch": "2.13.0", "torchvision": "0.28.0"},
    ],
)
def test_sound_combinations_pass(monkeypatch, versions):
    installed(monkeypatch, **versions)
    check_install()


def test_no_torch_names_the_extras(monkeypatch):
    installed(monkeypatch)
    with pytest.raises(InputError, match="extra"):
        check_install()
