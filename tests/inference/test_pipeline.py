from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from submitting import draw_photos, prepared, small_predictor

from carvana.errors import ConfigError
from carvana.inference.ensemble import Ensemble
from carvana.inference.predictor import Predictor
from carvana.inference.submission.write import write_submission
from carvana.utils.parallel import SHARED_BYTES, ReaderKilledError, read_ahead


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return draw_photos(tmp_path_factory.mktemp("photos"), 40)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("scale", ["trained", "native"])
def test_photos_come_in_order_as_the_predictor_prepares_them(photos: list[Path], workers: int, scale: str) -> None:
    predictor = small_predictor(scale=scale)
    order = photos[::-1]
    found = list(prepared(predictor, order, workers=workers))
    assert [photo for photo, _ in found] == order
    for photo, ready in found:
        expected = predictor.prepare(photo)
        assert not isinstance(ready, str)
        assert ready.size == expected.size
        np.testing.assert_array_equal(ready.images[0], expected.images[0])


def test_photos_for_several_networks_come_at_each_size_and_equal_ones_travel_once(photos: list[Path]) -> None:
    predictor = Ensemble([small_predictor(), small_predictor(scale="native"), small_predictor(seed=1)])
    for photo, ready in prepared(predictor, photos, workers=2):
        expected = predictor.prepare(photo)
        assert ready.size == expected.size
        for one, other in zip(ready.images, expected.images, strict=True):
            np.testing.assert_array_equal(one, other)
        assert ready.images[0] is ready.images[2]
        assert not np.shares_memory(ready.images[0].numpy(), ready.images[1].numpy())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_that_cannot_be_read_comes_as_the_line_that_says_why(
    photos: list[Path], tmp_path: Path, workers: int
) -> None:
    broken, gone = tmp_path / "broken.jpg", tmp_path / "gone.jpg"
    broken.write_bytes(b"not an image")
    predictor = small_predictor(max_pixels=1000)  # every third photo has 26 x 40
    found = dict(prepared(predictor, [gone, *photos[:9], broken], workers=workers))
    lines = {photo: ready for photo, ready in found.items() if isinstance(ready, str)}
    assert list(lines) == [gone, photos[2], photos[5], photos[8], broken]
    for photo, line in lines.items():
        assert str(photo) in line
        assert "\n" not in line


def test_a_temporary_folder_too_long_for_sockets_is_refused_before_anything_waits(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for length in (75, 76):
        folder = Path("/tmp") / ("x" * (length - 5))
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        reading = prepared(small_predictor(), photos, workers=1)
        if length == 76:
            with pytest.raises(ConfigError, match=r"TMPDIR = .*: 1 bytes too long.*shorter folder") as error:
                next(reading)
            assert "\n" not in str(error.value)
        else:
            folder.mkdir()
            try:
                assert len(list(reading)) == len(photos)
            finally:
                shutil.rmtree(folder)


def test_a_few_photos_are_read_without_processes(photos: list[Path]) -> None:
    for count, processes in ((4, False), (40, True)):
        reading = prepared(small_predictor(), photos[:count], workers=1)
        next(reading)
        assert bool(multiprocessing.active_children()) == processes
        assert len(list(reading)) == count - 1


def test_readers_never_run_far_ahead_and_end_when_nobody_wants_more(photos: list[Path], tmp_path: Path) -> None:
    pipes = [tmp_path / f"{number:03}.png" for number in range(40)]
    for pipe, photo in zip(pipes, photos, strict=True):
        pipe.symlink_to(photo)
    reading = prepared(small_predictor(), pipes, workers=1)
    next(reading)
    time.sleep(0.5)
    for pipe in pipes[12:]:  # what was not read by now can no more be
        pipe.unlink()
    taken = [ready for _, ready in islice(reading, 39)]
    assert not any(isinstance(ready, str) for ready in taken[:11])
    assert all(isinstance(ready, str) for ready in taken[11:])
    reading = prepared(small_predictor(), photos, workers=2)
    next(reading)
    assert len(multiprocessing.active_children()) == 2
    reading.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("bytes_each", [1, 10**7, 10**8, 2 * 10**8])
def test_what_is_read_ahead_is_bounded_in_bytes(bytes_each: int) -> None:
    for workers in (1, 2, 8):
        ahead = read_ahead(bytes_each, workers)
        assert ahead >= 1
        assert ahead * workers * bytes_each <= max(SHARED_BYTES, workers * bytes_each)


def test_readers_are_fewer_where_photos_are_large(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carvana.inference.pipeline.SHARED_BYTES", 26 * 40 * 3 + 1)  # room for one
    reading = prepared(small_predictor(scale="native"), photos, workers=4)
    next(reading)
    assert len(multiprocessing.active_children()) == 1
    reading.close()


def test_a_reader_that_is_killed_is_told_in_a_line(photos: list[Path], tmp_path: Path) -> None:
    class Killing(Predictor):
        def run(self, batch: Any, **settings: Any) -> Any:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
            time.sleep(0.2)
            return super().run(batch, **settings)

    predictor = Killing(small_predictor().model, device="cpu", precision="fp32")
    with pytest.raises(ReaderKilledError, match=r"reading process was killed.*--workers; what was done is kept") as e:
        write_submission(predictor, photos, out=tmp_path / "s.csv", workers=2, chunk=4)
    assert "\n" not in str(e.value)
    assert not multiprocessing.active_children()
    assert threading.active_count() < 20
    done = write_submission(small_predictor(), photos, out=tmp_path / "s.csv", workers=2, chunk=4)
    assert done.complete


def test_a_negative_number_of_readers_is_refused(photos: list[Path]) -> None:
    with pytest.raises(ConfigError, match="workers = -1: expected a number of processes"):
        next(prepared(small_predictor(), photos, workers=-1))
