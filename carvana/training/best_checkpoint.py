"""The best network of a training: kept on disk, or in memory where there is no run, and brought back at the end."""

from __future__ import annotations

import os

from torch import Tensor

from carvana.errors import RunError
from carvana.models.segmenter import Segmenter
from carvana.run import Run


class BestCheckpoint:
    """Keeps one state of a network.

    Args:
        run: Its ``model/`` holds what is kept; None keeps it in memory.
        writes: Whether this process is the one that writes; of the others' networks the last state stays.
    """

    def __init__(self, run: Run | None, *, writes: bool) -> None:
        self._run = run
        self._writes = writes
        self._state: dict[str, Tensor] = {}

    def keep(self, model: Segmenter) -> None:
        """Keep the network as it is now, in place of what was kept before."""
        if self._run is None:
            self._state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        elif self._writes:
            model.save_pretrained(self._run.model_path)

    def restore(self, model: Segmenter) -> Segmenter:
        """Bring the network back to what was kept; it is left in evaluation mode."""
        if self._run is None:
            model.load_state_dict(self._state)
        elif self._writes:
            Segmenter.from_pretrained(self._run.model_path, network=model.network)
        return model.eval()


def choose_run(out: str | os.PathLike[str] | Run | None, *, arch: str, resume: bool) -> Run | None:
    """The run that a training writes to: a new one, or with ``resume`` one that is there.

    Raises:
        RunError: it is there and should not be, or the other way round.
    """
    if resume:
        run = out if isinstance(out, Run) else Run(out or "")
        if out is None or not run.path.is_dir():
            raise RunError(f"{run.path}: no such run to go on with; expected a folder that a training began")
        return run
    return None if out is None else Run.choose(out.path if isinstance(out, Run) else out, arch=arch)
