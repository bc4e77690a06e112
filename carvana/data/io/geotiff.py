"""Label maps as TIFFs that lie where their image lies on the map, written whole or row by row.

The tags that say where are those of GeoTIFF (OGC 19-008r4); the value of pixels without data is in GDAL's own tag.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.labels import Labels
from carvana.data.io.tiff import NODATA_TAG, open_tiff
from carvana.errors import DataError

_PLACE = 33550, 33922, 34264  # the scale of a pixel, its tie points, its transformation
_REFERENCE = 34735, 34736, 34737, 50844  # what their numbers are, and the coefficients of satellites
TILE = 512
"""The side of the tiles that are written."""

_CLASSIC = 2**32 - 2**25  # bytes of a file whose places have 32 bits


@dataclass(frozen=True)
class MapPlace:
    """Where an image lies on the map.

    Attributes:
        tags: of a TIFF: number, type, count, value, and true, as tifffile takes them.
    """

    tags: tuple[tuple[int, int, int, Any, bool], ...] = ()


def map_place(path: Path) -> MapPlace | None:
    """Where an image lies on the map; None if its file does not say it, or cannot be read."""
    try:
        with open(path, "rb") as file, open_tiff(file, path) as pages:
            tags = {tag.code: tag for tag in pages[0].tags}
            found = tuple(
                (code, int(tags[code].dtype), tags[code].count, tags[code].value, True)
                for code in (*_PLACE, *_REFERENCE)
                if code in tags
            )
    except (OSError, DataError):
        return None
    return MapPlace(found) if any(code in _PLACE for code, *_ in found) else None


def void_value(dtype: str) -> int:
    """What pixels without data have in maps of a type: its highest value."""
    return int(np.iinfo(dtype).max)


def write_map(
    file: Path | BinaryIO,
    rows: Iterable[Labels],
    size: tuple[int, int],
    *,
    dtype: str,
    place: MapPlace,
    nodata: int | None = None,
    palette: NDArray[np.uint8] | None = None,
) -> None:
    """Write a label map as a tiled, compressed TIFF; memory holds a row of tiles.

    Args:
        file: where to.
        rows: parts of it (h, W), from top to bottom.
        size: (height, width) of all.
        dtype: uint8 or uint16.
        place: where it lies.
        nodata: the value of pixels that count for nothing, for GDAL's tag; None if there are none.
        palette: the colour of each value, uint8 (256, 3), for uint8.
    """
    tifffile = importlib.import_module("tifffile")
    height, width = size
    tags = list(place.tags)
    if nodata is not None:
        tags.append((NODATA_TAG, 2, len(str(nodata)) + 1, str(nodata), True))
    colours: dict[str, Any] = {"photometric": "minisblack"}
    if palette is not None and dtype == "uint8":
        colours = {"photometric": "palette", "colormap": palette.T.astype(np.uint16) * 257}
    large = height * width * np.dtype(dtype).itemsize > _CLASSIC
    with tifffile.TiffWriter(file, bigtiff=large) as writer:
        writer.write(
            _tiles(rows, size, dtype), shape=size, dtype=dtype, tile=(TILE, TILE), compression="deflate",
            metadata=None, extratags=tags, software="carvana", **colours,
        )  # fmt: skip


def _tiles(rows: Iterable[Labels], size: tuple[int, int], dtype: str) -> Iterator[NDArray[Any]]:
    """The tiles of a map, from the upper left to the lower right one, those at its end filled with zeros."""
    height, width = size
    across = -(-width // TILE)
    band = np.zeros((TILE, across * TILE), dtype)
    filled = done = 0
    for part in rows:
        taken = 0
        while taken < len(part):
            some = part[taken : taken + TILE - filled]
            band[filled : filled + len(some), :width] = some
            taken, filled, done = taken + len(some), filled + len(some), done + len(some)
            if filled == TILE or done == height:
                band[filled:] = 0
                for left in range(0, across * TILE, TILE):
                    yield band[:, left : left + TILE].copy()
                filled = 0
