"""Small data sets of images that are not RGB of 8 bits: many bands, 12 and 16 bits, signed, floats, without data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from carvana.data.io.masks import write_mask


def draw(seed: int, bands: int, dtype: str, size: tuple[int, int] = (48, 64)) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Values (H, W, bands) from some hundreds up, and the mask of what is darker in even bands, brighter in others."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    top, left = rng.integers(4, 16), rng.integers(4, 24)
    mask[top : top + 24, left : left + 30] = 1
    levels = 900 + 100 * np.arange(bands)
    change = np.where(np.arange(bands) % 2, 400, -400)
    values = levels + mask[..., None] * change + rng.normal(0, 40, (*size, bands))
    if dtype == "float32":
        return (values / 4096).astype(np.float32), mask
    return values.astype(dtype), mask


def write_bands(
    folder: Path, count: int = 6, *, bands: int = 5, dtype: str = "int16", nodata: float | None = None, **options: Any
) -> Path:
    """``images/`` and ``masks/``: TIFFs of so many bands; with a value for no data, it stands in a corner of each."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        values, mask = draw(number, bands, dtype)
        if nodata is not None:
            values[:20, :16] = nodata
        write_tiff(folder / "images" / f"t{number}.tif", values, **options)
        write_mask(folder / "masks" / f"t{number}.png", mask)
    return folder


def write_tiff(
    path: Path, values: NDArray[Any], *, tag: str | None = None, place: bool = False, **options: Any
) -> Path:
    """A TIFF of bands, with GDAL's tag of no data and a place on the map where these are wanted."""
    tags: list[tuple[int, Any, int, Any, bool]] = [] if tag is None else [(42113, "s", 0, tag, True)]
    if place:
        tags += [(33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0, 0, 0, 500_000.0, 4_600_000.0, 0), True)]
        tags += [(34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), True)]
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    form = {} if values.ndim == 2 else {"planarconfig": "contig"}
    options = {"photometric": "minisblack", "extratags": tags, "metadata": None, **form, **options}
    tifffile.imwrite(path, values, **options)
    return path
