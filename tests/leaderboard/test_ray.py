"""A comparison on a Ray cluster of two nodes, both processes of this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import broken_networks
import psutil
import pytest
from comparing import recipe, settings, wait_until, without_times

import carvana
from carvana.errors import ConfigError
from carvana.leaderboard.board import Leaderboard

pytest.importorskip("ray")

NAMES = tuple(f"{name}=unet-ref" for name in ("one", "two"))
OWN = [
    word for n, name in enumerate(NAMES, 2) for word in ("--set", f"{name.split('=')[0]}:model.options={{width: {n}}}")
]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    try:
        yield made
    finally:
        made.end()


class Cluster:
    """Ray's processes of a head without CPUs and of nodes with one each, ended as a machine ends that loses power."""

    def __init__(self) -> None:
        self.nodes: list[subprocess.Popen[str]] = []
        self.head = self.start("--head", "--port=0", "--num-cpus=0", "--include-dashboard=false")
        self.address = said(self.head, r"--address='?([\d.]+:\d+)")
        self.nodes = [self.add(), self.add()]

    def start(self, *words: str, inside: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1", **ENVIRONMENT}
        command = [*inside, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words]
        return subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def add(self, *, inside: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        node = self.start(f"--address={self.address}", "--num-cpus=1", inside=inside)
        said(node, "(Ray runtime started)")
        return node

    def working(self) -> list[subprocess.Popen[str]]:
        """The nodes on which a job runs: Ray calls its process by the job's name."""
        titles = {f"ray::{name.split('=')[0]}" for name in NAMES}
        found = [each for each in psutil.process_iter(["cmdline"]) if titles & {*(each.info["cmdline"] or ())}]
        above = {parent.pid for each in found for parent in each.parents()}
        return [node for node in self.nodes if node.pid in above]

    @staticmethod
    def kill(node: subprocess.Popen[str]) -> None:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def end(self) -> None:
        for node in (*self.nodes, self.head):
            if node.poll() is None:
                self.kill(node)


def said(process: subprocess.Popen[str], pattern: str) -> str:
    """What a process says, found by a pattern."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError("".join(lines))


def start(data: Path, out: Path, *more: str, threads: int = 1) -> subprocess.Popen[str]:
    words = ["compare", *NAMES, "--data", str(data), "--out", str(out), "--device", "cpu", *OWN]
    return subprocess.Popen(
        [sys.executable, "-m", "carvana", *words, *settings(recipe(data, train__epochs=8)), *more],
        env={**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], out: Path) -> tuple[Leaderboard, str]:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return Leaderboard.load(out), errors


def same(board: Leaderboard, other: Leaderboard) -> bool:
    """Whether two leaderboards are equal, but for times and the name of the machine."""
    values = [without_times(each) for each in (board, other)]
    for value in values:
        del value["header"]["machine"]
    return values[0] == values[1]


@pytest.fixture(scope="module")
def local(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    out = tmp_path_factory.mktemp("boards") / "local"
    return finish(start(tiny_data, out), out)[0]


@pytest.mark.slow
def test_an_interrupted_board_goes_on_and_ends_like_the_others(
    local: Leaderboard, cluster: Cluster, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "board"
    process = start(tiny_data, out, "--ray", cluster.address)
    wait_until(lambda: len(list(out.glob("runs/*/metrics.jsonl"))) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command continues" in errors
    board, _ = finish(start(tiny_data, out), out)  # on this machine
    assert same(board, local)


@pytest.mark.slow
def test_a_board_of_two_nodes_one_of_which_dies_is_that_of_one_machine(
    local: Leaderboard, cluster: Cluster, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "board"
    process = start(tiny_data, out, "--ray", cluster.address)
    wait_until(
        lambda: len([log for log in out.glob("runs/*/metrics.jsonl") if log.read_text().count("\n") > 1]) >= 2, process
    )
    cluster.kill(cluster.nodes.pop())
    board, errors = finish(process, out)
    cluster.nodes.append(cluster.add())
    assert "its node died; it goes on on another one" in errors
    assert "Ray: 2 nodes, room for 2 at once, each with 1 thread; costs are measured on " in errors
    assert "1 thread" in board.header.machine
    assert same(board, local)
    assert len(list((out / "runs").iterdir())) == len(NAMES)  # none began anew beside its old folder


@pytest.mark.slow
def test_costs_are_measured_on_the_other_node_where_the_first_dies(
    local: Leaderboard, cluster: Cluster, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "board"
    process = start(tiny_data, out, "--ray", cluster.address)
    wait_until(lambda: list(out.glob("costs/*.json")), process)  # that of the first network; the second follows
    wait_until(lambda: cluster.working(), process)
    [node] = cluster.working()
    cluster.nodes.remove(node)
    cluster.kill(node)
    board, errors = finish(process, out)
    cluster.nodes.append(cluster.add())
    assert "its node died; costs are measured on another one" in errors
    assert all(row.latency_ms for row in board.rows)
    assert same(board, local)


HOLDER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
holders = [ray.remote(num_cpus=1)(type("Holder", (), {"here": lambda self: None})).remote() for _ in range(2)]
ray.get([holder.here.remote() for holder in holders])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_board_says_that_it_waits_for_what_others_use(cluster: Cluster, tiny_data: Path, tmp_path: Path) -> None:
    others = subprocess.Popen(
        [sys.executable, "-c", HOLDER, cluster.address], env={**os.environ, **ENVIRONMENT}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    said(others, "(held)")
    process = start(tiny_data, tmp_path / "board", "--ray", cluster.address, "--set", "train.epochs=1")
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert any(line == "waiting for a node with 1 CPU free\n" for line in lines)
    assert others.stdin is not None
    others.stdin.close()
    others.wait()
    assert len(finish(process, tmp_path / "board")[0].rows) == 2


@pytest.mark.slow
def test_a_node_with_other_data_is_refused_by_name(cluster: Cluster, tiny_data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    first, second, *_ = sorted((other / "train").iterdir())
    first.write_bytes(second.read_bytes())
    bound = (
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        f'mount --bind {other} {tiny_data} && exec "$@"',
        "-",
    )
    if subprocess.run([*bound, "true"], capture_output=True).returncode:
        pytest.skip("a folder cannot be bound over another one here, as without root's rights")
    cluster.kill(cluster.nodes.pop())
    cluster.nodes.append(cluster.add(inside=bound))
    process = start(tiny_data, tmp_path / "board", "--ray", cluster.address)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    said = r"error: node \S+ \(\d[\d.]+, \w{6}\): data: \w{12}, here \w{12}; all nodes must see the same"
    assert re.fullmatch(said, errors.splitlines()[-1])
    assert not (tmp_path / "board" / "runs").exists()


def test_a_cluster_that_does_not_answer_is_one_line(tiny_data: Path, tmp_path: Path) -> None:
    process = start(tiny_data, tmp_path / "board", "--ray", "127.0.0.1:1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("error: --ray 127.0.0.1:1: no Ray cluster answers there")


def test_a_certain_gpu_is_not_to_be_had(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--device cuda:1: with --ray expected auto, cpu or cuda"):
        carvana.compare(["unet-ref"], recipe(tiny_data), out=tmp_path / "board", device="cuda:1", ray="local")


@pytest.mark.slow
def test_fits_that_need_all_cpus_of_a_node_take_turns(tiny_data: Path, tmp_path: Path) -> None:
    """Ray lends the CPUs of a task that waits for an actor to another task."""
    threads = os.cpu_count() or 1
    more = ("--ray", "local", "--set", "train.epochs=1")
    _, errors = finish(start(tiny_data, tmp_path / "board", *more, threads=threads), tmp_path / "board")
    assert "Ray: 1 node, room for 1 at once" in errors
    told = re.findall("^(?:one|two): (training|Dice)", errors, re.MULTILINE)
    assert told == ["training", "Dice", "training", "Dice"]


@pytest.mark.slow
def test_whatever_goes_wrong_on_a_node_is_told_in_its_row(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_networks.register(monkeypatch)
    names = ["plain", "killed", "greedy"]
    config = recipe(tiny_data, model__options={})
    with patch.dict(os.environ, ENVIRONMENT):  # Ray leaves variables behind
        board = carvana.compare(names, config, out=tmp_path / "board", device="cpu", memory_gb=4, ray="local")
    assert board["plain"].status == "ok"
    assert board["killed"].status.startswith("failed: its process was killed (SIGKILL)")
    assert board["greedy"].status == "failed: out of memory (the limit of its process is 4 GB)"
