"""No room for results: a disk that is full under predictions, tables, comparisons and other files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.commands import INJECT, carvana
from faults.disks import Disk, full_at, in_process, places_written
from faults.full import ADVICE, assert_told, assert_whole, break_at_each_place
from faults.running import assert_done, compare_words, fit_words
from submitting import draw_photos, small_predictor

from carvana.data.demo import write_demo
from carvana.errors import DataError
from carvana.inference.submission.write import write_submission


@pytest.mark.fault(
    done="the real `fit`, `predict` and `submit` on a disk that is full; then room, and the same again",
    promised="exit 1 and one line that names a file there; then exit 0",
    reaches="cli/app.py: an OSError of a command's process",
    quick=0,
)
@pytest.mark.parametrize("command", ["fit", "predict", "submit"])
def test_a_command_on_a_full_disk(disk: Disk, run: Path, tiny_data: Path, command: str) -> None:
    home = disk.folder / "work"
    words = {
        "fit": fit_words(tiny_data, home / "run"),
        "predict": ["predict", run, tiny_data / "train", "--out", home / "out"],
        "submit": ["submit", run, tiny_data / "train", "--out", home / "s.csv.gz", "--workers", 0],
    }[command]
    disk.fill()
    assert_told(carvana(*words), home)
    disk.clear()
    assert_done(carvana(*words))


@pytest.mark.fault(
    done="the disk full at each mask, probability map, cut-out, overlay, file of objects and manifest of `predict`",
    promised="one line; existing files are complete; with room, all files and the same masks",
    reaches="inference/outputs/files.py, predict_folder.py: OSError in a writing thread",
)
def test_predictions_that_meet_a_full_disk(disk: Disk, run: Path, photos: Path, whole: bool, came_out: Any) -> None:
    out = disk.folder / "work" / "out"
    words = ["predict", run, photos, "--out", out, "--save", "mask,prob,cutout,overlay,coco", "--device", "cpu"]

    def files() -> dict[str, bytes]:
        # What a photo's neighbours in a batch are may move a probability by a rounding, but no mask.
        return {path.name: path.read_bytes() if "_mask" in path.name else b"" for path in out.iterdir()}

    came_out(times=break_at_each_place(disk, words, end=files, few=not whole))


@pytest.mark.fault(
    done="the disk full at the manifest, each part and the joined table of a submission",
    promised="one line; parts that are done stay; the same table byte for byte at last",
    reaches="inference/submission/table.py: OSError in begin, add and join",
)
@pytest.mark.parametrize("name", ["table.csv.gz", "table.csv"])
def test_a_submission_that_meets_a_full_disk(disk: Disk, tmp_path: Path, came_out: Any, name: str) -> None:
    rows = draw_photos(tmp_path / "drawn", 10)
    predictor = small_predictor()
    home = disk.folder / "work"
    out = home / name
    places = places_written(home, lambda: write_submission(predictor, rows, out=out, chunk=4, workers=0))
    expected = out.read_bytes()
    parts = f"{name}.parts"
    assert {f"{parts}/manifest.jsonl", name} <= set(places)
    assert len(places) == 5  # and three parts
    for place in places:
        shutil.rmtree(home)
        with full_at(disk, home, place), pytest.raises(DataError, match=f"{out}: cannot be written: {ADVICE}"):
            write_submission(predictor, rows, out=out, chunk=4, workers=0)
        assert not out.exists()
        made = {int(path.name.partition("-")[0]) for path in (home / parts).glob("*.gz")}
        assert_whole(home)
        disk.clear()
        done = write_submission(predictor, rows, out=out, chunk=4, workers=0)
        assert done.written == 10 - sum(len(rows[4 * number : 4 * number + 4]) for number in made)
        assert out.read_bytes() == expected
    came_out(times=len(places))


@pytest.mark.fault(
    done="a table of masks, plain and compressed, cut at 20 places, through `submit --check`",
    promised="exit 1, one line; the line says what is missing",
    reaches="inference/submission/table.py: EOFError, and rows that end early",
)
@pytest.mark.parametrize("name", ["table.csv.gz", "table.csv"])
def test_a_table_that_was_cut(tmp_path: Path, came_out: Any, name: str) -> None:
    rows = draw_photos(tmp_path / "drawn", 10)
    write_submission(small_predictor(), rows, out=tmp_path / name, workers=0)
    data = (tmp_path / name).read_bytes()
    cut = tmp_path / f"cut-{name}"
    for share in range(20):
        cut.write_bytes(data[: len(data) * share // 20])
        done = in_process("submit", "--check", cut, "--against", tmp_path / name, "--size", "24x40")
        assert done.error
    came_out(times=20)


SMALL: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "new-plugin": lambda out, *_: ["new-plugin", "mynet", "--out", out / "plugin"],
    "data split": lambda out, data, *_: ["data", "split", data, "--out", out / "split.csv"],
    "evaluate --json": lambda out, _, run: ["evaluate", run, "--json", out / "e.json", "--device", "cpu"],
    "data check --json": lambda out, data, *_: ["data", "check", data, "--json", out / "c.json"],
    "data show": lambda out, data, *_: ["data", "show", data, "--out", out / "s.png"],
    "bench --json": lambda out, _, run: [
        "bench", run, "--size", "64x96", "--seconds", 0, "--json", out / "b.json", "--device", "cpu"
    ],
    "fit --find-lr": lambda out, data, *_: ["fit", "--find-lr", *fit_words(data, out / "lr")[1:]],
    "export": lambda out, _, run: ["export", run, "--to", "onnx", "--out", out / "m.onnx"],
}  # fmt: skip


@pytest.mark.fault(
    done="the disk full at each file of new-plugin, split, evaluate, check, show, bench, find-lr, export",
    promised="one line; no half file or folder that stands in the way; the same command again ends well",
    reaches="plugins.py: write_plugin, inference/engines/export.py, evaluation/plots.py, cli/tables.py",
    quick=3,
)
@pytest.mark.parametrize("command", SMALL)
def test_a_small_command_that_meets_a_full_disk(
    disk: Disk, run: Path, tiny_data: Path, came_out: Any, command: str
) -> None:
    home = disk.folder / "work"
    words = SMALL[command](home, tiny_data, run)

    def names() -> list[str]:
        return sorted(str(path.relative_to(home)) for path in home.rglob("*"))

    came_out(times=break_at_each_place(disk, words, end=names, few=False))


@pytest.mark.fault(
    done="the disk full at each image, mask and manifest of `data demo`",
    promised="an OSError that names the file; with room, the same images",
    reaches="data/demo/write.py, data/io/masks.py: write_palette_mask",
)
def test_a_demo_that_meets_a_full_disk(disk: Disk, came_out: Any) -> None:
    home = disk.folder / "work"

    def draw() -> dict[str, bytes]:
        root = write_demo(home / "demo", cars=1, views=1, size=(40, 60), workers=1)
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    places = places_written(home, draw)
    assert len(places) == 3
    expected = draw()
    for place in places:
        shutil.rmtree(home)
        with full_at(disk, home, place), pytest.raises(OSError, match="No space left") as caught:
            draw()
        assert str(caught.value.filename).startswith(str(home / "demo"))
        assert_whole(home)
        disk.clear()
        assert draw() == expected
    came_out(times=len(places))


def ranking_of(folder: Path) -> list[tuple[object, ...]]:
    """What a comparison of the same networks always gives."""
    rows = json.loads((folder / "leaderboard.json").read_text())["rows"]
    return [tuple(row[key] for key in ("name", "status", "dice")) for row in rows]


PLAN = ["split.csv", "leaderboard.json"]
"""Some of what a comparison writes before it begins to fit."""


@pytest.mark.fault(
    done="the disk full at each file that `compare` writes into a finished comparison, and at those that begin one",
    promised="one line; every file of the leaderboard whole, old or new; the same leaderboard at last",
    reaches="leaderboard/board.py: save; leaderboard/compare.py: compare",
    quick=0,
)
def test_a_comparison_that_meets_a_full_disk(
    compared: Path, tiny_data: Path, tmp_path: Path, disk: Disk, whole: bool, came_out: Any
) -> None:
    home = disk.folder / "work"
    words = compare_words(tiny_data, home)
    count = 0
    for begun in (True, False):
        shutil.rmtree(home, ignore_errors=True)
        places = PLAN if not begun else places_written(shutil.copytree(compared, home), lambda: in_process(*words))
        for place in places if whole else places[:1]:
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir() if not begun else shutil.copytree(compared, home)
            with full_at(disk, home, place):
                assert_told(in_process(*words), home)
            assert_whole(home)
            disk.clear()
            count += 1
            if begun:
                assert_done(in_process(*words))
                assert ranking_of(home) == ranking_of(compared)
    came_out(times=count)


@pytest.mark.fault(
    done="the disk full in the process that fits a network of a comparison",
    promised="the row says so and where its log is; the leaderboard stands; the same command again fits it",
    reaches="leaderboard/jobs.py: an error of the disk becomes a row",
    quick=0,
)
def test_a_network_that_meets_a_full_disk_is_a_row(
    compared: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "compare"
    words = compare_words(tiny_data, home)
    with monkeypatch.context() as patch:
        patch.setenv("CARVANA_FAULT", json.dumps({"error": ["written", "*/model/config.json", 1, errno.ENOSPC]}))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(INJECT), os.environ.get("PYTHONPATH", "")]))
        done = in_process(*words)
    assert "none of the networks could be compared" in done.error
    assert ADVICE in done.error
    [row] = json.loads((home / "leaderboard.json").read_text())["rows"]
    assert ADVICE in row["status"]
    assert_whole(home)
    assert_done(in_process(*words))
    assert ranking_of(home) == ranking_of(compared)
