"""Every command of README runs, in the order of the page, in one folder. The tutorial has a file of its own."""

from __future__ import annotations

import json
from pathlib import Path

import installed
import presumed
import pytest
import shell
import yaml
from bands import write_bands
from blocks import ROOT
from PIL import Image

from tests.scenes import VALUES, VOID, draw, write_parts


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


@pytest.mark.slow
def test_the_commands_about_images_of_any_kind_run_one_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    for name in ("tiles", "more"):
        write_bands(folder / name, 6, bands=12, nodata=-9999, tag="-9999", place=True)
    (folder / "more" / "images").rename(folder / "new-tiles")
    done = shell.run(shell.script(ROOT / "docs" / "how-to" / "any-image.md"), folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "12 ranges measured in training" in done.stdout
    assert "task.ignore has nodata" in done.stdout
    assert len(list((folder / "masks").glob("*_mask.tif"))) == 6


@pytest.mark.slow
def test_the_commands_about_labels_from_tools_run_one_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    outlines = {1: [10, 10, 40, 10, 40, 25, 10, 25], 2: [0, 30, 64, 30, 64, 48, 0, 48]}  # moved for each image
    names = [f"{number}.png" for number in range(6)]
    labels = {
        "images": [{"id": n, "file_name": name, "height": 48, "width": 64} for n, name in enumerate(names)],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "road"}],
        "annotations": [
            {"image_id": n, "category_id": category, "segmentation": [[each + n for each in ring]]}
            for n in range(len(names)) for category, ring in outlines.items()
        ],
    }  # fmt: skip
    for place in ("labelled/images", "photos", "new"):
        (folder / place).mkdir(parents=True)
        for number, name in enumerate(names):
            Image.fromarray(draw(number)[0]).save(folder / place / name)
    for place in ("labelled/labels.json", "labels.json"):
        (folder / place).write_text(json.dumps(labels))
    done = shell.run(shell.script(ROOT / "docs" / "how-to" / "labels-from-tools.md"), folder)
    assert done.returncode == 0, done.stdout[-3000:]
    found = json.loads((folder / "found" / "annotations.coco.json").read_text())
    assert [each["file_name"] for each in found["images"]] == names
    assert [each["name"] for each in found["categories"]] == ["car", "road"]


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
