"""Windows that cover the uncertain regions of an image with as few pixels as possible: pure geometry.

Tiles cover a whole image, in rows crossed with columns. Windows lie only on uncertain cells: each row of windows begins
at the first uncertain pixel that is not covered yet, and each window is then moved until its uncertain cells lie in its
middle. The output of a window is used without a halo at its border, except where the image ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carvana.inference.tiling.grid import Size, TileSpan, padded_to
from carvana.models.preprocess import round_up

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
    def pixels(self) -> int:
        """How many pixels the network sees."""
        return len(self.places) * math.prod(self.tile)

    @property
    def cost(self) -> float:
        """The pixels that the network sees, for each pixel of the image."""
        return self.pixels / math.prod(self.size)


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
    padded = padded_to(size, stride, min_size)
    side = round_up(max(side, min_size, 2 * halo + grid), stride)
    tile = min(side, padded[0]), min(side, padded[1])
    places = min(_coverings(uncertain, padded, tile, halo, grid), key=len)
    return RoiTiles(size, tile, tuple(_centred(uncertain, *place, padded, halo, grid) for place in places))


def _coverings(
    uncertain: NDArray[np.bool_], padded: Size, tile: Size, halo: int, grid: int
) -> Iterator[list[tuple[TileSpan, TileSpan]]]:
    """Some ways to cover the cells: in rows of windows or in columns, and with more or less before the first."""
    step = max(grid, (tile[0] - 2 * halo) // LEADS // grid * grid)
    for lead in range(0, max(1, tile[0] - 2 * halo - grid), step):
        yield _in_rows(uncertain, padded, tile, halo, grid, lead)
    step = max(grid, (tile[1] - 2 * halo) // LEADS // grid * grid)
    for lead in range(0, max(1, tile[1] - 2 * halo - grid), step):
        turned = _in_rows(uncertain.T, padded[::-1], tile[::-1], halo, grid, lead)
        yield [(rows, columns) for columns, rows in turned]


def _in_rows(
    uncertain: NDArray[np.bool_], padded: Size, tile: Size, halo: int, grid: int, lead: int
) -> list[tuple[TileSpan, TileSpan]]:
    places = []
    for rows in _spans(uncertain.max(axis=1), padded[0], tile[0], halo, grid, lead):
        band = uncertain[rows.first // CELL : -(-rows.last // CELL)].max(axis=0)
        places += [(rows, columns) for columns in _spans(band, padded[1], tile[1], halo, grid)]
    return places


def _spans(cells: NDArray[np.bool_], whole: int, side: int, halo: int, grid: int, lead: int = 0) -> list[TileSpan]:
    """The fewest windows along one side that take all pixels of some cells, the first one ``lead`` earlier."""
    spans: list[TileSpan] = []
    done = 0
    for cell in np.flatnonzero(cells).tolist():
        while (cell + 1) * CELL > done and done < whole:
            pixel = max(cell * CELL, done)
            start = min(max(pixel - lead - halo, 0) // grid * grid, whole - side)
            first = start + halo if start > 0 else 0
            last = whole if start + side == whole else start + side - halo
            spans.append(TileSpan(start, start + side, max(first, done), last))
            done, lead = last, 0
    return spans


def _centred(
    uncertain: NDArray[np.bool_], rows: TileSpan, columns: TileSpan, padded: Size, halo: int, grid: int
) -> tuple[TileSpan, TileSpan]:
    """A window of which no more is taken than its uncertain cells, and which sees as much on all sides of them."""
    cells = uncertain[rows.first // CELL : -(-rows.last // CELL), columns.first // CELL : -(-columns.last // CELL)]
    return (
        _around(cells.max(axis=1), rows, padded[0], halo, grid),
        _around(cells.max(axis=0), columns, padded[1], halo, grid),
    )


def _around(cells: NDArray[np.bool_], span: TileSpan, whole: int, halo: int, grid: int) -> TileSpan:
    """The side of a window moved around some of the cells that it takes: halo and grid allowing."""
    found = np.flatnonzero(cells) + span.first // CELL
    first, last = max(span.first, int(found[0]) * CELL), min(span.last, int(found[-1] + 1) * CELL)
    start = round((first + last - span.length) / 2 / grid) * grid
    start = min(max(start, 0), whole - span.length)
    stop = start + span.length
    if (start > 0 and first < start + halo) or (stop < whole and last > stop - halo):
        start = span.start  # nothing between two places of the grid is better
    return TileSpan(start, start + span.length, first, last)
