"""Whether a run saw the cars that judge it: in its own training, or in that of the run it was started from."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from carvana.errors import RunError
from carvana.progress import Reporter
from carvana.run import Run

_SHOWN = 20


def refuse_known_cars(run: Run, cars: Set[str], *, reporter: Reporter) -> None:
    """Refuse a run that was trained on a car that judges.

    Raises:
        RunError: it was; the message names the cars.
    """
    seen: set[Path] = set()
    at, via = run, ""
    while at.path.resolve() not in seen:
        seen.add(at.path.resolve())
        known = sorted(at.read_groups("train") & cars)
        if known:
            named = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
            raise RunError(
                f"{run.path}: {via}was trained on {len(known)} of the {len(cars)} cars that judge here ({named}); "
                "leave it out, or compare on cars that it has never seen (split.file)"
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


def _run_of(path: Path) -> Run | None:
    for folder in (path, path.parent):
        if Run(folder).split_path.is_file():
            return Run(folder)
    return None
