"""Every command of README runs, in the order of the page, in one folder. The tutorial has a file of its own."""

from __future__ import annotations

from pathlib import Path

import installed
import presumed
import pytest
import shell
import yaml
from blocks import ROOT

from tests.scenes import VALUES, VOID, write_parts


@pytest.mark.slow
def test_the_commands_of_readme_run_one_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    presumed.make(folder)
    site = installed.install(ROOT / "plugins" / shell.PLUGINS, tmp_path / "site")
    done = shell.run(shell.script(ROOT / "README.md"), folder, site)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("\n$ carvana") >= 10
    assert len(list((folder / "cut").rglob("*.jpg"))) == len(list((folder / "holiday").iterdir()))
    assert [path.parent.name for path in folder.rglob("leaderboard.html")] == ["compare-quick"]


@pytest.mark.slow
def test_the_commands_about_folders_of_parts_run_one_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    write_parts(folder / "streets", train=6, val=2, test=3)
    task = {"task": {"classes": VALUES, "ignore": [VOID]}, "train": {"precision": "fp32"}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(task | {"model": {"options": {"width": 4}}}))
    done = shell.run(shell.script(ROOT / "docs" / "how-to" / "split-folders.md"), folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "6 images train, 2 validate" in done.stdout
    assert [f"over all pixels of {count} images" in done.stdout for count in (2, 3)] == [True, True]


@pytest.mark.parametrize(
    "line", ["carvana predict no-run no-photo --out x", "carvana fit --dta photos", "no-such-command"]
)
def test_a_line_that_fails_ends_the_script(tmp_path: Path, line: str) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    done = shell.run([line, "touch reached"], folder)
    assert done.returncode != 0
    assert not (folder / "reached").exists()


def test_what_the_commands_are_given_beyond_the_page_is_small_sizes_alone() -> None:
    import small

    assert small.shortened(["predict", "run", "car.jpg"]) == ["predict", "run", "car.jpg"]
    assert small.shortened(["fit", "--resume", "run"]) == ["fit", "--resume", "run"]
    words = small.shortened(["fit", "--arch", "fpn/resnet18", "--set", "train.lr=1"])
    assert words[:5] == ["fit", "--arch", "fpn/resnet18", "--set", "train.lr=1"]
    assert words[5::2] == ["--set"] * len(small.SETTINGS)
