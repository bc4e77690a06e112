"""The pictures of the page: the images on which networks disagree most, with each network's errors."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.io.display import over_white, read_shown
from carvana.data.io.images import encode_image, resize_image
from carvana.data.io.masks import read_mask
from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.evaluation.evaluate import mask_path
from carvana.inference.outputs.overlay import paint_errors, paint_outline
from carvana.leaderboard.records import WAITING, LeaderboardData, ScoredImage
from carvana.leaderboard.report.disagreement import Disagreement, Masks, most_different
from carvana.leaderboard.report.markup import Markup, Series, element, joined

UInt8 = NDArray[np.uint8]

_THUMBNAIL = 420  # pixels, the width of a whole image
_CROP = (3 / 16, 1 / 4)  # of the image's width: height and width of the part that is shown large
_LEAST_CROP = 240  # pixels: smaller parts are enlarged, so that browsers do not blur them
_DIMMED = 140  # of 255: how much of the image's light is taken away outside a mask


def disagreements(board: LeaderboardData, series: Mapping[str, Series]) -> Markup | str:
    """The pictures, or a sentence that says why there are none."""
    if any(row.status == WAITING for row in board.rows):
        return "Images are compared once no network is waiting any more."
    with_masks = {name: each for name, each in series.items() if each.row.masks}
    if len(with_masks) < 2:
        return "It takes the masks of two networks to compare them."
    samples = {sample.name: sample for sample in board.samples if sample.mask is not None}
    images = [image for image in board.images if image.image in samples]
    if not images:
        return "The images could not be found when this page was written."

    def read(image: ScoredImage) -> Masks | None:
        return _read_masks(samples[image.image], with_masks.values())

    chosen = most_different(images, list(with_masks), read)
    if not chosen:
        return "The masks could not be found when this page was written."
    shown = [_article(each, samples[each.image.image], with_masks, index) for index, each in enumerate(chosen, start=1)]
    return joined(shown)


def busiest_window(weights: NDArray[np.floating[Any]], size: tuple[int, int]) -> tuple[int, int]:
    """The top left corner (row, column) of the window of a size (height, width) that holds the most weight.

    Of equal windows it is the middle one, which shows what it holds in its centre.
    """
    height, width = (min(window, whole) for window, whole in zip(size, weights.shape, strict=True))
    sums = cv2.integral(weights, sdepth=cv2.CV_64F)
    held = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    corners = np.argwhere(held >= held.max() * (1 - 1e-6))
    row, column = corners[np.argmin(np.square(corners - corners.mean(axis=0)).sum(axis=1))]
    return int(row), int(column)


def _read_masks(sample: Sample, series: Iterable[Series]) -> list[UInt8] | None:
    """The masks of an image, one of each network; None where one is missing, damaged or of another size."""
    try:
        masks = [read_mask(mask_path(each.row.masks or "", sample)) for each in series]
    except DataError:
        return None
    return masks if len({mask.shape for mask in masks}) == 1 else None


def _article(chosen: Disagreement, sample: Sample, series: Mapping[str, Series], index: int) -> Markup:
    """One image as a whole, and the part where its masks differ most: the truth, then the errors of each network."""
    scored, masks = chosen.image, _read_masks(sample, series.values())
    assert masks is not None
    assert sample.mask is not None
    image, true = over_white(read_shown(sample.image)), read_mask(sample.mask)
    height, width = true.shape
    size = round(_CROP[0] * width), round(_CROP[1] * width)
    votes: NDArray[np.float32] = np.stack(masks).mean(axis=0, dtype=np.float32)
    top, left = busiest_window(votes * (1 - votes), size)
    part = (slice(top, top + size[0]), slice(left, left + size[1]))
    factor = max(1, round(_LEAST_CROP / size[1]))
    crop = image[part]
    enlarged = resize_image(crop, (factor * crop.shape[0], factor * crop.shape[1]))
    frame = (
        f"left: {left / width:.2%}; top: {top / height:.2%}; "
        f"width: {crop.shape[1] / width:.2%}; height: {crop.shape[0] / height:.2%}"
    )
    whole = element(
        "figure",
        element("div", _image(_shrunk(image), ".jpg", alt=f"the image {scored.image}"), element("span", style=frame)),
        element("figcaption", "the whole image"),
        class_="whole",
    )
    tiles = [_tile(outline(true[part], factor), "truth", alt="the true mask's outline")]
    for (name, each), mask in zip(series.items(), masks, strict=True):
        layer = errors(mask[part], true[part], factor)
        caption = each.label(element("small", f"Dice {scored.dice[name]:.5f}"))
        tiles.append(_tile(layer, caption, alt=f"the errors of {name}"))
    words = [f"group {scored.group}" if scored.group else "", f"view {scored.view}" if scored.view else ""]
    words.append(f"two masks differ by {chosen.distance:.2%} of their union, on average")
    return element(
        "article",
        element("h3", scored.image),
        element("p", ", ".join(filter(None, words)), class_="muted"),
        # Shared by all tiles, each of which lays its own transparent picture over it.
        element("style", Markup(f"#image-{index} .crop{{background-image:url({_data_url(enlarged, '.jpg')})}}")),
        element("div", whole, element("div", *tiles, class_="tiles"), class_="side-by-side"),
        id=f"image-{index}",
        class_="image",
    )


def errors(mask: UInt8, true: UInt8, factor: int = 1) -> UInt8:
    """A layer that shows a mask and its errors, in the colours of :mod:`carvana.inference.outputs.overlay`.

    Args:
        mask: uint8 (H, W) of 0 and 1.
        true: the same of the truth.
        factor: by which the layer is enlarged.

    Returns:
        uint8 (factor H, factor W, 4), RGBA: dark outside the mask, red where it is too much, blue where it misses.
    """
    layer = _dimmed(mask)
    # Single pixels would not be seen.
    paint_errors(layer, mask, true, brush=np.ones((2, 2) if factor == 1 else (1, 1), np.uint8))
    return _enlarged(layer, factor)


def outline(true: UInt8, factor: int = 1) -> UInt8:
    """The same for the truth: dark outside it, its outline yellow."""
    layer = _enlarged(_dimmed(true), factor)
    paint_outline(layer, _enlarged(true, factor), brush=np.ones((3, 3), np.uint8))
    return layer


def _dimmed(mask: UInt8) -> UInt8:
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask == 0, 3] = _DIMMED
    return layer


def _enlarged(pixels: UInt8, factor: int) -> UInt8:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _shrunk(image: UInt8) -> UInt8:
    height, width = image.shape[:2]
    factor = min(1.0, _THUMBNAIL / width)
    return resize_image(image, (max(1, round(factor * height)), max(1, round(factor * width))))


def _tile(layer: UInt8, caption: str, *, alt: str) -> Markup:
    return element(
        "figure",
        element("div", _image(layer, ".png", alt=alt), class_="crop"),
        element("figcaption", caption),
    )


def _image(pixels: UInt8, suffix: str, *, alt: str) -> Markup:
    height, width = pixels.shape[:2]
    return element("img", src=_data_url(pixels, suffix), alt=alt, width=width, height=height)


def _data_url(pixels: UInt8, suffix: str) -> str:
    """Pixels as a URL that holds an image file."""
    data = encode_image(pixels, suffix, quality=84)
    return f"data:image/{'jpeg' if suffix == '.jpg' else 'png'};base64,{base64.b64encode(data).decode('ascii')}"
