"""The pages of TIFFs of any bands and depth, whole or by window, by tifffile where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.decode import Source, name_of
from carvana.errors import DataError

Window = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""

OWN_COLOURS = "PALETTE", "CIELAB", "ICCLAB", "ITULAB"
"""Colours whose values are no brightness: Pillow makes RGB of them."""
_ORIENTATION = 274
NODATA_TAG = 42113
"""GDAL's tag of the value that stands for none."""


def has_tifffile() -> bool:
    """Whether the packages of the extra tiff are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("tifffile", "imagecodecs"))


@contextmanager
def open_tiff(file: Any, source: Source) -> Iterator[list[Any]]:
    """The images of a TIFF, without masks and smaller copies."""
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what matters of it comes as an error
    tifffile = importlib.import_module("tifffile")
    try:
        with tifffile.TiffFile(file) as tiff:
            pages = [each.aspage() for each in tiff.pages]
            images = [each for each in pages if not each.is_reduced and not each.is_mask] or pages[:1]
            kind = str(images[0].dtype)
            if images[0].dtype is None or images[0].dtype.kind not in "buif":
                raise DataError(f"{name_of(source)}: values of {kind}; expected whole or floating numbers")
            stated = (tiff.imagej_metadata or {}).get("images", 1) if tiff.is_imagej else 1
            if stated > len(pages):
                raise DataError(
                    f"{name_of(source)}: an ImageJ stack of {stated:,} images behind one header; save it as a TIFF "
                    "whose pages have a header each"
                )
            if images[0].imagedepth != 1:
                raise DataError(f"{name_of(source)}: an image of {images[0].imagedepth} layers; expected flat ones")
            pixels = math.prod(sides(images[0]))  # what is smaller is a thumbnail
            yield [each for each in images if math.prod(sides(each)) >= pixels]
    except (DataError, MemoryError):
        raise
    except Exception as error:  # it raises nearly anything on damaged bytes
        why = " ".join(str(error).split())
        raise DataError(
            f"{name_of(source)}: a TIFF that is damaged or cut ({why}); replace the file or leave it out"
        ) from error


def sides(page: Any) -> tuple[int, int]:
    """(height, width) of a page as it is stored."""
    return page.imagelength, page.imagewidth


def _apart(page: Any) -> bool:
    return bool(page.samplesperpixel > 1 and page.planarconfig.name == "SEPARATE")


def orientation_of_page(page: Any) -> int:
    """The number by which EXIF says how a page is turned; 1 is upright."""
    tag = page.tags.get(_ORIENTATION)
    return int(tag.value) if tag is not None and 1 <= int(tag.value) <= 8 else 1


def nodata_of(page: Any) -> float | None:
    """The value that stands for none, by GDAL's tag."""
    tag = page.tags.get(NODATA_TAG)
    if tag is None or page.photometric.name in OWN_COLOURS:  # of a palette it is a place in the table
        return None
    try:
        return float(str(tag.value).strip().strip("\0"))
    except ValueError:
        return None


def as_shown(page: Any, values: NDArray[Any]) -> NDArray[Any]:
    """The values of a page as 8 bits of grey or colours, where a palette, or fewer bits, store others."""
    if page.photometric.name == "PALETTE" and page.colormap is not None:
        return np.asarray((page.colormap.T >> 8).astype(np.uint8)[values[..., 0]])
    return values * np.uint8(255 // (2**page.bitspersample - 1)) if page.bitspersample < 8 else values


def read_window(page: Any, window: Window) -> NDArray[Any]:
    """The pixels (rows, columns, samples) of a window of a page; decodes the segments that lie in it alone."""
    top, left, rows, columns = window
    samples = page.samplesperpixel
    if (rows, columns) == sides(page):
        whole = page.asarray()
        return np.moveaxis(whole.reshape(samples, rows, columns), 0, 2) if _apart(page) else whole.reshape(
            rows, columns, samples
        )  # fmt: skip
    high, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    across, down = math.ceil(page.imagewidth / wide), math.ceil(page.imagelength / high)
    planes = samples if _apart(page) else 1
    wanted = [
        (plane * down + row) * across + column
        for plane in range(planes)
        for row in range(top // high, (top + rows - 1) // high + 1)
        for column in range(left // wide, (left + columns - 1) // wide + 1)
    ]
    found = np.zeros((rows, columns, samples), page.dtype)
    segments = page.parent.filehandle.read_segments(
        [page.dataoffsets[index] for index in wanted], [page.databytecounts[index] for index in wanted], wanted,
        buffersize=2**26,
    )  # fmt: skip
    for data, index in segments:
        segment, (plane, _, y, x, _), shape = page.decode(data, index, jpegtables=page.jpegtables)
        if segment is None:  # of a sparse file
            if page.nodata:
                segment = np.full((1, *shape[1:]), page.nodata, page.dtype)
            else:
                continue
        y0, x0 = max(y, top), max(x, left)
        y1, x1 = min(y + shape[1], top + rows), min(x + shape[2], left + columns)
        cut = segment[0, y0 - y : y1 - y, x0 - x : x1 - x]
        place = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        found[(*place, slice(plane, plane + 1) if planes > 1 else slice(None))] = cut
    return found
