"""Small drawn scenes of several classes with exact label maps, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from carvana.data.samples import Sample
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.task import Task

NAMES = ["sky", "road", "car", "pole"]
VALUES = {"sky": 10, "road": 20, "car": [30, 31], "pole": 250}
VOID = 77
TASK = Task(classes=VALUES, ignore=[VOID])
COLOURS = {10: (120, 170, 230), 20: (90, 90, 95), 30: (200, 30, 40), 31: (190, 50, 40), 250: (240, 220, 60)}


def draw(seed: int, size: tuple[int, int] = (48, 64)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image, and the values of its label map: sky above road, a car of two values, a thin pole, a strip of void."""
    rng = np.random.default_rng(seed)
    height, width = size
    values = np.full(size, 10, np.uint8)
    horizon = int(rng.integers(height // 3, height // 2))
    values[horizon:] = 20
    top, left = int(rng.integers(horizon - 6, horizon + 4)), int(rng.integers(2, width - 24))
    values[top : top + 10, left : left + 20] = 30
    values[top : top + 4, left + 5 : left + 15] = 31
    pole = int(rng.integers(0, width - 2))
    values[4 : horizon + 2, pole : pole + 2] = 250
    image = np.zeros((*size, 3), np.float64)
    for value, colour in COLOURS.items():
        image[values == value] = colour
    image += rng.normal(0, 6, image.shape)
    values[-3:] = VOID
    return np.clip(image, 0, 255).astype(np.uint8), values


def write_scenes(folder: Path, count: int = 12, *, size: tuple[int, int] = (48, 64), groups: int = 6) -> Path:
    """``images/`` and ``masks/`` of so many scenes, named GROUP_NUMBER."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, values = draw(number, size)
        stem = f"g{number % groups}_{number:03}"
        Image.fromarray(image).save(folder / "images" / f"{stem}.png")
        Image.fromarray(values).save(folder / "masks" / f"{stem}.png")
    return folder


def write_parts(root: Path, **counts: int) -> Path:
    """``train/`` and ``trainannot/`` of so many scenes, s00, s01, ..., and other parts likewise; no scene is twice."""
    first = 0
    for part, count in counts.items():
        for folder in (part, f"{part}annot"):
            (root / folder).mkdir(parents=True)
        for number in range(count):
            for folder, pixels in zip((part, f"{part}annot"), draw(first + number), strict=True):
                Image.fromarray(pixels).save(root / folder / f"s{number:02}.png")
        first += count
    return root


OVERLAPPING = Task(kind="multilabel", classes=["disc", "box", "dot"])


def draw_overlapping(seed: int, size: tuple[int, int] = (48, 64)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image, and the masks (3, H, W) of what is in it: a disc, a box over a part of it, in every third a dot."""
    rng = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    middle = int(rng.integers(height // 3, 2 * height // 3)), int(rng.integers(width // 3, width // 2))
    away = np.hypot(rows - middle[0], columns - middle[1])
    masks = np.zeros((3, *size), np.uint8)
    masks[0] = away < height / 4
    masks[1, middle[0] : middle[0] + height // 4, middle[1] : middle[1] + width // 3] = 1
    masks[2] = (away < height / 12) & (seed % 3 == 0)
    image = 60 + np.tensordot(masks, np.diag([120.0, 120, 190]), axes=(0, 0))
    image += rng.normal(0, 6, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), masks


def write_overlapping(
    folder: Path, count: int = 12, *, size: tuple[int, int] = (48, 64), groups: int = 6, task: Task = OVERLAPPING
) -> Path:
    """``images/`` and ``masks/CLASS/``, where a mask without a pixel has no file."""
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        image, masks = draw_overlapping(number, size)
        stem = f"g{number % groups}_{number:03}"
        Image.fromarray(image).save(folder / "images" / f"{stem}.png")
        for name, mask in zip(task.names, masks, strict=True):
            (folder / "masks" / name).mkdir(parents=True, exist_ok=True)
            if mask.any():
                Image.fromarray(255 * mask).save(folder / "masks" / name / f"{stem}.png")
    return folder


def of_colours(task: Task = OVERLAPPING, **spec: Any) -> Segmenter:
    """A network for overlapping scenes: of each class the mean of one colour around a pixel, and a guess where it is.

    No sum of nine bytes gives a probability of one half.
    """
    layer = nn.Conv2d(3, 3, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 3, 3))
        layer.bias.copy_(torch.tensor([-4.002, -2.002, -6.002]))
    values: dict[str, Any] = {"trained_size": (24, 32), "mean": (0, 0, 0), "std": (1, 1, 1)}
    return Segmenter(layer, ModelSpec(arch="colours", task=task, **values | spec))


def write_labels(folder: Path, groups: list[list[int]]) -> list[Sample]:
    """A label file for each group, in which each value has so many pixels."""
    found = []
    for number, values in enumerate(groups):
        path = folder / f"{number:03}.npy"
        np.save(path, np.repeat(np.arange(len(values)), values)[None].astype(np.uint8))
        found.append(Sample(path.with_suffix(".jpg"), path, f"{number:03}"))
    return found


def classes_on(samples: tuple[Sample, ...], classes: int) -> np.ndarray:
    """The pixels of each class."""
    values = np.concatenate([np.load(sample.masks[0]).ravel() for sample in samples])
    return np.bincount(values, minlength=classes)
