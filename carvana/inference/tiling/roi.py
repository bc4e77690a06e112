"""Windows that cover the uncertain regions of an image with as few pixels as possible: pure geometry.

Tiles cover a whole image, in rows crossed with columns. Windows lie only on uncertain cells: each row of windows begins
at the first uncertain pixel that is not covered yet, and each window is then moved until its uncertain cells lie in its
middle. The output of a window is used without a halo at its border, except where the image ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carvana.inference.tiling.grid import Size, TileSpan, padded_to
from carvana.models.segmenter import round_up

CELL = 8
"""Side of the cells that are certain or uncertain, in pixels."""

LEADS = 4
"""About how many positions of the first row of windows are tried; the rows below begin where it ends."""


@dataclass(frozen=True)
class RoiTiles:
    """Windows on the uncertain regions of an image.

    Attributes:
        size: (height, width) of the image.
        tile: (height, width) of each window.
        places: the rows and the columns of each window: those that it sees, and those that are used.

    >>> uncertain = np.zeros((8, 8), bool)
    >>> uncertain[1, 2:5] = True
    >>> found = cover_cells(uncertain, (64, 64), side=32, halo=8)
    >>> found.tile, [(rows.first, columns.first) for rows, columns in found.places], found.cost
    ((32, 32), [(8, 16), (8, 32)], 0.5)
    """

    size: Size
    tile: Size
    places: tuple[tuple[TileSpan, TileSpan], ...]

    @property
    def cost(self) -> float:
        """The pixels that the network sees, for each pixel of the image."""
        return len(self.places) * math.prod(self.tile) / math.prod(self.size)


def cells_of(size: Size) -> Size:
    """How many rows and columns of cells an image of (height, width) has."""
    return -(-size[0] // CELL), -(-size[1] // CELL)


def mirrored(cells: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The cells of the mirrored image: where cells do not divide its width, a cell of one lies in two of the other.

    >>> mirrored(np.array([[True, False, False]]), 23).tolist()
    [[False, True, True]]
    """
    turned = cells[:, ::-1].copy()
    if width % CELL:
        turned[:, :-1] |= cells[:, -2::-1]
    return turned


def cover_cells(
    uncertain: NDArray[np.bool_], size: Size, *, side: int, halo: int, stride: int = 1, min_size: int = 1, grid: int = 1
) -> RoiTiles:
    """The fewest windows of one size that cover all uncertain pixels.

    Args:
        uncertain: (rows, columns) of cells, as many as :func:`cells_of` says. Each pixel of the cells that are True is
            taken from one window.
        size: (height, width) of the image.
        side: The windows' height and width in pixels, enlarged to a multiple of the stride, and to what one must see to
            take anything; an image that is smaller is one window high or wide.
        halo: Pixels around what is taken of a window that it must see.
        stride: The sides of windows are multiples of it.
        min_size: No side of a window is smaller.
        grid: Windows begin at multiples of it, those apart that end with the image.

    Returns:
        Without an uncertain cell, no windows.
    """
    side = round_up(max(side, min_size, 2 * halo + grid), stride)
    rows, columns = (_Side(whole, min(side, whole), halo, grid) for whole in padded_to(size, stride, min_size))
    # In rows of windows or in columns, and with more or less before the first.
    coverings = [_in_rows(uncertain, rows, columns, lead) for lead in rows.leads()]
    turned = [_in_rows(uncertain.T, columns, rows, lead) for lead in columns.leads()]
    coverings += [[(down, right) for right, down in places] for places in turned]
    places = []
    for down, right in min(coverings, key=len):
        cells = uncertain[_cells_of(down), _cells_of(right)]
        places.append((rows.around(cells.max(axis=1), down), columns.around(cells.max(axis=0), right)))
    return RoiTiles(size, (rows.length, columns.length), tuple(places))


@dataclass(frozen=True)
class _Side:
    """The windows along one side of an image: all have one length, and begin on a grid."""

    whole: int
    length: int
    halo: int
    grid: int

    def leads(self) -> range:
        """How much earlier the first window may begin."""
        step = max(self.grid, (self.length - 2 * self.halo) // LEADS // self.grid * self.grid)
        return range(0, max(1, self.length - 2 * self.halo - self.grid), step)

    def cover(self, cells: NDArray[np.bool_], lead: int = 0) -> list[TileSpan]:
        """The fewest windows that take all pixels of some cells, the first one ``lead`` earlier."""
        spans: list[TileSpan] = []
        done = 0
        for cell in np.flatnonzero(cells).tolist():
            while (cell + 1) * CELL > done and done < self.whole:
                pixel = max(cell * CELL, done)
                start = min(max(pixel - lead - self.halo, 0) // self.grid * self.grid, self.whole - self.length)
                stop = start + self.length
                first = start + self.halo if start > 0 else 0
                last = self.whole if stop == self.whole else stop - self.halo
                spans.append(TileSpan(start, stop, max(first, done), last))
                done, lead = last, 0
        return spans

    def around(self, cells: NDArray[np.bool_], span: TileSpan) -> TileSpan:
        """A window of which no more is taken than some of its cells, and which sees as much on both sides of them:
        halo and grid allowing.
        """
        found = np.flatnonzero(cells) + span.first // CELL
        first, last = max(span.first, int(found[0]) * CELL), min(span.last, int(found[-1] + 1) * CELL)
        start = round((first + last - self.length) / 2 / self.grid) * self.grid
        start = min(max(start, 0), self.whole - self.length)
        stop = start + self.length
        if (start > 0 and first < start + self.halo) or (stop < self.whole and last > stop - self.halo):
            start = span.start  # nothing between two places of the grid is better
        return TileSpan(start, start + self.length, first, last)


def _in_rows(uncertain: NDArray[np.bool_], rows: _Side, columns: _Side, lead: int) -> list[tuple[TileSpan, TileSpan]]:
    places = []
    for down in rows.cover(uncertain.max(axis=1), lead):
        band = uncertain[_cells_of(down)].max(axis=0)
        places += [(down, right) for right in columns.cover(band)]
    return places


def _cells_of(span: TileSpan) -> slice:
    """The cells that hold what is taken of a window."""
    return slice(span.first // CELL, -(-span.last // CELL))
