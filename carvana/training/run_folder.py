"""The run folder of a training: chosen, made, and held so that no other process trains in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from carvana.errors import RunError
from carvana.run import Run


def choose_run(out: str | os.PathLike[str] | Run | None, *, arch: str, resume: bool) -> Run | None:
    """The run that a training writes: a new one, or with ``resume`` an existing one.

    Raises:
        RunError: it exists and should not, or the other way round.
    """
    if resume:
        run = out if isinstance(out, Run) else Run(out or "")
        if out is None or not run.path.is_dir():
            raise RunError(f"{run.path}: no such run to resume; expected the folder of a training")
        return run
    return None if out is None else Run.choose(out.path if isinstance(out, Run) else out, arch=arch)


@contextmanager
def hold_run(run: Run, *, arch: str, resume: bool) -> Iterator[None]:
    """Make the folder, and keep other processes from training in it meanwhile.

    Raises:
        RunError: another process trains in it, or has trained in it since the folder was found free.
    """
    run.make()
    with run.held():
        if not resume:
            Run.choose(run.path, arch=arch)
        yield
