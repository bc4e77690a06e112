"""Covers an image with tiles: pure geometry, in pixels.

Tiles begin at multiples of the network's stride and end within the padded image. They overlap by a margin. Two ways
join them: ``blend`` weighs each tile by a gaussian around its middle; ``exact`` takes every pixel from one tile, which
has a halo as wide as the network's receptive field around the pixels that are taken from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carvana.errors import ConfigError
from carvana.models.segmenter import padded_size, round_up

Join = Literal["blend", "exact"]
Size = tuple[int, int]

SIGMA = 0.125
"""The gaussian's standard deviation as a share of a tile's side (Isensee et al. 2021, nnU-Net,
https://doi.org/10.1038/s41592-020-01008-z); MONAI takes the same."""

LEAST_WEIGHT = 1e-3
"""No pixel of a tile weighs less, as in MONAI: what only a corner sees must still be divided by its weight."""

_MOST_ALONG = 256  # tiles along one side that a search for the cheapest plan goes up to


@dataclass(frozen=True)
class TileSpan:
    """A tile along one axis: the network sees ``start`` to ``stop``, of which ``first`` to ``last`` is used."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def length(self) -> int:
        """How many pixels the network sees."""
        return self.stop - self.start

    @property
    def seen(self) -> slice:
        """The part of the image that the network sees."""
        return slice(self.start, self.stop)

    @property
    def taken(self) -> slice:
        """The part of the image whose output comes from this tile in an exact join."""
        return slice(self.first, self.last)

    @property
    def given(self) -> slice:
        """The same part, counted from the beginning of the tile."""
        return slice(self.first - self.start, self.last - self.start)


@dataclass(frozen=True)
class TileGrid:
    """An image covered with tiles: every row of tiles crossed with every column.

    Attributes:
        size: (height, width) of the image.
        padded: (height, width) that it is padded to, at its right and lower edge.
        rows: the tiles along the height.
        columns: those along the width.
        join: how they become one image.

    >>> plan = plan_tiles((1280, 1918), tile=512, overlap=0.25, stride=32)
    >>> len(plan), plan.padded, [span.start for span in plan.rows], round(plan.cost, 2)
    (15, (1280, 1920), [0, 384, 768], 1.6)
    """

    size: Size
    padded: Size
    rows: tuple[TileSpan, ...]
    columns: tuple[TileSpan, ...]
    join: Join

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def places(self) -> list[tuple[TileSpan, TileSpan]]:
        """The rows and the columns of each tile, from the upper left to the lower right one."""
        return list(itertools.product(self.rows, self.columns))

    @property
    def tile(self) -> Size:
        """(height, width) of the tiles: all are alike."""
        return self.rows[0].length, self.columns[0].length

    @property
    def cost(self) -> float:
        """The pixels that the network sees, for each pixel of the image."""
        return len(self) * math.prod(self.tile) / math.prod(self.size)

    def neighbours(self, rows: TileSpan, columns: TileSpan) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The distances to the tiles that a tile overlaps, itself (0) included: its weights depend on these alone."""
        return _distances(self.rows, rows), _distances(self.columns, columns)

    def step(self, rows: TileSpan, columns: TileSpan) -> Size:
        """How far below and to the right of a tile the next ones begin, or the padded image ends."""
        down, right = _distances(self.rows, rows), _distances(self.columns, columns)
        return (
            min((shift for shift in down if shift > 0), default=rows.length),
            min((shift for shift in right if shift > 0), default=columns.length),
        )


def plan_whole(size: Size) -> TileGrid:
    """One tile that is the whole image, not padded: the Segmenter pads it.

    >>> plan_whole((1280, 1918)).cost
    1.0
    """
    rows, columns = ((TileSpan(0, side, 0, side),) for side in size)
    return TileGrid(size, size, rows, columns, "blend")


def plan_tiles(
    size: Size,
    *,
    tile: int | Size,
    overlap: float | None = None,
    halo: int | None = None,
    stride: int = 1,
    min_size: int = 1,
) -> TileGrid:
    """Tiles of a given size, spread evenly; for the exact join no larger than so many of them need to be.

    Args:
        size: (height, width) of the image.
        tile: the largest side of tiles, or (height, width); rounded up to the stride.
        overlap: the least share of a tile's side that neighbours have in common, in [0, 0.9]; tiles are blended. A
            quarter if neither this nor ``halo`` is given.
        halo: instead of ``overlap``: pixels around what is taken of a tile that it must see; tiles are joined exactly.
        stride: tiles begin and end at multiples of it.
        min_size: no side of a tile, nor of the padded image, is smaller.

    Raises:
        ConfigError: an argument is out of its range, both ``overlap`` and ``halo`` are given, or the tile is too small
            to hold its halo.

    >>> plan_tiles((100, 100), tile=64, halo=8, stride=4).columns
    (TileSpan(start=0, stop=60, first=0, last=50), TileSpan(start=40, stop=100, first=50, last=100))
    """
    sides = tuple(tile) if isinstance(tile, tuple | list) else (tile, tile)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConfigError(f"tile {tile!r} cannot be used; expected pixels, such as 512, or (height, width)")
    if overlap is not None and halo is not None:
        raise ConfigError(
            f"overlap {overlap} with the exact join: its tiles overlap by the receptive field; leave overlap out"
        )
    padded = padded_to(size, stride, min_size)
    height, width = map(min, padded_to((sides[0], sides[1]), stride, min_size), padded)
    if halo is not None:
        margins = (2 * round_up(halo, stride),) * 2
        for side, whole in ((height, padded[0]), (width, padded[1])):
            if side < whole and side <= margins[0]:
                raise ConfigError(
                    f"tile {tile}: too small for the exact join, which needs {margins[0] // 2} pixels around what it "
                    f"takes of each tile; take at least {margins[0] + stride}, or the join blend"
                )
        height, width = _needed(padded, (height, width), margins, stride, min_size)
    else:
        share = 0.25 if overlap is None else overlap
        if not 0 <= share <= 0.9:
            raise ConfigError(f"overlap {share} cannot be used; expected a share of a tile's side, from 0 to 0.9")
        margins = (_margin(height, share, stride), _margin(width, share, stride))
    return _plan(size, padded, (height, width), margins, stride, "blend" if halo is None else "exact")


def cheapest_plan(
    size: Size, *, most_pixels: int, margin: int, join: Join, stride: int = 1, min_size: int = 1, least_tiles: int = 1
) -> TileGrid | None:
    """The tiles by which the network sees the fewest pixels: strips of full height or width where these cost less.

    Args:
        size: (height, width) of the image.
        most_pixels: a tile may not hold more.
        margin: pixels that neighbours must have in common; twice the halo for the exact join.
        join: how tiles become one image.
        stride: tiles begin and end at multiples of it.
        min_size: no side of a tile, nor of the padded image, is smaller.
        least_tiles: at least so many, where the image can be divided.

    Returns:
        None if no tile is both small enough and larger than its margins.

    >>> plan = cheapest_plan((1280, 1918), most_pixels=1_500_000, margin=128, join="blend", stride=32)
    >>> plan.tile, len(plan), round(plan.cost, 2)
    ((1280, 1024), 2, 1.07)
    """
    padded = padded_to(size, stride, min_size)
    margin = round_up(margin, stride)
    choices = [list(_sides(whole, margin, stride, min_size)) for whole in padded]
    best: tuple[int, int, Size] | None = None
    for height, rows in choices[0]:
        for width, columns in choices[1]:
            count = rows * columns
            if height * width > most_pixels or count < least_tiles:
                continue
            seen = (count * height * width, count, (height, width))
            if best is None or seen < best:
                best = seen
    return None if best is None else _plan(size, padded, best[2], (margin, margin), stride, join)


def blend_weights(tile: Size, rows: Sequence[int], columns: Sequence[int]) -> NDArray[np.float32]:
    """What each pixel of a tile counts in the whole; over all tiles of a plan they sum to 1.

    It is the tile's gaussian divided by the sum of its own and its neighbours'. Most tiles of an image have their
    neighbours at the same distances, so few different ones are needed, and no sum over a whole image.

    Args:
        tile: (height, width).
        rows: how far down the tiles lie that overlap it, itself (0) among them: see :meth:`TileGrid.neighbours`.
        columns: likewise, how far to the right.

    Returns:
        (height, width).

    >>> blend_weights((1, 4), [0], [-2, 0]).round(2)
    array([[0.02, 0.98, 1.  , 1.  ]], dtype=float32)
    """
    own = _gaussian(tile)
    total = np.zeros(tile, np.float32)
    for down in rows:
        for right in columns:
            (here, there), (along, beyond) = _common(down, tile[0]), _common(right, tile[1])
            total[here, along] += own[there, beyond]
    weights: NDArray[np.float32] = own / total
    return weights


def _sides(whole: int, margin: int, stride: int, min_size: int) -> Iterator[tuple[int, int]]:
    """The smallest side that covers ``whole`` with one tile, with two, and so on, and how many it takes."""
    yield whole, 1
    last = whole
    for count in range(2, _MOST_ALONG):
        side = _side(whole, count, margin, stride)
        if side <= margin or side < min_size:
            return
        if side < last:
            last = side
            yield side, _count(whole, side, margin)


def _needed(padded: Size, tile: Size, margins: Size, stride: int, min_size: int) -> Size:
    """The smallest tile of which no more are needed: what it sees beyond its halo is seen for nothing."""
    least = round_up(min_size, stride)
    height, width = (
        min(side, max(least, _side(whole, _count(whole, side, margin), margin, stride)))
        for whole, side, margin in zip(padded, tile, margins, strict=True)
    )
    return height, width


def _side(whole: int, count: int, margin: int, stride: int) -> int:
    """The side with which so many tiles cover ``whole``."""
    return round_up(-(-(whole + (count - 1) * margin) // count), stride)


def _plan(size: Size, padded: Size, tile: Size, margins: Size, stride: int, join: Join) -> TileGrid:
    rows, columns = (_spans(*sides, stride, join) for sides in zip(padded, tile, margins, strict=True))
    return TileGrid(size, padded, rows, columns, join)


def _spans(whole: int, side: int, margin: int, stride: int, join: Join) -> tuple[TileSpan, ...]:
    count = _count(whole, side, margin)
    starts = [(whole - side) * index // max(count - 1, 1) // stride * stride for index in range(count)]
    if join == "blend":
        return tuple(TileSpan(start, start + side, start, start + side) for start in starts)
    # Each border lies in the middle of what both neighbours see, so that either sees at least its halo beyond.
    borders = [0, *((start + before + side) // 2 for before, start in itertools.pairwise(starts)), whole]
    return tuple(
        TileSpan(starts[index], starts[index] + side, borders[index], borders[index + 1]) for index in range(count)
    )


def _count(whole: int, side: int, margin: int) -> int:
    """How many tiles it takes; the distance between two is a multiple of the stride, since all three are."""
    return 1 if side >= whole else -(-(whole - margin) // (side - margin))


def _margin(side: int, share: float, stride: int) -> int:
    """The pixels that neighbours have in common: at least the share, and less than a tile."""
    return min(round_up(math.ceil(share * side - 1e-9), stride), side - stride)


def padded_to(size: Size, stride: int, min_size: int) -> Size:
    """What a network sees of an image of (height, width): multiples of the stride, no side below ``min_size``."""
    if len(size) != 2 or min(size) < 1 or stride < 1:
        raise ConfigError(f"an image of {size} pixels (height, width) and the stride {stride} cannot be tiled")
    return padded_size(size[0], stride, min_size), padded_size(size[1], stride, min_size)


def _distances(spans: tuple[TileSpan, ...], own: TileSpan) -> tuple[int, ...]:
    return tuple(span.start - own.start for span in spans if abs(span.start - own.start) < own.length)


def _common(shift: int, side: int) -> tuple[slice, slice]:
    """Where a neighbour ``shift`` away lies on a tile, and which part of the neighbour that is."""
    return slice(max(0, shift), min(side, side + shift)), slice(max(0, -shift), min(side, side - shift))


@lru_cache(maxsize=1)
def _gaussian(tile: Size) -> NDArray[np.float32]:
    rows, columns = (np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (SIGMA * side)) ** 2) for side in tile)
    return np.maximum(np.outer(rows, columns), LEAST_WEIGHT).astype(np.float32)
