"""What lies where a command would write is kept, and the command ends before it works; ``--replace`` overwrites it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.models.segmenter import create_model

COMMANDS = {
    "evaluate": ["evaluate", "no-run", "--json"],
    "compare": ["compare", "no-such-network", "--json"],
    "bench": ["bench", "no-such-network", "--json"],
    "data check": ["data", "check", "no-data", "--json"],
    "data show": ["data", "show", "no-data", "--out"],
    "data split": ["data", "split", "no-data", "--out"],
    "export": ["export", "no-run", "--to", "onnx", "--out"],
    "submit": ["submit", "no-run", "no-data", "--out"],
}
SUFFIXES = {"data show": ".png", "export": ".onnx"}


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "export"])  # which reads the run first
def test_a_file_that_exists_is_refused_before_anything_is_read(command: str, tmp_path: Path) -> None:
    target = tmp_path / f"mine{SUFFIXES.get(command, '.json')}"
    target.write_text("mine")
    done = call(*COMMANDS[command], target)
    assert done.exit_code == 1
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert f"{target}: exists already" in line
    assert ("remove it" if command == "submit" else "--replace") in line
    assert target.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("command", ["data check", "data show", "data split", "bench"])  # export: test_export.py
def test_replace_overwrites_it(command: str, tiny_data: Path, tmp_path: Path) -> None:
    target = tmp_path / f"mine{SUFFIXES.get(command, '.json')}"
    target.write_text("mine")
    source: Path = tiny_data
    if command == "bench":
        source = tmp_path / "model"
        create_model("unet-ref", width=2).save_pretrained(source)
    words = [source if word.startswith("no-") else word for word in COMMANDS[command]]
    options = ["--size", "32x48", "--seconds", "0", "--engine", "torch"] if command == "bench" else []
    done = call(*words, target, *options, "--replace")
    assert done.exit_code == 0, done.stderr
    assert target.stat().st_size > 100
