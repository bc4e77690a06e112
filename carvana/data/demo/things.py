"""What stands in a street: houses, trees, poles, fences, signs, cars, people, and figures of further classes."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from carvana.data.demo.canvas import RGB, Canvas, Colour, Floats

NAMES = (
    "background", "road", "pole", "sign", "sky", "building", "tree", "grass", "car", "pavement", "fence", "person",
)  # fmt: skip
BACKGROUND, ROAD, POLE, SIGN, SKY, BUILDING, TREE, GRASS, CAR, PAVEMENT, FENCE, PERSON = range(len(NAMES))

NEAR = 2.0
"""Metres before the camera; what is nearer is cut."""

_EYE = 1.75  # metres above the road
_STOREY = 2.9  # metres
_WALLS: tuple[RGB, ...] = (
    (0.74, 0.42, 0.32),
    (0.88, 0.80, 0.64),
    (0.64, 0.64, 0.64),
    (0.80, 0.67, 0.50),
    (0.57, 0.62, 0.71),
    (0.90, 0.88, 0.84),
    (0.57, 0.36, 0.28),
)
_ROOFS: tuple[RGB, ...] = ((0.57, 0.25, 0.18), (0.36, 0.34, 0.36), (0.46, 0.32, 0.24))


class Camera(NamedTuple):
    """A view of a street: places x to the right, y up and z ahead, in metres, become pixels.

    Attributes:
        x: Its place.
        z: Its place.
        middle: The pixel column that it looks along.
        horizon: The pixel row of the horizon.
        focal: Pixels of a metre at a distance of one metre.
        bend: How the street bends: by so many metres times the distance squared.
    """

    x: float
    z: float
    middle: float
    horizon: float
    focal: float
    bend: float

    def scale(self, z: float) -> float:
        """Pixels of a metre at a distance."""
        return self.focal / max(z - self.z, NEAR)

    def see(self, places: Sequence[Sequence[float]] | Floats) -> Floats:
        """Places (n, 3) as pixels (n, 2), x and y."""
        x, y, z = np.array(places).T
        scale = self.focal / np.maximum(z - self.z, NEAR)
        seen = np.empty((len(x), 2))
        seen[:, 0] = self.middle + (x + self.bend * z**2 - self.x) * scale
        seen[:, 1] = self.horizon + (_EYE - y) * scale
        return seen


class Thing(NamedTuple):
    """A thing at a place of the street; ``paint`` draws it with a generator that is the same in all views."""

    x: float
    z: float
    paint: Painter


class Spot(NamedTuple):
    """Where a thing is painted, flat and facing the camera: shapes (n, 2) have x and y up in metres from its foot."""

    canvas: Canvas
    camera: Camera
    x: float
    z: float

    @property
    def scale(self) -> float:
        """Pixels of a metre."""
        return self.camera.scale(self.z)

    def shape(self, shape: Floats) -> Floats:
        """A shape in pixels."""
        return np.asarray(self.camera.see([(self.x, 0, self.z)]) + shape * (self.scale, -self.scale))

    def fill(self, shape: Floats, label: int | None, rgb: Colour, *, rough: float = 0.04, opaque: float = 1.0) -> None:
        """Paint a shape."""
        self.canvas.fill([self.shape(shape)], label, rgb, depth=self.z, rough=rough, opaque=opaque)

    def shadow(self, wide: float) -> None:
        """Paint the shadow on the ground."""
        self.fill(ellipse(0, 0, wide, 0.16 * wide), None, (0.05, 0.05, 0.08), opaque=0.4)


Painter: TypeAlias = "Callable[[Spot, np.random.Generator], None]"


def near(colour: Colour, rng: np.random.Generator, by: float) -> RGB:
    """A colour that differs a little, mostly in brightness."""
    changed = np.array(colour) * (1 + rng.normal(0, by)) + rng.normal(0, by / 3, 3)
    red, green, blue = np.clip(changed, 0.02, 0.98).tolist()
    return red, green, blue


def ellipse(x: float, y: float, wide: float, high: float, *, rng: np.random.Generator | None = None) -> Floats:
    """An ellipse (24, 2), whose outline is uneven if there is a generator."""
    turn = np.arange(24) * (2 * np.pi / 24)
    far = np.ones(24) if rng is None else rng.uniform(0.85, 1.15, 24)
    return np.stack([x + wide * far * np.cos(turn), y + high * far * np.sin(turn)], axis=1)


def box(left: float, right: float, low: float, high: float, *, lean: float = 0.0) -> Floats:
    """A box (4, 2), whose upper side is shorter by ``lean`` at both ends."""
    return np.array([(left, low), (right, low), (right - lean, high), (left + lean, high)])


def house(side: int, deep: float, *, sunny: bool) -> Painter:
    """A house of one to four storeys: its front to the street and its front to the camera; z is its far end."""

    def paint(spot: Spot, rng: np.random.Generator) -> None:
        canvas, camera, x, far = spot
        start = max(far - deep, camera.z + NEAR)
        wide, floors = side * rng.uniform(7, 11), int(rng.integers(1, 5))
        high, wall = _STOREY * floors + 0.5, np.array(near(_WALLS[rng.integers(len(_WALLS))], rng, 0.06))
        glass, roof = np.array(near((0.28, 0.34, 0.42), rng, 0.2)), near(_ROOFS[rng.integers(len(_ROOFS))], rng, 0.08)
        fronts = (  # the two ends (x, z), and the shade
            ((x, start), (x + wide, start), 0.8 if sunny else 0.95),
            ((x, start), (x, far), 1.0 if sunny else 0.7),
        )
        if floors <= 2:
            ridge, middle = high + rng.uniform(2, 3.2), x + wide / 2
            slope = [(x, high, start), (x, high, far), (middle, ridge, far), (middle, ridge, start)]
            canvas.fill([camera.see(slope)], BUILDING, roof, depth=start, rough=0.08)
            gable = [(x, high, start), (x + wide, high, start), (middle, ridge, start)]
            canvas.fill([camera.see(gable)], BUILDING, wall * fronts[0][2], depth=start)
        for (x0, z0), (x1, z1), shade in fronts:
            ends = np.array([(x0, z0), (x1, z1)])

            def quad(left: float, right: float, low: float, top: float, ends: Floats = ends) -> Floats:
                (x0, z0), (x1, z1) = ends[0] + np.array([[left], [right]]) * (ends[1] - ends[0])
                return camera.see([(x0, low, z0), (x1, low, z1), (x1, top, z1), (x0, top, z0)])

            canvas.fill([quad(0, 1, 0, high)], BUILDING, wall * shade, depth=start)
            columns = max(1, int(np.abs(ends[1] - ends[0]).max() / 2.6))
            panes = [
                quad((column + 0.28) / columns, (column + 0.72) / columns, _STOREY * floor + 0.9, _STOREY * floor + 2.4)
                for column in range(columns)
                for floor in range(floors)
            ]
            canvas.fill(panes, BUILDING, glass * shade, depth=start, rough=0.15)

    return paint


def tree(leaves: RGB) -> Painter:
    """A tree with a round crown, or one in four a fir."""

    def paint(spot: Spot, rng: np.random.Generator) -> None:
        high, colour = rng.uniform(3.5, 7.5), np.array(near(leaves, rng, 0.12))
        spot.shadow(0.3 * high)
        spot.fill(box(-0.035 * high, 0.035 * high, 0, 0.5 * high), TREE, (0.33, 0.25, 0.18), rough=0.12)
        if rng.random() < 0.25:
            for low, wide, shade in ((0.2, 0.26, 0.65), (0.42, 0.20, 0.77), (0.64, 0.14, 0.9)):
                cone = np.array([(-wide, low), (wide, low), (0, low + 0.42)])
                spot.fill(cone * high, TREE, colour * shade, rough=0.2)
            return
        for shade in (0.62, 0.76, 0.9, 1.08, 1.26):
            up = 0.62 + (shade - 0.85) * 0.24 + rng.uniform(-0.05, 0.05)
            wide, tall = rng.uniform(0.18, 0.26), rng.uniform(0.15, 0.21)
            crown = ellipse(rng.uniform(-0.14, 0.14), up, wide, tall, rng=rng)
            spot.fill(crown * high, TREE, colour * shade, rough=0.2)

    return paint


def pole(towards: int) -> Painter:
    """A street lamp, whose arm points to the right (1) or the left (-1); 1 to 3 pixels wide at any distance."""

    def paint(spot: Spot, rng: np.random.Generator) -> None:
        tone, high, pixel = rng.uniform(0.12, 0.38), rng.uniform(5, 7.5), 1 / spot.scale
        half = np.clip(0.08, pixel, 1.4 * pixel)
        end = towards * 1.5
        arm = np.array([(0, high), (end, high + pixel), (end, high - 0.1 * pixel), (0, high - 1.1 * pixel)])
        for part in (box(-half, half, 0, high), arm):
            spot.fill(part, POLE, [tone, tone, tone * 1.04], rough=0.05)

    return paint


def fence(start: float, wood: RGB) -> Painter:
    """Planks along the street, from ``start`` to z."""

    def paint(spot: Spot, rng: np.random.Generator) -> None:
        x, planks = spot.x, np.arange(start, spot.z, 0.45)
        tone = rng.uniform(0.75, 0.9)
        for odd, shade in ((0, 1.0), (1, tone)):
            seen = [
                spot.camera.see([(x, 0, z), (x, 0, z + 0.46), (x, 1, z + 0.46), (x, 1.12, z + 0.23), (x, 1, z)])
                for z in planks[odd::2]
                if z > spot.camera.z + NEAR
            ]
            if seen:
                spot.canvas.fill(seen, FENCE, np.array(wood) * shade, depth=start, rough=0.1)

    return paint


def sign(spot: Spot, rng: np.random.Generator) -> None:
    """A road sign: a triangle or a disc with a red rim, or a blue square. Its post is a pole."""
    kind, side, half = int(rng.integers(3)), rng.uniform(0.36, 0.46), 0.9 / spot.scale
    spot.fill(box(-half, half, 0, 2.2), POLE, (0.55, 0.56, 0.58))
    corners, first = ((3, np.pi / 2), (24, 0.0), (4, np.pi / 4))[kind]
    turn = first + np.arange(corners) * (2 * np.pi / corners)
    board = np.stack([np.cos(turn), np.sin(turn)], axis=1) * side
    red, white, black, blue = (0.78, 0.10, 0.10), (0.93, 0.92, 0.90), (0.15, 0.15, 0.17), (0.12, 0.28, 0.62)
    for size, colour in zip((1.0, 0.72, 0.25), (white, blue, white) if kind == 2 else (red, white, black), strict=True):
        spot.fill(board * size + (0, 2.3), SIGN, colour)


def car(spot: Spot, rng: np.random.Generator) -> None:
    """A car from behind, or from the front."""
    high, grey = rng.uniform(1.35, 1.75), rng.uniform(0.12, 0.88)
    paints = [grey] * 3, colorsys.hsv_to_rgb(rng.random(), 0.75, rng.uniform(0.35, 0.8))
    body = np.array(paints[rng.integers(2)])
    lamps = ((0.75, 0.10, 0.10), (0.95, 0.93, 0.80))[int(spot.x < 0)]
    spot.shadow(1.15)
    for left in (-0.82, 0.56):
        spot.fill(box(left, left + 0.26, 0, 0.5), CAR, (0.08, 0.08, 0.09))
    spot.fill(box(-0.78, 0.78, 0.75 * high - 0.35, high, lean=0.17), CAR, body)
    spot.fill(box(-0.70, 0.70, 0.75 * high - 0.3, high - 0.09, lean=0.15), CAR, (0.20, 0.24, 0.29), rough=0.1)
    spot.fill(box(-0.9, 0.9, 0.24, 0.6 * high, lean=0.03), CAR, body)
    spot.fill(box(-0.88, 0.88, 0.24, 0.42), CAR, body * 0.55)
    for left in (-0.86, 0.58):
        spot.fill(box(left, left + 0.28, 0.42 * high, 0.54 * high), CAR, lamps)
    spot.fill(box(-0.25, 0.25, 0.46, 0.58), CAR, (0.88, 0.88, 0.84))


def person(spot: Spot, rng: np.random.Generator) -> None:
    """Somebody who stands or walks."""
    coat = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.85))
    trousers, hair = np.array((0.20, 0.22, 0.30)), np.array((0.25, 0.18, 0.12))
    skin, step = np.array((0.85, 0.65, 0.52)) * rng.uniform(0.45, 1.05), rng.uniform(0.02, 0.16)
    spot.shadow(0.4)
    for foot in (-step, step):
        leg = np.array([(foot - 0.10, 0), (foot + 0.10, 0), (0.15, 0.9), (-0.15, 0.9)])
        spot.fill(leg, PERSON, trousers * rng.uniform(0.6, 1.8), rough=0.06)
    spot.fill(box(-0.26, 0.26, 0.8, 1.45, lean=0.04), PERSON, coat, rough=0.06)
    spot.fill(ellipse(0, 1.60, 0.13, 0.16), PERSON, skin)
    spot.fill(ellipse(0, 1.68, 0.13, 0.09), PERSON, hair * rng.uniform(0.4, 2.2))


def figure(kind: int, high: float | None) -> Painter:
    """The figure of a further class, 0 or more, that flies at a height or stands.

    Shape, pattern and hue together say which one it is.
    """
    shape, pattern, shift = kind % 8, kind // 8 % 5, kind // 40

    def paint(spot: Spot, rng: np.random.Generator) -> None:
        hue = (kind % 40 * 0.61803 + 0.25 * shift + rng.normal(0, 0.02)) % 1
        first, other = (colorsys.hsv_to_rgb(hue, s, v) for s, v in ((0.75, rng.uniform(0.55, 0.8)), (0.2, 0.9)))
        radius = rng.uniform(0.8, 1.0)
        if high is None:
            spot.shadow(radius)
        up = np.array((0, radius if high is None else high))
        (middle_x, middle_y), scale = spot.shape(up[None])[0], spot.scale * radius

        def wave(columns: Floats, rows: Floats) -> Floats:
            u, v = np.broadcast_arrays((columns - middle_x) / scale, (rows - middle_y) / scale)
            heights = (
                lambda: np.full(u.shape, -0.5),
                lambda: np.sin(8 * u),
                lambda: np.sin(8 * v),
                lambda: np.sin(6 * u) * np.sin(6 * v),
                lambda: np.sin(9 * np.hypot(u, v)),
            )
            return np.asarray(np.clip(0.5 + 3 * heights[pattern](), 0, 1))

        parts = [spot.shape(part * radius + up) for part in _outline(shape)]
        spot.canvas.fill(parts, len(NAMES) + kind, first, depth=spot.z, second=(other, wave))

    return paint


def _outline(shape: int) -> list[Floats]:
    """One of eight outlines, between -1 and 1."""
    turn = np.arange(10) * (np.pi / 5)
    star = np.stack([np.sin(turn), np.cos(turn)], axis=1) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]
    return [
        [ellipse(0, 0, 1, 1)],
        [box(-0.85, 0.85, -1, 0.85)],
        [np.array([(-1, -1), (1, -1), (0, 1)])],
        [star],
        [box(-1, 1, -0.35, 0.35), box(-0.35, 0.35, -1, 1)],
        [np.array([(0, -1), (0.75, 0), (0, 1), (-0.75, 0)])],
        [box(-0.8, -0.35, -1, 0.6), box(0.35, 0.8, -1, 0.6), box(-0.8, 0.8, 0.4, 1)],
        [np.array([(-1, 1), (-0.3, -1), (0.3, -1), (1, 1), (0.4, 1), (0, -0.1), (-0.4, 1)])],
    ][shape]
