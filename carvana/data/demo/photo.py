"""A whole photo: studio, car, grain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.demo.backdrop import paint_studio
from carvana.data.demo.body import car_box, paint_car
from carvana.data.demo.camera import FULL, Camera, Pose, view_angle
from carvana.data.demo.car import Car, build_car
from carvana.data.demo.light import Lamps
from carvana.data.demo.scene import Scene
from carvana.data.demo.studio import Studio, draw_studio
from carvana.errors import DataError

VIEWS = 16
"""Views of each car, 22.5 degrees apart."""


def draw_photo(
    car: int, view: int, *, seed: int = 0, size: tuple[int, int] = FULL
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one photo and its mask; equal arguments give equal bytes in every process.

    Args:
        car: the number of the car, 0 or more; with ``seed`` it decides shape, colour and studio.
        view: 1 (front) to 16; 5 shows the car facing left, 9 its rear.
        seed: another seed gives other cars.
        size: (height, width) of the photo in pixels.

    Returns:
        The photo, uint8 (height, width, 3) RGB, and the mask, uint8 (height, width), 1 where the car covers at
        least half of the pixel (its glass and antenna belong to it, its shadow does not).

    Raises:
        DataError: no such view, a negative car or seed, or a photo under 32 pixels.

    >>> photo, mask = draw_photo(0, 5, size=(64, 96))
    >>> photo.shape, mask.shape, int(mask.max())
    ((64, 96, 3), (64, 96), 1)
    """
    drawing = compose(car, view, seed, size)
    sheet = paint_car(drawing.car, drawing.scene, drawing.box)
    photo = drawing.empty_studio()
    sheet.over(photo)
    x0, y0, x1, y1 = drawing.box
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = sheet.coverage() >= 128
    return _grain(photo, drawing.exposure, np.random.default_rng([seed, car, view, 3])), mask


@dataclass(frozen=True)
class Drawing:
    """All that decides one photo but its grain."""

    car: Car
    studio: Studio
    scene: Scene
    size: tuple[int, int]
    exposure: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The part (x0, y0, x1, y1) of the photo that can hold the car."""
        return car_box(self.car, self.scene, self.size)

    def empty_studio(self) -> NDArray[np.uint8]:
        """The room with the car's shadow, without the car: (height, width, 3) RGB."""
        body = 255 * np.array(self.car.body.colour)
        return paint_studio(self.studio, self.scene.camera, self.scene.pose, self.car.shape, body, self.size)


def compose(car: int, view: int, seed: int, size: tuple[int, int]) -> Drawing:
    """Decide what ``draw_photo`` with the same arguments draws; it raises the same errors."""
    _check(car, view, seed, size)
    rng = np.random.default_rng([seed, car, 2])
    studio = draw_studio(rng)
    scene = _scene(car, view, seed, size, studio, rng)
    return Drawing(build_car(car, seed), studio, scene, size, float(np.clip(rng.normal(1.0, 0.035), 0.9, 1.08)))


def _scene(car: int, view: int, seed: int, size: tuple[int, int], studio: Studio, rng: np.random.Generator) -> Scene:
    """The camera stands as the real one does on average (fitted to the mean boxes of real masks in all 16 views)."""
    scale = min(size[0] / FULL[0], size[1] / FULL[1])
    zoom = scale * rng.normal(1.0, 0.02)
    shake = np.random.default_rng([seed, car, view, 4])
    centre = (
        size[1] / 2 + scale * (rng.normal(-20, 28) + shake.normal(0, 3)),
        size[0] / 2 + scale * (rng.normal(-342, 76) + shake.normal(0, 3)),
    )
    camera = Camera(6.77 + rng.normal(0, 0.12), 1.80 + rng.normal(0, 0.06), 1986.0 * zoom, centre)
    angle = view_angle(view) + rng.normal(0, 0.03) + shake.normal(0, 0.008)
    pose = Pose(float(angle), (float(rng.normal(0.06, 0.10)), float(rng.normal(0, 0.07))))
    r, g, b = (value / 255 for value in studio.table)
    lamps = Lamps(studio.light_azimuth, float(rng.uniform(1.5, 4.0)), float(rng.uniform(0.85, 1.1)), (r, g, b))
    return Scene(camera, pose, lamps)


def _grain(photo: NDArray[np.uint8], exposure: float, shot: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure and the sensor's noise."""
    gain = exposure + float(shot.normal(0, 0.006))
    lift, sink = _noise()
    height, width = photo.shape[:2]
    top, side = int(shot.integers(64)), int(shot.integers(64))
    if height + 64 > lift.shape[0] or width + 64 > lift.shape[1]:
        repeat = (-(-(height + 64) // lift.shape[0]), -(-(width + 64) // lift.shape[1]), 1)
        lift, sink = np.tile(lift, repeat), np.tile(sink, repeat)
    part = np.s_[top : top + height, side : side + width]
    photo = cv2.convertScaleAbs(photo, alpha=gain)
    noisy: NDArray[np.uint8] = cv2.subtract(cv2.add(photo, lift[part]), sink[part])
    return noisy


@lru_cache(maxsize=1)
def _noise() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Grain that brightens and grain that darkens, display values; each photo takes a part of it."""
    rng = np.random.default_rng(20170725)
    noise = rng.standard_normal((FULL[0] + 64, FULL[1] + 64, 3), np.float32)
    noise = 1.0 * noise + 0.6 * noise.mean(axis=2, keepdims=True)
    whole = np.rint(noise)
    return np.maximum(whole, 0).astype(np.uint8), np.maximum(-whole, 0).astype(np.uint8)


def _check(car: int, view: int, seed: int, size: tuple[int, int]) -> None:
    if not 1 <= view <= VIEWS:
        raise DataError(f"view {view}: a demo car has views 1 to {VIEWS}")
    if car < 0 or seed < 0:
        raise DataError(f"car {car}, seed {seed}: both must be 0 or more")
    if min(size) < 32:
        raise DataError(f"size {size[0]}x{size[1]}: a demo photo needs at least 32 pixels on each side")
