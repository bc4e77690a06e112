"""A comparison that is killed or interrupted, and goes on: the same leaderboard as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import forkserver
import pytest
from comparing import recipe, settings, wait_until, without_times

from carvana.leaderboard.board import Leaderboard

NAMES = ("first=unet-ref", "second=unet-ref")
OWN = ("--set", "second:model.options={width: 6}")


def start(data: Path, out: Path) -> subprocess.Popen[str]:
    words = ["compare", *NAMES, "--data", str(data), "--out", str(out), "--device", "cpu", *OWN]
    shared = settings(recipe(data, train__epochs=30))
    return forkserver.Popen(
        [sys.executable, "-m", "carvana", *words, *shared], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finish(data: Path, out: Path) -> Leaderboard:
    process = start(data, out)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return Leaderboard.load(out)


def epochs(out: Path, name: str) -> int:
    logs = list(out.glob(f"runs/{name}-*/metrics.jsonl"))
    return len(logs[0].read_text().splitlines()) if logs else 0


@pytest.fixture(scope="module")
def undisturbed(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    return finish(tiny_data, tmp_path_factory.mktemp("boards") / "whole")


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_leaderboard(
    undisturbed: Leaderboard, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "board"
    for name in ("first", "second"):
        process = start(tiny_data, out)
        wait_until(lambda name=name: epochs(out, name) >= 3, process)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert 3 <= epochs(out, name) < 30  # in the middle of a fit
    assert Leaderboard.load(out)["first"].status == "ok"  # written as soon as it was known
    assert Leaderboard.load(out)["second"].status == "waiting"
    assert without_times(finish(tiny_data, out)) == without_times(undisturbed)


@pytest.mark.slow
def test_ctrl_c_saves_the_fit_that_is_under_way_and_says_how_to_go_on(
    undisturbed: Leaderboard, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "board"
    process = start(tiny_data, out)
    wait_until(lambda: epochs(out, "first") >= 3, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == f"interrupted: 0 of 2 fits are done, in {out}; the same command continues"
    assert not workers()
    assert any((folder / "state" / "state.json").exists() for folder in (out / "runs").iterdir())
    assert without_times(finish(tiny_data, out)) == without_times(undisturbed)


def workers() -> list[str]:
    """The processes of networks that this process's children have left behind."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                own = f"PYTEST_CURRENT_TEST={os.environ['PYTEST_CURRENT_TEST']}".encode()
                if b"carvana.leaderboard.jobs" in words and own in (folder / "environ").read_bytes():
                    found.append(folder.name)
            except OSError:
                continue
    return found
