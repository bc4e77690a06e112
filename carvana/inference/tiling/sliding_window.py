"""Runs a network over images whole, in tiles or in windows, in batches that fit the memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana.errors import ConfigError, ModelError, did_you_mean
from carvana.inference.tiling import Engine
from carvana.inference.tiling.grid import Join, Size, TileGrid, cheapest_plan, plan_tiles, plan_whole
from carvana.inference.tiling.measure import budget_bytes
from carvana.inference.tiling.roi import CELL, RoiTiles, cover_cells
from carvana.inference.tiling.tiled import Accumulator, Strips, WindowedImage, each_batch, run_tiles
from carvana.models.segmenter import padded_size
from carvana.task import Task
from carvana.utils.devices import is_out_of_memory, release_memory, synchronize
from carvana.utils.progress import Reporter, default_reporter

Mode = Literal["auto", "whole", "tiles"]

MARGIN = 128
"""Pixels that neighbours have in common where the size of tiles is chosen here: a quarter of the usual 512."""

HALO = 8
"""Pixels around the part of a window that is used, where the join is not exact."""

TAKEN = 176
"""Side of the part of a window that is used, in pixels.

Smaller windows cost less but show too little: a network that was trained on crops of 256 falls from a Dice of 0.995 to
0.973 in windows of 96, halo included. All images have the same: on a CPU the first batch of a new shape takes longer.
"""

STRIP_BYTES = 2**27
"""What the probabilities of a row of tiles may take, of an image that does not fit the memory."""

SMALL = 2**18
"""An image of so many pixels is assumed to fit, unless a memory is given: measuring would take longer."""


@dataclass(frozen=True)
class SlidingWindowConfig:
    """How a network covers an image.

    Attributes:
        mode: ``whole``, ``tiles``, or ``auto``: tiles if a tile or an overlap is given, else whole if it fits the
            memory, else the cheapest tiles that do.
        tile: largest side of tiles in pixels, or (height, width); None chooses those by which the network sees the
            fewest pixels.
        overlap: share of a tile's side that neighbours have in common, from 0 to 0.9, for the join ``blend``.
        join: ``blend`` weighs tiles by a gaussian; ``exact`` gives what the whole image gives, and needs a limited
            receptive field.
        memory: what one pass of the network may take on its device, in GB; None measures what is free.

    Raises:
        ConfigError: a value is unknown, out of its range, or does not go with another.
    """

    mode: str = "auto"
    tile: int | Size | None = None
    overlap: float | None = None
    join: str = "blend"
    memory: float | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("mode", self.mode, Mode), ("join", self.join, Join)):
            choices = get_args(known)
            if value not in choices:
                hint = did_you_mean(value, choices)
                raise ConfigError(f"{name} {value!r} is unknown; expected {', '.join(choices)}{hint}")
        if self.memory is not None and not 0 < self.memory < math.inf:
            raise ConfigError(f"memory {self.memory}: expected GB above 0")
        if self.mode == "whole" and (self.tile, self.overlap, self.join) != (None, None, "blend"):
            raise ConfigError("mode whole takes no tile, overlap or join: the network sees the whole image at once")
        # Refuses a tile, overlap or join that is not valid before any image is read.
        plan_tiles(
            (2**14, 2**14),
            tile=512 if self.tile is None else self.tile,
            overlap=self.overlap,
            halo=1 if self.join == "exact" else None,
        )

    def settings(self) -> dict[str, Any]:
        """The settings that are not the defaults, as JSON values: they may change a mask."""
        default = SlidingWindowConfig()
        settings = {name: value for name, value in vars(self).items() if value != getattr(default, name)}
        return settings | ({"mode": "tiles"} if self.asks_tiles else {})

    @property
    def asks_tiles(self) -> bool:
        """Whether a tile or an overlap is given."""
        return self.tile is not None or self.overlap is not None


@dataclass
class DeviceTimer:
    """The seconds that a network has taken; a GPU is synchronized before and after each batch."""

    seconds: float = 0.0


class SlidingWindowInferer:
    """Runs a network over images as a :class:`SlidingWindowConfig` says.

    When the device's memory runs out, batches are halved, then tiles; one warning says so, and later images keep to it.

    Args:
        engine: what runs the network.
        config: how images are covered.
        batch_pixels: how many pixels make a batch that keeps the device busy; None takes what suits the device.
        reporter: where messages go about tiles, or smaller batches, that the memory demands.

    Attributes:
        config: how images are covered.
        timer: measures the time of the network; None measures none.
    """

    def __init__(
        self,
        engine: Engine,
        config: SlidingWindowConfig,
        *,
        batch_pixels: int | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.config = config
        self.timer: DeviceTimer | None = None
        self._engine = engine
        self._name = engine.spec.arch
        self._stride, self._min_size = engine.spec.stride, engine.spec.min_size
        self._takes = {"stride": self._stride, "min_size": self._min_size}
        # Two cores need a fifth less time for a pixel than in batches of 2**17, and gain nothing from larger ones.
        self._batch_pixels = batch_pixels or (2**19 if engine.device.type == "cpu" else 2**21)
        self._reporter = reporter or default_reporter()
        self._plans: dict[Size, TileGrid] = {}
        self._most: int | None = None  # pixels at once, as measured, or as was learned when memory ran short
        self._ran_short = False
        self._last = torch.Size((1, 3, 0, 0))  # of the last batch that was tried
        self._reported: set[str] = set()

    def plan(self, size: Size) -> TileGrid:
        """How an image of (height, width) is covered; computed once for each size.

        Raises:
            ModelError: there is no exact join, or no tile fits the memory.
        """
        if size not in self._plans:
            if len(self._plans) > 4096:  # every image of a folder may have a size of its own
                self._plans.clear()
            self._plans[size] = self._make_plan(size)
        return self._plans[size]

    def fits_batch(self, size: Size, others: Sequence[Size]) -> bool:
        """Whether an image may join a batch of others: it has tiles of the same size, and they are not too many."""
        plans = [self.plan(one) for one in (*others, size)]
        pixels = sum(len(plan) * self._pixels(plan.tile) for plan in plans)
        # Pictures in tiles wait for one another, so that few batches are cut short.
        most = self._batch_pixels * (1 if len(plans[-1]) == 1 else 4)
        return plans[-1].tile == plans[0].tile and pixels <= most

    def logits(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Run the network on images, uint8 (3, h, w) on the device.

        Returns:
            For each one its logits (K, h, w), on the device.

        Raises:
            ModelError: the memory is too small for the smallest tile.
        """
        return [
            each.output
            for each in self._run_tiles(lambda: [Accumulator(image, self.plan(_size(image))) for image in images])
        ]

    def labels(self, images: Sequence[Tensor]) -> list[Tensor]:
        """The likeliest class of each pixel, decided tile by tile, so that memory never holds a map for each class.

        Returns:
            For each of the images its labels (h, w), on the device; ``task.void`` where the network gives NaN.

        Raises:
            ModelError: the memory is too small for the smallest tile.
        """

        def make() -> list[Accumulator]:
            return [Accumulator(image, self.plan(_size(image)), finish=self._likeliest) for image in images]

        return [each.output[0] for each in self._run_tiles(make)]

    def strips(self, image: Tensor | WindowedImage) -> Iterator[Tensor]:
        """The probabilities of an image, from top to bottom, a row of tiles at a time.

        Memory holds one strip, beside what tiles have in common with the next row.

        Args:
            image: uint8 (C, H, W) on the device; or one that is read as tiles need it, whose tiles are as high as
                memory for a strip allows.

        Yields:
            float32 (K, h, W) on the device; all h together are H.

        Raises:
            ModelError: the memory is too small for the smallest tile.
        """
        height, done = image.shape[1], 0
        finish = self._task.probabilities
        while done < height:
            plan = self.plan(_size(image)) if isinstance(image, Tensor) else self._strip_plan(_size(image))
            strips, top = Strips(image, plan, finish=finish), 0
            try:
                for _ in each_batch([strips], self._run, most=self._tiles_at_once):
                    while strips.ready:
                        known, top = max(done - top, 0), top + strips.ready[0].shape[1]
                        if top <= done:  # it was given before memory ran out
                            strips.ready.popleft()
                        else:
                            done = top
                            yield strips.ready.popleft()[:, known:]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                del strips
                self._take_less(_size(image))

    def refine(
        self, images: Sequence[Tensor], drafts: Sequence[Tensor], uncertain: Sequence[NDArray[np.bool_]]
    ) -> list[Tensor]:
        """Run the network on the uncertain regions of images, and take the rest from drafts.

        Args:
            images: uint8 (3, h, w) on the device.
            drafts: for each image its coarse probabilities (h, w), of several classes (K, h, w), on the device.
            uncertain: for each image the cells whose pixels the network predicts: see
                :func:`carvana.inference.tiling.roi.cover_cells`.

        Returns:
            For each one its probabilities, float32, as in its draft. Where windows would show the network more pixels
            than the image has, it sees all of it.

        Raises:
            ModelError: the memory is too small for the smallest window, or there is no exact join.
        """
        task = self._task

        def make() -> list[Accumulator]:
            plans = [self.plan_refinement(cells, _size(image)) for cells, image in zip(uncertain, images, strict=True)]
            return [
                Accumulator(image, plan, draft.float().clone(), finish=partial(probabilities_of, task))
                if isinstance(plan, RoiTiles)
                else Accumulator(image, plan)
                for image, plan, draft in zip(images, plans, drafts, strict=True)
            ]

        return [
            (each.output[0] if task.kind == "binary" else each.output)
            if isinstance(each.plan, RoiTiles)
            else probabilities_of(task, each.output)
            for each in self._run_tiles(make)
        ]

    def refine_labels(
        self, images: Sequence[Tensor], drafts: Sequence[Tensor], uncertain: Sequence[NDArray[np.bool_]]
    ) -> list[Tensor]:
        """As :meth:`refine`, for labels alone, decided window by window: memory holds no map for each class.

        Args:
            images: uint8 (3, h, w) on the device.
            drafts: for each image the labels (h, w) by its coarse probabilities, on the device.
            uncertain: as for :meth:`refine`.

        Returns:
            For each of the images its labels (h, w), as :meth:`labels` gives them.

        Raises:
            ModelError: as :meth:`refine` says.
        """

        def make() -> list[Accumulator]:
            plans = [self.plan_refinement(cells, _size(image)) for cells, image in zip(uncertain, images, strict=True)]
            return [
                Accumulator(image, plan, draft.clone() if isinstance(plan, RoiTiles) else None, finish=self._likeliest)
                for image, plan, draft in zip(images, plans, drafts, strict=True)
            ]

        return [each.output[0] for each in self._run_tiles(make)]

    @property
    def _task(self) -> Task:
        task = self._engine.spec.task
        assert task is not None
        return task

    def _likeliest(self, logits: Tensor) -> Tensor:
        """The class of the largest of logits (K, h, w), as (1, h, w); ``task.void`` where one is not finite."""
        best, labels = logits.max(0, keepdim=True)
        dtype = torch.uint8 if self._task.dtype == "uint8" else torch.int32
        return labels.masked_fill_(~best.isfinite(), self._task.void).to(dtype)

    def _run_tiles(self, make: Callable[[], list[Accumulator]]) -> list[Accumulator]:
        """The accumulators after the network has run; made again with less at once where memory runs out."""
        while True:
            accumulators = make()
            try:
                run_tiles(accumulators, self._run, most=self._tiles_at_once)
                return accumulators
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            largest = max((each.plan.size for each in accumulators), key=math.prod)
            del accumulators  # and with them the outputs so far
            self._take_less(largest)

    def plan_refinement(self, cells: NDArray[np.bool_], size: Size) -> RoiTiles | TileGrid:
        """How the uncertain cells of an image of (height, width) are covered: by windows, or by the whole image where
        windows would have more pixels.

        Raises:
            ConfigError: the windows that were asked for are too small to take anything.
            ModelError: the memory is too small for the smallest window, or there is no exact join.
        """
        exact = self.config.join == "exact"
        halo, grid = (self._exact_halo, self._stride) if exact else (HALO, CELL)
        asked = TAKEN + 2 * halo if self.config.tile is None else self.config.tile
        side, least = asked if isinstance(asked, int) else max(asked), 2 * halo + grid
        if side < least:
            raise ConfigError(
                f"tile {side}: too small for windows, which see {halo} pixels around what is taken of them; take at "
                f"least {least}{', or the join blend' if exact else ''}"
            )
        while not self._fits(self._pixels((side, side))):
            if side <= least:
                raise ModelError(
                    f"{self._name} does not fit the memory in windows of {side}x{side} pixels; take a larger --memory, "
                    "or leave out mode refine"
                )
            side = max(side // 2, least)
        windows = cover_cells(cells, size, side=side, halo=halo, grid=grid, **self._takes)
        if windows.cost < 1:
            return windows
        is_whole = self.config.mode == "auto" and self._fits(self._pixels(size))  # the tile is that of windows
        other = plan_whole(size) if is_whole else self.plan(size)
        return windows if windows.cost < other.cost else other

    def _run(self, tiles: Tensor) -> Tensor:
        self._last = tiles.shape
        if self.timer is None:
            return self._engine(tiles)
        synchronize(self._engine.device)
        began = time.perf_counter()
        logits = self._engine(tiles)
        synchronize(self._engine.device)
        self.timer.seconds += time.perf_counter() - began
        return logits

    def _make_plan(self, size: Size) -> TileGrid:
        config, whole = self.config, plan_whole(size)
        if config.mode == "whole":
            return whole
        pixels = self._pixels(size)
        if config.mode == "auto" and not config.asks_tiles and self._fits(pixels):
            return whole
        halo = self._exact_halo if config.join == "exact" else None
        if config.asks_tiles:
            plan = self._asked_plan(size, halo)
        else:
            plan = self._cheapest_plan(size, pixels, MARGIN if halo is None else 2 * halo)
        if config.mode == "auto" and not config.asks_tiles and len(plan) > 1:
            (height, width), tile = size, plan.tile
            self._once(
                "tiles",
                self._reporter.info,
                f"{self._name}: {height}x{width} pixels do not fit the memory at once; they go in {len(plan)} tiles of "
                f"{tile[0]}x{tile[1]}",
            )
        return plan

    def _strip_plan(self, size: Size) -> TileGrid:
        """Tiles for an image that does not fit the memory, no higher than a strip of it may be."""
        if self.config.mode == "whole":
            raise self._too_large(size, "")
        row = 4 * size[1] * len(self._task.classes)  # bytes
        highest = min(max(STRIP_BYTES // row // 64 * 64, 256), 1024)
        return self._asked_plan(size, self._exact_halo if self.config.join == "exact" else None, usual=highest)

    def _asked_plan(self, size: Size, halo: int | None, *, usual: int = 512) -> TileGrid:
        """Tiles of the size that was asked for, halved until they fit."""
        tile = usual if self.config.tile is None else self.config.tile
        sides = (tile, tile) if isinstance(tile, int) else tile
        try:
            while True:
                plan = plan_tiles(size, tile=sides, overlap=self.config.overlap, halo=halo, **self._takes)
                if self._fits(self._pixels(plan.tile)):
                    return plan
                smaller = max(sides[0] // 2, self._min_size), max(sides[1] // 2, self._min_size)
                if smaller == sides:
                    break
                sides = smaller
        except ConfigError:
            if sides in (tile, (tile, tile)):
                raise
        raise self._too_large(size, " in tiles" + (f" with {halo} pixels around" if halo is not None else ""))

    def _cheapest_plan(self, size: Size, pixels: int, margin: int) -> TileGrid:
        most = pixels if self._fits(pixels) else self._most_pixels()
        join: Any = self.config.join
        found = cheapest_plan(size, most_pixels=most, margin=margin, join=join, least_tiles=2, **self._takes)
        if found is not None:
            return found
        if most >= pixels:  # too small to be divided
            return plan_whole(size)
        raise self._too_large(size, f" in tiles that have {margin} pixels in common")

    def _take_less(self, size: Size) -> None:
        """Halve the batch, or the tile, after memory ran out on images of up to this size."""
        release_memory(self._engine.device)
        count, _, height, width = self._last
        tried = self._pixels((height, width))
        if count > 1:
            self._batch_pixels = count // 2 * tried
        elif self.config.mode == "whole" or tried <= 1:
            raise self._too_large(size, f", {height}x{width} of them at once")
        else:
            self._most, self._ran_short = tried // 2, True
            self._plans.clear()
        message = f"{self._name}: {count} x {height}x{width} pixels do not fit the memory; it goes on with less at once"
        self._once("short", self._reporter.warn, message)

    def _too_large(self, size: Size, how: str) -> ModelError:
        height, width = size
        tiles = " --mode tiles, or" if self.config.mode == "whole" else ""
        return ModelError(
            f"{self._name} does not fit the memory with images of {height}x{width} pixels (height x width){how}; "
            f"take{tiles} a smaller scale, such as --scale {max(height // 2, 8)}x{max(width // 2, 8)}"
        )

    def _tiles_at_once(self, tile: Size) -> int:
        pixels = self._batch_pixels if self._most is None else min(self._batch_pixels, self._most)
        return max(1, pixels // self._pixels(tile))

    def _fits(self, pixels: int) -> bool:
        """Whether so many pixels at once fit the memory."""
        named = self.config.memory is not None or self._ran_short
        return (pixels <= SMALL and not named) or pixels <= self._most_pixels()

    def _most_pixels(self) -> int:
        """How many pixels at once fit the memory, by the memory for one."""
        if self._most is None:
            self._most = int(budget_bytes(self._engine.device, self.config.memory) / self._engine.bytes_per_pixel())
        return self._most

    def _pixels(self, size: Size) -> int:
        """How many pixels the network sees of an image, padding included."""
        return math.prod(padded_size(side, self._stride, self._min_size) for side in size)

    @cached_property
    def _exact_halo(self) -> int:
        try:
            return self._engine.receptive_field()
        except ModelError as error:
            raise ModelError(f"{self._name} has no exact join: {error}; take --join blend, or --mode whole") from None

    def _once(self, what: str, say: Callable[[str], None], message: str) -> None:
        """Report a message once for each ``what``."""
        if what not in self._reported:
            self._reported.add(what)
            say(message)


def probabilities_of(task: Task, logits: Tensor) -> Tensor:
    """Logits (K, h, w), which may be overwritten, as probabilities: float32 (K, h, w), (h, w) of a single class."""
    return logits[0].float().sigmoid_() if task.kind == "binary" else task.probabilities(logits)


def _size(image: Tensor | WindowedImage) -> Size:
    return image.shape[1], image.shape[2]
