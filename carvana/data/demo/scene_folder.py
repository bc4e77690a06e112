"""Write demo scenes into a folder: images/ID_VIEW.jpg, masks/ID_VIEW.png, and the names of the classes in codes.txt."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carvana.data.demo.scenes import MOST_CHANNELS, SIZE, VERSION, class_names, draw_scene
from carvana.data.demo.write import write_drawings
from carvana.data.digest import cache_home
from carvana.data.io.images import write_image
from carvana.data.io.labels import write_labels
from carvana.errors import DataError
from carvana.task import Task
from carvana.utils.files import digest, lock, write_bytes, write_text
from carvana.utils.progress import Reporter

CODES = "codes.txt"
"""The file that lists the classes, as a value of ``task.classes``."""


def write_scenes(
    root: str | os.PathLike[str],
    *,
    classes: int,
    channels: int = 3,
    scenes: int = 12,
    views: int = 4,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    workers: int | None = 1,
    reporter: Reporter | None = None,
) -> Path:
    """Draw scenes of several classes and write images, label maps, demo.json and the names of the classes.

    Files that are there already are kept, as :func:`write_demo` keeps them. ``carvana fit`` reads the folder with
    ``task.classes=codes.txt``.

    Args:
        root: The folder, made if missing.
        classes: 2 to 150, as :func:`carvana.data.demo.draw_scene` draws them.
        channels: 1 (grey, PNG), 3 (RGB, JPEG), or up to 64 (``.npy``, uint8 (H, W, C)).
        scenes: How many scenes, 1 or more: the groups.
        views: How many views of each, 1 to 99.
        seed: Another seed gives other scenes.
        size: (height, width) of the images in pixels.
        workers: Processes to draw with; None takes as many as there are cores to run on.
        reporter: Shows the progress.

    Returns:
        The folder.

    Raises:
        DataError: The folder holds other images or another demo, or a number is out of range. Nothing is overwritten.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_scenes(folder, classes=3, scenes=1, views=1, size=(32, 48))
        ...     sorted(path.name for path in root.iterdir()), (root / "codes.txt").read_text().split()
        (['codes.txt', 'demo.json', 'images', 'masks'], ['background', 'road', 'pole'])
    """
    root, names = Path(root), class_names(classes)
    if scenes < 1 or not 1 <= views <= 99 or not 1 <= channels <= MOST_CHANNELS or min(size) < 32 or seed < 0:
        raise DataError(
            f"{scenes} scenes, {views} views, {channels} channels, seed {seed}, size {size[0]}x{size[1]}: expected 1 "
            f"scene or more, 1 to 99 views, 1 to {MOST_CHANNELS} channels, seed 0 or more, sides of at least 32 pixels"
        )
    drawings = [
        _View(root, scene, view, seed, size, classes, channels)
        for scene in range(scenes)
        for view in range(1, views + 1)
    ]
    manifest = {
        "version": VERSION, "classes": classes, "channels": channels, "scenes": scenes, "views": views,
        "seed": seed, "size": list(size),
    }  # fmt: skip
    codes, text = root / CODES, "".join(f"{name}\n" for name in names)
    if codes.exists() and codes.read_text(encoding="utf-8", errors="replace") != text:
        raise DataError(f"{codes} lists other classes than the demo asked for: choose another folder")
    write_drawings(root, drawings, manifest, "drawing demo scenes", workers=workers, reporter=reporter)
    if not codes.exists():
        write_text(codes, text)
    return root


def kept_scenes(classes: int, *, reporter: Reporter) -> Path:
    """The folder of scenes of so many classes in the user's cache folder, drawn if it is not there yet."""
    root = cache_home() / f"demo-scenes-v{VERSION}-{classes}-classes"
    reporter.info(f"no --data given: demo scenes of {classes} classes in {root}")
    with lock(root.with_suffix(".lock")):  # of several processes, one draws
        return write_scenes(root, classes=classes, reporter=reporter)


class _View(NamedTuple):
    root: Path
    scene: int
    view: int
    seed: int
    size: tuple[int, int]
    classes: int
    channels: int

    @property
    def _name(self) -> str:
        # Of another demo all names differ, so that one which was interrupted is not continued as this one.
        group = digest("demo scene", VERSION, self.seed, self.scene, self.classes, self.channels)[:12]
        return f"{group}_{self.view:02d}"

    @property
    def image(self) -> Path:
        return self.root / "images" / (self._name + {1: ".png", 3: ".jpg"}.get(self.channels, ".npy"))

    @property
    def mask(self) -> Path:
        return self.root / "masks" / f"{self._name}.png"

    def draw(self) -> None:
        image, labels = draw_scene(
            self.scene, self.view, classes=self.classes, channels=self.channels, seed=self.seed, size=self.size
        )
        if not self.mask.exists():
            write_labels(self.mask, labels, Task(classes=class_names(self.classes)))
        if not self.image.exists():
            write_array = _write_npy if self.image.suffix == ".npy" else write_image
            write_array(self.image, image)


def _write_npy(path: Path, image: NDArray[np.uint8]) -> None:
    file = io.BytesIO()
    np.save(file, image)
    write_bytes(path, file.getvalue())
