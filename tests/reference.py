"""Shapes to test on, definitions written out, and a listener, that several files of tests share."""

from __future__ import annotations

import cv2
import numpy as np


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
