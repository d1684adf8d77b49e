"""Code of `model_servers/` that needs nothing but the standard library, imported from there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

MODELS = Path(__file__).parents[3] / "model_servers"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    for place in (MODELS, MODELS / "training", MODELS / "training" / "sentiment"):
        monkeypatch.syspath_prepend(place)

    def load(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load
