"""Collects images from files and folders, each once, and refuses those whose outputs would collide."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from carvana.data.layouts import find_images, warn_of_others
from carvana.errors import DataError
from carvana.utils.deprecated import renamed
from carvana.utils.progress import Reporter


def collect_images(
    sources: Iterable[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
) -> list[Path]:
    """The images that files and folders stand for, each once: files as given, a folder's images sorted by name.

    Args:
        sources: files and folders. A file that does not exist is kept if others do: predicting reports it.
        out: where outputs will go. It may not be one of the folders, or the next call would take masks for images.
        reporter: warns of other files in the folders.

    Raises:
        DataError: no source is given, none exists, or a folder holds no image or is ``out`` itself.
    """
    images: list[Path] = []
    for source in map(Path, sources):
        if not source.is_dir():
            images.append(source)
        elif out is not None and source.resolve() == Path(out).resolve():
            raise DataError(f"{source}: images and outputs would share this folder; name another one with --out")
        else:
            images.extend(find_images(source))
            if reporter is not None:
                warn_of_others(source, reporter)
    if not images:
        raise DataError("no images; name image files or folders of them")
    if all(map(_is_missing, images)):
        raise DataError(f"{images[0]}: no such file or folder")
    return distinct(images)


def distinct(images: Sequence[Path]) -> list[Path]:
    """Each image once, by its first path: ``a/../x.jpg`` is ``x.jpg``."""
    found: dict[Path, Path] = {}
    for image, place in zip(images, absolute_paths(images), strict=True):
        found.setdefault(place, image)
    return list(found.values())


def absolute_paths(images: Sequence[Path]) -> list[Path]:
    """Absolute paths, to compare images by. A link keeps its own name, since outputs are named by it."""
    folders = {folder: folder.resolve() for folder in {image.parent for image in images}}
    return [folders[image.parent] / image.name for image in images]


def refuse_equal_stems(images: Sequence[Path], stems: Iterable[str] | None = None) -> None:
    """Outputs are named by the image's stem, and none may overwrite another's.

    Args:
        images: The images.
        stems: The names of their outputs, if these are not the stems of the files.

    Raises:
        DataError: two images share a stem.
    """
    seen: dict[str, Path] = {}
    for image, place, stem in zip(
        images, absolute_paths(images), stems or (image.stem for image in images), strict=True
    ):
        if seen.setdefault(stem, place) != place:
            raise DataError(
                f"{image} and {seen[stem]} would both write {stem}_mask.png, or its like; rename one of them, "
                "or let them write into two folders"
            )


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # such as a folder that may not be read, which is reported when the image is
        return False
    return False


def unreadable(image: Path, error: OSError | DataError) -> str:
    """The line that says why an image cannot be read."""
    return str(error if isinstance(error, DataError) else DataError(f"{image}: {error.strerror or error}"))


def unwritable(image: Path, error: OSError | DataError) -> str:
    """The line that says why an image's outputs cannot be written, if the reason is the image.

    Raises:
        OSError: the reason is the folder.
    """
    if isinstance(error, DataError):
        return str(error)
    if error.errno != errno.ENAMETOOLONG:
        raise error
    return f"{image}: no file can have a name as long as those of its outputs would be; rename the image"


__getattr__ = renamed(__name__, collect_photos="collect_images")
