"""The folder that ``fit --folds`` writes, as paths and records. Nothing here needs torch."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from carvana.config import FitConfig, make_config
from carvana.errors import RunError, check_format_version
from carvana.run import Results, Run, read_record
from carvana.utils.files import write_json, write_text

FORMAT_VERSION = 1


class Folds(Results):
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

    _kind, _known_by = "a folder of folds", "folds.json"
    _written_by, _evaluated_by = "carvana fit --folds", "carvana fit --resume"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.record_path = self.path / self._known_by
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

    def keep(self, config: FitConfig) -> None:
        """Take the readers, the cache and the trackers of a config for all folds that are left."""
        kept = self.read_config().with_neutral(config)
        write_json(self.record_path, self._record() | {"recipe": kept.model_dump(mode="json")})

    @property
    def count(self) -> int:
        """The number of folds."""
        return int(self._record()["folds"])

    @property
    def init(self) -> str | None:
        """Where all folds take their first weights from."""
        init: str | None = self._record().get("init")
        return init

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
            if not run.is_done:
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
