"""Small networks and a running server, for tests of what carvana serves."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import carvana
from carvana.models.spec import ModelSpec
from carvana.serve.server import _config, bind

CLASSES = {
    "binary": carvana.Task(classes=["car"]),
    "multiclass": carvana.Task(classes={"sky": 10, "road": 20, "car": 30}),
    "multilabel": carvana.Task(kind="multilabel", classes=["red", "green/blue"]),
}


def segmenter(kind: str = "binary", *, task: carvana.Task | None = None) -> carvana.Segmenter:
    """A network that asks of each pixel how bright its channels are."""
    task = task or CLASSES[kind]
    torch.manual_seed(1)
    network = nn.Conv2d(3, len(task.classes), 1)
    with torch.no_grad():
        network.weight.mul_(3)
    spec = ModelSpec(arch="bright", task=task, classes=len(task.classes), trained_size=(48, 64), stride=8, min_size=16)
    return carvana.Segmenter(network, spec).eval()


def predictor(kind: str = "binary", **settings: Any) -> carvana.Predictor:
    """Its predictor, in fp32 on the CPU."""
    return carvana.Predictor(segmenter(kind), device="cpu", precision="fp32", **settings)


def pixels(size: tuple[int, int] = (72, 100), seed: int = 0) -> NDArray[np.uint8]:
    """Blots of all colours."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def encoded(array: NDArray[np.uint8], form: str = "PNG") -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    return file.getvalue()


def decoded(data: bytes) -> NDArray[Any]:
    """The values that a file has."""
    return np.asarray(Image.open(io.BytesIO(data)))


@contextmanager
def running(app: FastAPI) -> Iterator[int]:
    """A server in a thread; gives its port."""
    at = bind("127.0.0.1", 0)
    port = at.getsockname()[1]
    server = uvicorn.Server(_config(app))
    thread = threading.Thread(target=server.run, args=([at],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield port
    finally:
        server.should_exit = True
        thread.join()
