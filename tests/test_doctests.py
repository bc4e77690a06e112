"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import carvana
from carvana.registry import registry

MODULES = [
    module.name for module in pkgutil.walk_packages(carvana.__path__, "carvana.") if "__main__" not in module.name
]


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example registers is gone after it."""
    for catalog in registry.catalogs.values():
        monkeypatch.setattr(catalog, "_entries", {entry.name: entry for entry in catalog.registered()})


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    examples = sum(len(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name)))
    assert examples > 40
