"""Processes of their own for networks: what they say is heard, and what becomes of them is told.

A network that crashes, is killed or finds no memory ends its process and nothing else. A process ends with the one
that started it, however that ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from carvana.leaderboard.script_registrations import Places
from carvana.utils.devices import cpu_count

if sys.platform == "win32":
    from multiprocessing.connection import PipeConnection

    PipeEnd = PipeConnection
else:
    from multiprocessing.connection import Connection

    PipeEnd = Connection

_TICK = 0.2
"""Seconds between two looks at whether a process is still there."""

GRACE = 60.0
"""Seconds that a process has to save its training and end, once it is asked to."""


@dataclass(frozen=True, eq=False)
class Job:
    """A piece of work for a process.

    Attributes:
        name: Whose it is.
        function: ``"module:function"``; it is called with a Reporter-like channel and ``arguments``.
        arguments: By keyword; they can be pickled.
        log: A file for all that the process prints.
        places: What a script registered, to be registered there as well.
        memory_gb: What the process may take, in GB of 10^9 bytes; None sets no limit.
    """

    name: str
    function: str
    arguments: dict[str, Any]
    log: Path
    places: Places = field(default_factory=dict)
    memory_gb: float | None = None


@dataclass(frozen=True)
class Said:
    """Something that a process said: a kind (``info``, ``advance``, ``epoch``, ...) and its values."""

    job: Job
    kind: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Ended:
    """A process ended; ``reason`` is None if its work is done."""

    job: Job
    reason: str | None


def run_jobs(
    jobs: Sequence[Job], devices: Sequence[str], *, stopping: Callable[[], None] = lambda: None
) -> Generator[Said | Ended, None, None]:
    """Do jobs, as many at once as there are devices, each in a process of its own.

    The job's argument ``device`` is one of ``devices``. Whoever stops iterating, or is interrupted, has the processes
    asked to save and end; a second interruption kills them.

    Args:
        jobs: What is to do, in this order.
        devices: One for each process at a time, such as ``("cuda:0", "cuda:1")``; they share the processor's cores.
        stopping: Called before processes are asked to end early.
    """
    waiting, free = list(jobs), list(devices)
    working: dict[PipeEnd, _Worker] = {}
    try:
        while waiting or working:
            while waiting and free:
                worker = _Worker(waiting.pop(0), free.pop(0), sharing=len(devices))
                working[worker.channel] = worker
            for channel in wait(list(working), timeout=_TICK):
                assert isinstance(channel, PipeEnd)
                yield from working[channel].heard()
            for channel, worker in list(working.items()):
                if worker.ended():
                    yield from worker.heard()
                    del working[channel]
                    free.append(worker.device)
                    yield Ended(worker.job, worker.reason())
    finally:
        if working:
            _end(list(working.values()), stopping)


class _Worker:
    """A process at work on a job."""

    def __init__(self, job: Job, device: str, *, sharing: int) -> None:
        self.job, self.device = job, device
        self.channel, theirs = Pipe()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", "carvana.leaderboard.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(sharing),
                **_popen_arguments(theirs),
            )  # fmt: skip
        theirs.close()
        self._outcome: tuple[str | None] | None = None
        try:
            with suppress(OSError):  # it is gone already, of which we hear in a moment
                self.channel.send((sys.path, job, device))
        except BaseException:
            self.process.kill()
            raise

    def heard(self) -> Iterator[Said]:
        """What it has said since."""
        try:
            while self.channel.poll():
                kind, *values = self.channel.recv()
                if kind == "done":
                    self._outcome = (None,)
                elif kind == "failed":
                    self._outcome = (values[0],)
                else:
                    yield Said(self.job, kind, tuple(values))
        except (EOFError, OSError):  # it is gone, or about to be: waiting on it would return at once, again and again
            time.sleep(_TICK / 10)

    def ended(self) -> bool:
        # Not by the end of the pipe: a reading process that outlives it for a moment holds that open.
        return self.process.poll() is not None

    def reason(self) -> str | None:
        """Why its work is not done; None if it is."""
        if self._outcome is not None:
            return self._outcome[0]
        code = self.process.returncode
        limit = f"; it may take {self.job.memory_gb:g} GB" if self.job.memory_gb is not None else ""
        name = _signal_name(-code) if code < 0 else ""
        if name == "SIGKILL":
            return f"its process was killed (SIGKILL), as systems do where memory runs out{limit}"
        if name in ("SIGTERM", "SIGINT", "SIGHUP"):
            return f"its process was asked to end ({name})"
        if name:
            return f"its process crashed ({name}){limit if name == 'SIGABRT' else ''}"
        return f"its process ended with exit code {code}{limit}"


def _popen_arguments(end: PipeEnd) -> dict[str, Any]:
    """Popen's arguments for a process that inherits an end of a pipe, and that Ctrl-C in the terminal does not reach.

    Ctrl-C reaches this process alone, which asks the others to end.
    """
    if sys.platform == "win32":
        os.set_handle_inheritable(end.fileno(), True)
        handles = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [end.fileno()]})
        return {"startupinfo": handles, "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"pass_fds": [end.fileno()], "start_new_session": True}


def _environment(sharing: int) -> dict[str, str]:
    """That of this process, in which this very library is found, and a share of the cores where there are others."""
    home = str(Path(__file__).resolve().parents[2])
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}
    if sharing > 1:
        found["LOCAL_WORLD_SIZE"] = str(sharing)  # by which readers are shared out
        found.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // sharing)))
    return found


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(workers: Sequence[_Worker], stopping: Callable[[], None]) -> None:
    """Ask processes to save and end; kill those that do not.

    Windows has no way to ask: processes end at once there, and are continued from the last state that they saved.
    """
    try:
        stopping()
        for worker in workers:
            worker.process.terminate()
        until = time.monotonic() + GRACE
        for worker in workers:
            worker.process.wait(timeout=max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                _kill(worker.process)
            worker.process.wait()
            worker.channel.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()  # its readers end with it by themselves
    else:
        os.killpg(process.pid, signal.SIGKILL)
