"""Layouts of data folders that have annotation files: COCO's JSON, labelme's JSON or YOLO's text.

What a file has besides objects that can be used is in notes, a line for each kind, which every
:class:`.polygons.Annotation` of the file carries.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from carvana.data.io.annotation_files import (
    COCO,
    LABELME,
    Notes,
    begins_with,
    coco_objects,
    labelme_objects,
    stamp,
    yolo_shapes,
)
from carvana.data.io.images import SUFFIXES, image_size
from carvana.data.io.polygons import Annotation
from carvana.data.layouts import image_names, nested_names, sub_folders
from carvana.data.names import group_and_view, stem_of, subset_of
from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.utils.yaml_files import read_yaml

_YEAR = re.compile(r"20\d\d$")
_LABELME_FOLDERS = "annotations", "labels", "json"


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
    with_text = [pair for pair in places if pair[1].is_dir() and any(nested_names(pair[1], {".txt"}))]
    pairs = [(images, labels) for images, labels in with_text if _image_names(images)]
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
    found, notes = coco_objects(path, *stamp(path))
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
    notes, found = Notes(), []
    there: dict[str, str] = {}
    for name in sorted(nested_names(files, {".json"}), key=lambda name: (stem_of(name) not in stems, name)):
        owner = _owner_of(files / name, stem_of(name), stems)
        other = there.setdefault(owner, name)
        if other == name:
            continue
        if stem_of(other) != owner:
            raise DataError(f"{files}: {other} and {name} both name the image {stems[owner]}; move one of them away")
        notes["JSON file", "of an image that has a JSON file of its own name: left out"] += 1
    for stem, name in stems.items():
        if stem not in there:
            notes["image", "without a JSON file: left out"] += 1
            continue
        objects, counted = labelme_objects(files / there[stem], *stamp(files / there[stem]))
        notes.update(counted)
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
    notes, found = Notes(), []
    stems = _by_stem(images, image_names(images, SUFFIXES))
    there = {stem_of(name): labels / name for name in image_names(labels, {".txt"}) if name != "classes.txt"}
    for stem, name in stems.items():
        size = image_size(images / name)
        shapes = tuple(yolo_shapes(there[stem], size, names, notes)) if stem in there else ()
        notes["image", "without an object: background"] += not shapes
        found.append((images / name, there.get(stem, labels), size, shapes))
    notes["label file", "without an image: left out"] = len(there.keys() - stems.keys())
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
    objects, _ = labelme_objects(path, *stamp(path))
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
    """A sample."""
    below = image.relative_to(base)
    group, view = group_and_view(stem_of(below.as_posix()), None)
    return Sample(image, annotation.path, group, view, len(below.parts) - 1, subset, annotation)


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


def _coco_files(root: Path) -> list[Path]:
    """The COCO files of a data folder: those that belong together."""
    places = [folder / "_annotations.coco.json" for folder in (root, *_part_folders(root))]
    found = [path for path in places if path.is_file()]
    if not found:
        inside = root / "annotations"
        for folder, pattern in ((inside, "instances_*.json"), (inside, "*.json"), (root, "*.json")):
            found = [path for path in itertools.islice(sorted(folder.glob(pattern)), 20) if begins_with(path, COCO)]
            parts = [path.stem.startswith("instances_") or _subset_of(path.stem) for path in found]
            if len(found) == 1 or (found and all(parts)):
                return found
        return []
    return [path for path in found if begins_with(path, COCO)]


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
    return first is not None and begins_with(files / first, LABELME)
