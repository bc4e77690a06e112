"""A sheet of premultiplied RGBA at twice the photo's resolution, on which faces are painted from far to near.

Colour and coverage come from the same strokes, so the mask is exact for the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.demo.surface import Floats

Pixels = NDArray[np.uint8]

SCALE = 2
"""Sub-pixels of the sheet per pixel of the photo, along each axis."""
_SHIFT = 4


class Canvas:
    """The part ``(x0, y0, x1, y1)`` of a photo, in pixels, as a sheet of sub-pixels that starts transparent."""

    def __init__(self, box: tuple[int, int, int, int]) -> None:
        self.box = box
        x0, y0, x1, y1 = box
        self.pixels: Pixels = np.zeros(((y1 - y0) * SCALE, (x1 - x0) * SCALE, 4), np.uint8)

    def like(self) -> Canvas:
        """An empty sheet over the same part."""
        return Canvas(self.box)

    def faces(self, points: Floats, colours: NDArray[np.uint8], alpha: int = 255) -> None:
        """Paint convex faces (F, K, 2), given in the photo's pixels, in their order, with colours (F, 3)."""
        target, fill = self.pixels, cv2.fillConvexPoly
        values = np.full((len(colours), 4), alpha, np.float64)
        values[:, :3] = colours
        for corners, colour in zip(self._units(points), values.tolist(), strict=True):
            fill(target, corners, colour, cv2.LINE_8, _SHIFT)

    def polygon(self, points: Floats, colour: tuple[float, float, float]) -> None:
        """Paint one closed outline (K, 2) with one opaque colour 0 to 255."""
        cv2.fillPoly(self.pixels, [self._units(points)], (*colour, 255.0), cv2.LINE_8, _SHIFT)

    def erase(self, points: Floats) -> None:
        """Cut faces (F, K, 2) out: what lies under this sheet shows through."""
        self.faces(points, np.zeros((len(points), 3), np.uint8), alpha=0)

    def lay(self, sheet: Canvas) -> None:
        """Put an opaque sheet with holes on top of this one."""
        cv2.copyTo(sheet.pixels, cv2.extractChannel(sheet.pixels, 3), self.pixels)

    def glaze(self, sheet: Canvas) -> None:
        """Put a sheet of glass on top: its colour is what the glass mirrors, its alpha what it swallows."""
        alpha = cv2.extractChannel(sheet.pixels, 3)
        x, y, width, height = cv2.boundingRect(alpha)
        if not width or not height:
            return
        part = np.s_[y : y + height, x : x + width]
        through = cv2.merge([255 - alpha[part]] * 4)
        self.pixels[part] = cv2.add(cv2.multiply(self.pixels[part], through, scale=1 / 255), sheet.pixels[part])

    @contextmanager
    def clip_to(self, shapes: list[Floats]) -> Iterator[None]:
        """Let what is painted in this block show only inside convex faces, each entry (F, K, 2)."""
        before = self.pixels
        stencil = np.zeros(before.shape[:2], np.uint8)
        for faces in shapes:
            for outline in self._units(faces):
                cv2.fillPoly(stencil, [outline], 255, cv2.LINE_8, _SHIFT)
        x, y, width, height = cv2.boundingRect(stencil)
        if not width or not height:
            yield
            self.pixels = before
            return
        self.pixels = before.copy()
        yield
        part = np.s_[y : y + height, x : x + width]
        cv2.copyTo(self.pixels[part], stencil[part], before[part])
        self.pixels = before

    def soften(self, width: int) -> None:
        """Blend neighbouring faces into a smooth shade over ``width`` sub-pixels; what is covered stays as it is."""
        x, y, across, down = cv2.boundingRect(cv2.extractChannel(self.pixels, 3))
        if not across or not down:
            return
        part = self.pixels[y : y + down, x : x + across]
        alpha = cv2.extractChannel(part, 3)
        mean = cv2.blur(part, (width, width), borderType=cv2.BORDER_CONSTANT)
        weight = cv2.extractChannel(mean, 3)
        smooth = cv2.divide(mean, cv2.merge([weight] * 4), scale=255)
        cv2.copyTo(smooth, alpha, part)

    def coverage(self) -> Pixels:
        """The share of each photo pixel that anything covers, 0 to 255, (y1 - y0, x1 - x0)."""
        drawn = cv2.threshold(cv2.extractChannel(self.pixels, 3), 0, 255, cv2.THRESH_BINARY)[1]
        return self._shrink(drawn)

    def over(self, photo: Pixels) -> None:
        """Put the sheet into ``photo`` (H, W, 3), in place."""
        small = self._shrink(self.pixels)
        x0, y0, x1, y1 = self.box
        part = photo[y0:y1, x0:x1]
        through = cv2.merge([255 - small[..., 3]] * 3)
        part[:] = cv2.add(cv2.multiply(part, through, scale=1 / 255), cv2.cvtColor(small, cv2.COLOR_RGBA2RGB))

    def _units(self, points: Floats) -> NDArray[np.int32]:
        corner = np.array(self.box[:2], dtype=np.float64)
        placed = (points - corner + 0.5) * SCALE - 0.5
        return np.rint(np.clip(placed, -8000, 16000) * (1 << _SHIFT)).astype(np.int32)

    def _shrink(self, pixels: Pixels) -> Pixels:
        size = (pixels.shape[1] // SCALE, pixels.shape[0] // SCALE)
        shrunk: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        return shrunk
