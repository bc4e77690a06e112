"""Which photos are meant by files and folders, each once, and none that would write over another's outputs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from carvana.data.layouts import find_photos, warn_of_others
from carvana.errors import DataError
from carvana.utils.progress import Reporter


def collect_photos(
    sources: Iterable[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
) -> list[Path]:
    """The photos that files and folders stand for, each once: files as given, a folder's images sorted by name.

    Args:
        sources: files and folders. A file that is not there is kept: predicting tells that it cannot be read.
        out: where outputs will go, which may be none of the folders, or the next run would take masks for photos.
        reporter: warned of what folders hold besides images.

    Raises:
        DataError: nothing is given, a folder holds no image, or is ``out`` itself.
    """
    photos: list[Path] = []
    for source in map(Path, sources):
        if not source.is_dir():
            photos.append(source)
        elif out is not None and source.resolve() == Path(out).resolve():
            raise DataError(f"{source}: photos and outputs would share this folder; name another one with --out")
        else:
            photos.extend(find_photos(source))
            if reporter is not None:
                warn_of_others(source, reporter)
    if not photos:
        raise DataError("no photos; name image files or folders of them")
    return distinct(photos)


def distinct(photos: Sequence[Path]) -> list[Path]:
    """Each photo once, as it is spelt first: ``a/../x.jpg`` is ``x.jpg``."""
    found: dict[Path, Path] = {}
    for photo, place in zip(photos, places(photos), strict=True):
        found.setdefault(place, photo)
    return list(found.values())


def places(photos: Sequence[Path]) -> list[Path]:
    """The absolute paths by which photos are the same or not. A link keeps its own name: outputs are named by it."""
    folders = {folder: folder.resolve() for folder in {photo.parent for photo in photos}}
    return [folders[photo.parent] / photo.name for photo in photos]


def refuse_equal_stems(photos: Sequence[Path], stems: Iterable[str] | None = None) -> None:
    """Outputs are named by the photo's stem, and none may overwrite another's.

    Args:
        photos: The photos.
        stems: What their outputs are named by, if it is not the stem of the file alone.

    Raises:
        DataError: two photos share a stem.
    """
    seen: dict[str, Path] = {}
    for photo, place, stem in zip(photos, places(photos), stems or (photo.stem for photo in photos), strict=True):
        if seen.setdefault(stem, place) != place:
            raise DataError(
                f"{photo} and {seen[stem]} would both write {stem}_mask.png, or its like; rename one of them, "
                "or let them write into two folders"
            )


def unreadable(photo: Path, error: OSError | DataError) -> str:
    """The line that says why a photo cannot be read."""
    return str(error if isinstance(error, DataError) else DataError(f"{photo}: {error.strerror or error}"))


def unwritable(photo: Path, error: OSError | DataError) -> str:
    """The line that says why a photo's outputs cannot be written, where it is the photo that is to blame for it.

    Raises:
        OSError: the photo is not: the folder takes no files.
    """
    if isinstance(error, DataError):
        return str(error)
    if error.errno != errno.ENAMETOOLONG:
        raise error
    return f"{photo}: no file can have a name as long as those of its outputs would be; rename the photo"
