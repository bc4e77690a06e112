"""Nothing is registered, shipped or offered as a command without a test of its own.

What counts as a test is written here: a string in the tests of that kind that is the thing's name, or, for commands, a
call with the command's words first, or, for public names, the name. Tests that plain pytest leaves out do not count.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import carvana
from carvana.cli.app import app
from carvana.config import configs
from carvana.registry import registry

TESTS = Path(__file__).parent

# Where the tests of each kind are.
PLACES = {
    "archs": ("models/test_contract.py", "models/test_smp_encoders.py"),
    "losses": ("test_losses.py", "test_losses_of_classes.py"),
    "augments": ("data/test_augment.py",),
    "layouts": ("testing/test_layout.py",),
}


def quick(file: Path) -> ast.Module:
    """The code of a file of tests without what plain pytest leaves out."""
    tree = ast.parse(file.read_text())
    slow = "faults" in file.parts or any(ast.unparse(node) == "pytestmark = pytest.mark.slow" for node in tree.body)
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    left_out = [node for node in tests if slow or any("slow" in ast.unparse(mark) for mark in node.decorator_list)]
    return ast.Module([node for node in tree.body if node not in left_out], [])


def strings(*files: Path) -> set[str]:
    """All words of Python code in quotation marks, docstrings left out."""
    found = set()
    for file in files:
        tree = quick(file)
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
        }
    return found


def calls() -> Iterator[tuple[str, ...]]:
    """The strings that begin each call and list in the tests: call("data", "demo", ...), ["fit", ...].

    The tests of a group of commands leave its name to a helper of theirs.
    """
    groups = {group.name for group in app.registered_groups}
    for file in set(TESTS.rglob("test_*.py")) - {Path(__file__)}:
        group = file.stem.removeprefix("test_")
        for node in ast.walk(quick(file)):
            items = node.args if isinstance(node, ast.Call) else getattr(node, "elts", [])
            words = []
            for item in items:
                if not (isinstance(item, ast.Constant) and isinstance(item.value, str)):
                    break
                words.append(item.value)
            words = [word for word in words if word not in ("-m", "carvana", "-q")]
            yield tuple(words)
            if group in groups:
                yield (group, *words)


def commands(group: typer.Typer) -> Iterator[tuple[str, ...]]:
    for info in group.registered_commands:
        yield (info.name or info.callback.__name__,)
    for info in group.registered_groups:
        yield from ((info.name, *words) for words in commands(info.typer_instance))


NAMES = [
    (kind, entry.name)
    for kind, catalog in registry.catalogs.items()
    for entry in catalog.registered()
    if entry.source == "carvana"
]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_registered_name_stands_in_the_tests_of_its_kind(kind: str, name: str) -> None:
    written = strings(*(TESTS / place for place in PLACES[kind]))
    stem = name.removesuffix("/*")
    assert any(text == stem or text.startswith(f"{stem}/") for text in written), f"write a test for {kind} {name!r}"


@pytest.mark.parametrize("name", configs())
def test_every_recipe_is_trained_with_and_promises_something(name: str) -> None:
    assert name in strings(TESTS / "test_configs.py"), f"say in tests/test_configs.py what {name!r} promises"


@pytest.mark.parametrize("words", list(commands(app)), ids=" ".join)
def test_every_command_is_called_by_a_test(words: tuple[str, ...]) -> None:
    assert any(call[: len(words)] == words for call in calls()), f"call `carvana {' '.join(words)}` in a test"


@pytest.mark.parametrize("name", carvana.__all__)
def test_every_public_name_is_used_by_a_test(name: str) -> None:
    assert name in names_used(), f"use carvana.{name} in a test that plain pytest runs"


@functools.cache
def names_used() -> set[str]:
    nodes = [node for file in TESTS.rglob("test_*.py") for node in ast.walk(quick(file))]
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)} | (imported & names)


def test_a_name_without_a_test_would_be_found() -> None:
    assert "no_such_public_name" not in names_used()
    assert "no-such-loss" not in strings(TESTS / "test_losses.py")
    assert ("no-such", "command") not in {call[:2] for call in calls()}
    assert {kind for kind, _ in NAMES} == PLACES.keys() == registry.catalogs.keys() - {"commands"}  # plugins' alone
    assert ("data", "demo") in set(commands(app))
