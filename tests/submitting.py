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
from carvana.task import Task


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Clouds of light in three sizes."""
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (24 + number % 3, 40, 3)).astype(np.uint8)
        cloud = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX)
        write_image(folder / f"car_{number:03}.png", cloud.astype(np.uint8))
    return sorted(folder.iterdir())


def small_predictor(seed: int = 0, *, task: Task | None = None, **settings: object) -> Predictor:
    """A network that was never trained, whose masks have both values, and whose label maps have several classes."""
    torch.manual_seed(seed)
    if task is None:
        model = create_model("unet-ref", width=2).with_spec(trained_size=(32, 48), threshold=0.5)
    else:
        model = create_model("unet-ref", task=task, width=2).with_spec(trained_size=(32, 48))
        with torch.no_grad():
            list(model.parameters())[-2].mul_(40)
    return Predictor(model, **{"device": "cpu", "precision": "fp32"} | settings)  # type: ignore[arg-type]


def prepared(predictor: BasePredictor, photos: list[Path], *, workers: int) -> Iterator[tuple[Path, Any]]:
    """Each image as it is read ahead for a predictor."""
    with closing(
        read_prepared(predictor.preprocessor, photos, max_pixels=predictor.max_pixels, workers=workers)
    ) as reading:
        yield from zip(photos, reading, strict=True)


def read_table(path: Path) -> dict[str, str]:
    """Names and runs, in order, as Python's own modules read them; each name once."""
    header, *rows = read_rows(path)
    assert header == ["img", "rle_mask"]
    table = {row[0]: row[1] for row in rows if len(row) == 2}
    assert len(table) == len(rows)
    return table


def read_rows(path: Path) -> list[list[str]]:
    """The columns of each line, the header's first, as Python's own modules read them."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        return list(csv.reader(file))


def mask_by_definition(runs: str, size: tuple[int, int], order: str) -> np.ndarray:
    """The mask that runs paint, pixel after pixel; no pixel twice."""
    mask = np.zeros(size, np.uint8)
    numbers = [int(word) for word in runs.split()]
    for begin, length in zip(numbers[::2], numbers[1::2], strict=True):
        for place in range(begin - 1, begin - 1 + length):
            if order == "row":
                row, column = place // size[1], place % size[1]
            else:
                row, column = place % size[0], place // size[0]
            assert not mask[row, column]
            mask[row, column] = 1
    return mask


def runs_by_definition(mask: np.ndarray) -> str:
    """Pixel after pixel, row after row, counted from 1."""
    runs: list[list[int]] = []
    for place, value in enumerate((value for row in mask.tolist() for value in row), start=1):
        if value and runs and sum(runs[-1]) == place:
            runs[-1][1] += 1
        elif value:
            runs.append([place, 1])
    return " ".join(str(number) for run in runs for number in run)
