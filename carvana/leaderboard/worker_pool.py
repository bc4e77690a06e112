"""Runs jobs in worker processes and yields their messages and how each one ended.

A network that crashes, is killed or runs out of memory ends its own process and nothing else. Workers end when the
process that started them ends, in whatever way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from carvana.errors import CarvanaError, ConfigError
from carvana.registry import Entry, registry, resolve
from carvana.utils.devices import cpu_count

if sys.platform == "win32":
    from multiprocessing.connection import PipeConnection

    PipeEnd = PipeConnection
else:
    from multiprocessing.connection import Connection

    PipeEnd = Connection

_TICK = 0.2
"""Seconds between two checks of whether a process still runs."""

GRACE = 60.0
"""Seconds that a worker has to save its training and end after it is asked to."""

ScriptTargets = Mapping[str, Mapping[str, str]]
"""By catalog (``archs``, ``losses``, ...): names that scripts registered, each with its ``"module:attribute"``."""


@dataclass(frozen=True, eq=False)
class WorkerJob:
    """A job for one worker process.

    Attributes:
        name: Of the network.
        function: ``"module:function"``; called with ``reporter``, ``device`` and ``arguments``.
        arguments: By keyword; they are pickled.
        log: The file that receives everything the process prints.
        targets: Names that a script registered, to be registered in the process as well.
        memory_gb: The limit of the process's data, in GB of 10^9 bytes; None sets none.
    """

    name: str
    function: str
    arguments: dict[str, Any]
    log: Path
    targets: ScriptTargets = field(default_factory=dict)
    memory_gb: float | None = None


@dataclass(frozen=True)
class WorkerMessage:
    """A call that a worker's reporter sent: a kind (``info``, ``advance``, ``epoch``, ...) and its arguments."""

    job: WorkerJob
    kind: str
    values: tuple[Any, ...]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class WorkerExit:
    """A worker ended; ``reason`` says why its job is not done, and is None if it is."""

    job: WorkerJob
    reason: str | None


class MachineLostError(Exception):
    """The machine on which costs are measured has died: all are to be measured on another one."""


class Executor(Protocol):
    """Where the jobs of a comparison run: :class:`LocalExecutor`, or a Ray cluster."""

    @property
    def machine(self) -> str:
        """The machine on which costs are measured."""

    def prepare(self) -> None:
        """Called before costs are measured: the machine may have changed since."""

    def run(
        self, jobs: Sequence[WorkerJob], *, alone: bool, stopping: Callable[[], None]
    ) -> Generator[WorkerMessage | WorkerExit, None, None]:
        """Run jobs, and yield what their processes send and how each one ends, as :func:`run_jobs` does.

        Args:
            jobs: The jobs.
            alone: Whether one runs at a time, always on the same machine, so that times can be measured.
            stopping: Called before workers are asked to end early.

        Raises:
            MachineLostError: the machine of jobs that run alone has died; :meth:`prepare` chooses another one.
        """


@dataclass(frozen=True)
class LocalExecutor:
    """Runs jobs on this machine, as many at a time as there are devices."""

    devices: Sequence[str]
    machine: str

    def prepare(self) -> None:
        """Do nothing: this machine is there."""

    def run(
        self, jobs: Sequence[WorkerJob], *, alone: bool, stopping: Callable[[], None]
    ) -> Generator[WorkerMessage | WorkerExit, None, None]:
        """See :class:`Executor`."""
        return run_jobs(jobs, self.devices[:1] if alone else self.devices, stopping=stopping)


def run_jobs(
    jobs: Sequence[WorkerJob], devices: Sequence[str], *, stopping: Callable[[], None] = lambda: None
) -> Generator[WorkerMessage | WorkerExit, None, None]:
    """Run jobs in this order, as many at a time as there are devices, each in a worker process of its own.

    When the caller stops iterating or is interrupted, the workers are asked to save and end; a second interruption
    kills them.

    Args:
        jobs: The jobs.
        devices: One for each process at a time, such as ``("cuda:0", "cuda:1")``; they share the processor's cores.
        stopping: Called before workers are asked to end early.
    """
    waiting, free = list(jobs), list(devices)
    working: list[Worker] = []
    try:
        while waiting or working:
            while waiting and free:
                working.append(Worker(waiting.pop(0), free.pop(0), sharing=len(devices)))
            wait([worker.channel for worker in working], timeout=_TICK)
            for worker in list(working):
                ended = worker.ended()  # asked before its messages are read, so that none is lost
                yield from worker.messages()
                if ended:
                    working.remove(worker)
                    free.append(worker.device)
                    yield WorkerExit(worker.job, worker.reason())
    finally:
        if working:
            end_workers(working, stopping)


def script_targets(archs: Iterable[str]) -> ScriptTargets:
    """The ``"module:attribute"`` of everything that scripts, not plugins, have registered.

    Args:
        archs: The architectures that are needed.

    Raises:
        ConfigError: one of these is a function that cannot be imported elsewhere.
    """
    for entry in (registry.archs.entry(name) for name in archs if name in registry.archs):
        if entry.source == "script" and _target(entry) is None:
            where = getattr(entry.target, "__module__", "?"), getattr(entry.target, "__qualname__", entry.target)
            raise ConfigError(
                f"the architecture '{entry.name}' is built by {'.'.join(map(str, where))}, which other processes "
                'cannot import: put the function into a module of its own and register it as "module:function"'
            )
    scripts = {
        key: {entry.name: _target(entry) for entry in catalog.registered() if entry.source == "script"}
        for key, catalog in registry.catalogs.items()
    }
    return {key: {name: target for name, target in found.items() if target} for key, found in scripts.items()}


def register_targets(targets: ScriptTargets) -> None:
    """Register the same names in a worker process, except those that an import registers by itself."""
    for key, named in targets.items():
        for name, target in named.items():
            with suppress(CarvanaError):  # using the name raises it again
                resolve(target, f"'{name}' (from a script)")
            catalog = registry.catalogs[key]
            if name not in {entry.name for entry in catalog.registered()}:
                catalog.register(name, target)


def _target(entry: Entry) -> str | None:
    """Where other processes can import what an entry stands for; None if they cannot."""
    target = entry.target
    if isinstance(target, str):
        return None if target.startswith("__main__:") else target
    where = f"{getattr(target, '__module__', '')}:{getattr(target, '__qualname__', '')}"
    with suppress(CarvanaError):
        if not where.startswith("__main__:") and resolve(where, entry.name) is target:
            return where
    return None


class Worker:
    """A worker process and its job; ``sharing`` says among how many the processor's cores are divided."""

    def __init__(self, job: WorkerJob, device: str, *, sharing: int) -> None:
        self.job, self.device = job, device
        self.channel, theirs = Pipe()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", "carvana.leaderboard.jobs", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(sharing),
                **_popen_arguments(theirs),
            )  # fmt: skip
        theirs.close()
        self._outcome: tuple[str | None] | None = None
        try:
            with suppress(OSError):  # it has ended already; run_jobs reports that next
                self.channel.send((sys.path, job, device))
        except BaseException:
            self.process.kill()
            raise

    def messages(self) -> Iterator[WorkerMessage]:
        """The messages that have arrived since the last call."""
        try:
            while self.channel.poll():
                kind, values, numbers = self.channel.recv()
                if kind in ("done", "failed"):
                    self._outcome = (values[0] if values else None,)
                else:
                    yield WorkerMessage(self.job, kind, values, numbers)
        except (EOFError, OSError):  # it ends: until it has, wait() would return at once, again and again
            time.sleep(_TICK / 10)

    def ended(self) -> bool:
        """Whether the process has ended."""
        # A closed pipe would not show it: a reader process that lives a moment longer holds it open.
        return self.process.poll() is not None

    def reason(self) -> str | None:
        """Why its job is not done; None if it is."""
        if self._outcome is not None:
            return self._outcome[0]
        code = self.process.returncode
        limit = f"; its limit is {self.job.memory_gb:g} GB" if self.job.memory_gb is not None else ""
        if code >= 0:
            return f"its process ended with exit code {code}{limit}"
        name = {found.value: found.name for found in signal.Signals}.get(-code, f"signal {-code}")
        if name == "SIGKILL":
            return f"its process was killed (SIGKILL), as systems do when memory runs out{limit}"
        if name in ("SIGTERM", "SIGINT", "SIGHUP"):
            return f"its process was asked to end ({name})"
        return f"its process crashed ({name}){limit if name == 'SIGABRT' else ''}"


def _popen_arguments(end: PipeEnd) -> dict[str, Any]:
    """Popen's arguments for a process that inherits one end of a pipe and is not reached by Ctrl-C in the terminal.

    Ctrl-C reaches this process alone, which then asks the workers to end.
    """
    if sys.platform == "win32":
        os.set_handle_inheritable(end.fileno(), True)
        handles = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [end.fileno()]})
        return {"startupinfo": handles, "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"pass_fds": [end.fileno()], "start_new_session": True}


def _environment(sharing: int) -> dict[str, str]:
    """This process's environment, with this library on the path and, if workers share the cores, a share of them."""
    home = str(Path(__file__).resolve().parents[2])
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}
    if sharing > 1:
        found["LOCAL_WORLD_SIZE"] = str(sharing)  # by which readers divide the cores
        found.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // sharing)))
    return found


def end_workers(workers: Sequence[Worker], stopping: Callable[[], None]) -> None:
    """Ask workers to save and end; kill those that do not.

    Windows has no way to ask: workers end at once there, and a later call continues from their last saved state.
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
                if sys.platform == "win32":
                    worker.process.kill()  # its reader processes end with it
                else:
                    os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
            worker.channel.close()
