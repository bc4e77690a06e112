"""Runs a network on tiles: cuts them out of images, runs batches of them, joins the outputs of each image.

The network may be any callable from images to maps of the same height and width.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from carvana.errors import ConfigError, ModelError
from carvana.inference.tiling.grid import Size, TileGrid, TileSpan, blend_weights, plan_tiles
from carvana.inference.tiling.roi import RoiTiles
from carvana.models.segmenter import reflection

Network = Callable[[Tensor], Tensor]
"""Pictures (N, C, h, w) to maps (N, K, h, w)."""


def tiled(
    network: Network,
    images: Tensor,
    *,
    tile: int | Size = 512,
    overlap: float | None = None,
    halo: int | None = None,
    stride: int = 1,
    min_size: int = 1,
    batch: int = 1,
) -> Tensor:
    """Apply a callable to large images in tiles, and join its outputs.

    Args:
        network: Any callable, such as an ``nn.Module`` of any library: (n, C, h, w) to (n, K, h, w) of the same height
            and width.
        images: (N, C, H, W), on any device, of any type that the callable takes.
        tile: Largest side of the tiles in pixels, or (height, width). Smaller images are passed as they are.
        overlap: Share of a tile's side, from 0 to 0.9, that neighbours have in common at the least; they are blended by
            gaussian weights. 0.25 if neither this nor ``halo`` is given.
        halo: Instead of ``overlap``: each pixel is taken from one tile, which sees at least so many pixels around it.
            If that is the network's receptive field, the output is that for the whole image.
        stride: Tiles begin and end at multiples of it, as the grid of networks that halve their input demands; the
            images are reflected at the right and lower edge up to the next multiple.
        min_size: The smallest height and width that the callable takes; smaller images are reflected up to it.
        batch: Tiles that go through the callable together, also of different images.

    Returns:
        (N, K, H, W), float32 where several tiles were blended, else of the callable's own type.

    Raises:
        ConfigError: an argument is out of its range.
        ModelError: the callable gives maps of another height and width.

    Example:
        >>> double = tiled(lambda images: 2 * images, torch.rand(1, 3, 100, 150), tile=64, overlap=0.25)
        >>> double.shape
        torch.Size([1, 3, 100, 150])
    """
    if images.ndim != 4 or 0 in images.shape:
        raise ConfigError(f"images of shape {tuple(images.shape)} cannot be tiled; expected (N, C, H, W)")
    if batch < 1:
        raise ConfigError(f"batch {batch}: at least 1 tile must go through the network at a time")
    height, width = images.shape[-2:]
    plan = plan_tiles((height, width), tile=tile, overlap=overlap, halo=halo, stride=stride, min_size=min_size)
    accumulators = [Accumulator(image, plan) for image in images]
    run_tiles(accumulators, network, most=lambda _: batch)
    return torch.stack([accumulator.output for accumulator in accumulators])


class WindowedImage(ABC):
    """An image (C, H, W) of which tiles are read as they are needed.

    Attributes:
        shape: (C, H, W).
        device: of the tiles.
    """

    shape: torch.Size
    device: torch.device

    @abstractmethod
    def crop(self, rows: TileSpan, columns: TileSpan) -> Tensor:
        """A tile, (C, h, w), reflected where the image ends."""


class Accumulator:
    """An image (C, H, W), its tiles, and its output so far.

    Memory holds what is made of the network's maps, and of these maps only the parts to which later tiles add.

    Args:
        image: the image.
        plan: tiles that cover it, or windows on some regions of it.
        draft: for windows: (H, W) or (K, H, W) on the image's device. In place, it gets what the windows give.
        finish: makes of the network's maps (K, h, w), once they are joined, what is to be kept (k, h, w), such as
            labels; None keeps the maps.
    """

    def __init__(
        self,
        image: Tensor | WindowedImage,
        plan: TileGrid | RoiTiles,
        draft: Tensor | None = None,
        *,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.plan = plan
        self._image = image
        self._finish = finish or (lambda maps: maps)
        self._joined = None if draft is None else draft.view(-1, *draft.shape[-2:])
        # Of blended tiles: what those above and to the left have in common with others, and the sum in a tile. They are
        # made once: new ones for each tile would leave holes in memory, which for many classes are gigabytes.
        self._above = self._left = self._sums = torch.empty(0)
        self._known = 0  # columns of a tile that one to the left has, too

    @property
    def output(self) -> Tensor:
        """(K, H, W), once every tile is added."""
        assert self._joined is not None
        height, width = self.plan.size
        return self._joined[..., :height, :width]

    def crop(self, rows: TileSpan, columns: TileSpan) -> Tensor:
        """A tile, (C, h, w), reflected where the image ends."""
        image = self._image
        if isinstance(image, WindowedImage):
            return image.crop(rows, columns)
        for axis, span in ((1, rows), (2, columns)):
            side = image.shape[axis]
            if span.stop <= side:
                image = image.narrow(axis, span.start, span.length)
            else:
                image = image.index_select(axis, reflection(side, span.stop, image.device)[span.start :])
        return image

    def add(self, rows: TileSpan, columns: TileSpan, output: Tensor) -> None:
        """Add the network's output for a tile, (K, h, w): row by row, from left to right."""
        plan = self.plan
        if output.shape[1:] != plan.tile:
            raise ModelError(
                f"the network gives maps of {tuple(output.shape[1:])} for tiles of {plan.tile}, (height, width); "
                "expected the same"
            )
        if isinstance(plan, TileGrid) and plan.join == "blend" and len(plan) > 1:
            part = self._blended(plan, rows, columns, output)
        else:
            part = output[:, rows.given, columns.given]
        top, left = rows.first, columns.first
        if isinstance(plan, RoiTiles):  # a window may end beyond the image
            part = part[:, : plan.size[0] - top, : plan.size[1] - left]
        self._place(top, left, self._finish(part))

    def _place(self, top: int, left: int, made: Tensor) -> None:
        """Keep what is final."""
        if self._joined is None:
            assert isinstance(self.plan, TileGrid)
            self._joined = made.new_empty((made.shape[0], *self.plan.padded))
        self._joined[:, top : top + made.shape[-2], left : left + made.shape[-1]] = made

    def _blended(self, plan: TileGrid, rows: TileSpan, columns: TileSpan, output: Tensor) -> Tensor:
        """The weighted sum of tiles, where the next ones below and to the right do not begin yet: it is final there."""
        (height, width), (down, right) = plan.tile, plan.step(rows, columns)
        if columns.start == 0:
            if rows.start == 0:
                deepest = max((one.stop - other.start for one, other in itertools.pairwise(plan.rows)), default=0)
                self._above = torch.zeros((len(output), deepest, plan.padded[1]), device=output.device)
                self._sums = self._above.new_empty((len(output), height, width))
                self._left = torch.empty_like(self._sums)
            self._known = 0
        sums, known, deep = self._sums, self._known, self._above.shape[1]
        sums[:, :, :known] = self._left[:, :, :known]
        sums[:, :deep, known:] = self._above[:, :, columns.start + known : columns.stop]
        sums[:, deep:, known:] = 0
        sums.addcmul_(output.float(), _weights(plan.tile, *plan.neighbours(rows, columns), output.device))
        self._known = width - right
        self._left[:, :, : self._known] = sums[:, :, right:]
        below = self._above[:, :, columns.start : columns.start + right]
        below[:, height - down :] = 0
        below[:, : height - down] = sums[:, down:, :right]
        return sums[:, :down, :right]


class Strips(Accumulator):
    """As an :class:`Accumulator` of a grid of tiles, but memory holds the output of one row of tiles at a time.

    Attributes:
        ready: strips of the output, (K, h, W), whose rows are final, from top to bottom; the caller takes them out.
    """

    ready: deque[Tensor]

    def __init__(self, image: Tensor | WindowedImage, plan: TileGrid, *, finish: Callable[[Tensor], Tensor]) -> None:
        super().__init__(image, plan, finish=finish)
        self.ready = deque()

    def _place(self, top: int, left: int, made: Tensor) -> None:
        assert isinstance(self.plan, TileGrid)
        (height, width), (_, padded) = self.plan.size, self.plan.padded
        if self._joined is None:
            self._joined = made.new_empty((made.shape[0], made.shape[1], padded))
        self._joined[:, :, left : left + made.shape[2]] = made
        if left + made.shape[2] == padded:
            self.ready.append(self._joined[:, : height - top, :width])
            self._joined = None


def run_tiles(accumulators: Sequence[Accumulator], network: Network, *, most: Callable[[Size], int]) -> None:
    """Run a network on the tiles of some images, in batches of tiles of one size, and join the outputs.

    Args:
        accumulators: the images, with their tiles or windows.
        network: the callable.
        most: how many tiles of a size (height, width) may go together.
    """
    for _ in each_batch(accumulators, network, most=most):
        pass


def each_batch(accumulators: Sequence[Accumulator], network: Network, *, most: Callable[[Size], int]) -> Iterator[None]:
    """As :func:`run_tiles`, one batch for each step of the iterator."""
    jobs: dict[Size, list[tuple[Accumulator, TileSpan, TileSpan]]] = {}
    for accumulator in accumulators:
        places = ((accumulator, *place) for place in accumulator.plan.places)
        jobs.setdefault(accumulator.plan.tile, []).extend(places)
    for size, of_size in jobs.items():
        batches = -(-len(of_size) // max(1, most(size)))
        for number in range(batches):  # of one size: a full one and a rest take longer than two halves
            batch = of_size[len(of_size) * number // batches : len(of_size) * (number + 1) // batches]
            tiles = [accumulator.crop(rows, columns) for accumulator, rows, columns in batch]
            # A single tile is copied as well: a network that works in place would change the image.
            outputs = network(tiles[0].clone()[None] if len(tiles) == 1 else torch.stack(tiles))
            for (accumulator, rows, columns), output in zip(batch, outputs, strict=True):
                accumulator.add(rows, columns, output)
            del tiles, outputs, output  # gone before the next ones are there, or another network's
            yield
        if size[0] * size[1] > _KEPT:
            _weights.cache_clear()


_KEPT = 2**22
"""Pixels of a tile up to which weights are kept for other images: 16 MB each."""


@lru_cache(maxsize=16)  # for a row of tiles in the middle of an image it takes five at the most
def _weights(tile: Size, rows: tuple[int, ...], columns: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.from_numpy(blend_weights(tile, rows, columns)).to(device)
