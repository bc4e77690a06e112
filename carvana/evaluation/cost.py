"""Measures what a network costs: parameters, arithmetic, time and memory."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from carvana.data.io.images import write_image
from carvana.errors import ModelError, plural
from carvana.image_spec import ImageSpec
from carvana.inference.predict_folder import predict_folder
from carvana.inference.prediction import Prediction
from carvana.inference.predictor import Predictor
from carvana.inference.tiling import Engine
from carvana.models.segmenter import Segmenter
from carvana.utils.devices import PeakMemory, describe, one_core
from carvana.utils.progress import SilentReporter


@dataclass(frozen=True)
class Cost:
    """The cost of predicting one image in one way.

    Attributes:
        scale: (height, width) at which the network sees it, or "native".
        mode: whole or tiles.
        engine: what runs the network: torch, onnx or openvino.
        precision: of the arithmetic.
        tiles: the number of tiles.
        gflops: billions of floating-point operations, a multiplication and an addition being two; None if they cannot
            be counted.
        first_ms: to the first mask, labels or masks, in milliseconds, with what was prepared for it.
        ms: from the array of pixels to the mask, labels or masks of later images, one at a time.
        network_ms: the part of it that the network takes.
        images_per_s: images a second, many of them in batches.
        outside: the share of that time that is spent outside the network.
        files_per_s: images a second from files to files: reading, predicting and writing overlap.
        peak_memory_mb: of the whole process on a CPU, of the tensors on a GPU; in MB of 10^6 bytes.
        difference: the largest difference from a reference's probabilities; None without a reference.
        differing: the share of pixels whose mask, labels or masks differ from the reference's.
    """

    scale: tuple[int, int] | str
    mode: str
    engine: str
    precision: str
    tiles: int
    gflops: float | None
    first_ms: float
    ms: float
    network_ms: float
    images_per_s: float
    outside: float
    files_per_s: float
    peak_memory_mb: float
    difference: float | None = None
    differing: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The numbers, as ``carvana bench --json`` gives them."""
        return asdict(self) | {"scale": self.scale if isinstance(self.scale, str) else list(self.scale)}


def count_parameters(model: nn.Module | Engine) -> int | None:
    """The number of parameters, frozen ones too; None for an exported file, which does not mark them."""
    return sum(parameter.numel() for parameter in model.parameters()) if isinstance(model, nn.Module) else None


def count_gflops(model: nn.Module | Engine, size: tuple[int, int]) -> float | None:
    """The floating-point operations of one forward pass, in billions, without computing it.

    Args:
        model: takes uint8 images (1, channels, H, W).
        size: (height, width) of the image.

    Returns:
        None for an exported file, and for a network whose operations cannot be counted without their values.

    >>> from carvana.models.segmenter import create_model
    >>> round(count_gflops(create_model("unet-ref"), (128, 128)), 1)
    32.7
    """
    if not isinstance(model, nn.Module):
        return None
    try:
        twin = copy.deepcopy(model).to("meta").eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            twin(torch.zeros(1, _channels_of(model), *size, dtype=torch.uint8, device="meta"))
    except (RuntimeError, NotImplementedError, TypeError, ModelError):
        return None
    return float(counter.get_total_flops()) / 1e9


def _channels_of(model: nn.Module) -> int:
    return len(model.spec.channels) if isinstance(model, Segmenter) else 3


def values_for(image: NDArray[np.uint8], spec: ImageSpec) -> NDArray[Any]:
    """An RGB image as one of the channels and the range that a network takes, to measure it by.

    >>> values_for(np.full((2, 2, 3), 255, np.uint8), ImageSpec(("a", "b"), ((0, 1), (0, 510))))[0, 0].tolist()
    [1.0, 510.0]
    """
    if spec.is_picture:
        return image
    values = image[..., np.arange(len(spec.channels)) % 3]
    if not spec.range:
        return np.ascontiguousarray(values)
    low, high = np.array(spec.range, np.float32).T
    scaled: NDArray[Any] = low + values * ((high - low) / np.float32(255))
    return scaled


def measure_cost(
    predictor: Predictor,
    image: NDArray[Any],
    *,
    seconds: float = 5.0,
    prepared: float = 0.0,
    reference: Prediction | None = None,
) -> Cost:
    """Measure a predictor on one image, again and again.

    Args:
        predictor: its mode should be ``whole`` or ``tiles``, so that it is known what is measured.
        image: uint8 (H, W, 3), or of the channels and values that its network takes.
        seconds: how long each of the three measurements goes on, at least; each takes two images or more.
        prepared: the seconds that the predictor took to be made, a part of ``first_ms``.
        reference: of the same image, what to compare with, such as torch's prediction in fp32.
    """
    height, width = image.shape[:2]
    plan = predictor.plan((height, width))
    with PeakMemory(predictor.device) as peak:
        began = time.perf_counter()
        _decide(predictor, image)
        first = time.perf_counter() - began
        times: list[float] = []
        parts: list[float] = []
        while len(times) < 2 or sum(times) < seconds:
            with predictor.timed() as clock:
                began = time.perf_counter()
                _decide(predictor, image)
                times.append(time.perf_counter() - began)
            parts.append(clock.seconds)
        each = statistics.median(times)
        count = max(2, min(64, int(seconds / each)))
        with predictor.timed() as clock:
            began = time.perf_counter()
            for prediction in predictor.predict_many([image] * count):
                _decision(prediction)
            took = time.perf_counter() - began
        outside = max(0.0, 1 - clock.seconds / took)
        files = _files_per_s(predictor, image, count)
    single_tile = count_gflops(predictor.model, plan.tile)
    return Cost(
        scale=predictor.scale,
        mode="whole" if len(plan) == 1 else "tiles",
        engine=predictor.engine.name,
        precision=predictor.precision,
        tiles=len(plan),
        gflops=None if single_tile is None else single_tile * len(plan),
        first_ms=1000 * (prepared + first),
        ms=1000 * each,
        network_ms=1000 * statistics.median(parts),
        images_per_s=count / took,
        outside=outside,
        files_per_s=files,
        peak_memory_mb=peak.megabytes,
        **({} if reference is None else _compared(predictor.predict(image), reference)),
    )


def _compared(found: Prediction, reference: Prediction) -> dict[str, float]:
    difference = np.abs(found.probabilities - reference.probabilities).max()
    return {"difference": float(difference), "differing": float((_decision(found) != _decision(reference)).mean())}


def describe_machine(predictor: Predictor) -> str:
    """The hardware and software of a measurement."""
    threads = f", {plural(torch.get_num_threads(), 'thread')}" if predictor.device.type == "cpu" else ""
    return f"{one_core(describe(predictor.device))}, torch {torch.__version__}{threads}"


def _decide(predictor: Predictor, image: NDArray[Any]) -> None:
    """Predict what files hold: of several classes, without the probabilities of each at the image's size."""
    [prediction] = predictor.run([predictor.prepare(image)], want="mask")
    _decision(prediction)


def _decision(prediction: Prediction) -> NDArray[Any]:
    """The labels, or masks, which are made when they are read."""
    return prediction.masks if prediction.task.kind == "multilabel" else prediction.labels


def _files_per_s(predictor: Predictor, image: NDArray[Any], count: int) -> float:
    """Images a second from JPEG files, of other channels from .npy, to PNG masks, all of them in the page cache."""
    suffix = ".jpg" if predictor.image_specs[0].is_picture else ".npy"
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, f"0000{suffix}")
        if suffix == ".jpg":
            write_image(first, image)
        else:
            np.save(first, image)
        images = [first, *(first.with_name(f"{number:04}{suffix}") for number in range(1, count))]
        for path in images[1:]:
            path.write_bytes(first.read_bytes())
        began = time.perf_counter()
        predict_folder(predictor, images, out=Path(folder) / "masks", reporter=SilentReporter())
        return count / (time.perf_counter() - began)
