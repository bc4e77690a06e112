"""Batches, places and room: one request costs the others nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from serving import decoded, encoded, pixels, predictor, segmenter

import carvana
from carvana.errors import DataError, ModelError
from carvana.inference.prediction import Prediction, Want
from carvana.inference.preprocess import PreprocessedImage
from carvana.serve.answers import Wanted
from carvana.serve.metrics import Metrics
from carvana.serve.work import BusyError, Room, Worker

FILES = [encoded(pixels(seed=seed)) for seed in range(12)]
MASK = Wanted(task=carvana.Task(classes=["car"]))


class Held(carvana.Predictor):
    """Waits before each batch until it is told, and notes the sizes of batches."""

    def __init__(self, model: carvana.Segmenter, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.told, self.began, self.batches_run = threading.Event(), threading.Event(), list[int]()

    def run(self, batch: Sequence[PreprocessedImage], *, want: Want = "probabilities") -> list[Prediction]:
        self.began.set()
        assert self.told.wait(20)
        self.batches_run.append(len(batch))
        return super().run(batch, want=want)


def held(**settings: Any) -> Held:
    return Held(segmenter(), device="cpu", precision="fp32", **settings)


def within(
    predictor: carvana.Predictor, story: Callable[[Worker], Coroutine[Any, Any, None]], *, places: int = 64
) -> None:
    """Run a story with a worker, which must be able to end."""

    async def told() -> None:
        worker = Worker(predictor, places=places, metrics=Metrics())
        try:
            await asyncio.wait_for(story(worker), 60)
        finally:
            await asyncio.to_thread(worker.close)

    asyncio.run(told())


async def begun(slow: Held) -> None:
    while not slow.began.is_set():
        await asyncio.sleep(0.005)


def test_requests_that_wait_are_a_batch_and_each_gets_its_own_mask() -> None:
    slow = held()

    async def story(worker: Worker) -> None:
        asked = [asyncio.ensure_future(worker.answer(file, MASK)) for file in FILES]
        await begun(slow)
        await asyncio.sleep(0.3)  # all others are decoded
        slow.told.set()
        for file, (answer, times) in zip(FILES, await asyncio.gather(*asked), strict=True):
            np.testing.assert_array_equal(decoded(answer.data), predictor().predict(file).mask)
            assert set(times) == {"wait", "decode", "network", "encode"}

    within(slow, story)
    assert sum(slow.batches_run) == len(FILES)
    assert max(slow.batches_run) > 1


def test_an_image_that_fails_costs_the_others_of_its_batch_nothing() -> None:
    class Sensitive(Held):
        def run(self, batch: Sequence[PreprocessedImage], *, want: Want = "probabilities") -> list[Prediction]:
            if any(bool((image.images[0] == 0).all()) for image in batch):
                raise ModelError("black")
            return super().run(batch, want=want)

    slow = Sensitive(segmenter(), device="cpu", precision="fp32")
    files = [*FILES[:5], encoded(np.zeros((72, 100, 3), np.uint8)), *FILES[5:8], b"not an image"]

    async def story(worker: Worker) -> None:
        asked = [asyncio.ensure_future(worker.answer(file, MASK)) for file in files]
        await begun(slow)
        await asyncio.sleep(0.3)
        slow.told.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(found[5], ModelError)
        assert isinstance(found[9], DataError)
        assert all(isinstance(each, tuple) for place, each in enumerate(found) if place not in (5, 9))

    within(slow, story)


def test_where_all_places_are_taken_one_more_is_refused_at_once_and_later_ones_are_not() -> None:
    slow = held()

    async def story(worker: Worker) -> None:
        asked = [asyncio.ensure_future(worker.answer(file, MASK)) for file in FILES[:3]]
        await begun(slow)
        with pytest.raises(BusyError) as refused:
            await worker.answer(FILES[3], MASK)
        assert refused.value.seconds >= 1
        slow.told.set()
        await asyncio.gather(*asked)
        await worker.answer(FILES[3], MASK)

    within(slow, story, places=3)


def test_who_hangs_up_before_the_network_had_his_image_is_left_out() -> None:
    slow = held()

    async def story(worker: Worker) -> None:
        first = asyncio.ensure_future(worker.answer(FILES[0], MASK))
        await begun(slow)
        others = [asyncio.ensure_future(worker.answer(file, MASK)) for file in FILES[1:5]]
        await asyncio.sleep(0.3)
        for each in others[:3]:
            each.cancel()
        await asyncio.gather(*others[:3], return_exceptions=True)
        waiting = [worker._jobs.get_nowait() for _ in range(4)]
        assert sum(job.image is not None for job in waiting if job is not None) == 1  # nothing holds their pixels
        for job in waiting:
            worker._jobs.put(job)
        slow.told.set()
        await asyncio.gather(first, others[3])

    within(slow, story)
    assert sum(slow.batches_run) == 2


def test_the_pixels_of_who_hangs_up_count_until_the_network_is_done() -> None:
    slow = held()

    async def story(worker: Worker) -> None:
        whole = worker._pixels._free
        asked = asyncio.ensure_future(worker.answer(FILES[0], MASK))
        await begun(slow)
        asked.cancel()
        await asyncio.sleep(0.05)
        assert worker._pixels._free == whole - 72 * 100
        slow.told.set()
        await asyncio.gather(asked, return_exceptions=True)
        assert (worker._pixels._free, worker._taken) == (whole, 0)

    within(slow, story)


def test_an_error_of_the_network_that_nobody_waits_for_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    slow = held()

    async def story(worker: Worker) -> None:
        asked = asyncio.ensure_future(worker.answer(FILES[0], MASK))
        await begun(slow)
        asked.cancel()
        slow.batches_run = None  # type: ignore[assignment]
        slow.told.set()
        await asyncio.gather(asked, return_exceptions=True)
        gc.collect()

    within(slow, story)
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_the_pixels_of_who_hangs_up_count_until_the_thread_is_done() -> None:
    own, reading, told = predictor(), threading.Event(), threading.Event()
    read = own.read

    def slowly(image: Any) -> Any:
        reading.set()
        assert told.wait(20)
        return read(image)

    own.read = slowly  # type: ignore[method-assign]

    async def story(worker: Worker) -> None:
        whole = worker._pixels._free
        asked = asyncio.ensure_future(worker.answer(FILES[0], MASK))
        while not reading.is_set():
            await asyncio.sleep(0.005)
        asked.cancel()
        await asyncio.sleep(0.05)
        assert worker._pixels._free == whole - 72 * 100
        told.set()
        await asyncio.gather(asked, return_exceptions=True)
        assert (worker._pixels._free, worker._taken) == (whole, 0)

    within(own, story)


def test_what_is_asked_for_decides_the_batch() -> None:
    slow = held()
    cutout = Wanted(task=slow.task, outputs=("cutout",))
    image = Wanted(task=slow.task, outputs=("image",))

    async def story(worker: Worker) -> None:
        slow.told.set()
        answers = await asyncio.gather(*(worker.answer(FILES[0], each) for each in (MASK, cutout, image, MASK)))
        assert [answer.name for answer, _ in answers] == [
            "image_mask.png", "image_cutout.png", "image.jpg", "image_mask.png",
        ]  # fmt: skip

    within(slow, story)
    assert sum(slow.batches_run) == 3  # an image alone needs no network


def test_room_is_given_in_order_and_a_large_one_does_not_wait_for_ever() -> None:
    async def story() -> None:
        room, served = Room(10), []

        async def take(name: str, count: int) -> None:
            await room.take(count)
            served.append(name)

        await take("first", 6)
        waiting = [asyncio.ensure_future(take(name, n)) for name, n in (("large", 99), ("gone", 2), ("small", 1))]
        await asyncio.sleep(0)
        assert served == ["first"]  # the small one does not pass the large one
        waiting[1].cancel()
        room.give(6)
        await asyncio.sleep(0)
        assert served == ["first", "large"]
        room.give(99)
        await asyncio.gather(waiting[2])
        assert served == ["first", "large", "small"]
        room.give(1)
        await asyncio.wait_for(room.take(10), 1)  # nothing was lost

    asyncio.run(story())


@pytest.mark.parametrize("gives_first", [True, False])
def test_room_that_was_given_to_one_who_hangs_up_at_that_moment_comes_back(gives_first: bool) -> None:
    async def story() -> None:
        room = Room(1)
        await room.take(1)
        waiting = asyncio.ensure_future(room.take(1))
        await asyncio.sleep(0)
        if gives_first:
            room.give(1)
        waiting.cancel()
        if not gives_first:
            room.give(1)
        [found] = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(found, asyncio.CancelledError)
        await asyncio.wait_for(room.take(1), 1)

    asyncio.run(story())


def test_many_requests_in_little_room_are_all_answered() -> None:
    own = predictor(max_pixels=72 * 100)

    async def story(worker: Worker) -> None:
        worker._pixels = Room(3 * 72 * 100)
        found = await asyncio.gather(*(worker.answer(FILES[n % 12], MASK) for n in range(200)))
        for n, (answer, _) in enumerate(found):
            assert answer.data == found[n % 12][0].data

    within(own, story, places=200)


def test_the_worker_computes_as_a_program_does() -> None:
    assert torch.is_inference_mode_enabled() is False
    own = predictor()
    wanted = own.predict(FILES[0]).probabilities

    async def story(worker: Worker) -> None:
        prob = Wanted(task=own.task, outputs=("prob",))
        answer, _ = await worker.answer(FILES[0], prob)
        assert np.abs(decoded(answer.data) / 256 - wanted).max() <= 1 / 256

    within(own, story)
