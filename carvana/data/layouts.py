"""Layouts of data folders: where images and masks are, in which parts.

Built in are Carvana's own (``train/`` and ``train_masks/``, masks named ``*_mask.gif``), ``images/`` with ``masks/``,
those of folders that are divided into what trains, what validates and what is a test, and those of annotations.py;
plugins and scripts may add more (``carvana.register_layout``). A layout is a function of the folder that returns the
pair of (images folder, masks folder), or samples, or None if the folder has another layout. A folder that no layout
reads may have images with their masks beside them.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from carvana.data.io.images import ARRAY_SUFFIXES, SUFFIXES
from carvana.data.io.masks import MASK_SUFFIXES
from carvana.data.names import MaskNames, subset_of, suffix_of
from carvana.errors import ConfigError, DataError
from carvana.registry import registry, resolve
from carvana.utils.files import expanded
from carvana.utils.progress import Reporter

_LOOKED_AT = 10_000  # names: a whole disk, given by mistake, should not be listed to its end

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


class Part(NamedTuple):
    """A part of a data folder.

    Attributes:
        subset: What it is for: train, val, test or "".
        images: The part's folder below that of all images, which belongs to their names; "" for that folder itself.
        masks: The part's folder below that of all masks.
        only: The stems of its images where a list names them; None for all in the folder.
    """

    subset: str = ""
    images: str = ""
    masks: str = ""
    only: frozenset[str] | None = None


class Folders(NamedTuple):
    """The folder of images and the folder of masks; they may be one.

    Attributes:
        images: The folder of images.
        masks: The folder of masks.
        parts: What is in them; without any, all that is there, which may be in sub-folders.
        image_suffix: What the stems of images have after what masks are named by.
        mask_suffix: As ``data.mask_suffix``, which wins over it.
        group: As ``data.group``, which wins over it.
    """

    images: Path
    masks: Path
    parts: tuple[Part, ...] = ()
    image_suffix: str = ""
    mask_suffix: str | None = None
    group: str | None = None

    def with_parts(self) -> Folders:
        """The parts that the sub-folders of both are, if all of these are named ``train``, ``val`` and ``test``."""
        if self.parts or not (self.images.is_dir() and self.masks.is_dir()) or image_names(self.images, SUFFIXES):
            return self
        images, masks = sub_folders(self.images), sub_folders(self.masks)
        subsets = {name: subset_of(name) for name in images}
        labelled = {name for name in images if subsets[name] != "test"}
        if "train" not in subsets.values() or not all(subsets.values()) or not labelled <= set(masks) <= set(images):
            return self
        return self._replace(parts=tuple(Part(subsets[name], name, name) for name in images))


def carvana_layout(root: Path) -> tuple[Path, Path] | None:
    """``train/`` and ``train_masks/``."""
    return _pair(root, "train", "train_masks")


def folders_layout(root: Path) -> tuple[Path, Path] | None:
    """``images/`` and ``masks/``."""
    return _pair(root, "images", "masks")


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


def find_layout(
    root: Path,
    images: str | os.PathLike[str] | None,
    masks: str | os.PathLike[str] | None,
    rule: MaskNames,
    layout: str | None = None,
) -> tuple[str, Folders | list[Any]]:
    """The layout of a data folder, and its result: the two folders, or the samples themselves.

    Folders that are named come before all layouts. The layout that was registered last is tried first, so that a script
    can read a folder differently from this library. Images with their masks beside them, in the folder or in its
    sub-folders, come last; ``rule`` finds their masks.

    Args:
        root: The data folder.
        images: Its folder of images, if it is named.
        masks: Its folder of masks, likewise.
        rule: How the names of masks are made.
        layout: The one layout to try.

    Raises:
        DataError: there is no such folder, it is laid out otherwise, or a layout returns something else.
        ConfigError: only one of the two folders is named, or a layout as well.
        UnknownNameError: no layout has this name.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected a folder with train/ and train_masks/ or images/ and masks/")
    if (images is None) != (masks is None):
        raise ConfigError("data.images and data.masks go together: name both folders, or neither")
    if images is not None and layout is not None:
        raise ConfigError(f"data.layout = {layout} and data.images = {images}: name a layout or the folders, not both")
    if images is not None and masks is not None:
        named = root / expanded(images), root / expanded(masks)
        if named[1].suffix.lower() == ".json" or _has_json_alone(named[1]):
            samples = resolve("carvana.data.annotations:named_annotations", "annotation files")(*named)
            if samples is not None:
                return "named annotations", samples
        return "named folders", Folders(*named)
    if layout is not None:
        found = layout_of(layout, root)
        if found is None:
            expected = registry.layouts.entry(layout).summary
            raise DataError(
                f"{root}: not laid out as data.layout = {layout} says{f': expected {expected}' if expected else ''}; "
                "name another layout, or none"
            )
        return layout, found
    layouts = registry.layouts.registered()
    for entry in reversed(layouts):
        found = layout_of(entry.name, root)
        if found is not None:
            return entry.name, found
    if rule.beside(itertools.islice(nested_names(root, MASK_SUFFIXES), _LOOKED_AT)):
        return "masks beside images", Folders(root, root)
    others = [entry.name for entry in layouts if entry.source != "carvana"]
    also = f", nor is it laid out as {' or '.join(others)} are" if others else ""
    raise DataError(
        f"{root}: holds neither train/ and train_masks/ nor images/ and masks/, nor parts (as train/ and trainannot/),"
        f" nor images with their masks beside them, nor annotations of COCO, labelme or YOLO{also}; "
        "name its folders: data.images and data.masks, which may be a COCO file (--set data.images=... of fit, "
        "--images of carvana data)"
    )


def layout_of(name: str, root: Path) -> Folders | list[Any] | None:
    """The result of one layout for a folder: its two folders, or its samples; None if it is another layout.

    Raises:
        DataError: the layout fails, or returns something else.
    """
    entry = registry.layouts.entry(name)
    layout = f"the layout '{name}' (from {entry.source})"
    try:
        found = entry.load()(root)
        if found is None or isinstance(found, Folders):
            return found
        if isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, str | os.PathLike) for part in found):
            return Folders(_below(root, Path(found[0])), _below(root, Path(found[1])))
        if isinstance(found, Iterable) and not isinstance(found, str | bytes | os.PathLike):
            return list(found)
    except DataError:
        raise
    except Exception as error:  # a registered function may raise anything on a folder that it does not know
        words = " ".join(str(error).split())
        raise DataError(
            f"{root}: {layout} fails on it: {type(error).__name__}: {words}; it should return None for folders that it"
            " does not read (CARVANA_PLUGINS leaves out the package that brings it)"
        ) from error
    raise DataError(
        f"{layout} returned {found!r}: expected None, (folder of images, folder of masks), or an iterable of"
        " carvana.Sample"
    )


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files of a folder (not of its sub-folders), sorted by name; a DataError if there is none."""
    return [Path(folder, name) for name in require_images(Path(folder), image_names(Path(folder), SUFFIXES))]


def require_images(folder: Path, names: Iterable[str]) -> list[str]:
    """The names of a folder's images, sorted; a DataError if there is none."""
    found = sorted(names)
    if not found:
        raise DataError(f"{folder}: no image in this folder; expected files that end in {', '.join(sorted(SUFFIXES))}")
    return found


def image_names(folder: Path, suffixes: Collection[str]) -> list[str]:
    """The names of all image files of a folder, in no order; those of its sub-folders do not count.

    Links count as their target, wherever that is; a link to nothing is listed, and an error when it is read.
    """
    _, names = next(_folders(folder, suffixes))
    return names


def nested_names(folder: Path, suffixes: Collection[str]) -> Iterator[str]:
    """As :func:`image_names`, of all folders below a folder that holds no image itself, each with ``/`` before it.

    Hidden folders are left out, and links to folders that are read anyway, or to those above.
    """
    for place, names in _folders(folder, suffixes):
        yield from (f"{place}/{name}" if place else name for name in names)
        if names and not place:
            return


def sub_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, links to folders included; hidden ones do not count."""
    return [name for name, is_folder in others(folder, ()).items() if is_folder]


def others(folder: Path, suffixes: Collection[str]) -> dict[str, bool]:
    """What is in a folder besides hidden files and files of these suffixes: sorted names, and which are folders."""
    with os.scandir(folder) as entries:
        found = {each.name: _is_folder(each) for each in entries if not each.name.startswith(".")}
    images = set(image_names(folder, suffixes)) if suffixes else set()
    return {name: found[name] for name in sorted(found) if found[name] or name not in images}


def warn_of_others(folder: Path, reporter: Reporter, suffixes: Collection[str] | None = None) -> None:
    """Warn of what is in a folder besides images (or files of these suffixes): ``2 HEIC images, 1 video, 1 folder``.

    Hidden files, and those that systems leave in folders, do not count.
    """
    left_out = {
        name: kind for name, kind in others(folder, suffixes or SUFFIXES).items() if name.lower() not in _OF_SYSTEMS
    }
    found = Counter("folder" if left_out[name] else _KINDS.get(suffix_of(name), "other file") for name in left_out)
    names = [f"{name}/" if left_out[name] else name for name in left_out]
    if found:
        counted = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        kinds = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counted)
        first = min(names) if len(names) == 1 else f"the first: {min(names)}"
        heif = "; pip install 'carvana[heic]' reads HEIC" if any("HEIC" in kind for kind in found) else ""
        reporter.warn(f"{folder}: not read: {kinds} ({first}){heif}")


_OF_SYSTEMS = {"thumbs.db", "desktop.ini"}
_KINDS = {
    **dict.fromkeys((".heic", ".heif"), "HEIC image"),
    **dict.fromkeys((".mov", ".mp4", ".avi", ".mkv", ".webm", ".m4v", ".3gp"), "video"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), "raw image"),
}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder, or a link to one; False for a link that leads back to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _leads_elsewhere(path: str, folder: str) -> bool:
    """Whether a path is a link, but none to ``folder`` or to a folder above it, which has masks below it, too."""
    return Path(path).is_symlink() and not Path(folder).is_relative_to(os.path.realpath(path))


def _folders(folder: Path, suffixes: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """The relative path of each folder, from ``folder`` itself ("") on, and the names of its image files."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}; expected a folder of images") from error

    top, seen, walks = os.path.realpath(folder), set[str](), [str(folder)]
    for start in walks:  # links after real folders, and only to what was not seen
        for place, below, names in os.walk(start, onerror=refuse):
            below[:] = sorted(name for name in below if not name.startswith("."))
            if (here := os.path.realpath(place)) in seen:
                below.clear()
                continue
            seen.add(here)
            walks += [path for name in below if _leads_elsewhere(path := f"{place}/{name}", top)]
            shown = [name for name in names if not name.startswith(".")]
            images = [name for name in shown if suffix_of(name) in suffixes]
            if not images and suffixes is SUFFIXES:
                images = [name for name in shown if suffix_of(name) in ARRAY_SUFFIXES]
            yield "" if place == str(folder) else Path(place).relative_to(folder).as_posix(), images


def _has_json_alone(folder: Path) -> bool:
    """Whether a folder has JSON files and no image at its top."""
    found = image_names(folder, MASK_SUFFIXES | {".json"}) if folder.is_dir() else []
    return bool(found) and all(suffix_of(name) == ".json" for name in found)


def _below(root: Path, part: Path) -> Path:
    """A folder that a layout returned: as ``root / "train"``, which may be relative itself, or as ``"train"``."""
    return part if part.is_relative_to(root) else root / part


def _pair(root: Path, images: str, masks: str) -> tuple[Path, Path] | None:
    pair = root / images, root / masks
    return pair if all(folder.is_dir() for folder in pair) else None


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
