from __future__ import annotations

import itertools

import numpy as np
import torch

from carvana.inference.base import run_batches
from carvana.inference.prediction import Prediction
from carvana.inference.preprocess import PreprocessedImage


class Recorder:
    """Stands where a predictor does: batches of at most three images of one size."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def fits_batch(self, photo: PreprocessedImage, batch: list[PreprocessedImage]) -> bool:
        return photo.images[0].shape == batch[0].images[0].shape and len(batch) < 3

    def run(self, batch: list[PreprocessedImage], *, want: str) -> list[Prediction]:
        self.batches.append(len(batch))
        return [Prediction(photo.images[0][..., 0].numpy().astype(np.float32), photo.size, 0.5) for photo in batch]


def prepared(number: int, size: int = 4) -> PreprocessedImage:
    return PreprocessedImage((torch.full((size, size, 3), number, dtype=torch.uint8),), (size, size))


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
