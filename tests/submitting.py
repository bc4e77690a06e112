"""Images, and a small network for them, with which tests of submissions work; several processes can make the same."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from carvana.data.io.images import write_image
from carvana.inference.base import BasePredictor
from carvana.inference.pipeline import read_prepared
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import create_model


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Clouds of light in three sizes."""
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (24 + number % 3, 40, 3)).astype(np.uint8)
        cloud = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX)
        write_image(folder / f"car_{number:03}.png", cloud.astype(np.uint8))
    return sorted(folder.iterdir())


def small_predictor(seed: int = 0, **settings: object) -> Predictor:
    """A network that was never trained, cut so that its masks have both values."""
    torch.manual_seed(seed)
    model = create_model("unet-ref", width=2).with_spec(trained_size=(32, 48), threshold=0.5)
    return Predictor(model, **{"device": "cpu", "precision": "fp32"} | settings)  # type: ignore[arg-type]


def prepared(predictor: BasePredictor, photos: list[Path], *, workers: int) -> Iterator[tuple[Path, Any]]:
    """Each image as it is read ahead for a predictor."""
    with closing(
        read_prepared(predictor.preprocessor, photos, max_pixels=predictor.max_pixels, workers=workers)
    ) as reading:
        yield from zip(photos, reading, strict=True)


def read_table(path: Path) -> dict[str, str]:
    """Names and runs, in order, as Python's own modules read them; each name once."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["img", "rle_mask"]
    table = dict(rows[1:])
    assert len(table) == len(rows) - 1
    return table


def runs_by_definition(mask: np.ndarray) -> str:
    """Pixel after pixel, row after row, counted from 1."""
    runs: list[list[int]] = []
    for place, value in enumerate((value for row in mask.tolist() for value in row), start=1):
        if value and runs and sum(runs[-1]) == place:
            runs[-1][1] += 1
        elif value:
            runs.append([place, 1])
    return " ".join(str(number) for run in runs for number in run)
