"""Comparisons of small networks, in seconds."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from carvana.config import FitConfig
from carvana.leaderboard.board import Leaderboard

PATIENCE = 180.0
"""Seconds after which :func:`wait_until` gives up."""

RECIPE = {
    "model": {"options": {"width": 4}},
    "data": {"size": [32, 48], "workers": 0},
    "split": {"val": 2},
    "train": {"epochs": 2, "batch_size": 4, "lr": 1e-2, "precision": "fp32"},
}
"""Under which unet-ref learns something of the tiny demo cars."""


def recipe(data: Path, **changes: Any) -> FitConfig:
    """RECIPE on a data folder; ``train__epochs=1`` changes a key."""
    return FitConfig(**RECIPE).replace(
        {"data.root": str(data), **{k.replace("__", "."): v for k, v in changes.items()}}
    )


def settings(recipe: FitConfig) -> list[str]:
    """The same for a command line."""
    keys = ("model.options", "data.size", "data.workers", "split.val")
    train = ("epochs", "batch_size", "lr", "precision")
    values = recipe.model_dump(mode="json")
    found = {key: values[key.split(".")[0]][key.split(".")[1]] for key in keys}
    found |= {f"train.{key}": values["train"][key] for key in train}
    return [word for key, value in found.items() for word in ("--set", f"{key}={value}")]


def without_times(board: Leaderboard) -> dict[str, Any]:
    """All of a leaderboard but how long things took, how much memory the process had, and where it lies."""
    values = board.to_json()
    for row in values["rows"]:
        for key in ("latency_ms", "images_per_s", "peak_memory_mb", "fit_seconds", "run", "masks"):
            assert row.pop(key) is not None
        for refit in row["refits"]:
            del refit["fit_seconds"], refit["run"]
            for epoch in refit["curve"]:
                del epoch["seconds"]
    return values


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does; fail if it ends before."""
    until = time.monotonic() + PATIENCE
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
