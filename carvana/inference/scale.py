"""The scale: how large the network sees a photo."""

from __future__ import annotations

import re

from carvana.errors import ConfigError, did_you_mean

Scale = str | tuple[int, int]
"""``"trained"``, ``"native"``, ``"HEIGHTxWIDTH"`` or (height, width)."""


def network_size(scale: Scale, trained_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Decide to which size photos are brought before the network sees them.

    Args:
        scale: ``"trained"`` is the size that the network was trained at, ``"native"`` the photo's own.
        trained_size: (height, width) of the network's training, None if it saw photos at their own size.

    Returns:
        (height, width), or None for each photo's own size.

    Raises:
        ConfigError: the scale is none of these.

    >>> network_size("trained", (128, 128)), network_size("640x960", (128, 128)), network_size("native", (128, 128))
    ((128, 128), (640, 960), None)
    """
    if scale == "native":
        return None
    if scale == "trained":
        return trained_size
    if isinstance(scale, str):
        match = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*", scale)
        size: tuple[int, ...] = tuple(int(number) for number in match.groups()) if match else ()
    else:
        size = tuple(scale)
    if len(size) != 2 or min(size) < 1:
        hint = did_you_mean(scale, ["trained", "native"]) if isinstance(scale, str) else ""
        raise ConfigError(f"scale {scale!r} is unknown; expected trained, native or HEIGHTxWIDTH such as 640x960{hint}")
    return size[0], size[1]
