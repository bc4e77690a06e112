"""Drawn streets with exact label maps, of any number of classes and channels, for trying several classes out.

A scene is a street in three dimensions. A camera that moves a little sees it; its views are one group, with the light
and the colours of that scene. All streets have the same twelve classes; those beyond a smaller number of classes are
``background``. ``pole`` is thin: 1 to 3 pixels wide at any size. ``sign`` is rare: each third scene has one. Classes
from the thirteenth on are figures, each known only by its shape, its pattern and its hue together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from carvana.data.demo import things
from carvana.data.demo.canvas import RGB, Canvas, Floats
from carvana.data.demo.things import BACKGROUND, GRASS, NAMES, NEAR, PAVEMENT, ROAD, SKY, Camera, Spot, Thing, near
from carvana.errors import DataError

VERSION = 1
"""Raised when equal parameters begin to give other pictures; part of the name of folders that keep scenes."""

MOST_CLASSES, MOST_CHANNELS = 150, 64
SIZE = (240, 320)

_INFRARED = (0.35, 0.15, 0.30, 0.60, 0.10, 0.45, 0.95, 0.80, 0.25, 0.30, 0.40, 0.70)  # of the classes that have names
_LIGHTS: tuple[tuple[RGB, RGB, RGB], ...] = (  # the sky's top, the sky above the horizon, the light
    ((0.30, 0.54, 0.92), (0.80, 0.90, 0.98), (1.12, 1.10, 1.05)),
    ((0.42, 0.52, 0.78), (1.00, 0.80, 0.58), (1.14, 0.98, 0.80)),
    ((0.68, 0.72, 0.77), (0.87, 0.89, 0.91), (0.92, 0.94, 0.96)),
    ((0.50, 0.60, 0.80), (0.97, 0.89, 0.86), (1.04, 0.98, 0.95)),
)
_LEAVES: tuple[tuple[RGB, RGB], ...] = (  # trees, grass
    ((0.22, 0.36, 0.14), (0.40, 0.52, 0.22)),
    ((0.28, 0.34, 0.12), (0.52, 0.54, 0.27)),
    ((0.62, 0.36, 0.13), (0.50, 0.48, 0.24)),
    ((0.17, 0.31, 0.20), (0.34, 0.47, 0.27)),
)


def class_names(classes: int) -> list[str]:
    """The names of so many classes, 2 to 150.

    Raises:
        DataError: there are no scenes of so many classes.

    >>> class_names(4), class_names(14)[-2:]
    (['background', 'road', 'pole', 'sign'], ['class 13', 'class 14'])
    """
    if not 2 <= classes <= MOST_CLASSES:
        raise DataError(f"{classes} classes: scenes are drawn with 2 to {MOST_CLASSES} classes")
    return [*NAMES[:classes], *(f"class {number}" for number in range(len(NAMES) + 1, classes + 1))]


def draw_scene(
    scene: int, view: int, *, classes: int, channels: int = 3, seed: int = 0, size: tuple[int, int] = SIZE
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one view of a scene and its label map; equal arguments give equal arrays in every process.

    Args:
        scene: The number of the scene, 0 or more; with ``seed`` it decides what is there, and the light.
        view: The number of the view, 1 or more.
        classes: 2 to 150. Images of up to twelve classes are equal.
        channels: 1 is grey, 2 grey and infrared, 3 RGB, 4 RGB and infrared; up to 64, with further bands, in each of
            which every class reflects its own share of the light.
        seed: Another seed gives other scenes.
        size: (height, width) in pixels, 32 or more each.

    Returns:
        The image, uint8 (height, width, channels), or (height, width) of one channel; and the labels, uint8
        (height, width): at each pixel the class in front of those that cover at least half of it.

    Raises:
        DataError: a number is out of range.

    >>> image, labels = draw_scene(0, 1, classes=4, size=(48, 64))
    >>> image.shape, labels.shape, sorted(set(labels.ravel().tolist()))
    ((48, 64, 3), (48, 64), [0, 1, 2, 3])
    """
    class_names(classes)
    if not 1 <= channels <= MOST_CHANNELS:
        raise DataError(f"{channels} channels: scenes are drawn with 1 to {MOST_CHANNELS} channels")
    if scene < 0 or seed < 0 or view < 1 or min(size) < 32:
        raise DataError(
            f"scene {scene}, view {view}, seed {seed}, size {size[0]}x{size[1]}: expected a scene and a seed of 0 or "
            "more, a view of 1 or more, and sides of at least 32 pixels"
        )
    street = _Street(scene, classes, seed)
    canvas = Canvas(
        size, spectra=_spectra(1 if channels == 2 else max(0, channels - 3)), haze=street.haze, light=street.light,
        noise=np.random.default_rng([seed, scene, 1]),
    )  # fmt: skip
    street.paint(canvas, street.camera(view, size))
    image = _photographed(canvas.image, np.random.default_rng([seed, scene, view, 2]))
    if channels < 3:
        grey = image[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
        image = np.concatenate([grey[..., None], image[..., 3:]], axis=2)
    pixels = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    labels = np.where(canvas.labels < classes, canvas.labels, np.uint8(BACKGROUND))
    return pixels[..., 0] if channels == 1 else pixels, labels


def _spectra(bands: int) -> Floats:
    """What each class reflects in each further band, (150, bands); the first one is near infrared."""
    found = np.random.default_rng(12).uniform(0.1, 0.9, (MOST_CHANNELS, MOST_CLASSES))[:bands].T
    if bands:
        found[: len(NAMES), 0] = _INFRARED
    return found.astype(np.float32)


def _photographed(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The image with the lens's darker rim and the sensor's noise."""
    height, width = image.shape[:2]
    across, down = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    lens = (1.03 - 0.08 * (across**2 + down**2)).astype(np.float32)[..., None]
    return image * lens + np.float32(0.012) * rng.standard_normal(image.shape, np.float32)


class _Street:
    """What is in a scene, where, and in which light."""

    def __init__(self, scene: int, classes: int, seed: int) -> None:
        self.scene, self.seed = scene, seed
        rng = self._rng = np.random.default_rng([seed, scene])
        self.top, self.haze, self.light = _LIGHTS[rng.integers(len(_LIGHTS))]
        self.leaves, self.lawn = (near(colour, rng, 0.06) for colour in _LEAVES[rng.integers(len(_LEAVES))])
        self.horizon, self.eye, self.bend = rng.uniform(0.38, 0.46), rng.uniform(-1.6, 1.6), rng.uniform(-1, 1) / 400
        self.half, self.walk = rng.uniform(3.0, 4.2), rng.uniform(1.6, 2.4)  # metres of half the road, of a pavement
        self.line = self.half + self.walk
        self.asphalt, self.slabs = rng.uniform(0.30, 0.46), rng.uniform(0.55, 0.72)
        self.clouds, self.sun = rng.uniform(0.0, 0.6), rng.choice([-1, 1])
        self.hills = rng.uniform(0.2, 1.0, (2, 12)) * rng.uniform(0.08, 0.18, (2, 1))
        self.things = [*self._houses(), *self._planted(), *self._moving(), *self._figures(classes - len(NAMES))]

    def camera(self, view: int, size: tuple[int, int]) -> Camera:
        """The camera of a view, which has moved and turned a little since the one before."""
        rng = np.random.default_rng([self.seed, self.scene, view, 3])
        height, width = size
        aside, turn, nod = rng.uniform(-1, 1, 3)
        return Camera(
            x=self.eye + 0.5 * aside, z=(view - 1) % 8 * 0.7 + rng.uniform(0, 0.3), middle=width * (0.5 + 0.04 * turn),
            horizon=height * (self.horizon + 0.012 * nod), focal=1.15 * height, bend=self.bend,
        )  # fmt: skip

    def paint(self, canvas: Canvas, camera: Camera) -> None:
        """Paint everything, from far to near."""
        self._sky(canvas, camera)
        self._ground(canvas, camera)
        for number, thing in sorted(enumerate(self.things), key=lambda pair: -pair[1].z):
            if thing.z - camera.z > NEAR:
                rng = np.random.default_rng([self.seed, self.scene, 4, number])
                thing.paint(Spot(canvas, camera, thing.x, thing.z), rng)

    def _sky(self, canvas: Canvas, camera: Camera) -> None:
        height, width = canvas.labels.shape
        blue, pale = canvas.colour(self.top, SKY, 0), canvas.colour(self.haze, SKY, 0)
        blue[:3], pale[:3] = self.top, self.haze  # the sky is the light, and not lit by it
        down = np.clip(np.arange(height, dtype=np.float32) / camera.horizon, 0, 1)[:, None, None]
        veil = canvas.grain["coarse"][np.arange(height)[:, None] * 240 // height, np.arange(width) * 125 // width]
        cloud = np.clip(0.5 * veil - 0.6 + np.float32(self.clouds), 0, 0.8)[..., None] * (1 - 0.7 * down)
        canvas.image[:] = blue + (pale - blue) * np.maximum(down**1.3, cloud)
        canvas.labels[:] = SKY
        tone = np.array(self.leaves) * 0.5 + np.array((0.14, 0.17, 0.21))
        for tops, depth in zip(self.hills, (150, 90), strict=True):
            x = np.linspace(-0.2, 1.2, 90)
            ridge = np.interp(x, np.linspace(-0.2, 1.2, len(tops)), tops) + 0.01 * np.sin(9 * x)
            hill = np.stack([x * width, camera.horizon - height * ridge], axis=1)
            foot = [(1.2 * width, camera.horizon + 2), (-0.2 * width, camera.horizon + 2)]
            canvas.fill([np.concatenate([hill, foot])], BACKGROUND, tone, depth=depth, rough=0.05)

    def _ground(self, canvas: Canvas, camera: Camera) -> None:
        height, width = canvas.labels.shape
        along = camera.z + np.geomspace(NEAR, 150, 40)

        def strip(half: float, z: Floats = along, middle: float = 0.0) -> Floats:
            sides = [np.stack([np.full(len(z), middle + x), np.zeros(len(z)), z], axis=1) for x in (-half, half)]
            return camera.see(np.concatenate([sides[0], sides[1][::-1]]))

        lawn = np.array([(0, camera.horizon), (width, camera.horizon), (width, height), (0, height)])
        canvas.fill([lawn], GRASS, self.lawn, depth=12, rough=0.10)
        canvas.fill([lawn], GRASS, self.lawn, depth=12, rough=0.12, grain="coarse", opaque=0.5)
        canvas.fill([strip(self.line)], PAVEMENT, [self.slabs] * 3, depth=12)
        joints = [strip(self.line, np.array([z, z + 0.05])) for z in np.arange(3, 40, 1.5) if z > camera.z + NEAR]
        canvas.fill(joints, None, [self.slabs * 0.7] * 3, depth=12, opaque=0.5)
        canvas.fill([strip(self.half + 0.15)], PAVEMENT, [self.slabs * 0.8] * 3, depth=12)
        canvas.fill([strip(self.half)], ROAD, [self.asphalt] * 3, depth=12, rough=0.06, grain="fine")
        canvas.fill([strip(self.half)], ROAD, [self.asphalt] * 3, depth=12, rough=0.08, grain="coarse", opaque=0.4)
        dashes = [strip(0.08, np.array([z, z + 3])) for z in np.arange(2, 70, 6) if z + 2 > camera.z + NEAR]
        canvas.fill(dashes, ROAD, (0.88, 0.88, 0.84), depth=12)

    def _houses(self) -> Iterator[Thing]:
        rng, dense = self._rng, self._rng.choice([0.25, 0.6, 1.0])
        for side in (-1, 1):
            z = rng.uniform(6, 14)
            while z < 95:
                deep, gap = rng.uniform(7, 15), rng.uniform(0.5, 5) / dense
                if z > 80 or rng.random() < dense + 0.15:
                    x = side * (self.line + rng.uniform(0.6, 4))
                    yield Thing(x, z + deep, things.house(side, deep, sunny=side == self.sun))
                z += deep + gap

    def _planted(self) -> Iterator[Thing]:
        rng = self._rng
        for side in (-1, 1):
            z = rng.uniform(5, 9)
            while z < 90:
                yield Thing(side * (self.line + rng.uniform(0.8, 5.0)), z, things.tree(self.leaves))
                z += rng.uniform(5, 16)
            for z in rng.uniform(5, 12) + rng.uniform(11, 16) * np.arange(4):
                yield Thing(side * (self.half + 0.4), z, things.pole(-side))
            if side == self.sun or rng.random() < 0.4:
                start, wood = rng.uniform(3, 8), near((0.55, 0.42, 0.30), rng, 0.12)
                yield Thing(side * (self.line + 0.3), start + rng.uniform(9, 18), things.fence(start, wood))
        if self.scene % 3 == 0:  # so that several groups have one, however few there are
            yield Thing(-self.sun * (self.half + rng.uniform(0.3, 0.9)), rng.uniform(9, 13), things.sign)

    def _moving(self) -> Iterator[Thing]:
        rng = self._rng
        for side in (-1, 1):
            z = rng.uniform(9, 16)
            for _ in range(rng.integers(1, 4)):
                yield Thing(side * self.half * rng.uniform(0.45, 0.75), z, things.car)
                z += rng.uniform(7, 18)
            for _ in range(rng.integers(1, 4)):
                yield Thing(side * (self.half + rng.uniform(0.6, self.walk)), rng.uniform(8, 24), things.person)

    def _figures(self, kinds: int) -> Iterator[Thing]:
        """Figures of the further classes, every other one in the air; among four scenes that follow each has one."""
        rng, count = self._rng, max(4, -(-kinds // 4)) if kinds > 0 else 0
        order = np.random.default_rng([self.seed, 5]).permutation(max(kinds, 0))
        taken: list[tuple[float, float, float]] = []  # where figures are seen, and their radius
        for number in range(count):
            flies = number % 2 == 1
            drawn = [(rng.uniform(8, 20), rng.uniform(-0.5, 0.5), rng.uniform(0.13, 0.33)) for _ in range(30)]
            seen = [(across, up if flies else -0.8 / z, 1.0 / z) for z, across, up in drawn]
            room = [min((np.hypot(x - u, y - v) / (r + s) for u, v, s in taken), default=9.0) for x, y, r in seen]
            best = int(np.argmax(room))
            taken.append(seen[best])
            z, across, up = drawn[best]
            kind = int(order[(self.scene * count + number) % kinds])
            high = max(up * z + 1.75, 2.5) if flies else None
            yield Thing(across * z + self.eye - self.bend * z**2, z, things.figure(kind, high))
