"""Colours by name."""

from __future__ import annotations

import re

from PIL import ImageColor

from carvana.errors import ConfigError, did_you_mean


def parse_colour(text: str) -> tuple[int, int, int]:
    """The colour (red, green, blue), each 0 to 255, of a name of CSS, or of ``#rrggbb`` or ``#rgb``.

    Raises:
        ConfigError: it is not a colour.

    >>> parse_colour("SteelBlue"), parse_colour("#f80")
    ((70, 130, 180), (255, 136, 0))
    """
    name = text.strip().lower()
    if name in ImageColor.colormap or re.fullmatch(r"#([0-9a-f]{3}){1,2}", name):
        red, green, blue = ImageColor.getrgb(name)[:3]
        return red, green, blue
    hint = did_you_mean(name, ImageColor.colormap)
    raise ConfigError(f"{text!r} is not a colour; expected a name of CSS, such as white, or #rrggbb{hint}")
