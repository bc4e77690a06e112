"""Paint one car on a sheet: what lies behind first, then lower body, cabin and glass, what sticks out last."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.demo.car import Car, Part
from carvana.data.demo.details import BLACK, Arch, Coat
from carvana.data.demo.scene import Paint, Scene
from carvana.data.demo.shape import Floats, Quads, grid_quads

Pixels = NDArray[np.uint8]

SCALE = 2
"""Sub-pixels of a sheet per pixel of the photo, along each axis."""
_SHIFT = 4  # fractional bits of OpenCV's coordinates
_TURN = np.linspace(0, 2 * np.pi, 57)[:-1]


def sub_pixels(points: Floats, origin: Sequence[float] = (0, 0), scale: float = 1) -> NDArray[np.int32]:
    """Pixels (..., 2) as OpenCV draws them, on a sheet that begins at ``origin`` and is ``scale`` times as fine."""
    placed = (points - np.array(origin) + 0.5) * scale - 0.5
    units: NDArray[np.int32] = np.rint(np.clip(placed, -8000, 16000) * (1 << _SHIFT)).astype(np.int32)
    return units


class Sheet:
    """Premultiplied RGBA at twice a photo's resolution, over its part ``box`` (x0, y0, x1, y1); it starts transparent.

    Colour and coverage come from the same strokes, so the mask is exact for the picture.
    """

    def __init__(self, box: tuple[int, int, int, int], pixels: Pixels | None = None) -> None:
        self.box = box
        x0, y0, x1, y1 = box
        self.pixels: Pixels = (
            np.zeros(((y1 - y0) * SCALE, (x1 - x0) * SCALE, 4), np.uint8) if pixels is None else pixels
        )

    def copy(self) -> Sheet:
        """A sheet with the same strokes."""
        return Sheet(self.box, self.pixels.copy())

    def faces(self, points: Floats, colours: NDArray[np.uint8], alpha: int = 255) -> None:
        """Paint convex faces (F, K, 2), given in the photo's pixels, in their order, with colours (F, 3)."""
        values = np.full((len(colours), 4), alpha, np.float64)
        values[:, :3] = colours
        target, fill = self.pixels, cv2.fillConvexPoly
        for corners, colour in zip(sub_pixels(points, self.box[:2], SCALE), values.tolist(), strict=True):
            fill(target, corners, colour, cv2.LINE_8, _SHIFT)

    def polygon(self, points: Floats, colour: Sequence[float] | Floats) -> None:
        """Paint one closed outline (K, 2) with one opaque colour 0 to 255."""
        cv2.fillPoly(self.pixels, [sub_pixels(points, self.box[:2], SCALE)], (*colour, 255.0), cv2.LINE_8, _SHIFT)

    def erase(self, points: Floats) -> None:
        """Cut faces (F, K, 2) out: what lies under this sheet shows through."""
        self.faces(points, np.zeros((len(points), 3), np.uint8), alpha=0)

    def lay(self, sheet: Sheet) -> None:
        """Put another sheet on top of this one."""
        x, y, width, height = cv2.boundingRect(cv2.extractChannel(sheet.pixels, 3))
        if width:
            part = np.s_[y : y + height, x : x + width]
            self.pixels[part] = _over(self.pixels[part], sheet.pixels[part])

    def lay_within(self, sheet: Sheet, outlines: Sequence[Floats]) -> None:
        """Replace this sheet by another one inside of convex outlines, each entry (F, K, 2)."""
        stencil = np.zeros(self.pixels.shape[:2], np.uint8)
        for outline in np.concatenate([sub_pixels(faces, self.box[:2], SCALE) for faces in outlines]):
            cv2.fillConvexPoly(stencil, outline, 255, cv2.LINE_8, _SHIFT)
        cv2.copyTo(sheet.pixels, stencil, self.pixels)

    def soften(self, width: int) -> None:
        """Blend neighbouring faces into a smooth shade over ``width`` sub-pixels; what is covered stays as it is."""
        x, y, across, down = cv2.boundingRect(cv2.extractChannel(self.pixels, 3))
        if across:
            part = self.pixels[y : y + down, x : x + across]
            mean = cv2.blur(part, (width, width), borderType=cv2.BORDER_CONSTANT)
            smooth = cv2.divide(mean, cv2.merge([cv2.extractChannel(mean, 3)] * 4), scale=255)
            cv2.copyTo(smooth, cv2.extractChannel(part, 3), part)

    def coverage(self) -> Pixels:
        """The share of each photo pixel that anything covers, 0 to 255, (y1 - y0, x1 - x0)."""
        return _shrunk(cv2.threshold(cv2.extractChannel(self.pixels, 3), 0, 255, cv2.THRESH_BINARY)[1])

    def over(self, photo: Pixels) -> None:
        """Put the sheet into ``photo`` (H, W, 3), in place."""
        x0, y0, x1, y1 = self.box
        photo[y0:y1, x0:x1] = _over(photo[y0:y1, x0:x1], _shrunk(self.pixels))


def _over(below: Pixels, above: Pixels) -> Pixels:
    through = cv2.merge([255 - cv2.extractChannel(above, 3)] * below.shape[2])
    laid: Pixels = cv2.add(cv2.multiply(below, through, scale=1 / 255), above[..., : below.shape[2]])
    return laid


def _shrunk(pixels: Pixels) -> Pixels:
    size = pixels.shape[1] // SCALE, pixels.shape[0] // SCALE
    shrunk: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return shrunk


def paint_car(car: Car, scene: Scene, size: tuple[int, int]) -> Sheet:
    """The car on a sheet of its own, transparent where the studio shows beside it and half so behind its glass."""
    sheet = Sheet(_box(car, scene, size))
    eye = scene.eye
    for arch in car.arches:
        if (eye[1] > 0) != arch.left:
            _paint_wheel(sheet, car, scene, arch)
    _paint_lower(sheet, car, scene)
    _paint_all(sheet, [part for part in car.parts if part.is_behind(eye)], scene)
    _paint_cabin(sheet, car, scene)
    _paint_all(sheet, car.glass_coats, scene)
    _paint_all(sheet, [part for part in car.parts if not part.is_behind(eye)], scene)
    if car.mast is not None:
        _paint_mast(sheet, car.mast, scene)
    return sheet


def _box(car: Car, scene: Scene, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part (x0, y0, x1, y1) of a photo of ``size`` (height, width) that can hold the car."""
    points = [quads.corners.reshape(-1, 3) for quads in (car.lower, car.cabin, *(part.quads for part in car.parts))]
    wheel = car.shape.wheel
    points.append(np.array([[arch.axle + x, arch.wheel_y, 0] for arch in car.arches for x in (-wheel, wheel)]))
    if car.mast is not None:
        points.append(car.mast)
    pixels = scene.pixels(np.concatenate(points))
    x0, y0 = np.maximum(np.floor(pixels.min(axis=0)).astype(int) - 4, 0).tolist()
    x1, y1 = np.minimum(np.ceil(pixels.max(axis=0)).astype(int) + 5, size[::-1]).tolist()
    return x0, y0, x1, y1


def _paint_lower(sheet: Sheet, car: Car, scene: Scene) -> None:
    eye = scene.eye
    near = [arch for arch in car.arches if (eye[1] > 0) == arch.left]
    for arch in sorted(near, key=lambda arch: -abs(arch.axle - eye[0])):
        seen = arch.quads.seen(eye)
        sheet.faces(scene.pixels(seen.corners), np.full((len(seen.normals), 3), 12, np.uint8))
        _paint_wheel(sheet, car, scene, arch)
    shell = Sheet(sheet.box)
    _paint(shell, car.lower, car.body, scene)
    shell.soften(_soft(scene))
    _paint_all(shell, car.lower_coats, scene)
    if car.shape.kind == "pickup":
        _paint_bed(shell, car, scene)
    for arch in near:
        seen = arch.quads.seen(eye)
        # The lowest faces once more, moved down: the body's edge must not cross the hole.
        below = seen.corners[seen.centres[:, 2] < car.shape.sill + 0.10] - np.array([0.0, 0.0, 0.05])
        shell.erase(scene.pixels(np.concatenate([seen.corners, below])))
    sheet.lay(shell)


def _soft(scene: Scene) -> int:
    """How far, in sub-pixels, neighbouring faces are blended: about the width of one."""
    return 2 * round(9.0 * scene.scale) + 1


def _paint_cabin(sheet: Sheet, car: Car, scene: Scene) -> None:
    near = [scene.pixels(pane.quads.seen(scene.eye).corners) for pane in car.panes]
    inside = sheet.copy()
    _paint_inside(inside, car, scene)
    _glaze(inside, car, scene, near=True)
    sheet.lay_within(inside, near)
    shell = Sheet(sheet.box)
    _paint(shell, car.cabin, car.body, scene)
    shell.soften(_soft(scene))
    _paint_all(shell, car.cabin_coats, scene)
    for faces in near:
        shell.erase(faces)
    sheet.lay(shell)


def _paint_inside(sheet: Sheet, car: Car, scene: Scene) -> None:
    """What the windows show: the far side's lining and glass, with the studio behind it, then the seats."""
    eye = scene.eye
    lining = Sheet(sheet.box)
    _paint(lining, car.cabin.flipped(), Paint((0.16, 0.155, 0.15), 0.01), scene)
    for pane in car.panes:
        lining.erase(scene.pixels(pane.quads.flipped().seen(eye).corners))
    (floor,) = car.shape.cabin.around(60, np.array([0.0]))
    sheet.polygon(scene.pixels(floor), (22, 21, 20))
    sheet.lay(lining)
    _glaze(sheet, car, scene, near=False)
    far_first = sorted(car.interior, key=lambda part: -float(np.linalg.norm(part.quads.centres.mean(axis=0) - eye)))
    _paint_all(sheet, far_first, scene)


def _glaze(sheet: Sheet, car: Car, scene: Scene, *, near: bool) -> None:
    """Glass: its colour is what it mirrors, its alpha what it swallows."""
    glass = Sheet(sheet.box)
    for pane in car.panes:
        seen = (pane.quads if near else pane.quads.flipped()).seen(scene.eye)
        clear = pane.clear if near else min(pane.clear + 0.15, 0.9)
        swallowed = int(255 * (1 - clear))
        mirrored = 0.8 * scene.shade(seen, Paint((0.0, 0.0, 0.0), 0.05 if near else 0.02))
        glass.faces(scene.pixels(seen.corners), np.minimum(mirrored, swallowed).astype(np.uint8), alpha=swallowed)
    sheet.lay(glass)


def _paint_bed(shell: Sheet, car: Car, scene: Scene) -> None:
    """The open box of a pickup: its floor and the walls that the rim leaves in sight."""
    shape = car.shape
    x = np.linspace(-shape.length / 2 + 0.16, shape.cabin_rear - 0.06, 16)
    right, left = (shape.lower.side(x, np.array(1.12), left=left) for left in (False, True))
    rim = np.concatenate([left, right[::-1], left[:1]])
    floor = rim * np.array([1, 1, 0]) + np.array([0, 0, shape.sill + 0.35])
    walls = grid_quads(np.stack([rim, floor]), rim.mean(axis=0)).flipped().seen(scene.eye)
    bed = shell.copy()
    bed.polygon(scene.pixels(floor), (30, 30, 31))
    bed.faces(scene.pixels(walls.corners), scene.shade(walls, BLACK) // 2 + 16)
    across = grid_quads(np.stack([left, right]))
    shell.lay_within(bed, [scene.pixels(across.corners)])


def _paint_mast(sheet: Sheet, mast: Floats, scene: Scene) -> None:
    foot, tip = scene.pixels(mast)
    across = np.array([foot[1] - tip[1], tip[0] - foot[0]]) / max(float(np.linalg.norm(tip - foot)), 1e-6)
    half = across * 0.0045 * scene.focal / float(np.linalg.norm(scene.eye - mast[0]))
    outline = np.stack([foot - half * 1.6, foot + half * 1.6, tip + half * 0.7, tip - half * 0.7])
    sheet.faces(outline[None], np.array([[28, 28, 30]], np.uint8))


def _paint_wheel(sheet: Sheet, car: Car, scene: Scene, arch: Arch) -> None:
    """Tyre, rim, brake disc and spokes, with the dark that shows between them."""
    side, wheel, rim = (1 if arch.left else -1), car.shape.wheel, car.rim

    def ring(radius: float, inset: float, turn: Floats = _TURN) -> Floats:
        y = np.full(turn.shape, arch.wheel_y - side * inset)
        return scene.pixels(np.stack([arch.axle + radius * np.cos(turn), y, wheel + radius * np.sin(turn)], axis=-1))

    width = 0.6 * wheel
    tyre = [ring(0.97 * wheel, 0.0), ring(wheel, 0.03), ring(wheel, width - 0.03), ring(0.97 * wheel, width)]
    sheet.polygon(cv2.convexHull(np.concatenate(tyre).astype(np.float32))[:, 0], (17, 17, 18))
    if (scene.eye[1] > 0) != arch.left:
        return
    outside = Quads(np.full((1, 4, 3), [0, side * 0.9, 0.35]), np.array([[0.0, side, 0.0]]))
    metal = scene.shade(outside, car.rim_paint)[0].astype(float)
    sheet.polygon(ring(0.97 * wheel, 0.0), (29, 29, 30))
    sheet.polygon(ring(1.07 * rim, 0.0), (20, 20, 21))
    sheet.polygon(ring(rim, 0.0), metal * 0.95)
    lip = ring(0.94 * rim, 0.006)
    within = sheet.copy()
    within.polygon(lip, metal * 0.30)
    for share, inset, grey in ((0.90, 0.11, 17), (0.62, 0.10, 86), (0.34, 0.095, 40)):
        within.polygon(ring(share * rim, inset), (grey, grey, grey))
    half = 0.31 * car.spoke_width
    start = car.rims_turned[0 if arch.axle > 0 else 1]
    for turn in start + 2 * np.pi * np.arange(car.spokes) / car.spokes:
        outer = ring(0.95 * rim, 0.012, turn + np.array([-half, half]))
        inner = ring(0.16 * rim, 0.035, turn + np.array([0.55, -0.55]))
        within.polygon(np.concatenate([outer, inner]), metal * (0.80 + 0.20 * np.sin(turn)))
    within.polygon(ring(0.22 * rim, 0.025), metal * 0.85)
    sheet.lay_within(within, [lip[None]])


def _paint_all(sheet: Sheet, coats: Sequence[Coat] | Sequence[Part], scene: Scene) -> None:
    for coat in coats:
        _paint(sheet, coat.quads, coat.paint, scene)


def _paint(sheet: Sheet, quads: Quads, paint: Paint, scene: Scene) -> None:
    seen = quads.seen(scene.eye)
    if len(seen.normals):
        sheet.faces(scene.pixels(seen.corners), scene.shade(seen, paint))
