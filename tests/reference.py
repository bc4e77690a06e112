"""Shapes to test on, definitions written out, and a listener, that several files of tests share."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from carvana.metrics import Confusion


def blob(rng: np.random.Generator, height: int = 60, width: int = 83) -> np.ndarray:
    """A mask of random smooth shapes that touch the picture's edge at times."""
    noise = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 5)
    return (noise > 0.05).astype(np.uint8)


def brute_force_band(mask: np.ndarray, width: int) -> np.ndarray:
    """For each pixel the distance to every pixel of the other class, written as the definition says it."""
    rows, columns = np.indices(mask.shape)
    places = np.stack([rows.ravel(), columns.ravel()], axis=1)
    flat = mask.ravel() != 0
    band = np.zeros(flat.shape, dtype=bool)
    for side in (True, False):
        others = places[flat != side]
        if len(others):
            squared = ((places[flat == side][:, None] - others[None]) ** 2).sum(axis=2).min(axis=1)
            band[flat == side] = squared <= width**2
    return band.reshape(mask.shape)


def confusion(prediction: Any, target: Any) -> Confusion:
    """The counts of two masks, what is not zero being the object."""
    predicted, true = np.asarray(prediction) != 0, np.asarray(target) != 0
    counts = predicted & true, predicted & ~true, ~predicted & true, ~predicted & ~true
    return Confusion(*(np.asarray(count.sum(), np.int64) for count in counts))


def dice(prediction: Any, target: Any) -> float:
    """The Dice coefficient of two masks, 1 where both are empty."""
    predicted, true = np.asarray(prediction) != 0, np.asarray(target) != 0
    total = int(predicted.sum()) + int(true.sum())
    return 2 * int((predicted & true).sum()) / total if total else 1.0


def iou(prediction: Any, target: Any) -> float:
    """Intersection over union of two masks, 1 where both are empty."""
    predicted, true = np.asarray(prediction) != 0, np.asarray(target) != 0
    union = int((predicted | true).sum())
    return int((predicted & true).sum()) / union if union else 1.0


def pixel_accuracy(prediction: Any, target: Any) -> float:
    """The share of pixels on which two masks agree."""
    return float(((np.asarray(prediction) != 0) == (np.asarray(target) != 0)).mean())


def boundary_dice(prediction: Any, target: Any, width: int = 7) -> float:
    """Dice over the pixels that have one of the other class within ``width``; over all where there are none."""
    predicted, true = np.asarray(prediction) != 0, np.asarray(target) != 0
    if true.all() or not true.any():
        return dice(predicted, true)
    band = np.where(true, distance_transform_edt(true), distance_transform_edt(~true)) <= width
    return dice(predicted[band], true[band])


class Lines:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str) -> None:
        self.infos.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def start(self, task: str, total: int | None) -> None: ...

    def advance(self, task: str, steps: int = 1, **values: float) -> None: ...

    def finish(self, task: str, **values: float) -> None: ...
