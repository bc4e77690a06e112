"""A run: the folder that ``fit`` writes, as paths and records. Nothing here needs torch."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from carvana.config import FitConfig, load_config
from carvana.errors import RunError, check_format_version
from carvana.utils.files import append_json_line, is_leftover, lock, read_json, read_json_lines, write_json, write_text
from carvana.utils.yaml_files import read_yaml

FORMAT_VERSION = 1

_LOCK = ".lock"


class Results:
    """What a run and folds have in common: a folder that is known by a file, and its evaluation."""

    _kind: ClassVar[str]
    _known_by: ClassVar[str]
    _written_by: ClassVar[str]
    _evaluated_by: ClassVar[str]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.evaluation_path = self.path / "evaluation.json"
        self.masks_path = self.path / "masks"
        self.pictures_path = self.path / "pictures"

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """An existing folder of this kind.

        Raises:
            RunError: the folder is missing, or another one.
        """
        found = cls(path)
        if not found.exists:
            raise RunError(
                f"{found.path}: not {cls._kind}: {cls._known_by} is missing; name one that `{cls._written_by}` wrote"
            )
        return found

    @property
    def exists(self) -> bool:
        """Whether this is a folder of this kind, finished or not."""
        return (self.path / self._known_by).is_file()

    def write_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Write the numbers at full size."""
        write_json(self.evaluation_path, evaluation)

    @property
    def is_evaluated(self) -> bool:
        """Whether the numbers at full size exist and can be read."""
        try:
            self.read_evaluation()
        except RunError:
            return False
        return True

    def read_evaluation(self) -> dict[str, Any]:
        """The numbers at full size.

        Raises:
            RunError: they do not exist yet, or are damaged.
        """
        path = self.evaluation_path
        advice = f"`{self._evaluated_by} {self.path}` makes one"
        if not path.is_file():
            raise RunError(f"{self.path}: {path.name} is missing; {advice}")
        try:
            numbers = read_record(path)
        except RunError as error:
            raise RunError(f"{error}; {advice} anew") from error
        if "dice" not in numbers and "miou" not in numbers:
            raise RunError(f"{path}: not an evaluation: 'dice' is missing; {advice} anew")
        return numbers


class Run(Results):
    """The paths of a run folder, which need not exist yet, and its records; :meth:`open` checks that it is a run.

    Attributes:
        path: The folder itself.
        config_path: ``config.yaml``, the resolved config.
        split_path: ``split.csv``: image, group, subset, digest (of the bytes of the image and its mask).
        model_path: ``model/``, the best network so far.
        state_path: ``state/``, the last state, from which an interrupted fit goes on.
        lock_path: ``state/.lock``, held while a process trains in the run.
        metrics_path: ``metrics.jsonl``, a line an epoch: the same bytes each time the same training is repeated.
        times_path: ``times.jsonl``, a line an epoch: speed, waiting and seconds, which differ each time.
        evaluation_path: ``evaluation.json``, the numbers at full size.
        record_path: ``run.json``: versions, hardware, initial weights, times.
        masks_path: ``masks/``, the validation images' masks.
        pictures_path: ``pictures/``.

    >>> run = Run.open("runs/unet-ref")  # doctest: +SKIP
    >>> run.read_evaluation()["dice"]  # doctest: +SKIP
    0.96934
    """

    _kind, _known_by = "a run folder", "config.yaml"
    _written_by, _evaluated_by = "carvana fit", "carvana evaluate"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.config_path = self.path / self._known_by
        self.split_path = self.path / "split.csv"
        self.model_path = self.path / "model"
        self.state_path = self.path / "state"
        self.lock_path = self.state_path / _LOCK
        self.times_path = self.path / "times.jsonl"
        self.metrics_path = self.path / "metrics.jsonl"
        self.record_path = self.path / "run.json"

    @classmethod
    def choose(cls, path: str | os.PathLike[str] | None, *, arch: str) -> Self:
        """A run that does not exist yet; without a path, ``runs/<architecture>`` or the next free number after it.

        A fit that was killed before it wrote its config has trained nothing: its folder may be used again.

        Raises:
            RunError: the folder exists and is not empty. A run is never overwritten.
        """
        run = cls(path if path is not None else first_free(Path("runs") / arch.replace("/", "-")))
        if run.path.exists() and (not run.path.is_dir() or not run._is_free()):
            unfinished = run.is_begun and not run.is_done
            go_on = f"go on with it by --resume {run.path}, or " if unfinished else ""
            raise RunError(
                f"{run.path}: exists already and is never overwritten; {go_on}name another folder with --out"
            )
        return run

    @classmethod
    def create(cls, path: str | os.PathLike[str] | None, *, arch: str) -> Self:
        """Choose a new run and make its folder; see :meth:`choose`."""
        run = cls.choose(path, arch=arch)
        run.make()
        return run

    def make(self) -> None:
        """Make the folder."""
        self.path.mkdir(parents=True, exist_ok=True)

    def _is_free(self) -> bool:
        first = {self.record_path.name, self.split_path.name, self.state_path.name}
        others = [path for path in self.path.iterdir() if not is_leftover(path)]
        if self.split_path in others and self.record_path not in others:  # not of a fit, which writes the record first
            return False
        if self.record_path in others and not self._is_ours(self.record_path):
            return False
        state = list(self.state_path.iterdir()) if self.state_path.is_dir() else []
        return {path.name for path in others} <= first and all(path.name.startswith(_LOCK) for path in state)

    @staticmethod
    def _is_ours(record: Path) -> bool:
        """Whether a file of this name is a run's, and not the user's own."""
        try:
            return "format_version" in read_record(record)
        except RunError:
            return False

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes from training in this run meanwhile.

        Raises:
            RunError: another process is training in it.
        """
        refusal = f"{self.path}: another process is training in it; wait for it, or stop it"
        return exclusive(self.lock_path, refusal)

    def write_config(self, config: FitConfig) -> None:
        """Keep the resolved config."""
        write_text(self.config_path, config.to_yaml())

    def read_config(self) -> FitConfig:
        """The config that the run was fitted with.

        Raises:
            ConfigError: it is damaged.
            RunError: it is cut, or not that of a run.
        """
        config = load_config(self.config_path)
        written = read_yaml(self.config_path)
        cut = [name for name in FitConfig.model_fields if name not in (*written, "task")]  # earlier ones had no task
        if cut:
            raise RunError(
                f"{self.config_path}: {cut[0]!r} is missing, which the config of every run has; begin another training "
                f"with --init {self.path}"
            )
        return config

    def read_split(self, subset: str) -> dict[str, str]:
        """The images of a subset, "train" or "val": file name to group."""
        rows = [row for row in self._split_rows() if row.get("subset") == subset]
        return {row.get("image") or "": row.get("group") or "" for row in rows}

    def read_digests(self) -> dict[tuple[str, str], str]:
        """The digest of each image and its mask, by (subset, file name); empty in runs of earlier versions."""
        rows = self._split_rows()
        return {(row["subset"], row["image"]): row["digest"] for row in rows if row.get("digest")}

    def read_groups(self, subset: str) -> set[str]:
        """The groups of a subset, "train" or "val"."""
        return set(self.read_split(subset).values())

    def _split_rows(self) -> list[dict[str, str]]:
        with open(self.split_path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            return list(csv.DictReader(file))

    def write_record(self, record: dict[str, Any]) -> None:
        """Write versions, hardware and times."""
        write_json(self.record_path, {"format_version": FORMAT_VERSION, **record})

    def read_record(self) -> dict[str, Any]:
        """What :meth:`write_record` wrote; empty if there is nothing.

        Raises:
            RunError: a later version of the library wrote it, or it is damaged.
        """
        record = read_record(self.record_path) if self.record_path.is_file() else {}
        check_format_version(record.get("format_version", FORMAT_VERSION), FORMAT_VERSION, where=self.record_path)
        return record

    @property
    def is_begun(self) -> bool:
        """Whether a fit began here, which writes its record before its config; config.yaml alone may be another's."""
        return self.config_path.is_file() and self.record_path.is_file()

    @property
    def is_done(self) -> bool:
        """Whether it is fitted to its end and evaluated: ``carvana evaluate`` takes an interrupted fit, too."""
        return self.is_evaluated and "fit_seconds" in self.read_record()  # which is written at the end

    def add_epoch(self, metrics: dict[str, Any], times: dict[str, Any]) -> None:
        """Add an epoch's numbers to both logs."""
        append_json_line(self.metrics_path, metrics)
        append_json_line(self.times_path, times)

    def write_epochs(self, metrics: Sequence[dict[str, Any]], times: Sequence[dict[str, Any]]) -> None:
        """Replace both logs: a resumed training repeats the epochs after its last state."""
        for path, records in ((self.metrics_path, metrics), (self.times_path, times)):
            if records or path.exists():
                write_text(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: the numbers of all epochs so far."""
        return _read_lines(self.metrics_path)

    def read_epochs(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl and times.jsonl, joined by epoch."""
        times = {record.get("epoch"): record for record in _read_lines(self.times_path)}
        return [times.get(record.get("epoch"), {}) | record for record in self.read_metrics()]


def training_run(out: str | os.PathLike[str] | Run | None, *, arch: str, resume: bool) -> Run | None:
    """The run that a training writes: a new one, with ``resume`` an existing one, or none.

    Raises:
        RunError: it exists and should not, or the other way round.
    """
    path = out.path if isinstance(out, Run) else out
    if not resume:
        return None if path is None else Run.choose(path, arch=arch)
    run = Run(path or "")
    if path is None or not run.path.is_dir():
        raise RunError(f"{run.path}: no such run to resume; expected the folder of a training")
    return run


@contextmanager
def exclusive(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock that no other process may hold already.

    Raises:
        RunError: another one does; ``refusal`` is the message.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(path, wait=False))
        except BlockingIOError as error:
            raise RunError(refusal) from error
        yield


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return list(read_json_lines(path)) if path.is_file() else []


def numbered(path: Path) -> Iterator[Path]:
    """The path itself, then with -2, -3, ... after its name."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


def first_free(path: Path) -> Path:
    """The first of the numbered paths where nothing is yet."""
    return next(each for each in numbered(path) if not each.exists())


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object of a run.

    Raises:
        RunError: it is damaged, or not an object.
    """
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: expected a JSON object")
    return value
