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


@dataclass(frozen=True)
class Entry:
    """One network of a comparison.

    Args:
        name: What its row is called.
        arch: The architecture to fit; "" for a run.
        run: A finished run, which is only evaluated.
        changes: Keys below ``model`` that hold for this network alone, ``{"model.encoder_weights": "lite0.pth"}``. All
            else is shared, so that networks are compared and not recipes.

    >>> Entry("wide", arch="unet-ref", changes={"model.options": {"width": 96}}).slug
    'wide'
    """

    name: str
    arch: str = ""
    run: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        others = [key for key in self.changes if not key.startswith("model.")]
        if others:
            raise ConfigError(
                f"{self.name}: {others[0]} cannot be changed for one network alone, only what is below model; the "
                "rest is the recipe, which all of them share"
            )

    @property
    def slug(self) -> str:
        """Its name as part of a file's name."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-.") or "network"


def make_entries(names: Sequence[str | os.PathLike[str] | Entry], settings: Sequence[str] = ()) -> list[Entry]:
    """What some names stand for, with the settings that hold for single ones.

    Args:
        names: Architectures as ``carvana archs`` lists them, ``LABEL=ARCHITECTURE`` to have one twice or under another
            name, or the folders of finished runs. An architecture's name wins over a folder of the same name; write
            ``./unet-ref`` for the folder.
        settings: ``NAME:model.key=value``, for the network of that name alone.

    Raises:
        UnknownNameError: a name is neither.
        ConfigError: a name stands twice, or a setting cannot be used.
        RunError: a folder is no finished run.
    """
    entries = {entry.name: entry for entry in map(_entry, names)}
    if len(entries) < len(names):
        listed = [_entry(name).name for name in names]
        twice = next(name for name in listed if listed.count(name) > 1)
        raise ConfigError(f"{twice} is named twice; tell them apart by labels, such as other={twice}")
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
    text = os.fspath(name)
    label, equals, arch = text.partition("=")
    if equals and not Path(text).exists():
        if not label or not arch:
            raise ConfigError(f"{text!r}: expected LABEL=ARCHITECTURE, such as wide=unet-ref")
        registry.archs.entry(arch)
        return Entry(label, arch)
    if isinstance(name, str) and name in registry.archs:
        return Entry(name, name)
    if Path(text).exists():
        _check_run(Path(text))
        return Entry(text, run=Path(text))
    try:
        registry.archs.entry(text)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} (and there is no run of that name either)") from None
    raise AssertionError(text)


def _check_run(path: Path) -> None:
    if Folds(path).exists:
        raise RunError(f"{path}: holds folds, which together have seen every car; name another run")
    run = Run(path)
    if not run.config_path.is_file() or not run.split_path.is_file():
        raise RunError(
            f"{path}: no run (it holds no config.yaml and split.csv), so nobody knows which cars it was trained on; "
            "name the folder that `carvana fit` wrote"
        )
    if not run.evaluation_path.is_file():
        raise RunError(f"{path}: is not finished; `carvana fit --resume {path}` goes on")


def _tell_apart(entries: Sequence[Entry]) -> None:
    """Different names must give different folders."""
    slugs: dict[str, str] = {}
    for entry in entries:
        other = slugs.setdefault(entry.slug.lower(), entry.name)
        if other != entry.name:
            raise ConfigError(f"{entry.name} and {other} would be the same folder; give one a label of its own")
