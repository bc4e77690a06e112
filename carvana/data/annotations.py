"""Annotation files: COCO's JSON, labelme's JSON and YOLO's text; and the layouts of folders that have them.

What these files hold besides objects that can be used (crowds, annotations without an image, shapes without an area) is
counted in notes, a line for each kind, which every :class:`.polygons.Annotation` of the file carries.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np

from carvana.config import read_yaml
from carvana.data.io.images import SUFFIXES, image_size
from carvana.data.io.masks import read_mask
from carvana.data.io.polygons import Annotation, Shape, circle, decode_counts, ring_of, runs_of
from carvana.data.layouts import group_and_view, image_names, nested_names, stem_of, sub_folders, subset_of
from carvana.data.samples import Sample
from carvana.errors import DataError, plural

_COCO = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_LABELME = re.compile(rb'"(shapes"\s*:\s*\[|imagePath"\s*:)')
_HEAD = 2**20  # bytes of a JSON file by which its kind is known
_YEAR = re.compile(r"20\d\d$")
_ROBOFLOW = re.compile(r"\.rf\.[0-9a-zA-Z]{20,}$")
_LABELME_FOLDERS = "annotations", "labels", "json"
_LARGEST = 2**15  # a side of an image in pixels: 30,000 are known, and a JSON file may have any number
_FAR_OUTSIDE = 2.0  # a share of an image that is a number of pixels
_EXPECTED = (
    "expected COCO's images (id, file_name, height, width), annotations (image_id, category_id, segmentation) and "
    "categories (id, name)"
)


class _Objects(NamedTuple):
    """The objects of one image, as a file has them; the size is None if the file does not have it."""

    name: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]


class _Notes(Counter[tuple[str, str]]):
    """How many of what was found besides objects: a noun, and what is said of it."""

    def lines(self, where: Path) -> tuple[str, ...]:
        return tuple(f"{where}: {plural(number, noun)} {said}" for (noun, said), number in self.items() if number > 0)


def coco_layout(root: Path) -> list[Sample] | None:
    """COCO's JSON: in each of train, valid and test (Roboflow), in annotations/ (CVAT, COCO), or a single file."""
    files = _coco_files(root)
    if not files:
        return None
    if files[0].parent != root and files[0].parent.name != "annotations":
        _refuse_bare_parts(_part_folders(root), [path.parent for path in files])
    return [sample for path in files for sample in read_coco(path, root=root, several=len(files) > 1)]


def labelme_layout(root: Path) -> list[Sample] | None:
    """JSON of labelme, a file for each image, beside it or in a folder beside images/."""
    pairs = [(part, part) for part in _part_folders(root) if _has_labelme(part, part)]
    if not pairs:
        places = [*((root / "images", root / name) for name in ("images", *_LABELME_FOLDERS)), (root, root)]
        pairs = [pair for pair in places if _has_labelme(*pair)][:1]
    elif len(pairs) < len(_part_folders(root)):
        _refuse_bare_parts(_part_folders(root), [images for images, _ in pairs])
    base = _base(root, pairs) if pairs else root
    return [
        sample
        for images, files in pairs
        for sample in read_labelme(images, files, base=base, subset=_subset_below(root, images))
    ] or None


def yolo_layout(root: Path) -> list[Sample] | None:
    """YOLO's text, a file for each image, with names in data.yaml or classes.txt."""
    places = [(root / "images", root / "labels")]
    places += [(part, root / "labels" / part.name) for part in _part_folders(root / "images")]
    places += [(part / "images", part / "labels") for part in _part_folders(root)]
    pairs = [(images, labels) for images, labels in places if _has_files(labels, ".txt") and _image_names(images)]
    if not pairs:
        return None
    _refuse_bare_parts([images for images, _ in places[1:]], [images for images, _ in pairs])
    names, base = _yolo_names(root, [labels for _, labels in pairs]), _base(root, pairs)
    return [
        sample
        for images, labels in pairs
        for sample in read_yolo(images, labels, names, base=base, subset=_subset_below(root, images))
    ]


def named_annotations(images: Path, masks: Path) -> list[Sample] | None:
    """The samples of a folder of images and an annotation file, or a folder of them; None if it has masks."""
    if masks.suffix.lower() == ".json":
        return read_coco(masks, images=images)
    return read_labelme(images, masks, base=images) if _has_labelme(images, masks) else None


def read_coco(
    path: Path, *, root: Path | None = None, images: Path | None = None, several: bool = False
) -> list[Sample]:
    """The images of a COCO file, with their objects.

    Args:
        path: The file.
        root: The data folder, in which the images are looked for.
        images: The folder of images, if it is known.
        several: The data folder has other such files: the folders of images are part of their names.

    Raises:
        DataError: the file cannot be read or is of another kind, or images are missing.
    """
    found, notes = _coco(path, *_stamp(path))
    names = [each.name.replace("\\", "/") for each in found]
    folders = [images] if images is not None else _image_folders(path, root or path.parent)
    folder, flat = max(
        ((folder, flat) for folder in folders for flat in (False, True)),
        key=lambda place: sum(_place(name, *place).is_file() for name in names[:8]),
    )
    places = [_place(name, folder, flat) for name in names]
    missing = [name for name, place in zip(names, places, strict=True) if not place.is_file()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(
            f"{path}: {len(missing)} of its {len(places)} images {verb} not in {folder} (the first: "
            f"{missing[0]}); bring them back, or name their folder with data.images"
        )
    base = root if several and root is not None else folder
    part = "" if root is None else _subset_of(path.stem.removeprefix("instances_")) or _subset_below(root, path.parent)
    return [
        _sample(place, base, part, Annotation(path, each.size or image_size(place), each.shapes, notes))
        for place, each in zip(places, found, strict=True)
    ]


def read_labelme(images: Path, files: Path, *, base: Path, subset: str = "") -> list[Sample]:
    """The images of a folder that have a JSON file of labelme, in this folder or another one.

    Args:
        images: The folder of images.
        files: The folder of JSON files. Each belongs to the image of its own name, or else to the one that it names.
        base: The folder from which images are named.
        subset: The part of the data folder.

    Raises:
        DataError: a file cannot be read, or is of another kind.
    """
    stems = _by_stem(images, nested_names(images, SUFFIXES))
    there = {_owner_of(files / name, stem_of(name), stems): name for name in sorted(nested_names(files, {".json"}))}
    notes, found = _Notes(), []
    for stem, name in stems.items():
        if stem not in there:
            notes["image", "without a JSON file: left out"] += 1
            continue
        objects, counted = _labelme(files / there[stem], *_stamp(files / there[stem]))
        notes.update(dict(counted))
        found.append((images / name, files / there[stem], objects))
    notes["JSON file", "without an image: left out"] = len(there.keys() - stems.keys())
    lines = notes.lines(files)
    return [
        _sample(image, base, subset, Annotation(path, each.size or image_size(image), each.shapes, lines))
        for image, path, each in found
    ]


def read_yolo(images: Path, labels: Path, names: Sequence[str], *, base: Path, subset: str = "") -> list[Sample]:
    """The images of a folder, with the polygons of their text files; an image without a file has no object.

    Raises:
        DataError: a line has another form, or names a class by a number that the list of names does not have.
    """
    notes, found = _Notes(), []
    stems = _by_stem(images, image_names(images, SUFFIXES))
    there = {path.stem for path in labels.glob("*.txt") if path.name != "classes.txt"}
    for stem, name in stems.items():
        size = image_size(images / name)
        shapes = tuple(_yolo_shapes(labels / f"{stem}.txt", size, names, notes)) if stem in there else ()
        notes["image", "without an object: background"] += not shapes
        found.append((images / name, labels / f"{stem}.txt" if stem in there else labels, size, shapes))
    notes["label file", "without an image: left out"] = len(there - stems.keys())
    lines = notes.lines(labels)
    return [_sample(image, base, subset, Annotation(path, size, shapes, lines)) for image, path, size, shapes in found]


def _by_stem(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Images by their stems.

    Raises:
        DataError: two have one stem: which of them the annotations are of is not known.
    """
    stems: dict[str, str] = {}
    for name in sorted(names):
        other = stems.setdefault(stem_of(name), name)
        if other != name:
            raise DataError(f"{folder}: {other} and {name} differ in their suffix alone; rename one, or move it away")
    return stems


def _owner_of(path: Path, stem: str, stems: Mapping[str, str]) -> str:
    """The stem of a labelme file's image: its own, or that of the image that it names."""
    if stem in stems:
        return stem
    objects, _ = _labelme(path, *_stamp(path))
    named = PurePosixPath(stem).parent / stem_of(objects.name.replace("\\", "/").rpartition("/")[2])
    return named.as_posix() if named.as_posix() in stems else stem


def _refuse_bare_parts(parts: Sequence[Path], annotated: Sequence[Path]) -> None:
    """Refuse a part with images and without annotations beside others that have some; a test part may lack them.

    Raises:
        DataError: there is one.
    """
    for part in parts:
        subsets = _subset_of(part.name), _subset_of(part.parent.name)
        if part not in annotated and _image_names(part) and "test" not in subsets:
            raise DataError(f"{part}: has images and no annotations, as {annotated[0]} has; add them, or move it away")


def _sample(image: Path, base: Path, subset: str, annotation: Annotation) -> Sample:
    """A sample; images that Roboflow made of one image (NAME.rf.DIGEST.jpg) are one group."""
    below = image.relative_to(base)
    group, view = group_and_view(_ROBOFLOW.sub("", stem_of(below.as_posix())), None)
    return Sample(image, annotation.path, group, view, len(below.parts) - 1, subset, annotation)


@lru_cache(maxsize=16)  # find_samples is called several times in a command
def _coco(path: Path, *_stamp: int) -> tuple[list[_Objects], tuple[str, ...]]:
    """The images of a COCO file with their objects, and notes."""
    values = _read_json(path)
    notes = _Notes()
    try:
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
                size = sizes[each["image_id"]]
                shape = _coco_shape(each.get("segmentation"), categories[each["category_id"]], size, notes)
                if shape is None:
                    notes["annotation", "without an outline of 3 points or more: left out"] += 1
                else:
                    notes["annotation", "of a crowd: an object of its category"] += bool(each.get("iscrowd"))
                    shapes[each["image_id"]].append(shape)
        found = [_Objects(str(images[n]["file_name"]), sizes[n], tuple(shapes[n])) for n in images]
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: {_EXPECTED}; got {type(error).__name__}: {error}") from error
    notes["image", "without an object: background"] = sum(not each.shapes for each in found)
    lines = notes.lines(path)
    for name, times in Counter(categories.values()).items():
        if times > 1:
            lines += (f"{path}: {times} categories are named {name!r:.80} and count as one",)
    return found, lines


def _coco_shape(found: Any, category: str, size: tuple[int, int] | None, notes: _Notes) -> Shape | None:
    """The shape of a segmentation: bytes of rings, as :func:`_with_rings` makes them, or run lengths."""
    if isinstance(found, Mapping):
        counts = found.get("counts")
        runs = decode_counts(counts) if isinstance(counts, str) else np.array(counts, np.int64)
        height, width = found["size"]
        if (
            runs.ndim != 1
            or runs.min(initial=0) < 0
            or runs.sum() != height * width
            or size not in (None, (height, width))
        ):
            return None
        return Shape(category, runs=runs.astype(np.int32).tobytes())
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


@lru_cache(maxsize=100_000)
def _labelme(path: Path, *_stamp: int) -> tuple[_Objects, _Notes]:
    """The objects of a labelme file, and what was left out."""
    values, notes, shapes = _read_json(path), _Notes(), []
    try:
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
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path}: expected labelme's shapes, each with label, points and shape_type; got "
            f"{type(error).__name__}: {error}"
        ) from error
    return _Objects(str(values.get("imagePath") or path.stem), size, tuple(shapes)), notes


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
            part, whole = read_mask(base64.b64decode(values["mask"])), np.zeros(size, np.uint8)
            target = whole[round(top) :, round(left) :][: part.shape[0], : part.shape[1]]
            target[:] = part[: target.shape[0], : target.shape[1]]
            return Shape(label, runs=runs_of(whole))
    elif kind == "circle" and len(points) == 2:
        ring = circle(points[0], float(np.hypot(*(points[1] - points[0]))))
    return Shape(label, (ring,)) if ring else None


def _yolo_shapes(path: Path, size: tuple[int, int], names: Sequence[str], notes: _Notes) -> Iterator[Shape]:
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


def _yolo_names(root: Path, labels: Iterable[Path]) -> list[str]:
    """The names of classes, from a YAML file or from classes.txt."""
    for path in sorted(root.glob("*.y*ml")):
        names = read_yaml(path).get("names")
        if isinstance(names, Mapping) and all(isinstance(number, int) for number in names):
            names = [names.get(number, f"class_{number}") for number in range(1 + max(map(int, names), default=-1))]
        if isinstance(names, list) and names:
            return [str(name) for name in names]
    for path in (root / "classes.txt", *(folder / "classes.txt" for folder in labels)):
        if path.is_file():
            return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    raise DataError(
        f"{root}: the classes have no names; expected names: [...] in data.yaml, or a name a line in classes.txt"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes(), object_hook=_with_rings)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{path}: cannot be read as JSON: {reason}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: {_EXPECTED}, or labelme's shapes; got {type(values).__name__}")
    return values


def _size_of(height: Any, width: Any, path: Path) -> tuple[int, int] | None:
    if height is None or width is None:
        return None
    if not (0 < height < _LARGEST and 0 < width < _LARGEST):
        raise DataError(f"{path}: an image of {width} x {height} pixels; expected sides of 1 to {_LARGEST - 1}")
    return int(height), int(width)


def _coco_files(root: Path) -> list[Path]:
    """The COCO files of a data folder: those that belong together."""
    places = [folder / "_annotations.coco.json" for folder in (root, *_part_folders(root))]
    found = [path for path in places if path.is_file()]
    if not found:
        inside = root / "annotations"
        for folder, pattern in ((inside, "instances_*.json"), (inside, "*.json"), (root, "*.json")):
            found = [path for path in itertools.islice(sorted(folder.glob(pattern)), 20) if _begins_with(path, _COCO)]
            parts = [path.stem.startswith("instances_") or _subset_of(path.stem) for path in found]
            if len(found) == 1 or (found and all(parts)):
                return found
        return []
    return [path for path in found if _begins_with(path, _COCO)]


def _image_folders(path: Path, root: Path) -> list[Path]:
    """Where the images of a COCO file may be, the likeliest first."""
    part = path.stem.removeprefix("instances_")
    places = [root / "images" / part, root / part, root / "images" / part.removesuffix("2017"), path.parent]
    places += [root / "images", root]
    return [folder for folder in places if folder.is_dir()]


def _place(name: str, folder: Path, flat: bool) -> Path:
    """The place of an image; tools also write the name with folders of another machine."""
    return folder / (PurePosixPath(name).name if flat or name.startswith("/") else name)


def _part_folders(root: Path) -> list[Path]:
    """The folders of parts, such as train and valid, in a folder."""
    return [root / name for name in sub_folders(root) if _subset_of(name)] if root.is_dir() else []


def _subset_below(root: Path, folder: Path) -> str:
    """The part that a folder in the data folder is, or lies in."""
    return next(filter(None, map(_subset_of, folder.relative_to(root).parts)), "")


def _subset_of(name: str) -> str:
    return subset_of(_YEAR.sub("", name))


def _base(root: Path, pairs: Sequence[tuple[Path, Path]]) -> Path:
    """The folder from which images are named: that of the images, if there is one alone."""
    return pairs[0][0] if len(pairs) == 1 else root


def _has_files(folder: Path, suffix: str) -> bool:
    return folder.is_dir() and next(nested_names(folder, {suffix}), None) is not None


def _image_names(folder: Path) -> list[str]:
    """The names of the images in a folder, which may be missing."""
    return image_names(folder, SUFFIXES) if folder.is_dir() else []


def _has_labelme(images: Path, files: Path) -> bool:
    """Whether a folder of images has JSON files of labelme for some of them."""
    if not images.is_dir() or not files.is_dir():
        return False
    stems = {stem_of(name) for name in nested_names(images, SUFFIXES)}
    first = next(
        (name for name in nested_names(files, {".json"}) if stem_of(name) in stems),
        next(nested_names(files, {".json"}), None) if stems else None,  # it may name its image inside
    )
    return first is not None and _begins_with(files / first, _LABELME)


def _begins_with(path: Path, pattern: re.Pattern[bytes]) -> bool:
    try:
        with open(path, "rb") as file:
            return pattern.search(file.read(_HEAD)) is not None
    except OSError:
        return False


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with a file."""
    try:
        found = os.stat(path)  # noqa: PTH116 - of very many files
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size
