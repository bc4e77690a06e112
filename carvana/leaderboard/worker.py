"""The worker process that worker_pool.py starts for each job: ``python -m carvana.leaderboard.worker FD``.

It receives the job through the file descriptor, does it, sends its progress back, and ends. Everything printed goes
into the job's log.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback

from carvana.errors import CarvanaError, cause
from carvana.leaderboard.progress import WorkerReporter
from carvana.leaderboard.script_registrations import register_targets
from carvana.leaderboard.worker_pool import PipeEnd, WorkerJob
from carvana.utils.devices import is_out_of_memory
from carvana.utils.imports import resolve

_LONGEST = 300
"""Characters of a reason; the log has the whole text."""


def main() -> None:
    """Do the job that arrives through the descriptor on the command line."""
    connection = PipeEnd(int(sys.argv[1]))
    path, job, device = connection.recv()
    sys.path[:] = path
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    reporter = WorkerReporter(connection.send)
    try:
        if job.memory_gb is not None:
            _limit_memory(int(1e9 * job.memory_gb))
        register_targets(job.targets)
        resolve(job.function, "the job of a comparison")(reporter=reporter, device=device, **job.arguments)
    except BaseException as error:
        traceback.print_exc()
        reporter.send("failed", _reason(error, job))
    else:
        reporter.send("done")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads and libraries that still run must neither delay the end nor crash it


def _limit_memory(limit: int) -> None:
    """Limit the data, not the address space: CUDA's libraries alone map dozens of GB that they never touch."""
    if sys.platform == "win32":
        raise NotImplementedError  # compare refuses memory_gb there
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _reason(error: BaseException, job: WorkerJob) -> str:
    """The error as one line; where memory ran out, with the process's limit if it has one."""
    words = " ".join(str(error).split())
    words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."
    if "CUDA out of memory" in words:
        return "out of memory on the GPU"
    if is_out_of_memory(error):
        limit = "" if job.memory_gb is None else f" (the limit of its process is {job.memory_gb:g} GB)"
        return f"out of memory{limit}"
    if isinstance(error, CarvanaError):
        return words
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {cause(error)}"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _end_with_parent(connection: PipeEnd) -> None:
    """End when the parent ends: it sends nothing after the job, so the pipe becomes readable only when it closes."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)


if __name__ == "__main__":
    main()
