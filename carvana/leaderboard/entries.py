"""The networks of a comparison: architectures to fit, and finished runs, which must not know the validation images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from carvana.config import parse_settings
from carvana.data.digest import content_digests
from carvana.data.names import group_and_view, group_pattern
from carvana.data.samples import Sample
from carvana.errors import ConfigError, ModelError, RunError, UnknownNameError, did_you_mean
from carvana.folds import Folds
from carvana.models.serialization import CONFIG, could_be_repository, locate, read_spec
from carvana.registry import registry
from carvana.run import Run
from carvana.utils.deprecated import renamed
from carvana.utils.progress import Reporter

_SLUG_BYTES = 80
"""Bytes of a file's name, of which systems allow 255, that a network's name may take."""

_SHOWN = 20
"""Groups that an error names."""


@dataclass(frozen=True)
class NetworkEntry:
    """One network of a comparison.

    Args:
        name: Of its row.
        arch: The architecture to fit; "" for a run or a model.
        run: A finished run, or a model folder, which is only evaluated.
        changes: Keys below ``model`` for this network alone, such as ``{"model.encoder_weights": "lite0.pth"}``. All
            other keys are shared, so that networks are compared and not configs.

    >>> NetworkEntry("a wide one", arch="unet-ref", changes={"model.options": {"width": 96}}).slug
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
                f"{self.name}: {others[0]} cannot be changed for one network alone, only keys below model can; all "
                "networks share the rest of the config"
            )

    @property
    def slug(self) -> str:
        """The name, changed so that it can be part of a file's name."""
        words = re.sub(r"[^\w.+-]+", "-", self.name).strip("-.") or "network"
        return words.encode()[:_SLUG_BYTES].decode(errors="ignore")


NetworkName = str | os.PathLike[str] | NetworkEntry
"""How a network may be named."""


def make_entries(names: NetworkName | Sequence[NetworkName], settings: Sequence[str] = ()) -> list[NetworkEntry]:
    """Find the networks that names stand for, and apply the settings of single ones.

    Args:
        names: Architectures as ``carvana archs`` lists them, folders of finished runs and of models, repositories of
            the Hugging Face hub, or ``LABEL=NAME`` to give any of them another name. A string that names both an
            architecture and a folder means the architecture; write ``./unet-ref`` for the folder.
        settings: ``NAME:model.key=value``, for the network of that name alone.

    Raises:
        UnknownNameError: a name is neither.
        ConfigError: a name or a run occurs twice, or a setting cannot be used.
        RunError: a folder is neither a finished run nor a model.
    """
    listed = [names] if isinstance(names, str | os.PathLike | NetworkEntry) else list(names)
    entries: dict[str, NetworkEntry] = {}
    for entry in map(_entry, listed):
        for other in entries.values():
            _check_distinct(other, entry)
        entries[entry.name] = entry
    for setting in settings:
        name, _, assignment = setting.partition(":")
        if name not in entries:
            raise ConfigError(f"--set {setting!r}: no network of the name {name!r}{did_you_mean(name, entries)}")
        entry = entries[name]
        if entry.run is not None:
            raise ConfigError(f"--set {setting!r}: {name} is a finished run, whose settings cannot be changed")
        entries[name] = replace(entry, changes={**entry.changes, **parse_settings([assignment])})
    return list(entries.values())


def is_own_setting(setting: str) -> bool:
    """Whether an argument of ``--set`` is for one network alone.

    >>> is_own_setting("wide:model.options={width: 96}"), is_own_setting("data.root=C:x")
    (True, False)
    """
    return ":" in setting.partition("=")[0]


def refuse_known_groups(
    run: Run,
    scored: Sequence[Sample],
    *,
    group: str | None = None,
    shared: Set[str] = frozenset(),
    reporter: Reporter,
) -> None:
    """Refuse a run that was trained on a group of the images to score.

    Groups are compared by the names that the run gave them when it was fitted, and by those that this comparison finds
    in the names of its images.

    Args:
        run: The run.
        scored: The images to score.
        group: The expression by which this comparison finds the group in a name (``data.group``).
        shared: Groups that the networks fitted here are trained on as well, since the data folder divides them so: of
            these a run must not have had the images alone.
        reporter: Receives a warning where the training behind the run's first weights is not known.

    Raises:
        RunError: it was; the message names the groups.
    """
    groups = {sample.group for sample in scored}
    unseen = groups - shared
    images = {sample.name: sample.group for sample in scored}
    seen: set[Path] = set()
    at, via = run, ""
    while at.path.resolve() not in seen:
        seen.add(at.path.resolve())
        trained = at.read_split("train")
        clash = _own_validation(at, trained.keys(), scored)
        trained = {name: its for name, its in trained.items() if name not in clash}
        known = unseen.intersection(trained.values())
        known |= {images[name] for name in trained if name in images}
        known |= {own for name in trained if (own := _group(name, group)) in unseen}
        if known:
            more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
            raise RunError(
                f"{run.path}: {via}was trained on {len(known)} of the {len(groups)} validation groups "
                f"({', '.join(sorted(known)[:_SHOWN])}{more}); leave it out, or split the images as it did (--set "
                f"split.file={run.split_path})"
            )
        first = at.read_record().get("init_from")
        if first is None:
            return
        before = next(
            (folder for folder in (Path(first), Path(first).parent) if Run(folder).split_path.is_file()), None
        )
        if before is None:
            reporter.warn(
                f"{run.path}: started from the weights of {first}; on which groups these were trained is not known"
            )
            return
        at, via = Run(before), f"the run that it was started from, {before}, "


__getattr__ = renamed(__name__, Entry="NetworkEntry")


def _entry(name: NetworkName) -> NetworkEntry:
    if isinstance(name, NetworkEntry):
        if name.run is not None:
            _check_run(name.run)
        else:
            registry.archs.entry(name.arch)
        return name
    text = os.fspath(name)
    if text in registry.archs and (isinstance(name, str) or not Path(text).exists()):
        return NetworkEntry(text, text)
    if Path(text).exists():
        _check_run(Path(text))
        return NetworkEntry(text, run=Path(text))
    label, equals, rest = text.partition("=")
    if equals and not (label and rest):
        raise ConfigError(f"{text!r}: expected LABEL=ARCHITECTURE or LABEL=RUN, such as wide=unet-ref")
    if equals:
        return replace(_entry(rest), name=label)
    try:
        registry.archs.entry(text)
    except UnknownNameError as error:
        if not could_be_repository(text) or _family(text) in {entry.name for entry in registry.archs.registered()}:
            raise UnknownNameError(f"{error} (and there is no run of that name either)") from None
        try:
            return NetworkEntry(text, run=locate(text))
        except ModelError as missing:
            raise UnknownNameError(f"{error}; there is no run of that name; as a model: {missing}") from None
    raise AssertionError(text)


def _family(name: str) -> str:
    return f"{name.partition('/')[0]}/*"


def _check_run(path: Path) -> None:
    if Folds(path).exists:
        raise RunError(f"{path}: a folder of folds, which together were trained on every group; name another run")
    run = Run(path)
    if not run.config_path.is_file() and (locate(path) / CONFIG).is_file():
        read_spec(locate(path))
        return
    if not run.config_path.is_file() or not run.split_path.is_file():
        raise RunError(
            f"{path}: not a run folder: config.yaml or split.csv, the list of its training groups, is missing; name "
            "the folder that `carvana fit` wrote"
        )
    if not run.is_evaluated:
        raise RunError(f"{path}: not finished; `carvana fit --resume {path}` continues it")


def _check_distinct(one: NetworkEntry, other: NetworkEntry) -> None:
    if one.name == other.name:
        raise ConfigError(f"{one.name} is named twice; give one a label: other={one.run or one.arch}")
    if one.run and other.run and one.run.resolve() == other.run.resolve():
        raise ConfigError(f"{one.name} and {other.name} are the same run; name it once")
    if not one.run and not other.run and one.slug.lower() == other.slug.lower():
        raise ConfigError(f"{one.name} and {other.name} would use the same folder; give one of them another label")


def _own_validation(run: Run, trained: Set[str], scored: Sequence[Sample]) -> Set[str]:
    """Names of training images that validation images of the run have as well, which are those to score, by digest.

    Such are there where another folder validates (``split.file``) whose files are named as those of the training. An
    image that is in both is known all the same.
    """
    both = trained & run.read_split("val").keys()
    again, kept = [sample for sample in scored if sample.name in both], run.read_digests()
    if not again or not kept:
        return set()
    digests = zip(again, content_digests(again), strict=True)
    names = {sample.name for sample, found in digests if found and kept.get(("val", sample.name)) == found}
    return {name for name in names if kept.get(("train", name)) != kept["val", name]}


def _group(name: str, group: str | None) -> str | None:
    with suppress(ConfigError):  # an image of another data set need not fit the expression
        return group_and_view(os.path.splitext(name)[0], group_pattern(group))[0]  # noqa: PTH122 - of a bare name
    return None
