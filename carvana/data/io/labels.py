"""Reading and writing of label files, whose values say which class a pixel has: PNG, GIF, TIFF, .npy."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carvana.data.io.convert import is_wide, orientation_of, turn
from carvana.data.io.decode import Source, is_npy, name_of, open_picture, read_bytes, read_npy
from carvana.data.io.images import MAX_PIXELS
from carvana.errors import DataError
from carvana.task import Task
from carvana.utils.files import write_bytes

Labels = NDArray[np.uint8] | NDArray[np.uint16]


def read_values(source: Source, *, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """The values (H, W) of a label file, upright, in the file's own numbers; of a palette file its indices.

    Raises:
        DataError: the file is missing, damaged or too large, or has colours.
    """
    data, name = read_bytes(source, max_pixels), name_of(source)
    if is_npy(data):
        return read_npy(data, name, max_pixels)
    with open_picture(data, source, max_pixels) as picture:
        return turn(_values_of(picture, name), orientation_of(picture))


def _values_of(picture: Image.Image, name: str) -> NDArray[Any]:
    if picture.mode in ("P", "L") or is_wide(picture):
        return np.array(picture)
    if picture.mode == "1":
        return (np.asarray(picture.convert("L")) > 0).view(np.uint8)
    values = np.asarray(picture.convert("RGB"))
    if (values == values[:, :, :1]).all():
        return np.ascontiguousarray(values[:, :, 0])
    raise DataError(
        f"{name}: has colours, and this version reads labels by their values; save them as a palette file or as grey "
        "values, one for each class",
        kind="labels",
    )


def encode_labels(labels: Labels, task: Task) -> bytes:
    """The bytes of a PNG of labels (H, W), indices of classes, in the values and colours of the task's files.

    Values below 256 have a palette, so that people see colours and programs read values; others are grey of 16 bits.
    """
    picture = Image.fromarray(task.decode(labels))
    if picture.mode == "L":
        picture.putpalette(task.value_palette.tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def write_labels(path: str | os.PathLike[str], labels: Labels, task: Task) -> None:
    """Write labels (H, W), indices of classes, as :func:`encode_labels` encodes them, atomically."""
    write_bytes(path, encode_labels(labels, task))
