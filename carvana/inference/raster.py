"""A raster that does not fit the memory: tiles are read from its file as the network comes to them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana.data.io.arrays import ANY_SIZE, array_info
from carvana.data.io.images import read_pixels, read_void
from carvana.data.io.labels import Labels
from carvana.data.io.tiff import open_tiff
from carvana.image_spec import ImageSpec, Page
from carvana.inference.tiling.grid import TileSpan
from carvana.inference.tiling.tiled import WindowedImage
from carvana.models.segmenter import reflection
from carvana.task import Task


class Raster(WindowedImage):
    """An image of any size whose windows are read from its file, as tensors (C, h, w).

    Args:
        path: a TIFF.
        spec: what the network takes its pixels for.
        device: of the windows.
        page: of a file of several.
        is_turned: left and right are exchanged.

    Attributes:
        path: of the file.
        size: (height, width).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: ImageSpec,
        device: torch.device,
        *,
        page: Page = None,
        is_turned: bool = False,
    ) -> None:
        self.path = Path(path)
        self.size = _size(self.path, page)
        self.device = device
        self.shape = torch.Size((len(spec.channels), *self.size))
        self._spec = spec if page is None else spec.of_page(page)
        self._page = page
        self._is_turned = is_turned

    def taken_for(self, spec: ImageSpec, device: torch.device, *, is_turned: bool = False) -> Raster:
        """The same file for another network."""
        return Raster(self.path, spec, device, page=self._page, is_turned=is_turned)

    def crop(self, rows: TileSpan, columns: TileSpan) -> Tensor:
        """A tile, (C, h, w), reflected where the image ends."""
        height, width = self.size
        (top, down), (left, across) = _part(rows, height), _part(columns, width)
        first = width - left - across if self._is_turned else left
        pixels = read_pixels(self.path, self._spec, window=(top, first, down, across), max_pixels=ANY_SIZE)
        tile = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)
        tile = tile.flip(2) if self._is_turned else tile
        for axis, span, side, begin in ((1, rows, height, top), (2, columns, width, left)):
            if span.stop > side:
                places = reflection(side, span.stop, self.device)[span.start :] - begin
                tile = tile.index_select(axis, places)
        return tile

    @cached_property
    def may_lack_values(self) -> bool:
        """Whether some pixels may have no value, by the file's type and tag or the network's task."""
        info = array_info(self.path)
        return self._spec.nodata is not None or info.nodata is not None or info.dtype.startswith("float")

    def void(self, top: int, rows: int) -> NDArray[np.bool_] | None:
        """Where the pixels of some rows have no value; None if all have one."""
        return read_void(self.path, self._spec.with_nodata, window=(top, 0, rows, self.size[1]), max_pixels=ANY_SIZE)


Part = tuple[Labels, NDArray[np.bool_] | None]
"""Labels (h, W) of some rows, and which of their pixels have no value."""


def each_plane(labels: Iterator[NDArray[Any]], raster: Raster, task: Task, files: ExitStack) -> list[Iterator[Part]]:
    """The labels of a raster from top to bottom, or of classes that overlap the masks of each, which wait on disk."""

    def with_void(parts: Iterable[Labels]) -> Iterator[Part]:
        top = 0
        for part in parts:
            yield part, raster.void(top, len(part)) if raster.may_lack_values else None
            top += len(part)

    if task.kind != "multilabel":
        return [with_void(labels)]
    spools = [files.enter_context(tempfile.TemporaryFile()) for _ in task.classes]  # noqa: SIM115 - the stack does
    heights = []
    for masks in labels:
        heights.append(masks.shape[1])
        for spool, mask in zip(spools, masks, strict=True):
            spool.write(np.packbits(mask, axis=1).tobytes())

    def kept(spool: IO[bytes]) -> Iterator[Labels]:
        width, row = raster.size[1], -(-raster.size[1] // 8)
        spool.seek(0)
        for height in heights:
            packed = np.frombuffer(spool.read(height * row), np.uint8).reshape(height, row)
            yield np.unpackbits(packed, axis=1, count=width)

    return [with_void(kept(spool)) for spool in spools]


def _size(path: Path, page: Page) -> tuple[int, int]:
    """(height, width) of a page of a TIFF, upright."""
    with open(path, "rb") as file, open_tiff(file, path) as pages:
        chosen = pages[page if isinstance(page, int) else 0]
        sides = chosen.imagelength, chosen.imagewidth
        return sides if int(chosen.tags.valueof("Orientation", default=1)) < 5 else sides[::-1]


def _part(span: TileSpan, side: int) -> tuple[int, int]:
    """Where the pixels begin that a tile needs along a side, and how many they are: beyond the end it is reflected."""
    if span.stop <= side:
        return span.start, span.length
    places = reflection(side, span.stop, torch.device("cpu"))[span.start :]
    begin = int(places.min())
    return begin, int(places.max()) + 1 - begin
