"""Layouts of data folders that are divided into parts already: what trains, what validates, and what is a test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from carvana.data.io.masks import MASK_SUFFIXES
from carvana.data.layouts import Folders, Part, nested_names, sub_folders
from carvana.data.names import subset_of
from carvana.errors import DataError

_PAIRS = (
    ("{}", "{}annot"),
    ("{}", "{}_labels"),
    ("{}/images", "{}/masks"),
    ("{}/images", "{}/labels"),
    ("{}/images", "{}/annotations"),
    ("img_dir/{}", "ann_dir/{}"),
    ("images/{}", "labels/{}"),
    ("images/{}", "annotations/{}"),
)
"""Where images and label files are; ``{}`` is the part. ``images/`` and ``masks/`` have a layout of their own."""


def split_folders_layout(root: Path) -> Folders | None:
    """``train/`` and ``trainannot/``, ``train/images`` and ``train/masks``, and others, with val and test likewise."""
    return next((found for images, masks in _PAIRS if (found := _divided(root, images, masks))), None)


def cityscapes_layout(root: Path) -> Folders | None:
    """Cityscapes (https://www.cityscapes-dataset.com): a folder for each city, which is the group of its images."""
    found = _divided(root, "leftImg8bit/{}", "gtFine/{}")
    return found and found._replace(
        image_suffix="_leftImg8bit", mask_suffix="_gtFine_labelIds", group="[^/]+/(?P<group>[^/]+)"
    )


def voc_layout(root: Path) -> Folders | None:
    """PASCAL VOC (http://host.robots.ox.ac.uk/pascal/VOC): one folder of images, and lists of those of each part.

    Other lists than train, val and test count where there are none of these, as CVAT's ``default.txt``.

    Raises:
        DataError: an image is in two lists, or a list cannot be read.
    """
    images, masks, folder = root / "JPEGImages", root / "SegmentationClass", root / "ImageSets" / "Segmentation"
    if not (images.is_dir() and masks.is_dir() and folder.is_dir()):
        return None
    only: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.txt")):
        only.setdefault(subset_of(path.stem), set()).update(_names(path))
    if "train" not in only and (folder / "trainval.txt").is_file():
        only["train"] = set(_names(folder / "trainval.txt")) - only.get("val", set())
    if len(only) > 1:
        only.pop("", None)
    for one, other in itertools.combinations(sorted(only), 2):
        if twice := sorted(only[one] & only[other]):
            raise DataError(f"{folder}: the lists {one} and {other} both have {twice[0]}; take it out of one of them")
    parts = tuple(Part(subset, only=frozenset(names)) for subset, names in only.items())
    return Folders(images, masks, parts) if parts else None


def _names(path: Path) -> Iterator[str]:
    """The lines of a list."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; expected the name of an image a line") from error
    return (name for line in text.splitlines() if (name := line.strip()))


def _divided(root: Path, images: str, masks: str) -> Folders | None:
    """The folders of all parts that have images; None if no part has a label file.

    A folder of text files has none, as those of YOLO.
    """
    (above, below), (masks_above, masks_below) = images.split("{}"), masks.split("{}")
    if not (root / above).is_dir():
        return None
    parts = [
        Part(subset, name + below, name + masks_below)
        for name in sub_folders(root / above)
        if (subset := subset_of(name)) and (root / above / f"{name}{below}").is_dir()
    ]
    found = Folders(root / above, root / masks_above, tuple(parts))
    labels = (found.masks / part.masks for part in parts)
    return found if any(each.is_dir() and any(nested_names(each, MASK_SUFFIXES)) for each in labels) else None
