"""What is compared: architectures to fit, under names of their own if wanted, and finished runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carvana.config import parse_settings
from carvana.errors import ConfigError, RunError, UnknownNameError, did_you_mean
from carvana.folds import Folds
from carvana.registry import registry
from carvana.run import Run

_SLUG_BYTES = 80
"""What a name may take of a file's name, which systems bound at 255 bytes."""


@dataclass(frozen=True)
class Entry:
    """One network of a comparison.

    Args:
        name: What its row is called.
        arch: The architecture to fit; "" for a run.
        run: A finished run, which is only evaluated.
        changes: Keys below ``model`` that hold for this network alone, ``{"model.encoder_weights": "lite0.pth"}``. All
            else is shared, so that networks are compared and not recipes.

    >>> Entry("a wide one", arch="unet-ref", changes={"model.options": {"width": 96}}).slug
    'a-wide-one'
    """

    name: str
    arch: str = ""
    run: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.run is None) == (not self.arch):
            raise ConfigError(f"{self.name}: expected an architecture to fit or a finished run, one of the two")
        others = [key for key in self.changes if not key.startswith("model.")]
        if others:
            raise ConfigError(
                f"{self.name}: {others[0]} cannot be changed for one network alone, only what is below model; the "
                "rest is the recipe, which all of them share"
            )

    @property
    def slug(self) -> str:
        """Its name as part of a file's name."""
        words = re.sub(r"[^\w.+-]+", "-", self.name).strip("-.") or "network"
        return words.encode()[:_SLUG_BYTES].decode(errors="ignore")


def make_entries(
    names: str | os.PathLike[str] | Entry | Sequence[str | os.PathLike[str] | Entry], settings: Sequence[str] = ()
) -> list[Entry]:
    """What some names stand for, with the settings that hold for single ones.

    Args:
        names: Architectures as ``carvana archs`` lists them, the folders of finished runs, or ``LABEL=ONE`` of either
            to have one under another name. As a string an architecture's name wins over a folder of the same name;
            write ``./unet-ref`` for the folder.
        settings: ``NAME:model.key=value``, for the network of that name alone.

    Raises:
        UnknownNameError: a name is neither.
        ConfigError: a name or a run stands twice, or a setting cannot be used.
        RunError: a folder is no finished run.
    """
    listed = [names] if isinstance(names, str | os.PathLike | Entry) else list(names)
    found = list(map(_entry, listed))
    entries = {entry.name: entry for entry in found}
    if len(entries) < len(found):
        twice = next(entry for entry in found if sum(entry.name == other.name for other in found) > 1)
        raise ConfigError(f"{twice.name} is named twice; tell them apart by labels: other={twice.run or twice.arch}")
    _refuse_same_run(found)
    for setting in settings:
        name, _, assignment = setting.partition(":")
        if name not in entries:
            raise ConfigError(f"--set {setting!r}: no network {name!r} is compared{did_you_mean(name, entries)}")
        entry = entries[name]
        if entry.run is not None:
            raise ConfigError(f"--set {setting!r}: {name} is a finished run, whose settings are what they are")
        entries[name] = Entry(entry.name, entry.arch, changes={**entry.changes, **parse_settings([assignment])})
    _tell_apart([entry for entry in entries.values() if entry.run is None])
    return list(entries.values())


def is_own_setting(setting: str) -> bool:
    """Whether a word of ``--set`` is for one network alone.

    >>> is_own_setting("wide:model.options={width: 96}"), is_own_setting("data.root=C:x")
    (True, False)
    """
    return ":" in setting.partition("=")[0]


def _entry(name: str | os.PathLike[str] | Entry) -> Entry:
    if isinstance(name, Entry):
        if name.run is not None:
            _check_run(name.run)
        else:
            registry.archs.entry(name.arch)
        return name
    text, there = os.fspath(name), Path(name).exists()
    if text in registry.archs and (isinstance(name, str) or not there):
        return Entry(text, text)
    if there:
        _check_run(Path(text))
        return Entry(text, run=Path(text))
    label, equals, rest = text.partition("=")
    if equals:
        if not label or not rest:
            raise ConfigError(f"{text!r}: expected LABEL=ARCHITECTURE or LABEL=RUN, such as wide=unet-ref")
        inner = _entry(rest)
        return Entry(label, inner.arch, inner.run)
    try:
        registry.archs.entry(text)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} (and there is no run of that name either)") from None
    raise AssertionError(text)


def _check_run(path: Path) -> None:
    if Folds(path).exists:
        raise RunError(f"{path}: holds folds, which together have seen every group; name another run")
    run = Run(path)
    if not run.config_path.is_file() or not run.split_path.is_file():
        raise RunError(
            f"{path}: no run (it holds no config.yaml and split.csv), so nobody knows which groups it was trained on; "
            "name the folder that `carvana fit` wrote"
        )
    if not run.is_evaluated:
        raise RunError(f"{path}: is not finished; `carvana fit --resume {path}` goes on")


def _refuse_same_run(entries: Sequence[Entry]) -> None:
    runs: dict[Path, str] = {}
    for entry in entries:
        if entry.run is not None:
            other = runs.setdefault(entry.run.resolve(), entry.name)
            if other != entry.name:
                raise ConfigError(f"{other} and {entry.name} are one run; name it once")


def _tell_apart(entries: Sequence[Entry]) -> None:
    """Different names must give different folders."""
    slugs: dict[str, str] = {}
    for entry in entries:
        other = slugs.setdefault(entry.slug.lower(), entry.name)
        if other != entry.name:
            raise ConfigError(f"{entry.name} and {other} would be the same folder; give one a label of its own")
