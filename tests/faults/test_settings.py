"""Settings: configs with mistakes, and invalid YAML.

The keys are those of the recipe's own model, so that a new one is covered by itself.
"""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import annotated_types
import pytest
import yaml
from faults.saying import said
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from carvana.config import FitConfig, load_config, parse_settings
from carvana.errors import CarvanaError
from carvana.training.fit import fit
from carvana.training.setup import check
from carvana.utils.progress import SilentReporter


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


OWN = {
    "task.classes": ["", 1, 1.5, math.nan, True, [[[1]]], {"a": {"b": 1}}, [], {}],  # a text is a file, read later
    "train.class_weights": [
        {"a": 1},
        [[[1]]],
        math.nan,
        "",
        "many",
        True,
        [math.nan],
        [-1],
    ],  # a list of numbers is fine
    "data.nodata": [{"a": 1}, [[[1]]], "", "many", True, None],  # a list of numbers is fine
}
"""Values of keys whose types say too little."""


def as_yaml(key: str, value: Any) -> str:
    """A recipe with a comment first and one key."""
    *section, name = key.split(".")
    text = yaml.safe_dump({name: value}, default_flow_style=True, width=10**6).strip()[1:-1]
    return f"# mine\n{section[0]}:\n  {text}\n" if section else f"# mine\n{text}\n"


@pytest.mark.fault(
    done=(
        "a value of a wrong type, out of range, not finite, empty or null, for each key of a config, in "
        "a file, with --set and in Python"
    ),
    promised="one line with file, key, value and what was expected",
    reaches="errors.py: explain, each kind of mistake that pydantic finds",
)
@pytest.mark.parametrize("key", KEYS)
def test_each_key_refuses_what_it_cannot_take(key: str, tmp_path: Path, came_out: Callable[..., None]) -> None:
    path = tmp_path / "mine.yaml"
    times = 0
    for value in OWN.get(key) or wrong(KEYS[key]):
        if value is None and "." not in key:
            continue  # a key of the outermost level with nothing behind it keeps its default
        path.write_text(as_yaml(key, value))
        told = repr(value)[: 1 if isinstance(value, list | dict) else 4]
        from_file = said(lambda: load_config(path))
        assert from_file.startswith(f"{path}: {key} = "), (value, from_file)
        assert told in from_file
        word = f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix('...' + chr(10))}"
        from_set = said(lambda word=word: load_config(None, parse_settings([word])))  # type: ignore[misc]
        in_python = said(lambda value=value: FitConfig().replace({key: value}))  # type: ignore[misc]
        for line in (from_set, in_python):
            assert f"{key} = " in line, (value, line)
            assert told in line, (value, line)
            assert str(path) not in line
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
    done=(
        "senseless values of the right type for each key of a config: huge, tiny, a megabyte of text, a "
        "NUL byte, half a pattern"
    ),
    promised="one line that names the key, or a config that is the same when written and read",
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
    done=("an unknown key beside each key of a config: misspelt, in another section, with a section's name before it"),
    promised="one line that names file, key and the nearest that there is",
    reaches="errors.py: _instead",
)
@pytest.mark.parametrize("key", KEYS)
def test_unknown_keys_name_the_nearest(key: str, tmp_path: Path, came_out: Callable[..., None]) -> None:
    path = tmp_path / "mine.yaml"
    *section, name = key.split(".")
    misspelt = ".".join([*section, name + "x"])
    path.write_text(as_yaml(misspelt, 1))
    line = said(lambda: load_config(path))
    assert line.startswith(f"{path}: {misspelt}: unknown key")
    assert name in line.partition("unknown key")[2]
    elsewhere = next(other for other in ("data", "train") if f"{other}.{name}" not in KEYS)
    same = [other for other in KEYS if other.rpartition(".")[2] == name]  # two sections have a seed
    path.write_text(as_yaml(f"{elsewhere}.{name}", 1))
    line = said(lambda: load_config(path))
    assert any(other in line.partition("unknown key")[2] for other in same), line
    line = said(lambda: load_config(None, parse_settings([f"{misspelt}=1"])))
    assert misspelt in line
    came_out(times=3)


CONTRADICTIONS: dict[str, dict[str, object]] = {
    "no encoder for weights": {"model.encoder_weights": "imagenet"},
    "a frozen encoder with a rate": {"arch": "unet/resnet18", "train.freeze_encoder": True, "train.encoder_lr": 1e-4},
    "images without masks": {"data.images": "{root}/train", "data.root": "{root}/train"},
    "more groups to validate than there are": {"split.val": 5},
    "a share that leaves no group": {"split.val": 0.001},
    "a group that no name has": {"data.group": "(zebra)"},
    "a group without a name in it": {"data.group": "[0-9]+"},
    "a split of other images": {"split.file": "{other}/split.csv"},
    "patience longer than the training": {"train.patience": 100},
    "a decoder below its size": {"arch": "pan/resnet18", "data.size": [32, 48]},
    "options of another architecture": {"model.options": {"decoder_channels": [8, 8]}},
    "16 bits that this processor has not": {"train.precision": "fp16"},
}


@pytest.mark.fault(
    done="keys that contradict one another, or the images: a frozen encoder with a rate, weights without an encoder, "
    "more groups to validate than there are, a group that no name has",
    promised="one line that names a key or what it is about, before anything is trained; or a sound run",
    reaches="training/setup.py: check; data/splits.py: make_split",
    quick=4,
)
@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_contradictions(what: str, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("image,group,subset\nzebra_01.jpg,zebra,train\nzebra_02.jpg,zebra,val\n")
    places = {"{root}": str(tiny_data), "{other}": str(tmp_path)}
    changes = {
        key: functools.reduce(lambda text, place: text.replace(*place), places.items(), value)
        if isinstance(value, str)
        else value
        for key, value in CONTRADICTIONS[what].items()
    }
    base = {"model.options": {}} if "arch" in changes else {"model.options": {"width": 2}}
    small = {"data.root": tiny_data, "data.size": [32, 48], "data.workers": 0, "train.epochs": 1, "train.batch_size": 4}
    try:
        recipe = FitConfig().replace({**small, **base, "train.precision": "fp32", **changes})
        run = fit(recipe, out=tmp_path / "run", device="cpu", reporter=SilentReporter())
    except CarvanaError as error:
        line = str(error)
        assert line.isprintable()
        assert len(line) < 600
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
    else:
        assert run.is_evaluated
        assert what in ("a share that leaves no group", "patience longer than the training", "a decoder below its size")
