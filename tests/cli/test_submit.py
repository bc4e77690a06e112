from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import forkserver
import pytest
from submitting import draw_photos, read_table, small_predictor
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.data.io import rle
from carvana.inference.ensemble import Ensemble
from carvana.inference.outputs.postprocess import clean
from carvana.inference.predictor import Predictor


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    small_predictor().model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "test"
    draw_photos(folder, 20)
    return folder


def expected(predictor: object, photos: Path) -> dict[str, str]:
    found = sorted(photos.iterdir())
    predictions = predictor.predict_batch(found)  # type: ignore[attr-defined]
    return {photo.name: rle.encode(prediction.mask) for photo, prediction in zip(found, predictions, strict=True)}


def test_a_table_is_written_and_found_sound(model: Path, photos: Path, tmp_path: Path) -> None:
    out, sample = tmp_path / "s.csv.gz", tmp_path / "sample.csv"
    done = call("submit", model, photos, "--out", out, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == f"20 rows in {out}, 20 of them made now"
    assert read_table(out) == expected(Predictor.from_pretrained(model, device="cpu"), photos)

    small = tmp_path / "small"  # all photos of a checked table have one size
    for photo in sorted(photos.iterdir())[::3]:
        (small / photo.name).parent.mkdir(exist_ok=True)
        (small / photo.name).write_bytes(photo.read_bytes())
    names = sorted(path.name for path in small.iterdir())
    sample.write_text("img,rle_mask\n" + "".join(f"{name},1 1\n" for name in names[::-1]))
    out = tmp_path / "t.csv"
    done = call("submit", model, small, "--out", out, "--against", sample, "--workers", 0, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert list(read_table(out)) == names[::-1]
    checked = call("submit", "--check", out, "--against", sample, "--size", "24x40")
    assert checked.exit_code == 0, checked.stderr
    assert checked.stdout.strip() == f"{out}: 7 rows, no problem"


def test_the_options_of_predict_are_understood(model: Path, photos: Path, tmp_path: Path) -> None:
    words = ("--with", model, "--scale", "native", "--tta", "--device", "cpu", "--workers", 0, "--clean")
    done = call("submit", model, photos, "--out", tmp_path / "s.csv", *words)
    assert done.exit_code == 0, done.stderr
    assert "2 networks, threshold 0.500" in done.stderr
    both = Ensemble.from_pretrained([model, model], scale="native", tta=True, device="cpu")
    found = sorted(photos.iterdir())
    masks = [clean(prediction.mask) for prediction in both.predict_batch(found)]
    assert list(read_table(tmp_path / "s.csv").values()) == [rle.encode(mask) for mask in masks]


def test_problems_of_a_checked_table_are_listed_and_it_fails(tmp_path: Path) -> None:
    sample, table = tmp_path / "sample.csv", tmp_path / "s.csv.gz"
    sample.write_text("img,rle_mask\n" + "".join(f"{number}.jpg,1 1\n" for number in range(40)))
    table.write_bytes(gzip.compress(b"img,rle_mask\n0.jpg,1 1281\n1.jpg,1 2 2 1\n"))
    checked = call("submit", "--check", table, "--against", sample, "--size", "16x80")
    assert checked.exit_code == 1
    assert "line 2, 0.jpg: the run 1 1281 leaves the picture" in checked.stdout
    assert "line 3, 1.jpg: the run at 2 overlaps the one at 1" in checked.stdout
    assert len(checked.stdout.splitlines()) == 21
    assert "... and 20 more" in checked.stdout
    error = checked.stderr.strip().splitlines()[-1]
    assert error == f"error: {table}: 40 problems in 2 rows: 38 missing, 1 outside, 1 overlapping"


@pytest.mark.parametrize("word", ["--quiet", "-q", "--verbose"])
def test_a_check_may_be_quiet_or_verbose(tmp_path: Path, word: str) -> None:
    table = tmp_path / "s.csv"
    table.write_text("img,rle_mask\n0.jpg,1 1\n")
    checked = call("submit", "--check", table, "--against", table, word)
    assert (checked.exit_code, checked.stdout) == (0, f"{table}: 1 row, no problem\n")


def test_a_photo_that_cannot_be_read_is_one_line_and_a_second_call_finishes(model: Path, tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", 9)
    kept, out = photos[4].read_bytes(), tmp_path / "s.csv"
    photos[4].write_bytes(b"not an image")
    words = ("submit", model, tmp_path / "photos", "--out", out, "--device", "cpu")
    done = call(*words)
    assert done.exit_code == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: 1 of 9 images could not be read, the first: {photos[4]}; replace them")
    assert not out.exists()
    photos[4].write_bytes(kept)
    assert call(*words).exit_code == 0
    assert len(read_table(out)) == 9


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["run"],
        ["run", "photos"],
        ["--out", "s.csv"],
        ["--check", "s.csv"],
        ["run", "photos", "--check", "s.csv", "--against", "t.csv"],
        ["--check", "s.csv", "--against", "t.csv", "--row", "{stem}", "--columns", "a,b"],
        ["--check", "s.csv", "--against", "t.csv", "--size", "native"],
        ["run", "photos", "--out", "s.csv", "--workers", "-1"],
        ["run", "photos", "--out", "s.csv", "--size", "512x512"],
    ],
)
def test_wrong_usage_ends_with_2(words: list[str]) -> None:
    assert call("submit", *words).exit_code == 2


def test_a_table_that_exists_is_refused_before_the_model_is_looked_for(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    out.write_text("mine")
    done = call("submit", tmp_path / "nowhere", photos, "--out", out)
    assert done.exit_code == 1
    assert done.stderr.strip() == f"error: {out}: exists already; take another --out, or remove it"
    assert out.read_text() == "mine"


def test_a_sample_that_names_other_photos_is_one_line(model: Path, photos: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("img,rle_mask\nx.jpg,1 1\ncar_000.png,1 1\n")
    done = call("submit", model, photos, "--out", tmp_path / "s.csv", "--against", sample, "--device", "cpu")
    assert done.exit_code == 1
    assert re.fullmatch(r"error: 1 of the 2 images that the sample names are not there, the first: x\.jpg; .*\n",
                        done.stderr)  # fmt: skip


def test_ctrl_c_ends_with_130_and_no_process_is_left(model: Path, tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 130)
    command = [sys.executable, "-m", "carvana", "submit", str(model), str(tmp_path / "photos"), "--out",
               str(tmp_path / "s.csv"), "--device", "cpu", "--workers", "2", "--scale", "320x480"]  # fmt: skip
    process = forkserver.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("s.csv.parts/000000-*.gz")):  # the first chunk is there
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the readers as well
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted; what was done is kept"
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    done = call("submit", model, tmp_path / "photos", "--out", tmp_path / "s.csv", "--device", "cpu")
    assert done.exit_code == 1
    assert "holds an unfinished table with other settings" in done.stderr
    done = call(
        "submit", model, tmp_path / "photos", "--out", tmp_path / "s.csv", "--device", "cpu", "--scale", "320x480"
    )
    assert re.fullmatch(r"130 rows in \S*s\.csv, (\d+) of them made now\n", done.stdout)
    assert int(done.stdout.split()[4]) in (66, 2)
