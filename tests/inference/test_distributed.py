"""Two real processes, as torchrun starts them or somebody by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import forkserver
import pytest
from submitting import draw_photos, small_predictor

from carvana.data.io.masks import read_mask
from carvana.inference.inputs import rank_slice
from carvana.inference.predict_folder import MANIFEST
from carvana.inference.submission.write import write_submission
from carvana.utils.files import read_json_lines

CHUNK = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "test"
    draw_photos(folder, 70)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    small_predictor().model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def alone(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What one process writes, undisturbed."""
    out = tmp_path_factory.mktemp("alone") / "s.csv.gz"
    write_submission(small_predictor(), sorted(photos.iterdir()), out=out, chunk=CHUNK, workers=0)
    return out.read_bytes()


def test_the_shares_of_all_processes_are_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (1, 2, 3, 7, 20):
        monkeypatch.setenv("WORLD_SIZE", str(count))
        taken = []
        for rank in range(count):
            monkeypatch.setenv("RANK", str(rank))
            taken += rank_slice(range(13))
        assert sorted(taken) == list(range(13))


def start(photos: Path, out: Path, rank: int, count: int, *words: str) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("submit_share.py")
    env = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(count)}
    command = [sys.executable, str(script), str(photos), str(out), str(CHUNK), *words]
    return forkserver.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[str]:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.split()


def parts(out: Path) -> int:
    folder = Path(f"{out}.parts")
    return sum(path.name[:6].isdecimal() for path in folder.iterdir()) if folder.exists() else 0


def test_one_of_two_is_killed_and_restarted_and_the_table_is_that_of_one_process(
    photos: Path, tmp_path: Path, alone: bytes
) -> None:
    out = tmp_path / "s.csv.gz"
    first, second = start(photos, out, 0, 2), start(photos, out, 1, 2, "die")
    written, complete = finish(first)
    assert (written, complete) == ("36", "False")  # chunks 0, 2, 4 ... of 18
    _, errors = second.communicate(timeout=120)
    assert second.returncode == -signal.SIGKILL, errors
    assert not out.exists()
    there = parts(out)
    assert 9 < there < 18
    written, complete = finish(start(photos, out, 1, 2))
    assert (int(written), complete) == (70 - 4 * there, "True")
    assert out.read_bytes() == alone
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.csv.gz"]


def test_one_process_goes_on_where_two_were_killed(photos: Path, tmp_path: Path, alone: bytes) -> None:
    out = tmp_path / "s.csv.gz"
    for process in [start(photos, out, rank, 2, "die") for rank in (0, 1)]:
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
    there = parts(out)
    assert 2 <= there <= 16  # of 18: how far the writing is behind the reading that dies, depends on the machine
    done = write_submission(small_predictor(), sorted(photos.iterdir()), out=out, chunk=CHUNK, workers=0)
    assert (done.written, done.complete) == (70 - 4 * there, True)
    assert out.read_bytes() == alone
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.csv.gz"]


def torchrun(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "carvana"]
    return subprocess.run(
        [*command, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.slow
def test_torchrun_submits_with_two_processes_and_a_bad_photo_stops_none(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    photos = draw_photos(folder, 130)  # three chunks: the first process has two of them
    kept = photos[3].read_bytes()
    photos[3].write_bytes(b"not an image")
    words = ("submit", model, folder, "--device", "cpu", "--out", "s.csv")
    done = torchrun(*words, cwd=tmp_path)
    assert done.returncode != 0
    assert "error: 1 of 130 images could not be read" in done.stderr
    assert parts(tmp_path / "s.csv") == 2
    photos[3].write_bytes(kept)
    done = torchrun(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "130 rows in s.csv" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "s.csv"]
    write_submission(small_predictor(precision="auto"), photos, out=tmp_path / "alone.csv", workers=0)
    assert (tmp_path / "s.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()


@pytest.mark.slow
def test_torchrun_predicts_each_photo_once_and_a_bad_one_stops_no_other(
    photos: Path, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    draw_photos(folder, 31)
    (folder / "car_000.png").write_bytes(b"not an image")  # the first process has nothing else to do
    words = ("predict", model, folder, "--device", "cpu", "--out", "masks")
    done = torchrun(*words, cwd=tmp_path)
    assert done.returncode != 0
    out = tmp_path / "masks"
    assert len(list(out.glob("*_mask.png"))) == 30
    lines = list(read_json_lines(out / MANIFEST))
    assert len(lines) == 30
    assert len({line["photo"] for line in lines}) == 30
    for number in range(1, 31):
        mask = read_mask(out / f"car_{number:03}_mask.png")
        assert mask.shape == (24 + number % 3, 40)
    draw_photos(folder, 1)
    done = torchrun(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 written to masks, 15 there already" in done.stdout
    assert "0 written to masks, 15 there already" in done.stdout
    assert len(list(read_json_lines(out / MANIFEST))) == 31
