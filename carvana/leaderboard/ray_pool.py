"""Runs the jobs of a comparison on a Ray cluster, and yields the same messages and exits as worker_pool.py.

Each job is a Ray task that starts, on its node, the worker process that a comparison without Ray starts here: a crash,
memory that runs out and an interruption end alike. The folder of the comparison lies where all nodes see it. A task
whose node dies is started again on another one, and a fit goes on from its last state in that folder.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from carvana.data.digest import content_digest
from carvana.data.samples import Sample
from carvana.errors import CarvanaError, ConfigError, RunError, plural
from carvana.leaderboard.plan import ComparisonPlan, machine_line
from carvana.leaderboard.worker_pool import GRACE, Worker, WorkerExit, WorkerJob, WorkerMessage, end_workers
from carvana.models.serialization import CONFIG, WEIGHTS, locate
from carvana.plugins import plugins
from carvana.utils import __version__
from carvana.utils.devices import cpu_count
from carvana.utils.files import file_digest
from carvana.utils.progress import Reporter, SilentReporter

RESTARTS = 3
"""How often a job is started again because its node died."""

RELEASED = 120.0
"""Seconds that a restarted fit waits for the lock of its run: file servers keep that of a dead machine for a while."""

ANSWER = 10.0
"""Seconds that a cluster has to answer."""

LOOK = 10.0
"""Seconds after which it is asked whether the nodes are there, while nothing ends."""

_TICK = 0.2
"""Seconds between two looks at what the processes send."""

_GONE = "all nodes of the Ray cluster have died; the same command continues with others"
_STOPPED = "the comparison was stopped"
_THREADS = "OMP_NUM_THREADS"
_SENT = ("CARVANA_", "HF_", "MLFLOW_", "TRACKIO_", "WANDB_")


class RayExecutor:
    """The nodes of a Ray cluster; see :class:`carvana.leaderboard.worker_pool.Executor`.

    Args:
        address: Of the cluster, or "local".
        plan: The comparison, whose images, versions and folder each node must see.
        memory_gb: What a node must have for a job; None asks nothing.
        reporter: Receives what the cluster has.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or a node sees something else; the line names it.
    """

    def __init__(self, address: str, plan: ComparisonPlan, *, memory_gb: float | None, reporter: Reporter) -> None:
        _connect(address)
        import ray

        try:
            found = _nodes()
            self._gpu = any(node.gpus for node in found) if plan.device == "auto" else plan.device.startswith("cuda")
            self._threads = _threads(min((node.cpus // max(1, node.gpus * self._gpu) for node in found), default=1))
            self._nodes = [node for node in found if node.room(self._threads, memory_gb, gpu=self._gpu)]
            if not self._nodes:
                needs = plural(self._threads, "CPU") + (" and a GPU" if self._gpu else "")
                needs += f" and {memory_gb:g} GB" if memory_gb is not None else ""
                raise ConfigError(f"--ray {address}: none of its {plural(len(found), 'node')} has {needs} for a task")
            if plan.device == "mps":
                raise ConfigError(f"--ray {address}: Ray knows no GPUs of Apple; name --device cpu")
            self._reporter = reporter
            self._look(plan)
            if not self._nodes:
                raise ConfigError(f"--ray {address}: all of its nodes have died")
        except BaseException:
            ray.shutdown()
            raise
        room = sum(node.room(self._threads, memory_gb, gpu=self._gpu) for node in self._nodes)
        reporter.info(
            f"Ray: {plural(len(self._nodes), 'node')}, room for {room} at once, each with "
            f"{plural(self._threads, 'thread')}; costs are measured on {self._nodes[0].name}"
        )

    @property
    def machine(self) -> str:
        """That on which costs are measured: the first node by name."""
        return f"{self._nodes[0].host}: {self._nodes[0].machine}"

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here."""
        import ray

        ray.shutdown()

    def run(
        self, jobs: Sequence[WorkerJob], *, alone: bool, stopping: Callable[[], None]
    ) -> Generator[WorkerMessage | WorkerExit, None, None]:
        """See :class:`carvana.leaderboard.worker_pool.Executor`.

        Raises:
            RunError: the cluster is gone.
        """
        with _told():
            if jobs:
                yield from self._run(jobs, alone=alone, stopping=stopping)

    def prepare(self) -> None:
        """Leave out nodes that have died, so that the one that measures costs is there."""
        import ray

        ping = ray.remote(_ping)
        while True:
            self._leave_out()
            first = self._nodes[0]
            try:  # Ray lists a node for a while after its end
                ray.get(ping.options(num_cpus=0, max_retries=0, scheduling_strategy=_only(first.identity)).remote())
                return
            except _died():
                self._nodes.remove(first)
                if not self._nodes:
                    raise RunError(_GONE) from None

    def _leave_out(self) -> None:
        """Forget nodes of which Ray says that they have died."""
        with _told():
            alive = {node.identity for node in _nodes()}
        self._nodes = [node for node in self._nodes if node.identity in alive]
        if not self._nodes:
            raise RunError(_GONE)

    def _run(
        self, jobs: Sequence[WorkerJob], *, alone: bool, stopping: Callable[[], None]
    ) -> Generator[WorkerMessage | WorkerExit, None, None]:
        import ray
        from ray.util.queue import Queue

        here = str(ray.get_runtime_context().get_node_id())
        # Not ray.cancel: a task that ends in the same moment would crash this process (2.60).
        channel, stop = (Queue(actor_options={"num_cpus": 0, "scheduling_strategy": _only(here)}) for _ in range(2))
        waiting, running, starts = list(enumerate(jobs)), dict[Any, int](), Counter[int]()
        looked = time.monotonic()

        def start(place: int, job: WorkerJob) -> None:
            starts[place] += 1
            if starts[place] > 1 and job.function.endswith(":fit_network"):  # the dead node may still hold the lock
                job = replace(job, arguments={**job.arguments, "patience": RELEASED})
            task = ray.remote(_work).options(name=job.name, max_retries=0, **self._asked(job, alone=alone))
            made = task.remote(place, job, self._device, self._threads, _Here.now(), channel, stop)
            running[made] = place

        def messages() -> Generator[WorkerMessage, None, None]:
            while count := channel.qsize():
                for place, kind, values, numbers in channel.get_nowait_batch(count):
                    yield WorkerMessage(jobs[place], kind, values, numbers)

        try:
            while waiting or running:
                while waiting and not (alone and running):
                    start(*waiting.pop(0))
                ended, _ = ray.wait(list(running), num_returns=len(running), timeout=_TICK)
                yield from messages()
                if not ended and not alone and time.monotonic() - looked > LOOK:
                    self._leave_out()
                    looked = time.monotonic()
                for each in ended:
                    place = running.pop(each)
                    died, reason = _reason(each)
                    if died and alone:  # another node is another machine, which the header does not name
                        yield WorkerExit(jobs[place], "its node died; the same command measures on another one")
                    elif died and starts[place] <= RESTARTS:
                        self._leave_out()
                        yield WorkerMessage(jobs[place], "info", ("its node died; it goes on on another one",), {})
                        waiting.append((place, jobs[place]))
                    else:
                        yield WorkerExit(jobs[place], reason)
        finally:
            try:
                if running:
                    stopping()
                    stop.put(True)
                    ray.wait(list(running), num_returns=len(running), timeout=GRACE)
            finally:
                channel.shutdown(force=True)
                stop.shutdown(force=True)

    def _asked(self, job: WorkerJob, *, alone: bool) -> dict[str, Any]:
        """What a job's task asks of the cluster: room on one of the nodes that were asked what they see."""
        found: dict[str, Any] = {"num_cpus": self._threads, "num_gpus": int(self._gpu)}
        if job.memory_gb is not None:
            found["memory"] = int(1e9 * job.memory_gb)
        if alone:
            return found | {"num_cpus": self._nodes[0].cpus, "scheduling_strategy": _only(self._nodes[0].identity)}
        # No blank between them: Ray would take it for a part of the name.
        nodes = ",".join(node.identity for node in self._nodes)
        return found | {"label_selector": {"ray.io/node-id": f"in({nodes})"}}

    @property
    def _device(self) -> str:
        return "cuda:0" if self._gpu else "cpu"

    def _look(self, plan: ComparisonPlan) -> None:
        """Ask each node what it sees, and leave out those that have died.

        Raises:
            ConfigError: it differs from what is seen here.
        """
        import ray

        samples = plan.split.train + plan.split.val
        files = [plan.out.resolve() / "split.csv"]
        for trial in plan.all_trials:
            weights = Path(trial.config.model.encoder_weights)
            files += [weights] if trial.is_fit else [locate(trial.run.path) / name for name in (WEIGHTS, CONFIG)]
        files = sorted({path.resolve() for path in files if path.is_file()})
        expected = sights(samples, files)
        task, asked = ray.remote(_look), {}
        words = samples, files, self._device, self._threads, _Here.now()
        for node in self._nodes:
            options = {"num_cpus": 0, "num_gpus": int(self._gpu), "scheduling_strategy": _only(node.identity)}
            asked[node] = task.options(max_retries=0, **options).remote(*words)
        for node, found in asked.items():
            try:
                if not ray.wait([found], timeout=LOOK)[0]:
                    self._reporter.info(f"waiting for {'a free GPU on ' if self._gpu else ''}node {node.name}")
                seen, node.machine = ray.get(found)
            except _died():
                self._reporter.warn(f"node {node.name} has died, and is left out")
                self._nodes.remove(node)
                continue
            except Exception as error:
                raise ConfigError(f"node {node.name}: cannot run carvana: {_last_line(error)}") from error
            for what, value in expected.items():
                if seen.get(what) != value:
                    raise ConfigError(
                        f"node {node.name}: {what}: {seen.get(what, 'missing')}, here {value}; all nodes must see the "
                        "same"
                    )


def _connect(address: str) -> None:
    if find_spec("ray") is None:
        raise ConfigError(f"--ray {address}: Ray is not installed: pip install 'carvana[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        raise ConfigError(f"--ray {address}: this program is connected to a cluster already; call ray.shutdown() first")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    settings |= {"include_dashboard": False} if address == "local" else {}
    host, _, port = address.rpartition(":")
    ours = signal.getsignal(signal.SIGTERM)
    try:
        if port.isdecimal() and "/" not in host:  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
        ray.init(address=address, **settings)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if address == "local":
            raise ConfigError(f"--ray local: no cluster starts here ({_last_line(error)})") from error
        token = "" if "RAY_AUTH_MODE" in os.environ else "; if it asks for a token, set RAY_AUTH_MODE=token"
        raise ConfigError(
            f"--ray {address}: no Ray cluster answers there, or this machine is not one of its nodes "
            f"({_last_line(error)}){token}"
        ) from error
    finally:  # Ray's own would end this process without its words
        if threading.current_thread() is threading.main_thread() and ours is not None:
            signal.signal(signal.SIGTERM, ours)


@contextmanager
def _told() -> Iterator[None]:
    """Turn errors of the cluster into one line."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise RunError(f"the Ray cluster is gone ({_last_line(error)}); the same command continues") from error


def _threads(usual: int) -> int:
    """The threads of a job: as the environment says, or else the CPUs that each has on the smallest node."""
    told = os.environ.get(_THREADS)
    if told is None:
        return max(1, usual)
    if not (told.isdecimal() and int(told)):
        raise ConfigError(f"{_THREADS} = {told!r}: expected the threads of a training, 1 or more")
    return int(told)


@dataclass(frozen=True)
class _Here:
    """What a job on another machine needs of this process."""

    folder: Path
    variables: dict[str, str]
    """Where curves go, the hub's token, plugins."""

    path: list[str]
    """Where networks of one's own are found."""

    @classmethod
    def now(cls) -> _Here:
        variables = {name: value for name, value in os.environ.items() if name.startswith(_SENT)}
        return cls(Path.cwd(), variables, list(sys.path))

    def enter(self, threads: int) -> None:
        """On a node: work as this process does."""
        os.chdir(self.folder)
        os.environ.update({**self.variables, _THREADS: str(threads)})
        sys.path += [place for place in self.path if place not in sys.path]


def _only(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


class _Node:
    """A node of the cluster, and what Ray may use of it."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        found = record["Resources"]
        self.identity = str(record["NodeID"])
        self.host = str(record["NodeManagerHostname"])
        self.name = f"{self.host} ({record['NodeManagerAddress']})"
        self.cpus, self.gpus, self.memory_gb = int(found.get("CPU", 0)), int(found.get("GPU", 0)), found["memory"] / 1e9
        self.machine = ""

    def room(self, threads: int, memory_gb: float | None, *, gpu: bool) -> int:
        """How many jobs it runs at once."""
        limits = [self.cpus // threads, *([self.gpus] if gpu else [])]
        return min(limits if memory_gb is None else [*limits, int(self.memory_gb // memory_gb)])


def _nodes() -> list[_Node]:
    """The nodes that live and have CPUs, by name; several on one machine have a part of Ray's identity in it."""
    import ray

    records: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    found = [_Node(each) for each in records if each["Alive"] and each["Resources"].get("CPU")]
    names = [node.name for node in found]
    for node in found:
        if names.count(node.name) > 1:
            node.name = f"{node.name[:-1]}, {node.identity[:6]})"
    return sorted(found, key=lambda node: node.name)


def sights(samples: Sequence[Sample], files: Sequence[Path]) -> dict[str, str]:
    """What must be the same on all nodes: versions, the bytes of the images and labels, and those of some files."""
    found = {"carvana": __version__, "python": ".".join(platform.python_version_tuple()[:2])}
    found |= {
        f"plugin {each.name}": f"{each.package} {each.version}" for each in plugins() if each.package != "carvana"
    }
    try:
        found["data"] = content_digest(samples, reporter=SilentReporter())[:12]
    except CarvanaError as error:
        found["data"] = str(error)
    return found | {str(path): file_digest(path)[:12] if path.is_file() else "not there" for path in files}


def _look(
    samples: Sequence[Sample],
    files: Sequence[Path],
    device: str,
    threads: int,
    here: _Here,
) -> tuple[dict[str, str], str]:
    """On a node: what it sees, and what machine it is."""
    import torch

    here.enter(threads)
    torch.set_num_threads(threads)
    return sights(samples, files), machine_line([device])


def _ping() -> None:
    """On a node: nothing."""


def _work(*words: Any) -> str | None:
    """On a node: :func:`_do` in a thread, since Ray lends the CPUs of a task whose main thread waits to another one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_do, *words).result()


def _do(
    place: int,
    job: WorkerJob,
    device: str,
    threads: int,
    here: _Here,
    channel: Any,
    stop: Any,
) -> str | None:
    """Do a job in a process of its own, send what it sends, and return why it is not done."""
    here.enter(threads)
    if not stop.empty():
        return _STOPPED
    worker = Worker(job, device, sharing=max(1, cpu_count() // threads))
    try:
        while True:
            wait([worker.channel], timeout=_TICK)
            ended = worker.ended()
            sent = [(place, each.kind, each.values, each.numbers) for each in worker.messages()]
            if sent:
                channel.put_nowait_batch(sent)
            if ended:
                return worker.reason()
            if not stop.empty():
                return _STOPPED
    finally:
        if not worker.ended():
            end_workers([worker], lambda: None)


def _reason(task: Any) -> tuple[bool, str | None]:
    """Whether a task ended because its node died, and why its job is not done."""
    import ray

    try:
        return False, ray.get(task)
    except ray.exceptions.OutOfMemoryError:
        return False, "its node ran out of memory"
    except _died():
        return True, f"its node died, or its Ray worker was killed, {RESTARTS + 1} times"
    except ray.exceptions.RayError as error:
        return False, _last_line(error)


def _died() -> tuple[type[Exception], ...]:
    """The errors of a task whose node is not there any more."""
    from ray import exceptions

    return (
        exceptions.NodeDiedError, exceptions.WorkerCrashedError, exceptions.LocalRayletDiedError,
        exceptions.TaskUnschedulableError,
    )  # fmt: skip


def _last_line(error: BaseException) -> str:
    """What an error says at its end: before that stand Ray's own words and a traceback."""
    return ([type(error).__name__, *filter(None, map(str.strip, str(error).splitlines()))])[-1][:300]
