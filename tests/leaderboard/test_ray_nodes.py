"""What can be said of nodes without a cluster; test_ray.py has one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from carvana.data.samples import find_samples
from carvana.errors import ConfigError
from carvana.leaderboard import ray_nodes
from carvana.leaderboard.ray_nodes import Caller, Node, last_line, patiently, sights, threads_of_a_job
from carvana.utils import __version__


def node(**resources: float) -> Node:
    return Node(
        {"NodeID": "abc", "NodeManagerHostname": "one", "NodeManagerAddress": "10.0.0.1", "Resources": resources}
    )


@pytest.mark.parametrize(
    ("resources", "threads", "memory_gb", "gpu", "expected"),
    [
        ({"CPU": 8, "memory": 32e9}, 2, None, False, 4),
        ({"CPU": 8, "memory": 32e9}, 16, None, False, 0),
        ({"CPU": 8, "memory": 32e9}, 2, 12, False, 2),
        ({"CPU": 8, "memory": 32e9}, 2, None, True, 0),
        ({"CPU": 8, "GPU": 2, "memory": 32e9}, 2, None, True, 2),
        ({"CPU": 3, "GPU": 2, "memory": 32e9}, 2, None, True, 1),
    ],
)
def test_a_node_has_room_for_what_its_cpus_gpus_and_memory_allow(
    resources: dict[str, float], threads: int, memory_gb: float | None, gpu: bool, expected: int
) -> None:
    assert node(**resources).room(threads, memory_gb, gpu=gpu) == expected


def test_threads_are_those_of_the_environment_or_the_cpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert (threads_of_a_job(8), threads_of_a_job(0)) == (8, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of_a_job(8) == 3
    for wrong in ("0", "4,2", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", wrong)
        with pytest.raises(ConfigError, match=f"OMP_NUM_THREADS = '{wrong}'"):
            threads_of_a_job(8)


def test_nodes_are_asked_for_versions_images_and_files(tiny_data: Path, tmp_path: Path) -> None:
    samples = find_samples(tiny_data)
    (tmp_path / "a").write_text("first")
    seen = sights(samples, [tmp_path / "a", tmp_path / "b"])
    assert seen["carvana"] == __version__
    assert seen[str(tmp_path / "b")] == "not there"
    assert sights(samples[1:], [])["data"] != seen["data"]
    (tmp_path / "a").write_text("other")
    again = sights(samples, [tmp_path / "a", tmp_path / "b"])
    assert {name for name in seen if seen[name] != again[name]} == {str(tmp_path / "a")}


def test_nodes_are_asked_for_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_nodes, "is_installed", lambda name: name == "mlflow")
    seen = sights((), (), ("mlflow", "wandb"))
    assert (seen["tracker mlflow"], seen["tracker wandb"]) == ("installed", "missing")


def test_an_actor_that_is_away_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    answers = [exceptions.ActorUnavailableError("no route", None), 7]

    def ask() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    assert patiently(ask) == 7
    monkeypatch.setattr(ray_nodes, "AWAY", 0.0)
    answers.append(exceptions.ActorUnavailableError("no route", None))
    with pytest.raises(exceptions.ActorUnavailableError):
        patiently(ask)


def test_variables_of_trackers_and_the_hub_go_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    monkeypatch.setenv("SECRET", "mine")
    sent = Caller.now().variables
    assert sent["MLFLOW_TRACKING_URI"] == "http://tracker"
    assert "SECRET" not in sent
    assert "PATH" not in sent


def test_a_node_starts_jobs_without_torch() -> None:
    """Importing it takes seconds and memory, once for each process that Ray lends."""
    code = "import sys, carvana.leaderboard.ray_pool; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_of_an_error_its_end_is_told() -> None:
    assert last_line(ValueError("ray::_work()\n  File ...\nOSError: /folder is not there\n")) == (
        "OSError: /folder is not there"
    )
    assert last_line(ValueError()) == "ValueError"
