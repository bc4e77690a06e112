"""Runs a network on tiles: cuts them out of images, runs batches of them, joins the outputs of each image.

The network may be any callable from images to maps of the same height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from carvana.errors import ConfigError, ModelError
from carvana.inference.tiling.grid import Size, TileGrid, TileSpan, blend_weights, plan_tiles
from carvana.inference.tiling.roi import RoiTiles
from carvana.models.preprocess import reflection

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
    accumulators = [TileAccumulator(image, plan) for image in images]
    run_tiles(accumulators, network, most=lambda _: batch)
    return torch.stack([accumulator.output for accumulator in accumulators])


class Accumulator(Protocol):
    """An image and its output so far."""

    @property
    def tile(self) -> Size:
        """(height, width) of each tile or window."""

    def places(self) -> Iterable[tuple[int, int]]:
        """The places of all tiles, each as two numbers."""

    def crop(self, first: int, second: int) -> Tensor:
        """The tile at a place, (C, h, w)."""

    def add(self, first: int, second: int, output: Tensor) -> None:
        """Add the network's output for a place, (K, h, w)."""


class TileAccumulator:
    """An image (C, H, W), its tiles, and its output so far."""

    def __init__(self, image: Tensor, plan: TileGrid) -> None:
        self.plan = plan
        self._image = image
        self._joined: Tensor | None = None

    @property
    def output(self) -> Tensor:
        """(K, H, W), once every tile is added."""
        assert self._joined is not None
        height, width = self.plan.size
        return self._joined[..., :height, :width]

    @property
    def tile(self) -> Size:
        """(height, width) of the plan's tiles."""
        return self.plan.tile

    def places(self) -> Iterator[tuple[int, int]]:
        """Each tile by its row and its column."""
        return self.plan.tiles()

    def crop(self, row: int, column: int) -> Tensor:
        """A tile, (C, h, w), reflected where the image ends."""
        return _cut(self._image, self.plan.rows[row], self.plan.columns[column])

    def add(self, row: int, column: int, output: Tensor) -> None:
        """Add the network's output for a tile, (K, h, w)."""
        _check(output, self.tile)
        if len(self.plan) == 1:
            self._joined = output.clone()  # the next image's may come in the same memory
            return
        if self._joined is None:
            make = torch.zeros if self.plan.join == "blend" else torch.empty
            dtype = torch.float32 if self.plan.join == "blend" else output.dtype
            self._joined = make((output.shape[0], *self.plan.padded), dtype=dtype, device=output.device)
        rows, columns = self.plan.rows[row], self.plan.columns[column]
        if self.plan.join == "blend":
            place = self._joined[:, rows.seen, columns.seen]
            place.addcmul_(output.float(), _weights(self.plan.tile, *self.plan.neighbours(row, column), output.device))
        else:
            self._joined[:, rows.taken, columns.taken] = output[:, rows.given, columns.given]


class RoiAccumulator:
    """An image (C, H, W), its coarse probabilities, and the windows in which the network replaces them.

    Args:
        image: The image.
        draft: (H, W) in [0, 1], on the image's device; the network's probabilities are written into it.
        windows: Where.
    """

    def __init__(self, image: Tensor, draft: Tensor, windows: RoiTiles) -> None:
        self.output = draft
        self._image = image
        self._windows = windows

    @property
    def tile(self) -> Size:
        """(height, width) of the windows."""
        return self._windows.tile

    def places(self) -> Iterator[tuple[int, int]]:
        """Each window by its number, and 0."""
        return ((number, 0) for number in range(len(self._windows.places)))

    def crop(self, number: int, _: int) -> Tensor:
        """A window, (C, h, w), reflected where the image ends."""
        return _cut(self._image, *self._windows.places[number])

    def add(self, number: int, _: int, output: Tensor) -> None:
        """Add the network's logits for a window, (1, h, w)."""
        _check(output, self.tile)
        rows, columns = self._windows.places[number]
        place = self.output[rows.taken, columns.taken]  # it ends with the image, the window perhaps beyond
        height, width = place.shape
        place.copy_(output[0, rows.given, columns.given][:height, :width].float().sigmoid_())


def run_tiles(accumulators: Sequence[Accumulator], network: Network, *, most: Callable[[Size], int]) -> None:
    """Run a network on the tiles of some images, in batches of tiles of one size, and join the outputs.

    Args:
        accumulators: the images, with their tiles or windows.
        network: the callable.
        most: how many tiles of a size (height, width) may go together.
    """
    for size, jobs in _by_size(accumulators):
        batches = -(-len(jobs) // max(1, most(size)))
        for number in range(batches):  # of one size: a full one and a rest take longer than two halves
            part = jobs[len(jobs) * number // batches : len(jobs) * (number + 1) // batches]
            cuts = [accumulator.crop(row, column) for accumulator, row, column in part]
            # A single tile is copied as well: a network that works in place would change the image.
            outputs = network(cuts[0].clone()[None] if len(cuts) == 1 else torch.stack(cuts))
            for (accumulator, row, column), output in zip(part, outputs, strict=True):
                accumulator.add(row, column, output)


def _by_size(accumulators: Sequence[Accumulator]) -> Iterator[tuple[Size, list[tuple[Accumulator, int, int]]]]:
    jobs: dict[Size, list[tuple[Accumulator, int, int]]] = {}
    for accumulator in accumulators:
        jobs.setdefault(accumulator.tile, []).extend((accumulator, *place) for place in accumulator.places())
    yield from jobs.items()


def _cut(image: Tensor, rows: TileSpan, columns: TileSpan) -> Tensor:
    """Part of an image (C, H, W), reflected where the image ends."""
    for axis, span in ((1, rows), (2, columns)):
        side = image.shape[axis]
        if span.stop <= side:
            image = image.narrow(axis, span.start, span.length)
        else:
            image = image.index_select(axis, reflection(side, span.stop, image.device)[span.start :])
    return image


def _check(output: Tensor, tile: Size) -> None:
    if output.shape[1:] != tile:
        raise ModelError(
            f"the network gives maps of {tuple(output.shape[1:])} for tiles of {tile}, (height, width); expected the "
            "same"
        )


@lru_cache(maxsize=16)  # for a row of tiles in the middle of an image it takes five at the most
def _weights(tile: Size, rows: tuple[int, ...], columns: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.from_numpy(blend_weights(tile, rows, columns)).to(device)
