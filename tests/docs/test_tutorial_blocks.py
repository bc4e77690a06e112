"""The tutorials are run from their first command to their last, in an empty folder: they make all that they use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import shell
from blocks import ROOT, blocks

TUTORIAL = ROOT / "docs" / "tutorial.md"
CLASSES = ROOT / "docs" / "own-classes.md"


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_one_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    done = shell.run(shell.script(TUTORIAL), folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("\n$ carvana") >= 8
    assert len(list((folder / "cut-car").rglob("*.jpg"))) == len(list((folder / "new-car" / "train").iterdir()))
    assert (folder / "board" / "leaderboard.html").stat().st_size > 10_000
    for name in set(re.findall(r"`(\w+\.png)`", TUTORIAL.read_text(encoding="utf-8"))):  # the pictures it speaks of
        assert list(folder.rglob(name)), name


@pytest.mark.slow
def test_own_classes_from_the_drawing_to_python(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    [use], [config] = blocks(CLASSES, "python"), blocks(CLASSES, "yaml")
    (folder / "streets.yaml").write_text(config.text)
    done = shell.run(shell.script(CLASSES), folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(list((folder / "maps").glob("*_mask.png"))) == 8
    assert len(list((folder / "cut-streets").glob("*_cutout.png"))) == 8
    for name in ("worst", "masks", "confusion", "classes", "curves"):
        assert (folder / "runs" / "thin" / "pictures" / f"{name}.png").is_file()
    (folder / "use.py").write_text(use.text)
    used = shell.run(["python use.py"], folder)
    assert used.returncode == 0, used.stdout[-3000:]
    assert "sky" in used.stdout
