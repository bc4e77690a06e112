"""The tutorial is run from its first command to its last, in an empty folder: it makes all that it uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import shell
from blocks import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.md"


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_one_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    done = shell.run(shell.script(TUTORIAL), folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("\n$ carvana") >= 8
    assert len(list((folder / "cut").rglob("*.jpg"))) == len(list((folder / "new" / "train").iterdir()))
    assert (folder / "board" / "leaderboard.html").stat().st_size > 10_000
    for name in set(re.findall(r"`(\w+\.png)`", TUTORIAL.read_text(encoding="utf-8"))):  # the pictures it speaks of
        assert list(folder.rglob(name)), name
