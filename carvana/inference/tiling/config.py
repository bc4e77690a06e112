"""Settings of the sliding window: whole images or tiles, and how tiles are joined."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from carvana.errors import ConfigError, did_you_mean
from carvana.inference.tiling.grid import Join, Size, plan_tiles

Mode = Literal["auto", "whole", "tiles"]


@dataclass(frozen=True)
class SlidingWindowConfig:
    """How a network covers an image.

    Attributes:
        mode: ``whole``, ``tiles``, or ``auto``: whole if it fits the memory, else the cheapest tiles that do.
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
        return {name: value for name, value in vars(self).items() if value != getattr(default, name)}
