"""A run, the folder that ``fit`` writes, and the folder of ``fit --folds``, as paths and records without torch."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from carvana.config import FitConfig, load_config, make_config, read_yaml
from carvana.errors import RunError, check_format_version
from carvana.utils.files import append_json_line, is_leftover, lock, read_json, read_json_lines, write_json, write_text

FORMAT_VERSION = 1

_LOCK = ".lock"


class _Results:
    """What a run and folds have in common: where their evaluation lies, and how it is read."""

    _command: ClassVar[str]
    """The command that evaluates the folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.evaluation_path = self.path / "evaluation.json"
        self.masks_path = self.path / "masks"
        self.pictures_path = self.path / "pictures"

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
        advice = f"`{self._command} {self.path}` makes one"
        if not path.is_file():
            raise RunError(f"{self.path}: {path.name} is missing; {advice}")
        try:
            numbers = read_record(path)
        except RunError as error:
            raise RunError(f"{error}; {advice} anew") from error
        if "dice" not in numbers:
            raise RunError(f"{path}: not an evaluation: 'dice' is missing; {advice} anew")
        return numbers


class Run(_Results):
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

    _command = "carvana evaluate"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.config_path = self.path / "config.yaml"
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
        if path is None:
            path = next(free for free in numbered(Path("runs") / arch.replace("/", "-")) if not free.exists())
        run = cls(path)
        if run.path.exists() and (not run.path.is_dir() or not run._is_free()):
            unfinished = run.config_path.is_file() and not run.is_evaluated
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
        state = list(self.state_path.iterdir()) if self.state_path.is_dir() else []
        return {path.name for path in others} <= first and all(path.name.startswith(_LOCK) for path in state)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training in this run meanwhile.

        Raises:
            RunError: another process is training in it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(lock(self.lock_path, wait=False))
            except BlockingIOError as error:
                raise RunError(f"{self.path}: another process is training in it; wait for it, or stop it") from error
            yield

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """An existing run.

        Raises:
            RunError: the folder is missing, or not a run folder.
        """
        run = cls(path)
        if not is_run(path):
            raise RunError(
                f"{run.path}: not a run folder: {run.config_path.name} is missing; name one that `carvana fit` wrote"
            )
        return run

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
        cut = [name for name in FitConfig.model_fields if name not in written]
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


class Folds(_Results):
    """The paths of a folder of folds, and its records. Each fold is a run of its own.

    Attributes:
        path: The folder itself.
        record_path: ``folds.json``: the number of folds, their config, where the first weights come from.
        table_path: ``folds.csv``: image, group, and the fold that validates it, from 1.
        splits_path: ``splits/``, a ``split.csv`` for each fold.
        evaluation_path: ``evaluation.json``, the numbers of all images together, each by the network that was not
            trained on its group.
        masks_path: ``masks/``, those networks' masks of all images.
        pictures_path: ``pictures/``.
    """

    _command = "carvana fit --resume"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.record_path = self.path / "folds.json"
        self.table_path = self.path / "folds.csv"
        self.splits_path = self.path / "splits"

    @classmethod
    def create(
        cls, path: str | os.PathLike[str] | None, config: FitConfig, *, folds: int, init: str | None = None
    ) -> Self:
        """Begin a new folder; without a path, ``runs/<architecture>-folds`` or the next free number.

        Args:
            path: The folder.
            config: The config of all folds.
            folds: Their number.
            init: Where all folds take their first weights from.

        Raises:
            RunError: the folder exists and is not empty.
        """
        made = cls(Run.choose(path, arch=f"{config.arch}-folds").path)
        values = config.model_dump(mode="json")
        record = {"format_version": FORMAT_VERSION, "folds": folds, "init": init, "recipe": values}
        write_json(made.record_path, record)
        return made

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """An existing folder of folds.

        Raises:
            RunError: the folder is missing, or not one of folds.
        """
        folds = cls(path)
        if not folds.exists:
            raise RunError(
                f"{folds.path}: not a folder of folds: {folds.record_path.name} is missing; name one that `carvana fit "
                "--folds` wrote"
            )
        return folds

    @property
    def exists(self) -> bool:
        """Whether this is a folder of folds, finished or not."""
        return self.record_path.is_file()

    @property
    def count(self) -> int:
        """The number of folds."""
        return int(self._record()["folds"])

    @property
    def init(self) -> str | None:
        """Where all folds take their first weights from."""
        init = self._record().get("init")
        return None if init is None else str(init)

    @property
    def runs(self) -> list[Run]:
        """The run of each fold, ``fold-1`` first, fitted or not."""
        return [Run(self.path / f"fold-{number}") for number in range(1, self.count + 1)]

    def finished_runs(self) -> list[Run]:
        """The run of each fold.

        Raises:
            RunError: one is not fitted to its end.
        """
        runs = self.runs
        for run in runs:
            if not run.evaluation_path.is_file():
                raise RunError(
                    f"{self.path}: {run.path.name} is not finished; `carvana fit --resume {self.path}` goes on"
                )
        return runs

    def split_path(self, number: int) -> Path:
        """The ``split.csv`` of a fold, counted from 1."""
        return self.splits_path / f"fold-{number}.csv"

    def write_table(self, rows: Iterable[tuple[str, str, int]]) -> None:
        """Write ``folds.csv``.

        Args:
            rows: each image's file name, its group, and the number of the fold that validates it.
        """
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("image", "group", "fold"), *rows])
        write_text(self.table_path, table.getvalue())

    def read_config(self) -> FitConfig:
        """The config of all folds."""
        return make_config(self._record()["recipe"], str(self.record_path))

    def _record(self) -> dict[str, Any]:
        record = read_record(self.record_path)
        check_format_version(record.get("format_version"), FORMAT_VERSION, where=self.record_path)
        if not isinstance(record.get("folds"), int) or not isinstance(record.get("recipe"), dict):
            raise RunError(f"{self.record_path}: expected the number of folds and their config")
        return record


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


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is a run, finished or not."""
    return Run(path).config_path.is_file()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return list(read_json_lines(path)) if path.is_file() else []


def numbered(path: Path) -> Iterator[Path]:
    """The path itself, then with -2, -3, ... after its name."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


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
