"""The images of a command: collected from files and folders, each once, and divided among processes.

The share of a process follows from its rank alone, so processes need not communicate: they may run on several machines,
at different times, started by torchrun or by hand with RANK and WORLD_SIZE in their environment.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from carvana.data.io.arrays import array_info
from carvana.data.io.decode import check_regular
from carvana.data.io.geotiff import MapPlace, map_place
from carvana.data.io.tiff import has_tifffile
from carvana.data.layouts import find_images, warn_of_others
from carvana.errors import DataError
from carvana.image_spec import ImageSpec
from carvana.utils.deprecated import renamed
from carvana.utils.devices import process_count, process_number
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter

if TYPE_CHECKING:
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

T = TypeVar("T")

_POLL_SECONDS = 0.2
_TIMEOUT = timedelta(seconds=60)

_calls = itertools.count()


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


STREAMED = 2**27
"""A TIFF of more pixels is not read as a whole: its tiles are, as the network comes to them."""


@dataclass(frozen=True)
class Input:
    """An image to predict: a file, or a page of one.

    Attributes:
        path: the file.
        page: its page, if each is an image.
        place: where it lies on the map; None for other images.
        is_large: it is read and predicted by parts.
    """

    path: Path
    page: int | None = None
    place: MapPlace | None = None
    is_large: bool = False

    @property
    def stem(self) -> str:
        """What the names of its outputs begin with."""
        return self.path.stem if self.page is None else f"{self.path.stem}-{self.page:03}"

    @property
    def is_map(self) -> bool:
        """Whether its labels are written as a TIFF, and not as a PNG."""
        return self.place is not None or self.is_large


def inspected(images: Sequence[Path], spec: ImageSpec) -> list[Input]:
    """The images that files hold: each page of a TIFF is one, unless pages are channels.

    A file that cannot be read is kept: predicting reports it.
    """
    return [each for several in threaded(lambda path: _inspected(path, spec), images) for each in several]


def _inspected(path: Path, spec: ImageSpec) -> list[Input]:
    if path.suffix.lower() not in (".tif", ".tiff") or not has_tifffile():
        return [Input(path)]
    try:
        check_regular(path)
        info = array_info(path)
    except (DataError, OSError):
        return [Input(path)]
    place, is_large = map_place(path), math.prod(info.size) > STREAMED
    if info.pages == 1 or spec.page == "channels":
        return [Input(path, None, place, is_large)]
    return [Input(path, page, place, is_large) for page in range(info.pages)]


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
        key = stem if sys.platform == "linux" else stem.casefold()  # elsewhere a.png and A.png are one file
        if seen.setdefault(key, place) != place:
            raise DataError(
                f"{image} and {seen[key]} would both write {stem}_mask.png, or its like; rename one of them, "
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


def rank_slice(items: Sequence[T]) -> Sequence[T]:
    """The items of this process: every n-th from its rank on, or all of them where there is one process.

    >>> rank_slice("abc")
    'abc'
    """
    return items[process_number() :: process_count()]


def announce(flag: str) -> None:
    """Set a flag that the other processes of torchrun see; does nothing without torchrun."""
    with _store() as store:
        if store is not None:
            store.set(flag, "")


def was_announced(flag: str) -> bool:
    """Whether a process of torchrun has set a flag."""
    with _store() as store:
        return store is not None and store.check([flag])
    return False


def wait_for_all_ranks(*, failed: bool) -> None:
    """Announce that this process has done its share; if it will fail, wait until all others have done theirs.

    torchrun ends all processes as soon as one fails, so an image that cannot be read would keep the others from
    finishing their shares. Every process calls this once its share is done. Without torchrun it returns at once.
    """
    turn = next(_calls)  # a script may divide several folders, one after the other
    all_ranks = [f"left-{turn}-{number}" for number in range(process_count())]
    with _store() as store:
        if store is not None:
            store.set(all_ranks[process_number()], "")
            # In small steps, since Python handles no signal while torch waits.
            while failed and not store.check(all_ranks):
                time.sleep(_POLL_SECONDS)


@contextmanager
def _store() -> Iterator[PrefixStore | None]:
    """The key-value store of torchrun; None without torchrun. The block ends early if torchrun does."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or process_count() == 1:
        yield None
        return
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(host, port, is_master=False, timeout=_TIMEOUT, wait_for_workers=False)
    except RuntimeError:  # torchrun is gone, and with it those that it started
        yield None
        return
    with suppress(RuntimeError):  # the same, meanwhile
        yield PrefixStore("carvana", store)


__getattr__ = renamed(__name__, collect_photos="collect_images")
