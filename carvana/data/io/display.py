"""Images for people: colours in sRGB and by name, the transparency of the file, and masks drawn on images.

Networks get pixels as they are in the file (:func:`carvana.data.io.images.read_image`): masks do not depend on
colour profiles. Images that people see are converted by their ICC profile here. Files are written without a profile,
which means sRGB.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageCms, ImageColor, ImageDraw, ImageFont

from carvana.data.io.arrays import scaled, without_value
from carvana.data.io.convert import UInt8, is_wide, orientation_of, to_rgb, turn
from carvana.data.io.decode import Source, open_header, open_picture, read_bytes, stream
from carvana.data.io.images import MAX_PIXELS, read_bands, read_pixels
from carvana.data.io.labels import Labels
from carvana.errors import ConfigError, DataError, did_you_mean, shortened
from carvana.image_spec import RGB, ImageSpec
from carvana.metrics import as_binary
from carvana.task import Task

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's names for the colour spaces of profiles."""

OUTLINE = (255, 214, 10)
"""Yellow: the mask's outline."""
EXTRA = (255, 45, 85)
"""Red: marked, but background (false positives)."""
MISSED = (10, 132, 255)
"""Blue: foreground, but not marked (false negatives)."""

_DIMMED = 0.45  # of the image's light that is left outside the mask
_IN_LEGEND = 12  # classes; more would be higher than the image


_STRETCH = 2, 98  # percentiles that become black and white


def read_shown(
    source: str | os.PathLike[str] | bytes,
    spec: ImageSpec = ImageSpec(),  # noqa: B008 - it is frozen
    *,
    pixels: UInt8 | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8:
    """Read an image to show it: in sRGB, with its transparency.

    An ICC profile is applied, unless it is damaged or for pixels of another kind. Of other channels than RGB those that
    are named red, green and blue are shown, or else the first three, or the first one, stretched.

    Args:
        source: A path, or the bytes of an image file.
        spec: How it is read.
        pixels: The result of :func:`carvana.data.io.images.read_pixels` at full size, if it is known: most files are
            then not decoded again.
        max_pixels: Refuse images that hold more pixels.

    Returns:
        uint8, upright: (H, W, 3) RGB, or (H, W, 4) RGBA, not premultiplied, if a pixel is not opaque.

    Raises:
        DataError: as for :func:`carvana.read_image`.
    """
    if not spec.is_picture or spec.page is not None:
        if pixels is None and not spec.range:
            return as_picture(read_bands(source, spec, max_pixels=max_pixels)[0], spec.channels)
        pixels = read_pixels(source, spec, max_pixels=max_pixels) if pixels is None else pixels
        return pixels if spec.is_rgb else as_picture(pixels, spec.channels)
    if pixels is not None and pixels.shape[2] == 1:
        pixels = None  # the file may have colours
    transform, decodes = None, False
    # The JPEG decoder may read what Pillow cannot open: then nothing is known of its colours.
    with suppress(DataError), stream(source, max_pixels) as file, open_header(file, source, max_pixels) as header:
        transform = _transform(header)
        decodes = _may_be_clear(header) or (transform is not None and header.mode == "CMYK")
    if decodes:
        return _decoded(source, max_pixels)
    if pixels is None:
        try:
            pixels = read_pixels(source, max_pixels=max_pixels)
        except DataError as error:
            if error.kind != "range":  # of which no range is known here
                raise
            return as_picture(read_bands(source, spec, max_pixels=max_pixels)[0])
    return pixels if transform is None else _converted(Image.fromarray(pixels), transform)


def as_picture(values: NDArray[Any], channels: Sequence[str] = (), *, nodata: float | None = None) -> UInt8:
    """Values (H, W) or (H, W, C) of any type as a picture (H, W, 3): their bands of red, green and blue, stretched.

    Args:
        values: Of an image.
        channels: The names of its channels.
        nodata: What stands for no value beside NaN, which is shown grey.
    """
    values = values[..., None] if values.ndim == 2 else values
    names = [name.lower() for name in channels]
    bands = [names.index(name) for name in RGB if name in names]
    if len(bands) < 3:
        bands = [0, 1, 2] if values.shape[2] >= 3 else [0, 0, 0]
    stretched = {}
    for band in set(bands):
        some = values[..., band]
        lacking = without_value(some, [nodata])
        present = some[~lacking]
        low, high = np.percentile(present, _STRETCH) if present.size else (0, 1)
        shown = scaled(some, float(low), float(high) if high > low else float(low) + 1)
        stretched[band] = np.where(lacking, np.uint8(127), shown)
    return np.stack([stretched[band] for band in bands], axis=2)


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


def overlay(
    image: NDArray[np.uint8], mask: ArrayLike, target: ArrayLike | None = None, *, thickness: int | None = None
) -> NDArray[np.uint8]:
    """Draw a mask on its image: the background is dimmed, the outline drawn.

    Args:
        image: uint8 (H, W, 3), RGB.
        mask: (H, W), nonzero where the object was predicted.
        target: the true mask (H, W). With it, errors are painted in place of the outline: false positives red, misses
            blue.
        thickness: pixels of the outline, or by which errors are made thicker so that they are seen when the picture is
            shrunk; None takes one for each 500 pixels of the image's width.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        DataError: the sizes differ.
    """
    masks = [as_binary(each) for each in (mask, target) if each is not None]
    for each in masks:
        if each.shape != image.shape[:2]:
            raise DataError(f"a mask of shape {each.shape} does not lie on an image of shape {image.shape[:2]}")
    marked = masks[0]
    thickness = max(1, round(image.shape[1] / 500)) if thickness is None else thickness
    shade = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    shown = np.where(marked[..., None] > 0, image, cv2.convertScaleAbs(shade, alpha=_DIMMED))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness - 1, 2 * thickness - 1))
    if target is None:
        # A brush of one pixel would find no gradient.
        paint_outline(shown, marked, brush if thickness > 1 else np.ones((3, 3), np.uint8))
    else:
        paint_errors(shown, marked, masks[1], brush)
    return shown


def paint_outline(picture: NDArray[np.uint8], mask: NDArray[np.uint8], brush: NDArray[np.uint8]) -> None:
    """Paint a mask's outline in yellow.

    Args:
        picture: uint8 (H, W, 3), or (H, W, 4), where what is painted becomes opaque.
        mask: uint8 (H, W) of 0 and 1.
        brush: a kernel of 3 x 3 pixels or more, the width of the outline.
    """
    picture[cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, brush) > 0] = (*OUTLINE, 255)[: picture.shape[2]]


def paint_errors(
    picture: NDArray[np.uint8], mask: NDArray[np.uint8], target: NDArray[np.uint8], brush: NDArray[np.uint8]
) -> None:
    """Paint red where a mask is too much and blue where it misses.

    Args:
        picture: as for :func:`paint_outline`.
        mask: uint8 (H, W) of 0 and 1.
        target: the true mask, likewise.
        brush: a kernel by which errors are made thicker.
    """
    for colour, wrong in ((EXTRA, mask & ~target), (MISSED, target & ~mask)):
        picture[cv2.dilate(wrong, brush) > 0] = (*colour, 255)[: picture.shape[2]]


def overlay_classes(image: NDArray[np.uint8], labels: Labels, task: Task, *, legend: bool = True) -> NDArray[np.uint8]:
    """:func:`overlay` of a mask of one object, :func:`overlay_labels`, or :func:`overlay_masks` of masks (K, H, W)."""
    if task.kind == "binary":
        return overlay(image, labels)
    draw = overlay_masks if task.kind == "multilabel" else overlay_labels
    return draw(image, labels, task, legend=legend)


def overlay_labels(
    image: NDArray[np.uint8],
    labels: Labels,
    task: Task,
    *,
    legend: bool = True,
    errors: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Paint each class in its colour over the image, with lines between classes.

    Args:
        image: uint8 (H, W, 3), RGB.
        labels: (H, W), indices of classes, or ``task.void``, which stays grey.
        task: the task.
        legend: whether a strip below names the classes that there are, the largest first.
        errors: bool (H, W): if given, only these pixels are painted.

    Returns:
        uint8 (H, W, 3), RGB; higher with a legend.

    Raises:
        DataError: the sizes differ.
    """
    if labels.shape != image.shape[:2]:
        raise DataError(f"labels of shape {labels.shape} do not lie on an image of shape {image.shape[:2]}")
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    known = np.minimum(labels, len(task.classes))  # void is the place behind the last class
    colours = np.concatenate([task.palette, np.full((1, 3), 128, np.uint8)])[known]
    shown = cv2.addWeighted(grey, 0.4, colours, 0.6, 0)
    line = np.zeros(labels.shape, bool)
    line[1:] |= labels[1:] != labels[:-1]
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    shown[line] = (colours // 2)[line]
    shown[labels == task.void] = (grey // 2)[labels == task.void]
    if errors is not None:
        shown = np.where(errors[..., None], shown, cv2.convertScaleAbs(grey, alpha=0.5))
    present = largest_first(np.bincount(known.ravel(), minlength=len(task.classes) + 1)[:-1])
    return np.concatenate([shown, legend_of(task, present, image.shape[1])]) if legend and present else shown


def overlay_masks(image: NDArray[np.uint8], masks: Labels, task: Task, *, legend: bool = True) -> NDArray[np.uint8]:
    """Paint masks that may overlap over the image: mixed colours inside, and the outline of each class in its own.

    Outlines have a pixel for each 400 pixels of the image's width.

    Args:
        image: uint8 (H, W, 3), RGB.
        masks: (K, H, W), 1 where a class is; ``task.void`` is left grey.
        task: the task.
        legend: whether a strip below names the classes that there are, the largest first.

    Returns:
        uint8 (H, W, 3), RGB; higher with a legend.

    Raises:
        DataError: the sizes differ.
    """
    if masks.shape[1:] != image.shape[:2]:
        raise DataError(f"masks of shape {masks.shape} do not lie on an image of shape {image.shape[:2]}")
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    sums, times = np.zeros(image.shape, np.uint32), np.zeros(masks.shape[1:], np.uint16)
    inside = [(mask == 1).view(np.uint8) for mask in masks]
    for mask, colour in zip(inside, task.palette, strict=True):
        sums += mask[..., None] * colour.astype(np.uint32)
        times += mask
    mean = (sums / np.maximum(times, 1)[..., None]).astype(np.uint8)
    painted = np.where(times[..., None] > 0, cv2.addWeighted(grey, 0.5, mean, 0.5, 0), grey)
    painted[masks[0] == task.void] = (grey // 2)[masks[0] == task.void]
    side = 2 * max(1, round(image.shape[1] / 400)) + 1
    present = largest_first(np.array([int(mask.sum()) for mask in inside]))
    for index in present:  # the smallest last, whose outline is the most hidden
        rim = inside[index] - cv2.erode(inside[index], np.ones((side, side), np.uint8))
        painted[rim > 0] = task.palette[index]
    return np.concatenate([painted, legend_of(task, present, image.shape[1])]) if legend and present else painted


def largest_first(pixels: NDArray[np.int64]) -> list[int]:
    """The indices of the classes that have pixels (K,), those with the most first."""
    return [index for index in np.argsort(-pixels, kind="stable").tolist() if pixels[index]]


def legend_of(task: Task, present: Sequence[int], width: int) -> NDArray[np.uint8]:
    """Lines of swatches and names, as wide as the image; of very many classes the first ones."""
    size = max(10, round(width / 60))
    font, row, gap = _font(size), round(1.7 * size), round(0.6 * size)
    words = {index: shortened(task.names[index]) for index in present[:_IN_LEGEND]}
    if len(present) > _IN_LEGEND:
        words[-1] = f"and {len(present) - _IN_LEGEND} more"
    places: list[tuple[int, int, int]] = []
    x, y = gap, 0
    for index, name in words.items():
        taken = (size + gap) * (index >= 0) + math.ceil(font.getlength(name)) + 2 * gap
        if x > gap and x + taken > width:
            x, y = gap, y + row
        places.append((index, x, y))
        x += taken
    picture = Image.new("RGB", (width, y + row), "white")
    draw = ImageDraw.Draw(picture)
    for index, x, y in places:
        if index >= 0:
            top = y + (row - size) // 2
            draw.rectangle((x, top, x + size, top + size), fill=tuple(task.palette[index].tolist()), outline="#888888")
            x += size + gap
        draw.text((x, y + row / 2), words[index], fill="black", font=font, anchor="lm")
    return np.asarray(picture)


@cache
def _font(size: int) -> Any:
    """The font that matplotlib brings, which has the letters of most of Europe; Pillow's own has no umlauts."""
    found = find_spec("matplotlib")
    for folder in (found and found.submodule_search_locations) or ():
        with suppress(OSError):
            return ImageFont.truetype(Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf"), size)
    return ImageFont.load_default(size)
