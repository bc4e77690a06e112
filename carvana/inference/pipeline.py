"""Overlaps reading, the network and writing: threads read ahead and write behind, while the network computes.

Each stage is a generator that pulls from the one before it and holds few items, so memory does not grow with the number
of images. Threads suffice: decoding, OpenCV and the network release the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch

from carvana.errors import ModelError
from carvana.inference.prediction import Prediction, Want
from carvana.utils.devices import cpu_count, freed_memory_kept
from carvana.utils.parallel import threaded

T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)


class BatchRunner(Protocol[P_contra]):
    """The part of :class:`carvana.inference.base.BasePredictor` that makes and runs batches."""

    device: torch.device

    def fits_batch(self, image: P_contra, batch: Sequence[P_contra]) -> bool:
        """Whether an image may join a batch."""

    def run(self, batch: Sequence[P_contra], *, want: Want) -> list[Prediction]:
        """Run the network on a batch."""


class NotANumberError(ModelError):
    """A network gave NaN.

    Attributes:
        place: the image's place in the batch.
    """

    def __init__(self, message: str, place: int) -> None:
        super().__init__(message)
        self.place = place


def overlapped(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int | None = None,
    bytes_of: Callable[[R], int] | None = None,
) -> Iterator[R]:
    """Apply ``function`` in threads while the caller works, in order: see :func:`carvana.utils.parallel.threaded`.

    After an exception or Ctrl-C, items that were pulled before are finished, so that their files are complete.

    Args:
        function: called in other threads.
        items: pulled in the caller's thread.
        workers: threads, with two items each in flight; None for one per core, from 2 to 8.
        bytes_of: the size of a result, where these may be large.
    """
    workers = workers or min(max(cpu_count(), 2), 8)
    return threaded(function, items, workers=workers, ahead=2, bytes_of=bytes_of, finish=True)


def run_batches(
    predictor: BatchRunner[P],
    jobs: Iterable[tuple[T, P | None]],
    *,
    want: Want = "probabilities",
    name: Callable[[T], object] | None = None,
) -> Iterator[tuple[T, Prediction | None]]:
    """Predict the images of a stream of jobs in batches, keeping the order.

    A job without an image (unreadable, or done already) passes through.

    Args:
        predictor: makes the predictions.
        jobs: each with its prepared image, or None.
        want: the most that will be read from the predictions.
        name: names a job's image in the error message where the network gives NaN for it.

    Raises:
        NotANumberError: the network gives NaN for an image.
    """
    waiting: list[tuple[T, P | None]] = []
    batch: list[P] = []
    with freed_memory_kept(predictor.device):
        for job in jobs:
            prepared = job[1]
            full = bool(batch) and prepared is not None and not predictor.fits_batch(prepared, batch)
            if full or not batch:
                yield from _flush(predictor, waiting, batch, want, name)
                waiting, batch = [], []
            if prepared is not None:
                batch.append(prepared)
            waiting.append(job)
        yield from _flush(predictor, waiting, batch, want, name)


def _flush(
    predictor: BatchRunner[P],
    waiting: list[tuple[T, P | None]],
    batch: list[P],
    want: Want,
    name: Callable[[T], object] | None,
) -> Iterator[tuple[T, Prediction | None]]:
    try:
        predictions = iter(predictor.run(batch, want=want) if batch else ())
    except NotANumberError as error:
        if name is None:
            raise
        job = [job for job, prepared in waiting if prepared is not None][error.place]
        raise NotANumberError(f"{name(job)}: {error}", error.place) from error
    for job, prepared in waiting:
        yield job, next(predictions) if prepared is not None else None
