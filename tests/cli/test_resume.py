"""``carvana fit`` interrupted as a terminal and a cluster do it: the signal goes to the whole group of processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forkserver
import pytest
from typer.testing import CliRunner, Result

from carvana.cli.app import app

WORDS = ["--set", "model.options.width=4", "--set", "data.size=[32, 48]", "--set", "data.workers=2"]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def interrupted(data: Path, out: Path, number: int) -> tuple[int, list[str]]:
    """Send a signal to all processes of a fit that is under way; returns its exit code and the lines of stderr."""
    command = [sys.executable, "-m", "carvana", "fit", "--data", str(data), "--out", str(out), "--device", "cpu"]
    process = forkserver.Popen(
        [*command, *WORDS, "--set", "train.epochs=500"], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors.splitlines()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tiny_data: Path, tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "run"
    ended, told = interrupted(tiny_data, out, number)
    assert ended == code
    assert any("Ctrl-C again ends at once" in line for line in told[:-1]) == (number == signal.SIGINT)
    line = told[-1]
    assert line.startswith("interrupted: stopped after step ")
    assert line.endswith(f"continue with carvana fit --resume {out}")
    saved = json.loads((out / "state" / "state.json").read_text())["progress"]
    assert f"after step {saved['step']};" in line

    lines = (out / "metrics.jsonl").read_text().splitlines()
    for words, said in [
        (["--arch", "unet/resnet18"], "--arch"),
        (["--set", "train.lr=1"], "--set train.lr"),
        (["--set", "train.epochs=1"], "the run has 500 epochs"),
        (["--data", tiny_data, "--config", "default"], "--data, --config"),
        (["--data", tiny_data], "where its data folder has moved, name it with --root"),
        (["--root", tmp_path / "nowhere"], f"{tmp_path / 'nowhere'}: no such folder"),
    ]:
        refused = call("fit", "--resume", out, *words)
        assert refused.exit_code == 1
        assert said in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert (out / "metrics.jsonl").read_text().splitlines() == lines


def test_root_is_for_runs_that_go_on(tmp_path: Path) -> None:
    refused = call("fit", "--root", tmp_path, "--out", tmp_path / "run")
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "--root" in refused.stderr
    assert "--data" in refused.stderr
    assert not (tmp_path / "run").exists()
