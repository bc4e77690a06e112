from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from carvana.inference.pipeline import ordered_map, run_batches
from carvana.inference.prediction import Prediction
from carvana.inference.preprocessed import PreprocessedImage


def test_results_come_in_order_whoever_finishes_first() -> None:
    delays = np.random.default_rng(0).random(40) * 0.01

    def work(number: int) -> int:
        time.sleep(delays[number])
        return number

    assert list(ordered_map(work, range(40), workers=4)) == list(range(40))


def test_work_is_done_in_several_threads_at_once() -> None:
    barrier = threading.Barrier(3, timeout=10)  # passes only if three wait at the same time
    assert len(list(ordered_map(lambda _: barrier.wait(), range(6), workers=3))) == 6


def test_reading_never_runs_far_ahead() -> None:
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for number in range(200):
            pulled = number + 1
            yield number

    for done, _ in enumerate(ordered_map(lambda number: number, source(), workers=2), start=1):
        assert pulled - done <= 4


def test_an_error_comes_out_at_its_turn() -> None:
    results = ordered_map(lambda number: 12 // (3 - number), range(9), workers=2)
    assert list(itertools.islice(results, 3)) == [4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_was_pulled_is_finished_when_the_source_fails() -> None:
    finished = []

    def source() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    def work(number: int) -> None:
        time.sleep(0.02)
        finished.append(number)

    with pytest.raises(KeyboardInterrupt):
        list(ordered_map(work, source(), workers=1))
    assert finished == [0, 1, 2]


def test_stopping_early_drops_what_waits() -> None:
    started = []

    def work(number: int) -> int:
        started.append(number)
        time.sleep(0.01)
        return number

    results = ordered_map(work, range(1000), workers=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    time.sleep(0.05)
    assert len(started) < 10
    assert threading.active_count() < 20


class Recorder:
    """Stands where a predictor does: batches of at most three images of one size."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def joins(self, photo: PreprocessedImage, batch: list[PreprocessedImage]) -> bool:
        return photo.image.shape == batch[0].image.shape and len(batch) < 3

    def run(self, batch: list[PreprocessedImage], *, want: str) -> list[Prediction]:
        self.batches.append(len(batch))
        return [Prediction(photo.image[..., 0].astype(np.float32), photo.size, 0.5) for photo in batch]


def prepared(number: int, size: int = 4) -> PreprocessedImage:
    return PreprocessedImage(np.full((size, size, 3), number, np.uint8), (size, size))


def test_batches_keep_the_order_and_let_other_jobs_pass() -> None:
    recorder = Recorder()
    jobs = [(number, None if number % 5 == 2 else prepared(number)) for number in range(23)]
    results = list(run_batches(recorder, jobs))  # type: ignore[arg-type]
    assert [number for number, _ in results] == list(range(23))
    for number, prediction in results:
        if number % 5 == 2:
            assert prediction is None
        else:
            assert prediction is not None
            assert (prediction.network_probabilities == number).all()
    assert max(recorder.batches) == 3
    assert len(recorder.batches) <= 8


def test_a_batch_ends_where_the_size_changes() -> None:
    recorder = Recorder()
    jobs = [(number, prepared(number, size)) for number, size in enumerate([4, 4, 5, 5, 4])]
    assert [number for number, _ in run_batches(recorder, jobs)] == [0, 1, 2, 3, 4]  # type: ignore[arg-type]
    assert recorder.batches == [2, 2, 1]


def test_jobs_without_photos_do_not_pile_up() -> None:
    endless = ((number, None) for number in itertools.count())
    results = run_batches(Recorder(), endless)  # type: ignore[arg-type]
    assert [number for number, _ in itertools.islice(results, 5)] == [0, 1, 2, 3, 4]
