"""Where the programs are: in wheels that are installed beside us, found without importing them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ext_authz.errors import ConfigError


def directory(package: str, instead: str) -> Path:
    """A package's directory; `instead` names the setting that does without it.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{package} is not installed: pip install tollgate-devstack, or set {instead}")
    return Path(spec.submodule_search_locations[0])


def program(package: str, pattern: str, instead: str) -> Path:
    """A program of a package, where its wheel puts it for this machine.

    Raises:
        ConfigError: the package is not installed, or its wheel has none for this machine.
    """
    found = next(directory(package, instead).glob(pattern), None)
    if found is None:
        raise ConfigError(f"{package} has no program for this machine: set {instead}")
    return found
