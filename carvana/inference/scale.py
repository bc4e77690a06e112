"""The scale: how large the network sees an image."""

from __future__ import annotations

import re

from carvana.errors import ConfigError, did_you_mean

Scale = str | tuple[int, int]
"""``"trained"``, ``"native"``, ``"HEIGHTxWIDTH"`` or (height, width)."""

SMALLEST, LARGEST = 8, 16384
"""Bounds of either side, in pixels: those of data.size in a config."""


def network_size(scale: Scale, trained_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """The size to which images are resized for the network.

    Args:
        scale: ``"trained"`` is the size that the network was trained at, ``"native"`` the image's own.
        trained_size: (height, width) of the network's training, None if it saw images at their own size.

    Returns:
        (height, width), each from 8 to 16384, or None for each image's own size.

    Raises:
        ConfigError: the scale is not valid.

    >>> network_size("trained", (128, 128)), network_size("640x960", (128, 128)), network_size("native", (128, 128))
    ((128, 128), (640, 960), None)
    """
    if scale == "native":
        return None
    if scale == "trained":
        return trained_size
    if isinstance(scale, str):
        match = re.fullmatch(r"\s*(\d{1,9})\s*x\s*(\d{1,9})\s*", scale)
        size: tuple[int, ...] = tuple(int(number) for number in match.groups()) if match else ()
    else:
        size = tuple(scale)
    if len(size) != 2 or min(size) < SMALLEST or max(size) > LARGEST:
        hint = did_you_mean(scale, ["trained", "native"]) if isinstance(scale, str) else ""
        raise ConfigError(
            f"scale {scale!r} cannot be used; expected trained, native or HEIGHTxWIDTH such as 640x960, each side "
            f"{SMALLEST} to {LARGEST} pixels{hint}"
        )
    return size[0], size[1]
