"""Runs the jobs of a comparison on a Ray cluster, and yields the same messages and exits as worker_pool.py.

Each job is a Ray task that starts, on its node, the worker process that a comparison without Ray starts here: a crash,
memory that runs out and an interruption end alike. The folder of the comparison lies where all nodes see it. A task
whose node dies is started again on another one, and a fit goes on from its last state in that folder.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from carvana.errors import ConfigError, RunError, plural
from carvana.leaderboard.ray_nodes import (
    LOOK,
    Caller,
    all_nodes,
    cluster_errors_in_one_line,
    connect,
    last_line,
    node_errors,
    only_on,
    patiently,
    those_that_see_the_same,
    threads_of_a_job,
)
from carvana.leaderboard.worker_pool import (
    GRACE,
    MachineLostError,
    Worker,
    WorkerExit,
    WorkerJob,
    WorkerMessage,
    end_workers,
)
from carvana.utils.devices import cpu_count, resolve_device, resolve_precision
from carvana.utils.progress import Reporter

if TYPE_CHECKING:  # see ray_nodes.py
    from carvana.leaderboard.plan import ComparisonPlan

RESTARTS = 3
"""How often a job is started again because its node died."""

RELEASED = 120.0
"""Seconds that a fit waits for the lock of its run: file servers keep that of a dead machine for a while."""

_TICK = 0.5
"""Seconds between two looks at what the processes send: each look takes a call of another process or two."""

_GONE = "all nodes of the Ray cluster have died; the same command continues with others"
_STOPPED = "the comparison was stopped"
_DIED, _KILLED = "its node died", "its Ray worker was killed"
_BEGUN = "begun"  # what a task sends before its process does


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
        if plan.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"--device {plan.device}: with --ray expected auto, cpu or cuda; Ray chooses the GPUs, and "
                "knows none of Apple"
            )
        self._reporter = reporter
        connect(address)
        import ray

        try:
            found = all_nodes()
            self._gpu = any(node.gpus for node in found) if plan.device == "auto" else plan.device == "cuda"
            for trial in plan.all_trials:
                if trial.is_fit and not self._gpu:
                    resolve_precision(trial.config.train.precision, resolve_device("cpu"))
            shares = [node.cpus // node.gpus for node in found if node.gpus] if self._gpu else [n.cpus for n in found]
            self._threads = threads_of_a_job(min(shares, default=1))
            self._nodes = [node for node in found if node.room(self._threads, memory_gb, gpu=self._gpu)]
            self._needs = plural(self._threads, "CPU") + (" and a GPU" if self._gpu else "")
            self._needs += f" and {memory_gb:g} GB" if memory_gb is not None else ""
            if not self._nodes:
                count = plural(len(found), "node")
                raise ConfigError(f"--ray {address}: none of its {count} has {self._needs} for a task")
            self._nodes = those_that_see_the_same(self._nodes, plan, self._device, self._threads, reporter=reporter)
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
        with cluster_errors_in_one_line():
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
                ray.get(ping.options(num_cpus=0, max_retries=0, scheduling_strategy=only_on(first.identity)).remote())
                return
            except node_errors():
                self._nodes.remove(first)
                if not self._nodes:
                    raise RunError(_GONE) from None

    def _leave_out(self) -> None:
        """Forget nodes of which Ray says that they have died."""
        with cluster_errors_in_one_line():
            alive = {node.identity for node in all_nodes()}
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
        channel, stop = (Queue(actor_options={"num_cpus": 0, "scheduling_strategy": only_on(here)}) for _ in range(2))
        waiting, running, starts = list(enumerate(jobs)), dict[Any, int](), Counter[int]()
        looked = asked = time.monotonic()
        waits = True

        def start(place: int, job: WorkerJob) -> None:
            starts[place] += 1
            if job.function.endswith(":fit_network"):  # a node that has died may still hold the lock
                job = replace(job, arguments={**job.arguments, "patience": RELEASED})
            task = ray.remote(_work).options(name=job.name, max_retries=0, **self._asked(job, alone=alone))
            made = task.remote(place, job, self._device, self._threads, Caller.now(), channel, stop)
            running[made] = place

        def messages() -> Generator[WorkerMessage, None, None]:
            nonlocal waits
            while count := patiently(channel.qsize):
                for place, kind, values, numbers in channel.get_nowait_batch(count):
                    waits = False
                    if kind == _BEGUN:
                        continue
                    yield WorkerMessage(jobs[place], kind, values, numbers)

        try:
            while waiting or running:
                while waiting and not (alone and running):
                    start(*waiting.pop(0))
                ended, _ = ray.wait(list(running), num_returns=len(running), timeout=_TICK)
                yield from messages()
                if waits and time.monotonic() - asked > LOOK:
                    free = (
                        f"node {self._nodes[0].name} without other work" if alone else f"a node with {self._needs} free"
                    )
                    self._reporter.info(f"waiting for {free}")
                    waits = False
                if not ended and not alone and time.monotonic() - looked > LOOK:
                    self._leave_out()
                    looked = time.monotonic()
                for each in ended:
                    place = running.pop(each)
                    waits = False
                    died, reason = _reason(each)
                    if died and alone:
                        first = self._nodes[0]
                        self.prepare()
                        if self._nodes[0] is not first:
                            message = "its node died; costs are measured on another one"
                            yield WorkerMessage(jobs[place], "info", (message,), {})
                            raise MachineLostError
                        yield WorkerExit(jobs[place], died)
                    elif died and starts[place] <= RESTARTS:
                        self._leave_out()
                        on = "as soon as there is room" if died == _KILLED else "on another one"
                        yield WorkerMessage(jobs[place], "info", (f"{died}; it goes on {on}",), {})
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
            return found | {"num_cpus": self._nodes[0].cpus, "scheduling_strategy": only_on(self._nodes[0].identity)}
        # No blank between them: Ray would take it for a part of the name.
        nodes = ",".join(node.identity for node in self._nodes)
        return found | {"label_selector": {"ray.io/node-id": f"in({nodes})"}}

    @property
    def _device(self) -> str:
        return "cuda:0" if self._gpu else "cpu"


def _ping() -> None:
    """On a node: nothing."""


def _work(*words: Any) -> str | None:
    """On a node: :func:`_do` in a thread, since Ray lends the CPUs of a task whose main thread waits to another one."""
    ending = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(_do, ending, *words)
        try:
            return doing.result()
        except BaseException:  # Ray ends a worker with SystemExit
            ending.set()
            raise


def _do(
    ending: threading.Event,
    place: int,
    job: WorkerJob,
    device: str,
    threads: int,
    here: Caller,
    channel: Any,
    stop: Any,
) -> str | None:
    """Do a job in a process of its own, send what it sends, and return why it is not done."""

    def stopped() -> bool:
        return ending.is_set() or not patiently(stop.empty)

    here.enter(threads)
    if stopped():
        return _STOPPED
    patiently(lambda: channel.put_nowait((place, _BEGUN, (), {})))
    worker = Worker(job, device, sharing=max(1, cpu_count() // threads))
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=_TICK)
            ended = worker.ended()
            sent = [(place, each.kind, each.values, each.numbers) for each in worker.messages()]
            if sent:
                patiently(lambda: channel.put_nowait_batch(sent))  # noqa: B023 - it is called at once
            if ended:
                return worker.reason()
            if stopped():
                return _STOPPED
    finally:
        if not worker.ended():
            end_workers([worker], lambda: None)


def _reason(task: Any) -> tuple[str, str | None]:
    """What ended a task from outside, or an empty text, and why its job is not done."""
    import ray

    try:
        return "", ray.get(task)
    except ray.exceptions.OutOfMemoryError:
        return "", "its node ran out of memory"
    except ray.exceptions.WorkerCrashedError:
        return _KILLED, f"{_KILLED}, or its node died, {RESTARTS + 1} times"
    except node_errors():
        return _DIED, f"{_DIED}, or its Ray worker was killed, {RESTARTS + 1} times"
    except ray.exceptions.RayError as error:
        return "", last_line(error)
