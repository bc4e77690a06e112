"""Reading and writing of label files, whose values or colours say which class a pixel has: PNG, GIF, TIFF, .npy."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from carvana.class_values import COLOR_FILES, color_values, run_lengths
from carvana.data.io.convert import is_wide, orientation_of, turn
from carvana.data.io.decode import Source, is_npy, name_of, open_picture, read_bytes, read_npy
from carvana.data.io.images import MAX_PIXELS
from carvana.errors import DataError
from carvana.task import Task
from carvana.utils.files import write_bytes

Labels = NDArray[np.uint8] | NDArray[np.uint16]

FEW_VALUES = 16
"""Up to so many distinct values of a file are classes; more may be instances, or the greys of a picture."""

_VOID_VALUES = 255, 65535
_LARGEST_CLASS = 64  # classes below it and 255: the rim of VOC's files, and of many that follow them


def read_values(source: Source, *, colors: bool = False, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """The values (H, W) of a label file, upright, in the file's own numbers; of a palette file its indices.

    Args:
        source: The file.
        colors: Its colours count, those of a palette, too: they are values as
            :func:`carvana.class_values.color_values` makes them.
        max_pixels: Refuse files that hold more pixels.

    Raises:
        DataError: the file is missing, damaged or too large, or has colours and none are expected.
    """
    data, name = read_bytes(source, max_pixels), name_of(source)
    if is_npy(data):
        values = read_npy(data, name, max_pixels)
        return color_values(np.repeat(values[:, :, None], 3, axis=2)) if colors else values
    with open_picture(data, source, max_pixels) as picture:
        if colors:
            return turn(color_values(np.asarray(picture.convert("RGB"))), orientation_of(picture))
        values = turn(_values_of(picture, name), orientation_of(picture))
    return values // _grey_step(data) if values.dtype == np.uint8 else values


def _grey_step(data: bytes) -> int:
    """By what Pillow multiplies the values of a grey PNG of 2 or 4 bits, so that the highest is white; 1 for others."""
    if not data.startswith(b"\x89PNG") or data[25] != 0:  # the type of colours, behind the number of bits (RFC 2083)
        return 1
    return {2: 85, 4: 17}.get(data[24], 1)


def _values_of(picture: Image.Image, name: str) -> NDArray[Any]:
    if picture.mode in ("P", "L") or is_wide(picture):
        return np.array(picture)
    if picture.mode == "1":
        return (np.asarray(picture.convert("L")) > 0).view(np.uint8)
    values = np.asarray(picture.convert("RGB"))
    if (values == values[:, :, :1]).all():
        return np.ascontiguousarray(values[:, :, 0])
    raise DataError(
        f"{name}: has colours; name the colour of each class in task.classes, such as {{road: '#804080'}}, or the file "
        "that lists them",
        kind="labels",
    )


def count_values(values: NDArray[Any], name: object) -> dict[int, int]:
    """The distinct values of a label file, sorted, and the number of pixels of each.

    Args:
        values: (H, W).
        name: The file's, which begins the message of an error.

    Raises:
        DataError: a value is not a whole number.
    """
    if values.dtype in (np.uint8, np.uint16):
        numbers = np.bincount(values.ravel())
        found = np.flatnonzero(numbers)
        return dict(zip(found.tolist(), numbers[found].tolist(), strict=True))
    lengths = run_lengths(values)
    found, places = np.unique(values.ravel()[np.cumsum(lengths) - lengths], return_inverse=True)
    numbers = np.bincount(places, weights=lengths).astype(np.int64)
    if (found != np.trunc(found)).any():
        raise DataError(f"{name}: has values that are not whole numbers; expected labels", kind="labels")
    return dict(zip(found.astype(np.int64).tolist(), numbers.tolist(), strict=True))


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


def suggest_task(values: Sequence[int], *, instances: bool | None = None) -> dict[str, Any]:
    """The task that label files of these values probably have, as values of a config.

    255 (or 65535) is taken for void behind 0 and classes of small values, and so is -1; of two values 0 is the
    background and the other one the object. Which of other values are background or void cannot be seen: each becomes
    a class.

    Args:
        values: The distinct values, sorted.
        instances: Whether the values above 0 number objects of one class; None takes more than 16 values for that.

    >>> suggest_task([0, 1, 255]), suggest_task([0, 128, 255])["classes"]
    ({'classes': {'object': 1}, 'ignore': [255]}, {'class_0': 0, 'class_128': 128, 'class_255': 255})
    """
    void = [value for value in values[:1] if value == -1]
    inner = [value for value in values[:-1] if value not in void]
    if values[-1] in _VOID_VALUES and inner[:1] == [0] and inner[-1] < max(_LARGEST_CLASS, len(inner)):
        void.append(values[-1])
    labels = [value for value in values if value not in void]
    if len(labels) < 2:
        void, labels = [], list(values)
    classes: dict[str, Any] = {f"class_{value}": value for value in labels}
    if instances if instances is not None else len(labels) > FEW_VALUES:
        classes = {"object": f"{min(value for value in labels if value > 0)}-{labels[-1]}"}
    elif len(labels) == 2 and labels[0] == 0:
        classes = {"object": labels[1]}
    return {"classes": classes} | ({"ignore": void} if void else {})


def suggest_colors(colors: Sequence[str], *folders: Path) -> dict[str, Any]:
    """The task of label files of these colours, as values of a config.

    Args:
        colors: Such as "#804080".
        folders: Where a file may lie that lists the classes; it is taken then.

    >>> suggest_colors(["#000000", "#804080"])
    {'classes': {'class_1': '#000000', 'class_2': '#804080'}}
    """
    named = (name for folder in folders for name in COLOR_FILES if (folder / name).is_file())
    return {"classes": next(named, None) or {f"class_{n}": color for n, color in enumerate(colors, start=1)}}


def task_in_a_line(task: Mapping[str, Any]) -> str:
    """A task as one line of a config.

    >>> task_in_a_line(suggest_task([0, 1, 2, 255]))
    'task: {classes: {class_0: 0, class_1: 1, class_2: 2}, ignore: [255]}'
    """
    return f"task: {yaml.safe_dump(dict(task), default_flow_style=True, sort_keys=False, width=10**6).strip()}"
