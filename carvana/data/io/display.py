"""Images for people: colours in sRGB and by name, and the transparency of the file.

Networks get pixels as they are in the file (:func:`carvana.data.io.images.read_image`): masks do not depend on
colour profiles. Images that people see are converted by their ICC profile here. Files are written without a profile,
which means sRGB.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, ImageColor

from carvana.data.io.convert import UInt8, is_wide, orientation_of, to_rgb, turn
from carvana.data.io.decode import Source, open_header, open_picture, read_bytes, stream
from carvana.data.io.images import MAX_PIXELS, read_image
from carvana.errors import ConfigError, DataError, did_you_mean

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's names for the colour spaces of profiles."""


def read_shown(
    source: str | os.PathLike[str] | bytes, *, pixels: UInt8 | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8:
    """Read an image to show it: in sRGB, with its transparency.

    An ICC profile is applied, unless it is damaged or for pixels of another kind.

    Args:
        source: A path, or the bytes of an image file.
        pixels: The result of :func:`carvana.read_image` at full size, if it is known: most files are then not decoded
            again.
        max_pixels: Refuse images that hold more pixels.

    Returns:
        uint8, upright: (H, W, 3) RGB, or (H, W, 4) RGBA, not premultiplied, if a pixel is not opaque.

    Raises:
        DataError: as for :func:`carvana.read_image`.
    """
    transform, decodes = None, False
    # The JPEG decoder may read what Pillow cannot open: then nothing is known of its colours.
    with suppress(DataError), stream(source, max_pixels) as file, open_header(file, source, max_pixels) as header:
        transform = _transform(header)
        decodes = _may_be_clear(header) or (transform is not None and header.mode == "CMYK")
    if decodes:
        return _decoded(source, max_pixels)
    if pixels is None:
        pixels = read_image(source, max_pixels=max_pixels)
    return pixels if transform is None else _converted(Image.fromarray(pixels), transform)


def over_white(image: UInt8) -> UInt8:
    """A picture (H, W, 3) as it is, or (H, W, 4) laid onto white."""
    return image if image.shape[2] == 3 else to_rgb(Image.fromarray(image))


def _decoded(source: Source, max_pixels: int) -> UInt8:
    with open_picture(read_bytes(source, max_pixels), source, max_pixels) as picture:
        orientation, transform, alpha = orientation_of(picture), _transform(picture), None
        if _may_be_clear(picture):
            clear = picture.convert("RGBA")
            alpha = np.asarray(clear.getchannel("A"))
            picture = clear.convert("RGB")
        image = to_rgb(picture) if transform is None else _converted(picture, transform)
    if alpha is not None and alpha.min(initial=255) < 255:
        image = np.dstack([image, alpha])
    return turn(image, orientation)


def _may_be_clear(picture: Image.Image) -> bool:
    return picture.has_transparency_data and not is_wide(picture)


def _transform(picture: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """The transform of a picture's colours to sRGB; None if they are sRGB, or if its profile is for other pixels."""
    profile = picture.info.get("icc_profile")
    transform = _to_srgb(profile) if isinstance(profile, bytes) and profile else None
    if transform is None:
        return None
    grey = is_wide(picture) or picture.mode in ("1", "L", "LA", "La")
    fits = {"RGB": picture.mode != "CMYK", "L": grey, "CMYK": picture.mode == "CMYK"}
    return transform if fits[transform.input_mode] else None


def _converted(picture: Image.Image, transform: ImageCms.ImageCmsTransform) -> UInt8:
    wanted = transform.input_mode
    return np.asarray(transform.apply(picture if picture.mode == wanted else picture.convert(wanted)))


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None if the profile is sRGB itself, damaged, or of other colours.

    A transform may be applied by several threads at once.
    """
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES.get(found.profile.xcolor_space.strip())
        if mode is None:
            return None
        transform = ImageCms.buildTransform(
            found,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode == "CMYK":
            return transform
        shown = np.asarray(transform.apply(Image.fromarray(_SAMPLES).convert(mode)), np.int16)
    except Exception:  # littlecms raises several kinds of errors
        return None
    expected = np.asarray(Image.fromarray(_SAMPLES).convert(mode).convert("RGB"), np.int16)
    return transform if np.abs(shown - expected).max() > 1 else None


_STEPS = np.arange(0, 256, 15, dtype=np.uint8)
_SAMPLES = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS), axis=-1).reshape(len(_STEPS), -1, 3)
"""A grid of colours: a profile that changes none of them is sRGB, whatever its name."""


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
