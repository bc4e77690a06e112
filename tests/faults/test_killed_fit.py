"""Killed: fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.commands import carvana, killed_after
from faults.killing import Point, events, files, kill_at, moments, points, told, unknown

FILES = (
    "*/run/run.json", "*/run/split.csv", "*/run/config.yaml", "*/state/tensors-*", "*/state/state.json",
    "*/model/model.safetensors", "*/model/config.json", "*/model/README.md", "*/run/masks/*",
    "*/pictures/worst.png", "*/pictures/masks.png", "*/pictures/curves.png",
    "*/pictures/thumbnail.jpg", "*/run/evaluation.json",
)  # fmt: skip
LOGS = ("*/run/metrics.jsonl", "*/run/times.jsonl")
LATER = (
    ("*/run/run.json", 2), ("*/state/tensors-*", 2), ("*/state/state.json", 2),
    ("*/model/model.safetensors", 2), ("*/model/config.json", 2), ("*/run/masks/*", 4), ("*/run/metrics.jsonl", 2),
    ("*/run/times.jsonl", 2),
)  # fmt: skip
"""The first network is written behind epoch 1, the last one with its threshold behind the evaluation."""

CACHE = ("*/samples/files", "*/samples/*.pack")

ONCE = ("run.json", "times.jsonl", "state/state.json", "pictures/curves.png")
"""What holds times."""


def words(data: Path, out: Path) -> list[object]:
    settings = (
        "model.options={width: 4}", "data.size=[32, 48]", "data.workers=0", "split.val=1", "train.epochs=2",
        "train.batch_size=4", "train.lr=1e-2", "train.precision=fp32",
    )  # fmt: skip
    return ["fit", "--data", data, "--out", out, "--device", "cpu", *(f"--set={setting}" for setting in settings)]


@pytest.fixture(scope="module")
def whole_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An undisturbed run: its files, what was written and when, and how long it took."""
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    done = carvana(
        *words(tiny_data, folder / "run"), fault={"record": str(folder / "record")},
        env={"CARVANA_CACHE": str(folder / "cache")},
    )  # fmt: skip
    assert done.code == 0, done
    kept = files(folder / "run", but=ONCE)
    return {"files": kept, "record": folder / "record", "seconds": time.monotonic() - began}


def same_again(data: Path, folder: Path, whole_run: dict[str, Any]) -> None:
    """The same command again ends, and leaves what an undisturbed one leaves."""
    done = carvana(*words(data, folder / "run"), env={"CARVANA_CACHE": str(folder / "cache")})
    if done.code == 1 and "exists already and is never overwritten" in done.error:  # it had ended
        assert "go on" not in done.error
    else:
        assert done.code == 0, done
    now = files(folder / "run", but=ONCE)
    assert sorted(now) == sorted(whole_run["files"])
    assert [name for name in now if now[name] != whole_run["files"][name]] == []


@pytest.mark.fault(
    done="each write of a fit is recorded, and compared with the writes that are killed below",
    promised="every place that writes is killed",
    reaches="files.py: the audit event carvana.write, wherever a run is written",
)
def test_all_places_that_write_are_known(whole_run: dict[str, Any], came_out: Callable[..., None]) -> None:
    assert unknown(whole_run["record"], [*FILES, *LOGS, *CACHE]) == set()
    found = list(events(whole_run["record"]))
    came_out(f"{len(found)} steps of {len({path for _, path in found})} files")


@pytest.mark.fault(
    done="SIGKILL at each step of each kind of file that fit writes, half of the file being written",
    promised="the same command again ends with the same weights, logs, masks and pictures, and no leftovers",
    reaches="files.py: atomic_path and its sweep; training/fit.py: _is_interrupted; run.py: what is no run yet",
    quick=0,
)
@pytest.mark.parametrize("point", points(FILES, LOGS, again=LATER), ids=told)
def test_killed_at_a_write(point: Point, whole_run: dict[str, Any], tiny_data: Path, tmp_path: Path) -> None:
    kill_at(point, *words(tiny_data, tmp_path / "run"), env={"CARVANA_CACHE": str(tmp_path / "cache")})
    same_again(tiny_data, tmp_path, whole_run)


@pytest.mark.fault(
    done="SIGKILL at random times of a fit",
    promised="as above",
    reaches="training/checkpoint.py: any step between two states",
    quick=1,
)
@pytest.mark.parametrize("number", range(20))
def test_killed_at_a_random_time(
    number: int, whole_run: dict[str, Any], tiny_data: Path, tmp_path: Path, came_out: Callable[..., None]
) -> None:
    seconds = moments(number, 1, least=0.4 * whole_run["seconds"], most=whole_run["seconds"])[0]
    killed_after(seconds, *words(tiny_data, tmp_path / "run"), env={"CARVANA_CACHE": str(tmp_path / "cache")})
    same_again(tiny_data, tmp_path, whole_run)


@pytest.mark.fault(
    done=("a fit killed three times: at its first checkpoint, at its second saved network, while it writes masks"),
    promised="as above",
    reaches="training/fit.py: resume of a resumed training",
)
def test_killed_thrice(whole_run: dict[str, Any], tiny_data: Path, tmp_path: Path) -> None:
    for point in (("renamed", FILES[4], 1), ("written", FILES[5], 1), ("synced", FILES[8], 3)):
        kill_at(point, *words(tiny_data, tmp_path / "run"), env={"CARVANA_CACHE": str(tmp_path / "cache")})
    same_again(tiny_data, tmp_path, whole_run)
