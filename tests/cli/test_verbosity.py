"""How much a command tells, and in which colours."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import carvana
from carvana.cli.app import COMMANDS, app


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("words", [["-q", "data", "check"], ["data", "-q", "check"], ["data", "check", "--quiet"]])
def test_quiet_leaves_the_result_alone(words: list[str], tiny_data: Path) -> None:
    quiet, normal = call(*words, tiny_data), call("data", "check", tiny_data, "-v")
    assert quiet.exit_code == 0
    assert quiet.stdout == normal.stdout
    assert quiet.stderr == ""
    assert normal.stderr


def test_quiet_still_warns_and_errs(tiny_data: Path, tmp_path: Path) -> None:
    tiny = ["--set", "model.options.width=4", "--set", "data.size=[32,48]", "--set", "train.epochs=1"]
    fit = ["fit", "--data", tiny_data, "--out", tmp_path / "run", *tiny, "--set", "data.workers=0"]
    done = call(*fit, "--set", "split.by=image", "--quiet")
    assert done.exit_code == 0
    lines = done.stderr.strip().splitlines()
    assert lines
    assert all(line.startswith("warning: ") for line in lines)
    again = call(*fit, "--quiet")
    assert again.exit_code == 1
    assert again.stderr.startswith("error: ")


def test_verbose_tells_versions_times_and_where_an_error_arose(tmp_path: Path) -> None:
    done = call("evaluate", tmp_path / "nowhere", "-v")
    assert done.exit_code == 1
    assert f"carvana {carvana.__version__}" in done.stderr
    assert re.search(r"torch \d", done.stderr)
    assert re.search(r"^ *\d+ ms  ", done.stderr, re.MULTILINE)
    assert "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    plain = call("evaluate", tmp_path / "nowhere")
    assert "Traceback" not in plain.stderr
    assert "torch" not in plain.stderr


def test_a_command_line_leaves_the_next_one_and_the_log_as_they_were() -> None:
    log = logging.getLogger("carvana")
    call("configs", "--verbose")
    assert call("configs").stderr == ""
    assert log.level == logging.NOTSET
    assert log.handlers == []


@pytest.mark.parametrize("words", [[name] for name in COMMANDS] + [["data", w] for w in ("demo", "check", "show")])
def test_every_command_takes_both(words: list[str]) -> None:
    text = call(*words, "--help").stdout
    assert "--quiet" in text
    assert "--verbose" in text


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["fit", "--nonsense"]])
@pytest.mark.parametrize("colour", [True, False])
def test_no_color_is_kept_in_a_terminal(words: list[str], colour: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"}
    if not colour:
        environment["NO_COLOR"] = "1"
    process = subprocess.Popen(
        [sys.executable, "-m", "carvana", *words], env=environment, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side has gone
            break
        if not piece:
            break
        output += piece
    process.wait()
    os.close(ours)
    colours = re.findall(rb"\x1b\[(?:\d;)*(?:3[0-7]|9[0-7])(?:;\d+)*m", output)
    assert bool(colours) == colour, output[:400]
