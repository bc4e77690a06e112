"""Write demo cars into a folder laid out as the competition's: train/ID_VIEW.jpg and train_masks/ID_VIEW_mask.gif."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np

from carvana.data.demo.photo import VIEWS, draw_photo
from carvana.data.demo.scene import FULL
from carvana.data.io.images import image_size, write_image
from carvana.data.io.masks import write_palette_mask
from carvana.errors import CarvanaError, DataError
from carvana.utils.devices import cpu_count
from carvana.utils.files import digest, read_json, write_json
from carvana.utils.parallel import end_with_parent
from carvana.utils.progress import Reporter, default_reporter, track

VERSION = 2
"""Raised when equal parameters begin to give other pictures; part of the name of folders that keep a demo."""

T = TypeVar("T")


class Drawing(Protocol):
    """An image and its mask that are to be drawn."""

    @property
    def image(self) -> Path:
        """The file of the image."""

    @property
    def mask(self) -> Path:
        """The file of the mask."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""

    def draw(self) -> None:
        """Write what is missing of the two files."""


class _Photo(NamedTuple):
    root: Path
    car: int
    view: int
    seed: int
    size: tuple[int, int]

    @property
    def image(self) -> Path:
        return self.root / "train" / f"{car_id(self.car, seed=self.seed)}_{self.view:02d}.jpg"

    @property
    def mask(self) -> Path:
        return self.root / "train_masks" / f"{self.image.stem}_mask.gif"

    def draw(self) -> None:
        image, mask = draw_photo(self.car, self.view, seed=self.seed, size=self.size)
        if not self.mask.exists():
            write_palette_mask(self.mask, mask)
        if not self.image.exists():
            write_image(self.image, image, quality=90)


def car_id(car: int, *, seed: int = 0) -> str:
    """The name that a demo car goes by: 12 hexadecimal digits.

    >>> len(car_id(0)), car_id(0) == car_id(0), car_id(0) == car_id(1)
    (12, True, False)
    """
    return digest("demo car", seed, car)[:12]


def write_demo(
    root: str | os.PathLike[str],
    *,
    cars: int = 12,
    views: int = VIEWS,
    seed: int = 0,
    size: tuple[int, int] = FULL,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Draw ``cars`` cars in ``views`` views each and write photos, masks and, last, the manifest demo.json.

    Photos that are there already are kept: a second call is quick, an interrupted one continues, and asking for more
    cars extends the folder.

    Args:
        root: the folder, made if missing.
        cars: how many cars, 1 or more.
        views: how many views of each, 1 to 16, evenly spread round the car.
        seed: another seed gives other cars.
        size: (height, width) of the photos in pixels.
        workers: processes to draw with; None takes as many as there are cores to run on.
        reporter: shows the progress.

    Returns:
        The folder, ready to train on.

    Raises:
        DataError: the folder holds other photos or another demo, or a number is out of range. Nothing is overwritten.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_demo(folder, cars=1, views=1, size=(40, 60), workers=1)
        ...     sorted(path.name for path in root.iterdir())
        ['demo.json', 'train', 'train_masks']
    """
    root = Path(root)
    if cars < 1 or not 1 <= views <= VIEWS:
        raise DataError(f"{cars} cars with {views} views: a demo needs at least 1 car and 1 to {VIEWS} views of each")
    which = [1 + (VIEWS * k) // views for k in range(views)]
    photos = [_Photo(root, car, view, seed, size) for car in range(cars) for view in which]
    manifest = {"version": VERSION, "cars": cars, "views": views, "seed": seed, "size": list(size)}
    return write_drawings(root, photos, manifest, "drawing demo cars", workers=workers, reporter=reporter)


def write_drawings(
    root: Path,
    drawings: Sequence[Drawing],
    manifest: dict[str, Any],
    task: str,
    *,
    workers: int | None,
    reporter: Reporter | None,
) -> Path:
    """Draw what is missing of a demo and write, last, its manifest demo.json; returns the folder.

    Args:
        root: The folder, made if missing.
        drawings: All that it is to hold.
        manifest: What decides the drawings.
        task: The name of the work, for the progress.
        workers: Processes to draw with; None takes as many as there are cores to run on.
        reporter: Shows the progress.

    Raises:
        DataError: The folder holds other images or another demo, or there is no process. Nothing is overwritten.
    """
    if workers is not None and workers < 1:
        raise DataError(f"workers {workers}: at least 1 process must draw")
    _refuse_other_files(root, drawings, manifest)
    missing = [drawing for drawing in drawings if not _is_whole(drawing)]
    if missing:
        with closing(in_processes(_draw_one, missing, workers=workers or cpu_count())) as drawn:
            for _ in track(drawn, reporter or default_reporter(), task, total=len(missing)):
                pass
    if missing or not (root / "demo.json").exists() or read_json(root / "demo.json") != manifest:
        write_json(root / "demo.json", manifest)
    return root


def _refuse_other_files(root: Path, drawings: Sequence[Drawing], manifest: dict[str, Any]) -> None:
    path = root / "demo.json"
    if path.exists():
        try:
            found = read_json(path)
            same = ("version", "seed", "size", "classes", "channels")
            other = [key for key in same if key in manifest and found.get(key) != manifest[key]]
            cars, asked = "cars" in found, "cars" in manifest
        except (ValueError, AttributeError):
            raise DataError(f"{path} is not a demo's manifest: choose another folder") from None
        if cars != asked:
            kinds = "of cars, not of streets" if cars else "of streets, not of cars"
            raise DataError(f"{root} holds another demo: {kinds}; choose another folder")
        if other:
            differences = ", ".join(f"{key} {found.get(key)} instead of {manifest[key]}" for key in other)
            raise DataError(f"{root} holds another demo ({differences}): choose another folder")
    ours = {path for drawing in drawings for path in (drawing.image, drawing.mask)}
    for folder in sorted({path.parent for path in ours}):
        for path in sorted(folder.glob("*")):
            if path not in ours and not path.name.startswith("."):
                raise DataError(
                    f"{path} is not part of the demo asked for: take an empty folder, or ask for all that is there"
                )


def _is_whole(drawing: Drawing) -> bool:
    """Whether both files are there; they are only ever renamed into place when complete."""
    there = [path for path in (drawing.image, drawing.mask) if path.exists()]
    for path in there:
        try:
            found = np.load(path, mmap_mode="r").shape[:2] if path.suffix == ".npy" else image_size(path)
        except (CarvanaError, ValueError, EOFError, AttributeError):  # the last two of an empty file and of .npz
            raise DataError(f"{path} cannot be read as a demo picture: remove it or choose another folder") from None
        if found != drawing.size:
            sizes = "{}x{}, not {}x{}".format(*found, *drawing.size)
            raise DataError(f"{path} is of another demo ({sizes}): choose another folder")
    return len(there) == 2


def _draw_one(drawing: Drawing) -> None:
    drawing.draw()


def in_processes(function: Callable[[T], object], items: Sequence[T], *, workers: int) -> Generator[None, None, None]:
    """Call ``function``, one of a module, on every item, and yield after each one.

    One worker is this process itself. Processes end with the one that started them: by Ctrl-C, by an error, or when it
    is killed; each with the item that it is at, where it can.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        for item in items:
            function(item)
            yield
        return
    # A process forked from one that has run torch or OpenCV threads may hang: start afresh.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        with _without_ctrl_c(), _without_main():
            jobs = [pool.submit(function, item) for item in items]
        for job in as_completed(jobs):
            job.result()
            yield
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Hold Ctrl-C back from this thread, and from the processes that it starts meanwhile for as long as they live.

    The terminal sends it to them as well, and they would die of it with a traceback each, also while they start.
    """
    if sys.platform == "win32":  # no signal masks there: Ctrl-C while processes start prints their tracebacks
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep processes that are started meanwhile from running the caller's script again, as multiprocessing has them do.

    They need nothing of it; a script without ``if __name__ == "__main__"`` would start its work anew in each of them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()
