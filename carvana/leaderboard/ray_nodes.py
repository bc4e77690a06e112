"""The nodes of a Ray cluster: how to reach them, what they have, and whether they see what this process sees."""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from carvana.config import TrackerName
from carvana.data.digest import content_digest
from carvana.data.samples import Sample
from carvana.errors import CarvanaError, ConfigError, RunError
from carvana.plugins import plugins
from carvana.training.trackers import is_installed, tracker_names
from carvana.utils import __version__
from carvana.utils.files import file_digest
from carvana.utils.progress import Reporter, SilentReporter

if TYPE_CHECKING:  # a node reads this module before each process that it starts, and does it without torch
    from carvana.leaderboard.plan import ComparisonPlan

ANSWER = 10.0
"""Seconds that a cluster has to answer."""

AWAY = 60.0
"""Seconds for which the connection to another node may be lost."""

LOOK = 10.0
"""Seconds after which it is asked whether the nodes are there, while nothing ends."""

Found = TypeVar("Found")
_VARIABLE = "OMP_NUM_THREADS"
_SENT = ("CARVANA_", "HF_", "MLFLOW_", "TRACKIO_", "WANDB_")


def connect(address: str) -> None:
    """Join a cluster, or start one of this machine alone for "local".

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """
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
            raise ConfigError(f"--ray local: no cluster starts here ({last_line(error)})") from error
        token = "" if "RAY_AUTH_MODE" in os.environ else "; if it asks for a token, set RAY_AUTH_MODE=token"
        raise ConfigError(
            f"--ray {address}: no Ray cluster answers there, or this machine is not one of its nodes "
            f"({last_line(error)}){token}"
        ) from error
    finally:  # Ray's own would end this process without its words
        if threading.current_thread() is threading.main_thread() and ours is not None:
            signal.signal(signal.SIGTERM, ours)


@contextmanager
def cluster_errors_in_one_line() -> Iterator[None]:
    """Turn errors of the cluster into one line."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise RunError(f"the Ray cluster is gone ({last_line(error)}); the same command continues") from error


def patiently(call: Callable[[], Found]) -> Found:
    """What a call of an actor returns; one that cannot be reached for a moment is asked again."""
    import ray

    until = time.monotonic() + AWAY
    while True:
        try:
            return call()
        except ray.exceptions.ActorUnavailableError:
            if time.monotonic() > until:
                raise
            time.sleep(1.0)


def threads_of_a_job(usual: int) -> int:
    """The threads of a job: as the environment says, or else the CPUs that each has on the smallest node."""
    named = os.environ.get(_VARIABLE)
    if named is None:
        return max(1, usual)
    if not (named.isdecimal() and int(named)):
        raise ConfigError(f"{_VARIABLE} = {named!r}: expected the threads of a training, 1 or more")
    return int(named)


@dataclass(frozen=True)
class Caller:
    """What a job on another machine needs of this process."""

    folder: Path
    variables: dict[str, str]
    """Where curves go, the hub's token, plugins."""

    path: list[str]
    """Where networks of one's own are found."""

    @classmethod
    def now(cls) -> Caller:
        """That of this process."""
        variables = {name: value for name, value in os.environ.items() if name.startswith(_SENT)}
        return cls(Path.cwd(), variables, list(sys.path))

    def enter(self, threads: int) -> None:
        """On a node: work as this process does."""
        os.chdir(self.folder)
        os.environ.update({**self.variables, _VARIABLE: str(threads)})
        sys.path += [place for place in self.path if place not in sys.path]


def only_on(node: str) -> Any:
    """The strategy that keeps a task on the node of that identity."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


class Node:
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


def all_nodes() -> list[Node]:
    """The nodes that live and have CPUs, by name; several on one machine have a part of Ray's identity in it."""
    import ray

    records: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    found = [Node(each) for each in records if each["Alive"] and each["Resources"].get("CPU")]
    names = [node.name for node in found]
    for node in found:
        if names.count(node.name) > 1:
            node.name = f"{node.name[:-1]}, {node.identity[:6]})"
    return sorted(found, key=lambda node: node.name)


def those_that_see_the_same(
    nodes: Sequence[Node], plan: ComparisonPlan, device: str, threads: int, *, reporter: Reporter
) -> list[Node]:
    """Ask each node what it sees, note what machine it is, and leave out those that have died.

    Raises:
        ConfigError: it differs from what is seen here.
    """
    import ray

    from carvana.leaderboard.plan import weights_path
    from carvana.models.serialization import CONFIG, WEIGHTS, locate

    samples = plan.split.train + plan.split.val
    files = [plan.out.resolve() / "split.csv"]
    for trial in plan.all_trials:
        model = [locate(trial.run.path) / name for name in (WEIGHTS, CONFIG)] if not trial.is_fit else []
        files += model or [weights_path(trial.config)]
    files = sorted({path.resolve() for path in files if path.is_file()})
    fits = [trial.config.train.log_to for trial in plan.all_trials if trial.is_fit]
    trackers = sorted(
        {name for log_to in fits for name in tracker_names(log_to) if log_to != "auto" or name == "trackio"}
    )
    expected = sights(samples, files, trackers)
    task, asked = ray.remote(_look), {}
    gpu = device != "cpu"
    words = samples, files, trackers, device, threads, Caller.now()
    for node in nodes:
        options = {"num_cpus": 0, "num_gpus": int(gpu), "scheduling_strategy": only_on(node.identity)}
        asked[node] = task.options(max_retries=0, **options).remote(*words)
    alive = []
    for node, found in asked.items():
        try:
            if not ray.wait([found], timeout=LOOK)[0]:
                reporter.info(f"waiting for {'a free GPU on ' if gpu else ''}node {node.name}")
            seen, node.machine = ray.get(found)
        except node_errors():
            reporter.warn(f"node {node.name} has died, and is left out")
            continue
        except Exception as error:
            raise ConfigError(f"node {node.name}: cannot run carvana: {last_line(error)}") from error
        for what in {**expected, **seen}:
            there, value = seen.get(what, "missing"), expected.get(what, "missing")
            if there != value:
                raise ConfigError(f"node {node.name}: {what}: {there}, here {value}; all nodes must see the same")
        alive.append(node)
    return alive


def sights(samples: Sequence[Sample], files: Sequence[Path], trackers: Sequence[TrackerName] = ()) -> dict[str, str]:
    """What must be the same on all nodes: versions, trackers, the bytes of the images and labels and of some files."""
    found = {"carvana": __version__, "python": ".".join(platform.python_version_tuple()[:2])}
    found |= {
        f"plugin {each.name}": f"{each.package} {each.version}" for each in plugins() if each.package != "carvana"
    }
    found |= {f"tracker {name}": "installed" if is_installed(name) else "missing" for name in trackers}
    try:
        found["data"] = content_digest(samples, reporter=SilentReporter())[:12]
    except CarvanaError as error:
        found["data"] = str(error)
    return found | {str(path): file_digest(path)[:12] if path.is_file() else "not there" for path in files}


def node_errors() -> tuple[type[Exception], ...]:
    """The errors of a task whose node is not there any more."""
    from ray import exceptions

    return (
        exceptions.NodeDiedError, exceptions.WorkerCrashedError, exceptions.LocalRayletDiedError,
        exceptions.TaskUnschedulableError,
    )  # fmt: skip


def last_line(error: BaseException) -> str:
    """What an error says at its end: before that stand Ray's own words and a traceback."""
    return ([type(error).__name__, *filter(None, map(str.strip, str(error).splitlines()))])[-1][:300]


def _look(
    samples: Sequence[Sample],
    files: Sequence[Path],
    trackers: Sequence[TrackerName],
    device: str,
    threads: int,
    here: Caller,
) -> tuple[dict[str, str], str]:
    """On a node: what it sees, and what machine it is."""
    import torch

    from carvana.leaderboard.plan import machine_line

    here.enter(threads)
    torch.set_num_threads(threads)
    return sights(samples, files, trackers), machine_line([device])
