"""Whether a run saw the cars that judge it: in its own training, or in that of the run it was started from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from carvana.data.layouts import group_and_view, group_pattern
from carvana.data.samples import Sample
from carvana.errors import ConfigError, RunError
from carvana.run import Run
from carvana.utils.progress import Reporter

_SHOWN = 20


def refuse_known_cars(run: Run, judges: Sequence[Sample], *, group: str | None = None, reporter: Reporter) -> None:
    """Refuse a run that was trained on a car that judges.

    Cars go by the names that the run gave them when it was fitted, and by those that this comparison gives its photos.

    Args:
        run: The run.
        judges: The photos that judge.
        group: The expression by which this comparison tells cars (``data.group``).
        reporter: Warned where the run's first weights come from somewhere unknown.

    Raises:
        RunError: it was; the message names the cars.
    """
    cars = {sample.group for sample in judges}
    photos = {sample.name: sample.group for sample in judges}
    seen: set[Path] = set()
    at, via = run, ""
    while at.path.resolve() not in seen:
        seen.add(at.path.resolve())
        trained = at.read_split("train")
        known = {car for car in trained.values() if car in cars}
        known |= {photos[name] for name in trained if name in photos}
        known |= {car for name in trained if (car := _car(name, group)) in cars}
        if known:
            raise RunError(
                f"{run.path}: {via}was trained on {len(known)} of the {len(cars)} cars that judge here "
                f"({_listed(sorted(known))}); leave it out, or divide the photos as it did (--set "
                f"split.file={run.split_path})"
            )
        first = at.read_record().get("init_from")
        if first is None:
            return
        before = _run_of(Path(first))
        if before is None:
            reporter.warn(
                f"{run.path}: started from the weights of {first}, of which nobody knows what they were trained on"
            )
            return
        at, via = before, f"the run that it was started from, {before.path}, "


def _car(name: str, group: str | None) -> str | None:
    with suppress(ConfigError):  # a photo of another data set need not fit the expression
        return group_and_view(os.path.splitext(name)[0], group_pattern(group))[0]  # noqa: PTH122 - of a bare name
    return None


def _listed(cars: Sequence[str]) -> str:
    more = f" and {len(cars) - _SHOWN} more" if len(cars) > _SHOWN else ""
    return ", ".join(cars[:_SHOWN]) + more


def _run_of(path: Path) -> Run | None:
    for folder in (path, path.parent):
        if Run(folder).split_path.is_file():
            return Run(folder)
    return None
