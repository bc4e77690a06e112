"""Parses annotation files: COCO's JSON, labelme's JSON and YOLO's text.

What these files hold besides objects that can be used (crowds, annotations without an image, shapes without an area) is
counted in notes.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from carvana.data.io.masks import read_mask
from carvana.data.io.polygons import Shape, circle, decode_counts, ring_of, runs_of
from carvana.errors import DataError, plural

COCO = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
LABELME = re.compile(rb'"(shapes"\s*:\s*\[|imagePath"\s*:)')
_HEAD = 2**20  # bytes of a JSON file by which its kind is known
_LARGEST = 2**15  # a side of an image in pixels: 30,000 are known, and a JSON file may have any number
_FAR_OUTSIDE = 2.0  # a share of an image that is a number of pixels
_EXPECTED = (
    "expected COCO's images (id, file_name, height, width), annotations (image_id, category_id, segmentation) and "
    "categories (id, name)"
)


class Objects(NamedTuple):
    """The objects of one image, as a file has them; the size is None if the file does not have it."""

    name: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]


class Notes(Counter[tuple[str, str]]):
    """How many of what was found besides objects: a noun, and what is said of it."""

    def lines(self, where: Path) -> tuple[str, ...]:
        """A line for each kind that there is, which begins with the file or the folder."""
        return tuple(f"{where}: {plural(number, noun)} {said}" for (noun, said), number in self.items() if number > 0)


@lru_cache(maxsize=16)  # find_samples is called several times in a command
def coco_objects(path: Path, *_stamp: int) -> tuple[list[Objects], tuple[str, ...]]:
    """The images of a COCO file with their objects, and notes."""
    values = _read_json(path)
    notes = Notes()
    with _expecting(_EXPECTED, path):
        for key in ("categories", "images"):
            number, times = (Counter(each["id"] for each in values[key]).most_common(1) or [(0, 0)])[0]
            if times > 1:
                raise DataError(f"{path}: {times} of its {key} have the id {number!r}; give each an id of its own")
        categories = {each["id"]: str(each["name"]) for each in values["categories"]}
        images = {each["id"]: each for each in values["images"]}
        sizes = {number: _size_of(each.get("height"), each.get("width"), path) for number, each in images.items()}
        shapes: dict[Any, list[Shape]] = {number: [] for number in images}
        for each in values["annotations"]:
            if each["image_id"] not in images:
                notes["annotation", "without an image in the file: left out"] += 1
            elif each["category_id"] not in categories:
                notes["annotation", "without a category in the file: left out"] += 1
            else:
                number, outline = each["image_id"], each.get("segmentation")
                if sizes[number] is None and isinstance(outline, Mapping):  # run lengths know the image's size
                    height, width = outline["size"]
                    sizes[number] = _size_of(height, width, path)
                if isinstance(outline, Mapping) and sizes[number] not in (None, tuple(outline["size"])):
                    raise DataError(
                        f"{path}: {images[number]['file_name']!r:.80} has (height, width) {sizes[number]}, and run "
                        f"lengths of an object {tuple(outline['size'])}; export the labels of these images again"
                    )
                shape = _coco_shape(outline, categories[each["category_id"]], notes)
                if shape is None:
                    notes["annotation", "without an outline of 3 points or more: left out"] += 1
                else:
                    notes["annotation", "of a crowd: an object of its category"] += bool(each.get("iscrowd"))
                    shapes[number].append(shape)
        found = [Objects(str(images[n]["file_name"]), sizes[n], tuple(shapes[n])) for n in images]
    notes["image", "without an object: background"] = sum(not each.shapes for each in found)
    lines = notes.lines(path)
    for name, times in Counter(categories.values()).items():
        if times > 1:
            lines += (f"{path}: {times} categories are named {name!r:.80} and count as one",)
    return found, lines


def _coco_shape(found: Any, category: str, notes: Notes) -> Shape | None:
    """The shape of a segmentation: bytes of rings, as :func:`_with_rings` makes them, or run lengths."""
    if isinstance(found, Mapping):
        counts = found.get("counts")
        runs = decode_counts(counts) if isinstance(counts, str) else np.array(counts, np.int64)
        height, width = found["size"]
        sound = runs.ndim == 1 and runs.min(initial=0) >= 0 and runs.sum() == height * width
        return Shape(category, runs=runs.astype(np.int32).tobytes()) if sound else None
    rings = tuple(ring for ring in found or () if ring) if isinstance(found, list) else ()
    notes["annotation", "with a ring inside another: joined (COCO has holes as RLE alone)"] += _nested(rings)
    return Shape(category, rings) if rings else None


def _nested(rings: Sequence[bytes]) -> bool:
    """Whether a ring lies inside another one, by its first point."""
    points = [np.frombuffer(ring, np.float32).reshape(-1, 2) for ring in rings] if len(rings) > 1 else []
    return any(
        cv2.pointPolygonTest(outer, (float(inner[0, 0]), float(inner[0, 1])), measureDist=False) > 0
        for outer in points for inner in points if outer is not inner
    )  # fmt: skip


@lru_cache(maxsize=100_000)
def labelme_objects(path: Path, *_stamp: int) -> tuple[Objects, Notes]:
    """The objects of a labelme file, and what was left out."""
    values, notes, shapes = _read_json(path), Notes(), []
    with _expecting("expected labelme's shapes, each with label, points and shape_type", path):
        size = _size_of(values.get("imageHeight"), values.get("imageWidth"), path)
        for each in values["shapes"]:
            kind = each.get("shape_type") or "polygon"
            shape = _labelme_shape(kind, each, size)
            if shape is None and kind in ("polygon", "rectangle", "circle", "mask"):
                notes[kind, "without an area: left out"] += 1
            elif shape is None:
                notes["shape", f"of type {kind}: left out"] += 1
            else:
                shapes.append(shape)
    return Objects(str(values.get("imagePath") or path.stem), size, tuple(shapes)), notes


def _labelme_shape(kind: str, values: Mapping[str, Any], size: tuple[int, int] | None) -> Shape | None:
    label, points = str(values["label"]), np.asarray(values["points"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        return None
    ring = b""
    if kind == "polygon":
        ring = _ring(points)
    elif kind in ("rectangle", "mask") and len(points) >= 2:
        (left, top), (right, bottom) = points.min(0), points.max(0)
        ring = ring_of([left, top, right, top, right, bottom, left, bottom])
        if kind == "mask":
            if size is None or min(left, top) < 0:
                return None
            try:
                part, whole = read_mask(base64.b64decode(values["mask"])), np.zeros(size, np.uint8)
            except DataError as error:
                raise ValueError(f"the mask of {label!r} ({error})") from error
            target = whole[round(top) :, round(left) :][: part.shape[0], : part.shape[1]]
            target[:] = part[: target.shape[0], : target.shape[1]]
            return Shape(label, runs=runs_of(whole))
    elif kind == "circle" and len(points) == 2:
        ring = circle(points[0], float(np.hypot(*(points[1] - points[0]))))
    return Shape(label, (ring,)) if ring else None


def yolo_shapes(path: Path, size: tuple[int, int], names: Sequence[str], notes: Notes) -> Iterator[Shape]:
    """The polygons of a text file of YOLO, in pixels of an image of ``size`` (height, width); ``notes`` counts others.

    Raises:
        DataError: a line has another form, or names a class by a number that the list of names does not have.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        words = line.split()
        try:
            index, values = int(words[0]) if words else 0, np.array(words[1:], np.float64)
        except ValueError:
            index, values = -1, np.zeros(0)
        if words and not 0 <= index < len(names):
            raise DataError(
                f"{path}, line {number}: {line!r:.80}: expected the number of a class, 0 to {len(names) - 1}, then x "
                "and y of each point as shares of the image"
            )
        if values.size and np.abs(values).max() > _FAR_OUTSIDE:
            raise DataError(f"{path}, line {number}: {line!r:.80}: expected x and y as shares of the image, 0 to 1")
        if len(values) == 4:
            notes["box", "without an outline: left out"] += 1
        elif ring := _ring(values.reshape(-1, 2) * size[::-1]) if len(values) % 2 == 0 else b"":
            yield Shape(names[index], (ring,))
        elif words:
            notes["line", "without an outline of 3 points or more: left out"] += 1


@contextmanager
def _expecting(expected: str, path: Path) -> Iterator[None]:
    """Name the file, and what was expected in it, in an error about its values."""
    try:
        yield
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: {expected}; got {type(error).__name__}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes(), object_hook=_with_rings)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{path}: cannot be read as JSON: {reason}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: {_EXPECTED}, or labelme's shapes; got {type(values).__name__}")
    return values


def _with_rings(values: dict[str, Any]) -> dict[str, Any]:
    """Pack the coordinates of an object of JSON as soon as it is parsed: lists take eight times as much memory."""
    values.pop("imageData", None)  # labelme's copy of the image
    if isinstance(rings := values.get("segmentation"), list):
        flat = bool(rings) and not isinstance(rings[0], list)  # some tools write the only ring without its list
        values["segmentation"] = [_ring(ring) for ring in ([rings] if flat else rings)]
    if isinstance(counts := values.get("counts"), list):
        values["counts"] = np.array(counts, np.int64)
    return values


def _ring(points: Any) -> bytes:
    """The bytes of a ring; nothing if it is not one of three points or more."""
    try:
        ring = np.asarray(points, np.float32).ravel()
    except (ValueError, TypeError, OverflowError):
        return b""
    return ring_of(ring) if ring.size >= 6 and ring.size % 2 == 0 and np.isfinite(ring).all() else b""


def _size_of(height: Any, width: Any, path: Path) -> tuple[int, int] | None:
    if height is None or width is None:
        return None
    if not (0 < height < _LARGEST and 0 < width < _LARGEST):
        raise DataError(f"{path}: an image of {width} x {height} pixels; expected sides of 1 to {_LARGEST - 1}")
    return int(height), int(width)


def begins_with(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Whether the first megabyte of a file matches :data:`COCO` or :data:`LABELME`."""
    try:
        with open(path, "rb") as file:
            return pattern.search(file.read(_HEAD)) is not None
    except OSError:
        return False


def stamp(path: Path) -> tuple[int, int]:
    """What changes with a file."""
    try:
        found = os.stat(path)  # noqa: PTH116 - of very many files
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size
