"""docs/reference/python.md: what the library offers other programs, from its source. Nothing of it is imported."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import griffe
from docstrings import sections
from markup import GENERATED, anchor, code, item
from signatures import attribute_type, signature

GROUPS = {
    "Networks": ("models",),
    "Data": ("data",),
    "Configs and runs": ("config", "run", "folds"),
    "Training": ("training",),
    "Prediction": ("inference",),
    "Evaluation and comparison": ("evaluation", "leaderboard"),
    "Adding to the library": ("register",),
    "Testing what you add": ("testing",),
    "Errors": ("errors",),
    "Further": ("",),
}
"""The parts of the page, and the rooms of the package whose names stand there."""

BESIDE = (
    "data.io.rle.encode",
    "data.io.rle.decode",
    "data.io.rle.runs_of",
    "data.io.rle.RleError",
    "data.demo.draw_photo",
    "data.splits.Split",
    "folds.Folds",
    "training.signals.TrainingInterrupted",
    "inference.prediction.Prediction",
    "inference.inputs.collect_images",
    "evaluation.evaluate.Evaluation",
    "evaluation.evaluate.ImageScore",
    "leaderboard.records.Header",
    "leaderboard.records.Row",
    "leaderboard.records.SeedRun",
    "leaderboard.records.Pair",
    "leaderboard.records.ScoredImage",
    "testing.fixtures.tiny_data",
    "testing.fixtures.tiny_config",
    "testing.fixtures.tiny_cache",
    "errors.ConfigError",
    "errors.DataError",
    "errors.ImageTooLargeError",
    "errors.ModelError",
    "errors.RunError",
    "errors.UnknownNameError",
)
"""Names that are public and not in ``carvana.__all__``: what those in it return and raise, and what examples use."""

NOTES = {"FitConfig": "Every key, its range and its default: [configs](config.md)."}

INTRODUCTION = """\
# Python

`import carvana` is quick: what is named here is loaded when it is first used. Sizes are (height, width), photos are
RGB. Every mistake that a caller can mend is a [`CarvanaError`](#carvanaerror), whose message is one line.
"""


@dataclass(frozen=True)
class Entry:
    """A documented name: as it is written, its place on the page, and what it is."""

    name: str
    target: griffe.Object

    @property
    def heading(self) -> str:
        """The name within the package."""
        return self.name.removeprefix("carvana.")

    @property
    def room(self) -> str:
        """The first part of the package that it lives in."""
        return self.target.canonical_path.split(".")[1]


def page(source: Path) -> str:
    """The whole page, of the package that lies in the folder ``source``."""
    package = griffe.load(
        "carvana",
        search_paths=[source],
        try_relative_path=False,  # the folder that one stands in may hold another
        docstring_parser="google",
        docstring_options={"warnings": False},
    )
    assert isinstance(package, griffe.Module)
    entries = list(_entries(package))
    links = _links(entries)
    parts = [GENERATED, INTRODUCTION]
    left = entries
    for title, rooms in GROUPS.items():
        here = [entry for entry in left if entry.room in rooms or rooms == ("",)]
        left = [entry for entry in left if entry not in here]
        if here:
            parts.append(f"## {title}\n")
            parts += [_entry(entry, links) for entry in here]
    return "\n".join(parts).rstrip() + "\n"


def _entries(package: griffe.Module) -> Iterator[Entry]:
    named = set()
    homes = ast.literal_eval(str(package["_HOMES"].value))  # what __all__ is made of
    for name in sorted([*itertools.chain(*homes.values()), "testing"]):
        target = _resolved(package, package.imports.get(name, f"carvana.{name}"))
        if isinstance(target, griffe.Module):
            inner = map(str, target.exports or ())
            yield from (Entry(f"carvana.{name}.{each}", _resolved(package, target.imports[each])) for each in inner)
        else:
            named.add(target.canonical_path)
            yield Entry(f"carvana.{name}", target)
    for name in BESIDE:
        target = _resolved(package, f"carvana.{name}")
        if target.canonical_path not in named:
            yield Entry(f"carvana.{name}", target)


def _resolved(package: griffe.Module, path: str) -> griffe.Object:
    found = package[path.removeprefix("carvana.")]
    return found.final_target if isinstance(found, griffe.Alias) else found


def _links(entries: list[Entry]) -> dict[str, str]:
    """Where each name is on the page, by all the names that docstrings call it."""
    links: dict[str, str] = {}
    for entry in entries:
        names = [entry.heading]
        if isinstance(entry.target, griffe.Class):
            names += [f"{entry.heading}.{name}" for name in _methods(entry.target)]
        for name in names:
            inner = name.removeprefix(entry.heading)
            for known in (name, entry.name + inner, entry.target.canonical_path + inner, entry.target.name + inner):
                links.setdefault(known, f"#{anchor(name)}")
    return links


def _entry(entry: Entry, links: dict[str, str]) -> str:
    target = entry.target
    parts = [f"### {entry.heading}\n", signature(entry.name, target)]
    parts.append(sections(target, links, inside=entry.heading))
    if entry.heading in NOTES:
        parts.append(NOTES[entry.heading] + "\n")
    if isinstance(target, griffe.Class):
        properties = [_property(member, links, entry.heading) for member in _properties(target).values()]
        if properties:
            parts.append("\n".join(["**Properties**\n", *properties, ""]))
        for name, method in _methods(target).items():
            parts += [f"#### {entry.heading}.{name}\n", signature(f"{entry.target.name}.{name}", method)]
            parts.append(sections(method, links, inside=entry.heading))
    return "\n".join(parts)


def _property(member: griffe.Object, links: dict[str, str], inside: str) -> str:
    text = " ".join(sections(member, links, inside=inside).split())
    return item(code(member.name), text, about=code(attribute_type(member)))


def _members(target: griffe.Class) -> dict[str, griffe.Object]:
    """What may be called from outside: its own members in their order, then the inherited ones.

    What all records inherit, to become JSON and come back, would be told five times.
    """
    inherited = {} if "dataclass" in target.labels else target.inherited_members
    found = {}
    for name, member in {**target.members, **inherited}.items():
        resolved = member.final_target if isinstance(member, griffe.Alias) else member
        special = name in ("__getitem__", "__call__", "__iter__", "__len__")
        if resolved.docstring is not None and (special or not name.startswith("_")):
            found[name] = resolved
    return found


def _methods(target: griffe.Class) -> dict[str, griffe.Object]:
    return {name: member for name, member in _members(target).items() if isinstance(member, griffe.Function)}


def _properties(target: griffe.Class) -> dict[str, griffe.Object]:
    return {name: member for name, member in _members(target).items() if "property" in member.labels}
