"""The pages of docs/reference/ say what the code says, and the code says enough."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from blocks import ROOT
from typer.testing import CliRunner

from carvana.cli.app import app
from carvana.config import FitConfig, configs

GENERATOR = ROOT / "docs" / "make_reference"
REFERENCE = ROOT / "docs" / "reference"
CLI, RECIPE, PYTHON = ((REFERENCE / name).read_text(encoding="utf-8") for name in ("cli.md", "config.md", "python.md"))


def check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(GENERATOR), "--check", *words], capture_output=True, text=True)


def test_the_pages_are_what_the_code_says() -> None:
    done = check()
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("plugins.py", "def register_arch(name: str,", "def register_arch(name: str, more: int,"),
        ("plugins.py", "Add an architecture,", "Add one architecture,"),
        ("inference/base.py", "def predict_batch(", "def predict_some("),
        ("__init__.py", '("tiled",)', "()"),
    ],
    ids=["a signature", "its words", "an inherited method", "a name less"],
)
def test_a_change_of_the_public_api_without_its_page_is_noticed(
    tmp_path: Path, file: str, before: str, after: str
) -> None:
    shutil.copytree(ROOT / "carvana", tmp_path / "carvana", ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "carvana" / file
    assert before in changed.read_text()
    changed.write_text(changed.read_text().replace(before, after))
    done = check("--source", str(tmp_path))
    assert done.returncode == 1
    assert "python.md" in done.stderr
    assert "python docs/make_reference" in done.stderr  # what to do


# The commands, as their own help has them


def every_command(group: typer.Typer, *before: str) -> Iterator[tuple[str, ...]]:
    for info in group.registered_commands:
        yield (*before, info.name or info.callback.__name__)
    for info in group.registered_groups:
        yield from every_command(info.typer_instance, *before, info.name)


def section(page: str, heading: str) -> str:
    return re.split(r"^#+ ", page.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("words", list(every_command(app)), ids=" ".join)
def test_each_option_that_a_commands_help_shows_is_on_the_page_and_no_other(words: tuple[str, ...]) -> None:
    shown = CliRunner(env={"COLUMNS": "300", "TERMINAL_WIDTH": "300", "NO_COLOR": "1"}).invoke(app, [*words, "--help"])
    assert shown.exit_code == 0
    begins = re.compile(r"^[│ *]*((?:-\w\b|--[a-z][\w-]*|[ ,])+)", re.MULTILINE)
    helped = {option for found in begins.findall(shown.stdout) for option in re.findall(r"--?[a-z][\w-]*", found)}
    assert {"-q", "--quiet", "-v", "--help"} <= helped
    here = re.findall(r"^- ([^:(]+)", section(CLI, f"## carvana {' '.join(words)}"), re.MULTILINE)
    everywhere = re.findall(r"^- ([^:(]+)", section(CLI, "## On every command").partition("And on")[0], re.MULTILINE)
    written = {option for line in here + everywhere for option in re.findall(r"`(--?[a-z][\w-]*)", line)}
    assert written == helped


# The configs


def test_each_key_stands_in_its_section_with_the_default_that_holds() -> None:
    written = dict(re.findall(r"^- `([\w.]+)` \([^\n]*default `([^\n`]*)`\)", RECIPE, re.MULTILINE))
    flat: dict[str, Any] = {}
    for key, value in FitConfig().model_dump(mode="json").items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    assert {key: yaml.safe_load(text) for key, text in written.items()} == flat


def test_each_shipped_recipe_is_shown() -> None:
    assert set(re.findall(r"^### Config (\S+)$", RECIPE, re.MULTILINE)) == set(configs())


# Python


def public() -> Iterator[tuple[str, Any]]:
    """What others may rely on: the names of the package, of its public modules, and the methods of the classes."""
    for module in ("carvana", "carvana.testing", "carvana.errors", "carvana.data.io.rle"):
        found = importlib.import_module(module)
        for name in getattr(found, "__all__", None) or [name for name in vars(found) if not name.startswith("_")]:
            thing = getattr(found, name)
            if module == "carvana" and inspect.ismodule(thing) and not callable(thing):
                continue
            home = getattr(thing, "__module__", "")
            if module in ("carvana", "carvana.testing") or home == module:
                yield from described(f"{module}.{name}".removeprefix("carvana."), thing)


def described(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    yield name, thing
    if inspect.isclass(thing):
        for base in thing.__mro__:
            for member, value in vars(base).items() if base.__module__.startswith("carvana") else ():
                inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                if not member.startswith("_") and (inspect.isfunction(inner) or isinstance(inner, property)):
                    yield f"{name}.{member}", inner


PUBLIC = dict(public())
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}


def test_every_public_name_has_a_docstring_of_its_own() -> None:
    assert len(PUBLIC) > 100
    assert [name for name, thing in PUBLIC.items() if not (thing.__doc__ or "").strip()] == []


def test_every_public_function_has_types_throughout() -> None:
    bare = []
    for name, function in FUNCTIONS.items():
        signature = inspect.signature(function)
        hints = [p.annotation for p in signature.parameters.values() if p.name not in ("self", "cls")]
        if inspect.Parameter.empty in [*hints, signature.return_annotation]:
            bare.append(name)
    assert bare == []


def test_every_public_function_that_raises_says_so() -> None:
    silent = []
    for name, function in FUNCTIONS.items():
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        raises = any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))
        if raises and not re.search(r"Raises:|Error", function.__doc__ or ""):
            silent.append(name)
    assert silent == []


def test_every_public_name_is_on_the_page() -> None:
    headings = set(re.findall(r"^#{3,4} (\S+)$", PYTHON, re.MULTILINE))
    assert {name for name, thing in PUBLIC.items() if "." not in name and name not in headings} == set()
    kinds = {name for name in PUBLIC if name.startswith("errors.") and name.endswith("Error")}
    assert kinds - headings == {"errors.CarvanaError"}  # it stands there as CarvanaError
