"""An image and its label map, painted together: a label is that of the last shape that covers half of the pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.floating]"
RGB: TypeAlias = "tuple[float, float, float]"
Colour: TypeAlias = "Sequence[float] | Floats"
Pattern: TypeAlias = "Callable[[Floats, Floats], Floats]"
"""The share 0 to 1 of a second colour, for the x (1, w) and the y (h, 1) of the middle of pixels."""

_FINE = 4  # coverage is exact to a sixteenth of a pixel
_TILE = 256  # pixels of the grain's sides


class Canvas:
    """The image (H, W, B), float32 from 0 to 1, and the label map (H, W), uint8, of one view.

    Args:
        size: (H, W).
        spectra: (classes, B - 3): what each class reflects in the bands behind red, green and blue.
        haze: The colour of what is far away.
        light: The colour of the light.
        noise: The generator of the grain, which all views of a scene share.
    """

    def __init__(
        self, size: tuple[int, int], *, spectra: Floats, haze: RGB, light: RGB, noise: np.random.Generator
    ) -> None:
        bands = spectra.shape[1]
        self.image = np.zeros((*size, 3 + bands), np.float32)
        self.labels = np.zeros(size, np.uint8)
        self._spectra = spectra
        self._light = np.array([*light, *[sum(light) / 3] * bands], np.float32)
        self._haze = np.array([*haze, *[0.5] * bands], np.float32)
        fine = noise.standard_normal((_TILE, _TILE), np.float32)
        soft = cv2.GaussianBlur(fine, (0, 0), 1.2)
        coarse = cv2.resize(fine[: _TILE // 16, : _TILE // 16], (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
        self.grain = {"fine": fine, "soft": soft / soft.std(), "coarse": coarse}
        """Noise of mean 0 and deviation 1, (256, 256), by how fine it is."""

    def colour(self, rgb: Colour, label: int, depth: float) -> Floats:
        """The colour (B,) of a thing of a class that is ``depth`` metres away."""
        bands = self._spectra[label] * (0.75 + 0.5 * sum(rgb) / 3)
        clear = np.float32(np.exp(-depth / 160))
        lit: Floats = np.array([*rgb, *bands], np.float32) * self._light
        return np.asarray(self._haze + clear * (lit - self._haze))

    def fill(
        self,
        shapes: Sequence[Floats],
        label: int | None,
        rgb: Colour,
        *,
        depth: float,
        rough: float = 0.04,
        grain: str = "soft",
        opaque: float = 1.0,
        second: tuple[Colour, Pattern] | None = None,
    ) -> None:
        """Paint the union of shapes.

        Args:
            shapes: Polygons (n, 2) of x and y in pixels; the upper left pixel lies between (0, 0) and (1, 1).
            label: The class; None leaves the label map as it is, for shadows and marks.
            rgb: The colour, 0 to 1.
            depth: The distance in metres, by which colours fade into the haze.
            rough: The deviation of the grain, as a share of the colour.
            grain: Which grain.
            opaque: How much of what is below is covered in the image.
            second: Another colour, and where it is.
        """
        height, width = self.labels.shape
        points = np.concatenate(shapes)
        (left, top), (right, bottom) = points.min(0).astype(int), points.max(0).astype(int) + 1
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        if x0 >= x1 or y0 >= y1:
            return
        fine: NDArray[np.uint8] = np.zeros(((y1 - y0) * _FINE, (x1 - x0) * _FINE), np.uint8)
        for shape in shapes:
            # OpenCV's whole numbers are the middle of pixels; it takes four more bits of each place.
            corners = ((shape - (x0, y0)) * _FINE - 0.5) * 16
            cv2.fillPoly(fine, [corners.round().astype(np.int32)], 255, shift=4)
        share = cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        if label is not None:
            self.labels[y0:y1, x0:x1][share >= 128] = label
        paint = self.colour(rgb, label or 0, depth)
        if second is not None:
            mix = second[1](np.arange(x0, x1)[None] + 0.5, np.arange(y0, y1)[:, None] + 0.5).astype(np.float32)
            paint = paint + mix[..., None] * (self.colour(second[0], label or 0, depth) - paint)
        rows, columns = _mirrored(y0 - top, y1 - top), _mirrored(x0 - left, x1 - left)  # the grain moves with the shape
        paint = paint * (1 + np.float32(rough) * self.grain[grain][rows[:, None], columns])[..., None]
        below = self.image[y0:y1, x0:x1]
        below += (share * np.float32(opaque / 255))[..., None] * (paint - below)


def _mirrored(start: int, end: int) -> NDArray[np.intp]:
    """The places from ``start`` to ``end`` in a tile that is repeated with its mirror image, so that no seam shows."""
    place = np.arange(start, end) % (2 * _TILE)
    return np.minimum(place, 2 * _TILE - 1 - place)
