"""A comparison of two small networks that the real command makes, and again after it was killed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from comparing import recipe, settings, without_times
from faults.commands import carvana

from carvana.leaderboard.board import Leaderboard


def words(data: Path, folder: Path) -> list[object]:
    names = "first=unet-ref", "second=unet-ref"
    shared = "--set", "second:model.options={width: 6}", *settings(recipe(data))
    return ["compare", *names, "--data", data, "--out", folder / "board", "--device", "cpu", *shared]


def undisturbed(data: Path, folder: Path) -> dict[str, Any]:
    """Its leaderboard, what was written and when, and how long it took."""
    began = time.monotonic()
    done = carvana(*words(data, folder), fault={"record": str(folder / "record")})
    assert done.code == 0, done
    values = without_times(Leaderboard.load(folder / "board"))
    return {"values": values, "record": folder / "record", "seconds": time.monotonic() - began}


def same_again(data: Path, folder: Path, whole_board: dict[str, Any]) -> None:
    """The same command again ends, and leaves what an undisturbed one leaves."""
    done = carvana(*words(data, folder))
    assert done.code == 0, done
    assert without_times(Leaderboard.load(folder / "board")) == whole_board["values"]
    assert not list((folder / "board").rglob(".part-*"))
