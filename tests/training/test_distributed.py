"""Two real processes on gloo, as torchrun starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forkserver
import pytest
import torch

from carvana.config import FitConfig
from carvana.run import Run
from tests.scenes import TASK, write_scenes

SCRIPT = Path(__file__).with_name("together.py")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start(count: int, command: list[str]) -> list[subprocess.Popen[str]]:
    """What torchrun does: as many processes, told who they are by their environment."""
    port = str(free_port())
    started = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **{k: str(v) for k, v in place.items()}}
        if count == 1:
            env = dict(os.environ)
        started.append(
            forkserver.Popen(
                [sys.executable, *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    return started


def train(count: int, data: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    """Run together.py; returns the last weights of each process."""
    for process in start(count, [str(SCRIPT), str(data), str(out), json.dumps(settings)]):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    return [torch.load(f"{out}.last-{rank}.pt", weights_only=True) for rank in range(count)]


SETTINGS = {"epochs": 2, "accumulate": 2, "ema": 0.8}


@pytest.fixture(scope="module")
def pair(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two processes, one image each at a time: of 13 images the last batch has one, and a process is left with none."""
    out = tmp_path_factory.mktemp("runs") / "pair"
    return out, train(2, tiny_data, out, batch_size=1, **SETTINGS)


def test_two_processes_take_the_steps_of_one(tiny_data: Path, tmp_path: Path, pair: Any) -> None:
    out, two = pair
    (one,) = train(1, tiny_data, tmp_path / "one", batch_size=2, **SETTINGS)
    for name, value in one.items():
        assert torch.equal(two[0][name], two[1][name])
        torch.testing.assert_close(value, two[0][name], atol=2e-6, rtol=1e-4, msg=name)
    first, second = (Run(path).read_metrics() for path in (tmp_path / "one", out))
    for alone, together in zip(first, second, strict=True):
        assert alone == pytest.approx(together, abs=1e-5)


def test_each_photo_is_seen_once_an_epoch_and_one_run_is_written(pair: Any) -> None:
    out, _ = pair
    seen = [json.loads(out.with_name(f"pair.seen-{rank}.json").read_text()) for rank in (0, 1)]
    for epoch in ("0", "1"):
        assert sorted(seen[0][epoch] + seen[1][epoch]) == list(range(13))
    assert {path.name for path in out.parent.iterdir() if path.is_dir()} == {"pair"}
    assert {path.name for path in out.iterdir()} == {"metrics.jsonl", "times.jsonl", "model", "state"}


def test_with_several_classes_the_counts_of_both_are_those_of_one(tmp_path: Path) -> None:
    """Of 18 scenes 5 validate, so that a process is left without one; what the weights were is the same at first."""
    root = write_scenes(tmp_path / "data", 18)
    settings = {**SETTINGS, "class_weights": "balanced", "task": TASK.model_dump()}
    two = train(2, root, tmp_path / "two", batch_size=1, **settings)
    (one,) = train(1, root, tmp_path / "one", batch_size=2, **settings)
    names = ("one.measured-0.json", "two.measured-0.json", "two.measured-1.json")
    measured = [json.loads((tmp_path / name).read_text()) for name in names]
    assert [each.pop("not_finite") for each in measured] == [[], [], []]
    assert measured[1] == measured[2] == pytest.approx(measured[0], abs=1e-6)
    assert 0 < measured[0]["score"] < 1
    for name, value in one.items():
        torch.testing.assert_close(value, two[0][name], atol=2e-6, rtol=1e-4, msg=name)
    first, second = (Run(tmp_path / name).read_metrics() for name in ("one", "two"))
    for alone, together in zip(first, second, strict=True):
        assert alone == pytest.approx(together, abs=1e-4)


def test_if_one_dies_the_other_says_so_and_the_training_can_go_on(tiny_data: Path, tmp_path: Path, pair: Any) -> None:
    settings = {"batch_size": 1, **SETTINGS}
    words = [str(SCRIPT), str(tiny_data), str(tmp_path / "run"), json.dumps(settings | {"die_at": 5})]
    first, second = start(2, words)
    assert second.wait(timeout=240) == -9
    died = time.monotonic()
    _, errors = first.communicate(timeout=60)
    assert time.monotonic() - died < 60
    assert first.returncode == 1
    assert "process 0: another process of this training died" in errors
    assert "--resume" in errors

    out, whole = pair
    again = train(2, tiny_data, tmp_path / "run", resume=True, **settings)
    assert all(torch.equal(value, again[0][name]) for name, value in whole[0].items())
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
@pytest.mark.slow
def test_the_command_runs_under_the_launchers(tiny_data: Path, tmp_path: Path, launcher: str) -> None:
    config = FitConfig(
        arch="unet-ref",
        model={"options": {"width": 4}},
        data={"root": tiny_data, "size": 32, "augment": "studio", "workers": 1},
        split={"val": 1},
        train={"epochs": 2, "batch_size": 4},
    )
    (tmp_path / "recipe.yaml").write_text(config.to_yaml())
    how = {
        "torchrun": ["torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}", "-m", "carvana"],
        "accelerate": [
            "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
            "--dynamo_backend=no", f"--main_process_port={free_port()}", "-m", "carvana",
        ],
    }[launcher]  # fmt: skip
    command = [sys.executable, "-m", *how, "fit", "--config", str(tmp_path / "recipe.yaml"), "--device", "cpu"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"ACCELERATE_CONFIG_FILE": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["unet-ref"]
    run = Run.open(tmp_path / "runs" / "unet-ref")
    assert run.read_evaluation()["images"] == 4
    assert len(run.read_metrics()) == 2
    assert done.stdout.count("masks  ") == 1
