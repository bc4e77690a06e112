"""Checks that a run was not trained on the validation groups, nor the run that its weights come from."""

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


def refuse_known_groups(run: Run, scored: Sequence[Sample], *, group: str | None = None, reporter: Reporter) -> None:
    """Refuse a run that was trained on a group of the images to score.

    Groups are compared by the names that the run gave them when it was fitted, and by those that this comparison finds
    in the names of its images.

    Args:
        run: The run.
        scored: The images to score.
        group: The expression by which this comparison finds the group in a name (``data.group``).
        reporter: Receives a warning where the training behind the run's first weights is not known.

    Raises:
        RunError: it was; the message names the groups.
    """
    groups = {sample.group for sample in scored}
    images = {sample.name: sample.group for sample in scored}
    seen: set[Path] = set()
    at, via = run, ""
    while at.path.resolve() not in seen:
        seen.add(at.path.resolve())
        trained = at.read_split("train")
        known = groups.intersection(trained.values())
        known |= {images[name] for name in trained if name in images}
        known |= {own for name in trained if (own := _group(name, group)) in groups}
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


def _group(name: str, group: str | None) -> str | None:
    with suppress(ConfigError):  # an image of another data set need not fit the expression
        return group_and_view(os.path.splitext(name)[0], group_pattern(group))[0]  # noqa: PTH122 - of a bare name
    return None
