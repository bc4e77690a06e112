"""A network's own process, which worker_pool.py starts: ``python -m carvana.leaderboard.worker FD``.

It receives a job through the file descriptor, does it, says through it how that goes, and ends. All that anything
prints goes into the job's log.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from typing import Any

from carvana.errors import CarvanaError, cause
from carvana.leaderboard.script_registrations import register_places
from carvana.leaderboard.worker_pool import Job, PipeEnd
from carvana.utils.devices import is_out_of_memory
from carvana.utils.imports import resolve
from carvana.utils.progress import Reporter

_LONGEST = 300
"""Characters of a reason; the log has all of it."""

_EVERY = 0.25
"""Seconds between two messages of how far a task has come."""


class Channel(Reporter):
    """A Reporter whose listener is another process."""

    def __init__(self, connection: PipeEnd) -> None:
        self._connection = connection
        self._steps: dict[str, int] = {}
        self._told = 0.0

    def say(self, kind: str, *values: Any) -> None:
        """Send a message."""
        self._connection.send((kind, *values))

    def info(self, message: str) -> None:
        """Pass it on."""
        self.say("info", message)

    def warn(self, message: str) -> None:
        """Pass it on."""
        self.say("warn", message)

    def start(self, task: str, total: int | None) -> None:
        """Pass it on."""
        self._steps[task] = 0
        self.say("start", task, total)

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """Pass it on, a few times a second."""
        self._steps[task] = self._steps.get(task, 0) + steps
        if time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            self.say("advance", task, self._steps[task], values)
            self._steps[task] = 0

    def finish(self, task: str, **values: float) -> None:
        """Pass it on."""
        self.say("finish", task, values)


def main() -> None:
    """Do the job that comes through the descriptor on the command line."""
    connection = PipeEnd(int(sys.argv[1]))
    path, job, device = connection.recv()
    sys.path[:] = path
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    channel = Channel(connection)
    try:
        if job.memory_gb is not None:
            _limit_memory(int(1e9 * job.memory_gb))
        register_places(job.places)
        resolve(job.function, "the work of a comparison")(channel=channel, device=device, **job.arguments)
    except BaseException as error:
        traceback.print_exc()
        channel.say("failed", _reason(error, job))
    else:
        channel.say("done")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # whatever thread or library is still there must not hold up the end, or crash at it


def _limit_memory(limit: int) -> None:
    """Data, not address space: CUDA's libraries alone map dozens of GB that they never touch."""
    if sys.platform == "win32":
        raise NotImplementedError  # compare has refused it
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _reason(error: BaseException, job: Job) -> str:
    """One line; a lack of memory tells of the limit, if the process has one."""
    words = " ".join(str(error).split())
    words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."
    if "CUDA out of memory" in words:
        return "out of memory on the GPU"
    if is_out_of_memory(error):
        limit = "" if job.memory_gb is None else f" (its process may take {job.memory_gb:g} GB)"
        return f"out of memory{limit}"
    if isinstance(error, CarvanaError):
        return words
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {cause(error)}"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _end_with_parent(connection: PipeEnd) -> None:
    """Nothing more comes from the parent, so the first thing that does is its end."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)


if __name__ == "__main__":
    main()
