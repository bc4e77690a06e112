"""ImageSpec: what the images of a data set are, and so how a file becomes the pixels that a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from carvana.errors import ConfigError

Pages = Literal["images", "channels"]
Page = int | Literal["channels"] | None

RGB = ("red", "green", "blue")
GRAY = ("gray",)
MOST_CHANNELS = 512


@dataclass(frozen=True)
class ImageSpec:
    """What the images of a data set are.

    Attributes:
        channels: the names of a pixel's values.
        range: for each channel the values that become 0 and 255; none where files have 8 bits.
        nodata: the values that stand for none, beside NaN and what a TIFF's own tag names; None where every value
            counts.
        fill: for each channel what a value that stands for none becomes, from 0 to 255.
        page: of files with several pages the one that is read, from 0, or ``"channels"`` for all of them as channels.

    >>> ImageSpec().is_rgb, ImageSpec(channels=("blue", "red", "infrared", "gray")).is_rgb
    (True, False)
    """

    channels: tuple[str, ...] = RGB
    range: tuple[tuple[float, float], ...] = ()
    nodata: tuple[float, ...] | None = None
    fill: tuple[int, ...] = ()
    page: Page = None

    def of_page(self, page: Page) -> ImageSpec:
        """The same of another page."""
        return self if page == self.page else replace(self, page=page)

    @property
    def is_rgb(self) -> bool:
        """Whether images are colour pictures, or are read as such."""
        return self.channels == RGB

    @property
    def in_colours(self) -> bool:
        """Whether each image may be one brightness, or RGB: one is made of the other."""
        return self.channels in (RGB, GRAY)

    @property
    def is_picture(self) -> bool:
        """Whether :func:`carvana.read_image` reads the pixels: of other images, it is the bands that are read."""
        return self.in_colours and not self.range

    @property
    def with_nodata(self) -> ImageSpec:
        """The same, where NaN and what a TIFF's tag names stand for no value."""
        return self if self.nodata is not None else replace(self, nodata=())

    @property
    def is_plain(self) -> bool:
        """Whether all is as usual: RGB of 8 bits, each value of which counts."""
        return self == ImageSpec()


def channel_names(channels: int | str | Sequence[str]) -> tuple[str, ...]:
    """The names of an image's channels.

    Args:
        channels: ``"rgb"``, ``"gray"``, their number, or their names.

    Raises:
        ConfigError: none, too many, or a name is there twice.

    >>> channel_names("gray"), channel_names(3), channel_names(4)
    (('gray',), ('red', 'green', 'blue'), ('1', '2', '3', '4'))
    """
    known = {"rgb": RGB, "gray": GRAY, 3: RGB, 1: GRAY}
    names: tuple[str, ...] = ()
    if isinstance(channels, int | str):
        number = channels if isinstance(channels, int) and channels <= MOST_CHANNELS else 0
        if not isinstance(channels, bool):
            names = known.get(channels) or tuple(map(str, range(1, number + 1)))
    else:
        names = tuple(channels)
    named = all(0 < len(name) <= 200 for name in names)
    if not 1 <= len(names) <= MOST_CHANNELS or len(set(names)) < len(names) or not named:
        raise ConfigError(
            f"channels {channels!r:.80}: expected rgb, gray, a number of 1 to {MOST_CHANNELS}, or different names"
        )
    return names
