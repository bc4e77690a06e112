"""Answers requests: threads decode and encode while one thread runs the network on batches of what waits.

The pixels in work are bounded, and so is the number of requests: beyond it they are refused at once.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from carvana.data.io.display import read_shown
from carvana.data.io.images import UInt8, pixel_count
from carvana.inference.base import BasePredictor
from carvana.inference.prediction import Prediction, Want
from carvana.inference.preprocess import PreprocessedImage, first_of
from carvana.serve.answers import Answer, Wanted
from carvana.serve.metrics import Metrics
from carvana.utils.devices import cpu_count, freed_memory_kept, share_one_heap

T = TypeVar("T")

IN_WORK = 64_000_000
"""Pixels that are in work at a time; an image of more waits until it is alone.

Where the probabilities of several classes are asked for, a pixel counts once more for every four of these.
"""

IDLE = 2.0
"""Seconds without a request after which freed memory goes back to the system."""


class BusyError(Exception):
    """So many requests wait, or uploads take so much memory, that one more is refused.

    Attributes:
        seconds: after which there may be room.
    """

    def __init__(self, seconds: int, why: str = "all places are taken") -> None:
        super().__init__(f"{why}; try again in {seconds} s")
        self.seconds = seconds


@dataclass(eq=False)
class _Job:
    """An image on its way through the network."""

    image: PreprocessedImage | None
    want: Want
    result: Future[Prediction] = field(default_factory=Future)


class Worker:
    """Predicts the images of requests: see :meth:`answer`.

    Args:
        predictor: makes the predictions.
        places: requests that may be in work or wait; more are refused.
        metrics: counts what is done.
    """

    def __init__(self, predictor: BasePredictor, *, places: int, metrics: Metrics) -> None:
        self.predictor = predictor
        self._places = places
        self._metrics = metrics
        self._taken = 0
        self._seconds = 0.0  # per image, of the latest ones
        self._pixels = Room(IN_WORK)
        self._threads = ThreadPoolExecutor(min(max(cpu_count(), 2), 8), "carvana-serve")
        share_one_heap()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._network = threading.Thread(target=self._run_network, name="carvana-network", daemon=True)
        self._network.start()

    def close(self) -> None:
        """End the threads, when all requests are answered."""
        self._jobs.put(None)
        self._network.join()
        self._threads.shutdown()

    def check_place(self) -> None:
        """Refuse a request where all places are taken.

        Raises:
            BusyError: they are.
        """
        if self._taken >= self._places:
            raise BusyError(min(60, max(1, math.ceil(self._taken * self._seconds))))

    async def answer(self, data: bytes, wanted: Wanted, *, name: str = "") -> tuple[Answer, dict[str, float]]:
        """The file that answers a request, and the seconds of each stage.

        Args:
            data: the bytes of an image file.
            wanted: what is asked for.
            name: of the image.

        Raises:
            BusyError: all places are taken.
            DataError: the image cannot be read.
            ModelError: the network gives NaN, or the memory is too small.
        """
        self.check_place()
        self._taken += 1
        try:
            return await self._answer(data, wanted, name)
        finally:
            self._taken -= 1
            self._metrics.waiting.set(self._taken)

    async def _answer(self, data: bytes, wanted: Wanted, name: str) -> tuple[Answer, dict[str, float]]:
        self._metrics.waiting.set(self._taken)
        times: dict[str, float] = {}
        predictor = self.predictor
        pixels = await self._in_thread(lambda: pixel_count(data, max_pixels=predictor.max_pixels))
        planes = len(predictor.task.classes) if wanted.want == "probabilities" else 1
        room = pixels * (1 + planes // 4)

        def decode() -> tuple[PreprocessedImage, UInt8 | None]:
            image = predictor.read(data)
            shown = None
            if wanted.needs_image:
                spec = predictor.image_specs[0]
                shown = read_shown(data, spec, pixels=first_of(image, spec), max_pixels=predictor.max_pixels)
            return predictor.preprocessor(image, name or "the image"), shown

        with _timed(times, "wait"):
            await self._pixels.take(room)
        try:
            with _timed(times, "decode"):
                prepared, shown = await self._in_thread(decode)
            prediction = None
            if wanted.needs_network:
                with _timed(times, "network"):
                    prediction = await self._predict(prepared, wanted.want)
            with _timed(times, "encode"):
                answer = await self._in_thread(lambda: wanted.answer(prediction, shown, name))
        finally:
            self._pixels.give(room)
        return answer, times

    async def _in_thread(self, function: Callable[[], T]) -> T:
        work = self._threads.submit(function)
        done = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not work.cancel():  # its pixels are held until it has ended
                await asyncio.wait([done])
            raise

    async def _predict(self, image: PreprocessedImage, want: Want) -> Prediction:
        job = _Job(image, want)
        self._jobs.put(job)
        try:
            return await asyncio.wrap_future(job.result)
        except asyncio.CancelledError:
            if job.result.cancelled():  # the network leaves it out, and nothing holds the pixels meanwhile
                job.image = None
            else:  # its pixels are held until the network has ended
                ended = asyncio.wrap_future(job.result)
                await asyncio.wait([ended])
                if not ended.cancelled():
                    ended.exception()  # read, or asyncio would log it as forgotten
            raise

    def _run_network(self) -> None:
        while (job := self._jobs.get()) is not None:
            with freed_memory_kept(self.predictor.device):
                while job is not None:
                    batch, later = self._batch(job)
                    if batch:
                        self._run(batch)
                    job = later if later is not None else self._next(IDLE)
                    del batch, later

    def _next(self, seconds: float) -> _Job | None:
        try:
            job = self._jobs.get(timeout=seconds) if seconds else self._jobs.get_nowait()
        except queue.Empty:
            return None
        if job is None:  # the end, which the outer loop takes
            self._jobs.put(None)
        return job

    def _batch(self, first: _Job) -> tuple[list[_Job], _Job | None]:
        """Those of the waiting jobs that make a batch, in their order, and the first one of the next batch."""
        batch: list[_Job] = []
        job: _Job | None = first
        while job is not None:
            if not job.result.cancelled():
                if batch and not self._fits(job, batch):
                    return batch, job
                if job.result.set_running_or_notify_cancel():
                    batch.append(job)
            job = self._next(0)
        return batch, None

    def _fits(self, job: _Job, batch: list[_Job]) -> bool:
        try:
            image, *others = _images([job, *batch])
            return job.want == batch[0].want and self.predictor.fits_batch(image, others)
        except Exception:  # as where the memory is too small for it: the request alone raises it again
            return False

    def _run(self, batch: list[_Job]) -> None:
        began = time.perf_counter()
        try:
            predictions = self.predictor.run(_images(batch), want=batch[0].want)
        except Exception as error:
            if len(batch) == 1:
                batch[0].result.set_exception(error)
                return
            for job in batch:  # one image costs the others nothing
                self._run([job])
            return
        seconds = (time.perf_counter() - began) / len(batch)
        self._seconds = seconds if not self._seconds else 0.8 * self._seconds + 0.2 * seconds
        self._metrics.batches.observe(len(batch))
        self._metrics.network_seconds.inc(seconds * len(batch))
        for job, prediction in zip(batch, predictions, strict=True):
            job.result.set_result(prediction)


def _images(batch: list[_Job]) -> list[PreprocessedImage]:
    return [job.image for job in batch if job.image is not None]


class Room:
    """So many of something may be taken at a time; who asks first is served first, and one may take more if alone.

    Args:
        size: how many there are.
    """

    def __init__(self, size: int) -> None:
        self._free = self._size = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, count: int) -> None:
        """Wait until there is room."""
        count = min(count, self._size)
        if not self._waiting and count <= self._free:
            self._free -= count
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(count)
            else:
                with suppress(ValueError):  # `_serve` may have met it already
                    self._waiting.remove((count, turn))
                self._serve()
            raise

    def give(self, count: int) -> None:
        """Give back what was taken."""
        self._free += min(count, self._size)
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            count, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= count
                turn.set_result(None)


@contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    times[name] = time.perf_counter() - began
