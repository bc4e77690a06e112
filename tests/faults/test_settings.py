"""Settings: recipes with mistakes, and YAML that is none.

The keys are those of the recipe's own model, so that a new one is covered by itself.
"""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import annotated_types
import pytest
import yaml
from faults.commands import carvana
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from carvana.config import FitConfig, load_config, parse_settings
from carvana.errors import CarvanaError, ConfigError
from carvana.training.recipe import check


def each_key(model: type[BaseModel] = FitConfig, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from each_key(field.annotation, f"{above}{name}.")
        else:
            yield above + name, field


KEYS = dict(each_key())


def leaves(annotation: Any) -> set[Any]:
    """The plain types and literal values that a key takes, also inside unions and tuples."""
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return set(typing.get_args(annotation))
    if origin is dict:
        return {dict}
    if typing.get_args(annotation):
        arguments = typing.get_args(annotation)[: 1 if origin is typing.Annotated else None]
        return set().union(*map(leaves, arguments))
    return {annotation}


def bounds(holder: Any) -> Iterator[Any]:
    """Ge, Gt, Le and Lt of a key, wherever in its type they stand."""
    for part in getattr(holder, "metadata", ()) or getattr(holder, "__metadata__", ()):
        if isinstance(part, annotated_types.Ge | annotated_types.Gt | annotated_types.Le | annotated_types.Lt):
            yield part
        elif isinstance(part, FieldInfo):
            yield from bounds(part)
    for inner in typing.get_args(getattr(holder, "annotation", holder)):
        if not isinstance(inner, str | int):
            yield from bounds(inner)


def outside(field: FieldInfo) -> list[Any]:
    """Values just outside of what a key declares."""
    found: list[Any] = []
    for bound in bounds(field):
        if isinstance(bound, annotated_types.Ge):
            found.append(bound.ge - 1)
        elif isinstance(bound, annotated_types.Gt):
            found.append(bound.gt)
        elif isinstance(bound, annotated_types.Le):
            found.append(bound.le + 1)
        else:
            found.append(bound.lt)
    return found


def wrong(field: FieldInfo) -> list[Any]:
    """Values that a key must refuse, by its type: of no such type, no finite number, null where nothing may be."""
    kinds = leaves(field.annotation)
    values: list[Any] = [] if dict in kinds else [{"a": 1}]
    values += [] if dict in kinds else [[[[1]]]]
    if kinds & {int, float}:
        values += [math.nan, math.inf, -math.inf, "", "many", True, [1, 2, 3]]
    elif dict in kinds:
        values += ["", "many", 1, [1], math.nan]
    elif bool in kinds:
        values += ["", "maybe", 7, math.nan]
    else:
        values += [1.5, math.nan, True]
    if not kinds & {str, Path, dict, bool, int, float}:
        values += ["", "nonsense"]
    if type(None) not in kinds:
        values.append(None)
    return values + outside(field)


def as_yaml(key: str, value: Any) -> tuple[str, int]:
    """A recipe with a comment first and one key, and the line on which that stands."""
    *section, name = key.split(".")
    text = yaml.safe_dump({name: value}, default_flow_style=True, width=10**6).strip()[1:-1]
    return (f"# mine\n{section[0]}:\n  {text}\n", 3) if section else (f"# mine\n{text}\n", 2)


def said(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        act()
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 600, line
    return line


@pytest.mark.fault(
    done="a value of a wrong type, out of range, not finite, empty or null, for each key of a recipe, in a file, "
    "with --set and in Python",
    promised="one line with file, line, key, value and what was expected",
    reaches="mistakes.py: each kind of mistake that pydantic tells of",
)
@pytest.mark.parametrize("key", KEYS)
def test_each_key_refuses_what_it_cannot_take(key: str, tmp_path: Path, came_out: Callable[..., None]) -> None:
    path = tmp_path / "mine.yaml"
    times = 0
    for value in wrong(KEYS[key]):
        if value is None and "." not in key:
            continue  # a key of the outermost level with nothing behind it keeps its default
        text, number = as_yaml(key, value)
        path.write_text(text)
        told = repr(value)[: 1 if isinstance(value, list | dict) else 4]
        from_file = said(lambda: load_config(path))
        assert from_file.startswith(f"{path}: line {number}, {key} = "), (value, from_file)
        assert told in from_file
        word = f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix('...' + chr(10))}"
        from_set = said(lambda word=word: load_config(None, parse_settings([word])))  # type: ignore[misc]
        in_python = said(lambda value=value: FitConfig().replace({key: value}))  # type: ignore[misc]
        for line in (from_set, in_python):
            assert f"{key} = " in line, (value, line)
            assert told in line, (value, line)
            assert "line " not in line.partition(key)[0]
        times += 3
    came_out(times=times)


def attempt(act: Callable[[], Any]) -> tuple[Any, str]:
    """What comes of it, and the line that is said where it is refused."""
    try:
        return act(), ""
    except CarvanaError as error:
        return None, str(error)


HUGE = [10**400, 2**63, 2**64, 1e308, 5e-324, "x" * 10**6, "a\0b", "\udcff", " ", "~", "/" * 5000, "(", "(a+)+$"]


@pytest.mark.fault(
    done="values of the right type that nobody means, for each key of a recipe: huge, tiny, a megabyte of text, a "
    "NUL byte, half a pattern",
    promised="one line that names the key, or a recipe that is the same when written and read",
    reaches="config.py: the bounds of the keys",
)
@pytest.mark.parametrize("key", KEYS)
def test_each_key_takes_extremes_soundly_or_refuses_them(key: str, came_out: Callable[..., None]) -> None:
    for value in HUGE:
        recipe, line = attempt(lambda value=value: FitConfig().replace({key: value}))  # type: ignore[misc]
        if recipe is None:
            assert f"{key} = " in line
            assert len(line) < 600
            assert line.isprintable()
            continue
        assert FitConfig(**yaml.safe_load(recipe.to_yaml())) == recipe
        if key.startswith("train."):
            _, line = attempt(lambda recipe=recipe: check(recipe, device="cpu"))  # type: ignore[misc]
            assert line.isprintable()
    came_out(times=len(HUGE))


@pytest.mark.fault(
    done="an unknown key beside each key of a recipe: misspelt, in another section, with a section's name before it",
    promised="one line that names file, line, key and the nearest that there is",
    reaches="mistakes.py: _instead",
)
@pytest.mark.parametrize("key", KEYS)
def test_unknown_keys_name_the_nearest(key: str, tmp_path: Path, came_out: Callable[..., None]) -> None:
    path = tmp_path / "mine.yaml"
    *section, name = key.split(".")
    misspelt = ".".join([*section, name + "x"])
    path.write_text(as_yaml(misspelt, 1)[0])
    line = said(lambda: load_config(path))
    assert line.startswith(f"{path}: line {3 if section else 2}, {misspelt}: unknown key")
    assert name in line.partition("unknown key")[2]
    elsewhere = next(other for other in ("data", "train") if f"{other}.{name}" not in KEYS)
    same = [other for other in KEYS if other.rpartition(".")[2] == name]  # two sections have a seed
    path.write_text(as_yaml(f"{elsewhere}.{name}", 1)[0])
    line = said(lambda: load_config(path))
    assert any(other in line.partition("unknown key")[2] for other in same), line
    line = said(lambda: load_config(None, parse_settings([f"{misspelt}=1"])))
    assert misspelt in line
    came_out(times=3)


def bomb(levels: int = 30) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int = 30) -> str:
    lines = ["a0: &a0 {b: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], c{n}: 1}}" for n in range(1, levels)]
    return "\n".join(lines)


EVIL: dict[str, str | bytes] = {
    "aliases": bomb(),
    "aliases in a key that takes anything": "model:\n  options:\n" + "\n".join("    " + x for x in bomb().split("\n")),
    "merges": merges(),
    "merges below a key": "model:\n  options:\n" + "\n".join("    " + x for x in merges().split("\n")),
    "itself": "model: &a\n  options: *a\n",
    "itself in a list": "model:\n  options: {x: &a [*a]}\n",
    "itself merged": "train: &a\n  <<: *a\n  epochs: 3\n",
    "merge of a list": "train:\n  <<: [1, 2]\n",
    "merge of a word": "train:\n  <<: word\n",
    "deep": "model: {options: " + "[" * 100_000,
    "deep and closed": "model: {options: {x: " + "[" * 5000 + "]" * 5000 + "}}",
    "deep by lines": "\n".join(" " * n + "a:" for n in range(1500)),
    "twice": "train:\n  epochs: 1\n  epochs: 2\n",
    "a mapping as key": "{{a: 1}: 2}\n",
    "a list as key": "? [1]\n: 2\n",
    "python object": "train: !!python/object/apply:os.system ['touch {trap}']\n",
    "python name": "arch: !!python/name:os.system\n",
    "python module": "arch: !!python/module:os\n",
    "own tag": "arch: !mine x\n",
    "set": "train: !!set {a, b}\n",
    "pairs": "train: !!omap [a: 1]\n",
    "timestamp": "arch: 2020-01-01\n",
    "impossible date": "arch: 2020-13-45\n",
    "a huge number": "train: {epochs: " + "9" * 100_000 + "}\n",
    "a sexagesimal number": "train: {epochs: " + "1:" * 4000 + "1}\n",
    "two documents": "arch: a\n---\narch: b\n",
    "a list": "- arch\n",
    "a word": "arch\n",
    "random bytes": bytes(range(256)) * 8,
    "UTF-16 without a mark": "arch: unet-ref\n".encode("utf-16-le"),
    "UTF-16": "arch: unet-ref\n".encode("utf-16"),
    "NUL": b"arch: a\0b\n",
    "Latin-1": b"arch: \xe9\n",
    "a control character": b"arch: \x1b[31m\n",
    "undefined alias": "arch: *a\n",
    "tabs": "train:\n\tepochs: 1\n",
}


@pytest.mark.fault(
    done="YAML that is made to harm: aliases and merge keys that grow exponentially, 100,000 levels, tags that name "
    "Python objects, keys twice, mappings as keys, other encodings, binary",
    promised="one short line that names the file, nothing executed, under 200 MB",
    reaches="yaml_file.py: read_yaml",
)
@pytest.mark.parametrize("name", EVIL)
def test_harmful_yaml_is_one_line(name: str, tmp_path: Path) -> None:
    path, trap = tmp_path / "evil.yaml", tmp_path / "trap"
    text = EVIL[name]
    path.write_bytes(text if isinstance(text, bytes) else text.replace("{trap}", str(trap)).encode())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = said(lambda: load_config(path))
    assert line.startswith(f"{path}: ")
    assert not trap.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(10**12)


def scalar(path: Path) -> None:
    path.write_text("arch: " + "x" * 10**8)


def many_lines(path: Path) -> None:
    path.write_text("# nothing\n" * 10**7)


def forever(path: Path) -> None:
    path.symlink_to("/dev/zero")


PLACES: dict[str, Callable[[Path], None]] = {
    "a folder": lambda path: path.mkdir(),
    "a FIFO": lambda path: os.mkfifo(path),
    "a device without end": forever,
    "a link to itself": lambda path: path.symlink_to(path),
    "a scalar of 100 MB": scalar,
    "comments of 100 MB": many_lines,
    "a terabyte of nothing": sparse,
}


@pytest.mark.fault(
    done="no file, or one of 100 MB or a terabyte, in a recipe's place: a folder, a FIFO, a device without end",
    promised="one line that names it, at once, under 200 MB",
    reaches="config.py: find_config; yaml_file.py: the bound on a file's size",
)
@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_recipe_file_is_one_line_with_bounded_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    PLACES[name](path)
    code = (
        "import resource, sys\nfrom carvana.config import load_config\nfrom carvana.errors import ConfigError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: load_config(sys.argv[1])\nexcept ConfigError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120, check=True)
    line, megabytes = done.stdout.splitlines()
    assert str(path) in line
    assert int(megabytes) < 200


@pytest.mark.fault(
    done="an empty recipe, one of comments alone, one whose sections are empty",
    promised="the recipe `default`",
    reaches="config.py: sections without keys",
)
@pytest.mark.parametrize("text", ["", "# nothing\n", "train:\ndata:\n", "---\n", "\ufeffarch: unet-ref\n"])
def test_an_empty_recipe_is_the_default(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_config(path) == FitConfig()


@pytest.mark.fault(
    done="`carvana fit` with a bomb of aliases as its recipe, an unknown key with --set, a tag that names os.system",
    promised="exit code 1 and one line, nothing written",
    reaches="cli/fit.py: what a recipe's mistake becomes",
    quick=1,
)
@pytest.mark.parametrize("case", ["bomb", "set", "tag"])
def test_the_command_says_one_line(case: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(bomb() if case == "bomb" else f"train: !!python/object/apply:os.system ['touch {tmp_path}/trap']\n")
    words = ["--set", "train.epoch=3"] if case == "set" else ["--config", path]
    done = carvana("fit", *words, "--out", tmp_path / "run", cwd=tmp_path)
    assert ("train.epoch" if case == "set" else str(path)) in done.error
    assert {entry.name for entry in tmp_path.iterdir()} == {"evil.yaml"}
