"""Write demo cars into a folder laid out as the competition's: train/ID_VIEW.jpg and train_masks/ID_VIEW_mask.gif."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from carvana.data.demo.camera import FULL
from carvana.data.demo.photo import VIEWS, draw_photo
from carvana.data.demo.workers import run_chunks
from carvana.data.io.images import image_size, write_image
from carvana.data.io.masks import write_palette_mask
from carvana.errors import CarvanaError, DataError
from carvana.utils.devices import cpu_count
from carvana.utils.files import digest, read_json, write_json
from carvana.utils.progress import Reporter, default_reporter

VERSION = 1
"""Raised when equal parameters begin to give other pictures; part of the name of folders that keep a demo."""
_QUALITY = 90
_TASK = "drawing demo cars"
_CHUNK = 4  # views a process draws in one go: it builds their car once


@dataclass(frozen=True)
class _Photo:
    root: Path
    car: int
    view: int
    seed: int
    size: tuple[int, int]

    @property
    def stem(self) -> str:
        return f"{car_id(self.car, seed=self.seed)}_{self.view:02d}"

    @property
    def image(self) -> Path:
        return self.root / "train" / f"{self.stem}.jpg"

    @property
    def mask(self) -> Path:
        return self.root / "train_masks" / f"{self.stem}_mask.gif"


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
        reporter: who is told of the progress.

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
    reporter = reporter or default_reporter()
    root = Path(root)
    if cars < 1 or not 1 <= views <= VIEWS:
        raise DataError(f"{cars} cars with {views} views: a demo needs at least 1 car and 1 to {VIEWS} views of each")
    if workers is not None and workers < 1:
        raise DataError(f"workers {workers}: at least 1 process must draw")
    which = [1 + (VIEWS * k) // views for k in range(views)]
    photos = [_Photo(root, car, view, seed, size) for car in range(cars) for view in which]
    manifest = {"version": VERSION, "cars": cars, "views": views, "seed": seed, "size": list(size)}
    _refuse_strangers(root, photos, manifest)
    missing = [photo for photo in photos if not _is_whole(photo)]
    if missing:
        reporter.start(_TASK, len(photos))
        try:
            reporter.advance(_TASK, len(photos) - len(missing))
            with closing(run_chunks(_draw_one, _chunks(missing), workers=workers or cpu_count())) as drawn:
                for steps in drawn:
                    reporter.advance(_TASK, steps)
        finally:
            reporter.finish(_TASK)
    if missing or not (root / "demo.json").exists() or read_json(root / "demo.json") != manifest:
        write_json(root / "demo.json", manifest)
    return root


def _refuse_strangers(root: Path, photos: list[_Photo], manifest: dict[str, object]) -> None:
    path = root / "demo.json"
    if path.exists():
        try:
            found = read_json(path)
            other = [key for key in ("version", "seed", "size") if found.get(key) != manifest[key]]
        except (ValueError, AttributeError):
            raise DataError(f"{path} is not a demo's manifest: choose another folder") from None
        if other:
            told = ", ".join(f"{key} {found.get(key)} instead of {manifest[key]}" for key in other)
            raise DataError(f"{root} holds another demo ({told}): choose another folder")
    ours = {photo.image for photo in photos} | {photo.mask for photo in photos}
    for folder in ("train", "train_masks"):
        if (root / folder).is_dir():
            for entry in sorted((root / folder).iterdir()):
                if entry not in ours and not entry.name.startswith("."):
                    raise DataError(
                        f"{entry} is not part of the demo asked for: take an empty folder, or ask for all that is there"
                    )


def _is_whole(photo: _Photo) -> bool:
    """Whether both files are there; they are only ever renamed into place when complete."""
    there = [path for path in (photo.image, photo.mask) if path.exists()]
    for path in there:
        try:
            found = image_size(path)
        except CarvanaError:
            raise DataError(f"{path} cannot be read as a demo picture: remove it or choose another folder") from None
        if found != photo.size:
            raise DataError(f"{path} is of another demo ({_by(found)}, not {_by(photo.size)}): choose another folder")
    return len(there) == 2


def _chunks(photos: list[_Photo]) -> list[list[_Photo]]:
    by_car: dict[int, list[_Photo]] = {}
    for photo in photos:
        by_car.setdefault(photo.car, []).append(photo)
    return [group[k : k + _CHUNK] for group in by_car.values() for k in range(0, len(group), _CHUNK)]


def _draw_one(photo: _Photo) -> None:
    image, mask = draw_photo(photo.car, photo.view, seed=photo.seed, size=photo.size)
    if not photo.mask.exists():
        write_palette_mask(photo.mask, mask)
    if not photo.image.exists():
        write_image(photo.image, image, quality=_QUALITY)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
