"""A whole photo: the studio of the session, the car in it, and the camera's grain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.demo.car import Car
from carvana.data.demo.paint import Pixels, paint_car, sub_pixels
from carvana.data.demo.scene import FOCAL, FULL, RGB, Scene
from carvana.data.demo.shape import Floats
from carvana.errors import DataError

VIEWS = 16
"""Views of each car, 22.5 degrees apart."""

_COARSE = 8  # light and shadow vary slowly: they are computed on every eighth pixel
_DOTS = 48  # a metre of the floor on which the shadow is drawn
_FLOOR = 3.5  # metres from the middle of that floor to its sides

# Strokes of letters in a box one high: points (x, y from the foot).
_LETTERS: dict[str, list[list[tuple[float, float]]]] = {
    "A": [[(0, 0), (0.42, 1), (0.84, 0)], [(0.22, 0.33), (0.62, 0.33)]],
    "C": [[(0.5 + 0.5 * float(np.cos(t)), 0.5 + 0.5 * float(np.sin(t))) for t in np.linspace(0.72, 5.56, 40)]],
    "E": [[(0.6, 0), (0, 0), (0, 1), (0.6, 1)], [(0, 0.5), (0.5, 0.5)]],
    "H": [[(0, 0), (0, 1)], [(0.7, 0), (0.7, 1)], [(0, 0.5), (0.7, 0.5)]],
    "L": [[(0, 1), (0, 0), (0.55, 0)]],
    "M": [[(0, 0), (0, 1), (0.45, 0.3), (0.9, 1), (0.9, 0)]],
    "N": [[(0, 0), (0, 1), (0.75, 0), (0.75, 1)]],
    "R": [[(0, 0), (0, 1), (0.5, 1), (0.66, 0.86), (0.66, 0.6), (0.5, 0.46), (0, 0.46)], [(0.35, 0.46), (0.72, 0)]],
    "V": [[(0, 1), (0.42, 0), (0.84, 1)]],
    "Z": [[(0, 1), (0.7, 1), (0, 0), (0.7, 0)]],
}


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
    if not 1 <= view <= VIEWS:
        raise DataError(f"view {view}: a demo car has views 1 to {VIEWS}")
    if car < 0 or seed < 0:
        raise DataError(f"car {car}, seed {seed}: both must be 0 or more")
    if min(size) < 32:
        raise DataError(f"size {size[0]}x{size[1]}: a demo photo needs at least 32 pixels on each side")
    body, scene = build_car(car, seed), compose(car, view, seed, size)
    photo = paint_studio(scene, body, size, np.random.default_rng([seed, car, 2]))
    sheet = paint_car(body, scene, size)
    sheet.over(photo)
    x0, y0, x1, y1 = sheet.box
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = sheet.coverage() >= 128
    return _grain(photo, scene.exposure, np.random.default_rng([seed, car, view, 3])), mask


@lru_cache(maxsize=2)
def build_car(car: int, seed: int) -> Car:
    """The car with this number; the same in every process."""
    return Car(np.random.default_rng([seed, car, 1]))


def compose(car: int, view: int, seed: int, size: tuple[int, int]) -> Scene:
    """The camera stands as the real one does on average (fitted to the mean boxes of real masks in all 16 views)."""
    rng, shake = np.random.default_rng([seed, car, 5]), np.random.default_rng([seed, car, view, 4])
    scale = min(size[0] / FULL[0], size[1] / FULL[1])
    warm, table = rng.normal(0, 1.3), rng.uniform(-1, 1)
    return Scene(
        distance=6.77 + rng.normal(0, 0.12),
        height=1.80 + rng.normal(0, 0.06),
        focal=FOCAL * scale * rng.normal(1.0, 0.02),
        centre=(
            size[1] / 2 + scale * (rng.normal(-20, 28) + shake.normal(0, 3)),
            size[0] / 2 + scale * (rng.normal(-342, 76) + shake.normal(0, 3)),
        ),
        angle=-np.pi / 8 * (view - 1) + rng.normal(0, 0.03) + shake.normal(0, 0.008),
        shift=(rng.normal(0.06, 0.10), rng.normal(0, 0.07)),
        azimuth=rng.uniform(-np.pi, np.pi),
        strips=rng.uniform(1.5, 4.0),
        strength=rng.uniform(0.85, 1.1),
        floor=_tone(181 + rng.normal(0, 8) + 5 * table, warm + 3 + 4 * table),
        exposure=float(np.clip(rng.normal(1.0, 0.035), 0.9, 1.08)) + shake.normal(0, 0.006),
    )


def paint_studio(scene: Scene, car: Car, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """The room without the car but with its shadow and its reflection, (height, width, 3) RGB.

    A round white wall with lettering, over a grey foot, and the turntable; equal generators give equal rooms.
    """
    warm, radius, foot_height = rng.normal(0, 1.3), rng.uniform(5.2, 5.9), rng.normal(1.10, 0.06)
    table = scene.floor
    foot = _tone(255 * table[1], warm - 2.5)
    wall = _tone(247 + rng.normal(0, 2.4), warm / 2)
    photo = np.empty((*size, 3), np.uint8)
    cv2.rectangle(photo, (0, 0), size[::-1], [255 * value for value in foot], cv2.FILLED)

    reach = rng.uniform(3.1, 3.5)
    turn = np.linspace(0, 2 * np.pi, 181)
    rim = scene.project(np.stack([reach * np.cos(turn), reach * np.sin(turn), 0 * turn], axis=-1))
    _fill(photo, rim, table)
    _lines(photo, [rim], 1.7 * scene.scale, foot, 0.62)
    joints = np.arange(6) * np.pi / 3 + rng.uniform(0, 1) + scene.angle  # of the table: they turn with the car
    outer = reach * np.stack([np.cos(joints), np.sin(joints), 0 * joints], axis=-1)
    lines = scene.project(np.stack([0.2 * outer, outer], axis=1))
    _lines(photo, list(lines), 1.4 * scene.scale, table, 0.84)

    def on_wall(along: Floats, z: Floats | float) -> Floats:
        place = -radius * np.cos(along / radius), radius * np.sin(along / radius), z + 0 * along
        return scene.project(np.stack(place, axis=-1))

    edge = on_wall(np.linspace(-1.45, 1.45, 80) * radius, foot_height)
    far = [[8000, edge[-1, 1]], [8000, -8000], [-8000, -8000], [-8000, edge[0, 1]]]  # beyond any photo
    _fill(photo, np.concatenate([edge, far]), wall)
    _word(photo, on_wall, foot_height, scene, rng)
    if rng.random() < 0.6:
        low, high = foot_height - 0.6, foot_height + rng.uniform(1.5, 1.7)
        panel = on_wall(np.array([-2.4, -2.4, 1.5, 1.5]), np.array([low, high, high, low]))
        _lines(photo, [panel], scene.scale, wall, 0.80)

    border = scene.centre[1] + scene.focal * (scene.height - foot_height) / (scene.distance + radius)
    light = _lamplight(scene, border / size[0], size, rng) * _shadow(scene, car, size, rng.uniform(0.45, 0.75))
    mirrored = rng.uniform(0.02, 0.14) * _reflection(scene, car, size)
    tinted = 1 - mirrored[..., None] * (1 - np.array(car.body.colour) / np.array(table))
    coarse = np.clip(light[..., None] * tinted * 200, 0, 255).astype(np.uint8)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)
    lit: Pixels = cv2.multiply(photo, smooth, scale=1 / 200)
    return lit


def _word(photo: Pixels, on_wall: Callable[..., Floats], foot: float, scene: Scene, rng: np.random.Generator) -> None:
    """Lettering along the wall: thin strokes first, bold ones later."""
    tall, bold_from = rng.uniform(1.15, 1.45), rng.integers(2, 6)
    grey = rng.uniform(0.31, 0.44)
    word = rng.choice(list("AAACCRRVVNNNEHLMZ"), size=rng.integers(6, 9))
    widths = [tall * (0.4 + max(x for stroke in _LETTERS[letter] for x, _ in stroke)) for letter in word]
    at = -sum(widths) / 2
    for number, (letter, width) in enumerate(zip(word, widths, strict=True)):
        strokes = [np.array(stroke) * tall for stroke in _LETTERS[letter]]
        thick = tall * (0.10 if number < bold_from else 0.20) * scene.focal / (scene.distance + 5.5)
        lines = [on_wall(at + stroke[:, 0], foot + 0.1 * tall + 0.9 * stroke[:, 1]) for stroke in strokes]
        _lines(photo, lines, thick, (grey, grey, grey))
        at += width


def _lamplight(scene: Scene, border: float, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """How strongly each place is lit, (height / 8, width / 8), about 1; ``border``: where the wall begins, 0 to 1."""
    width, height = _coarse(size)
    across, down = np.linspace(-1, 1, width), np.linspace(0, 1, height)[:, None]
    above = np.clip((border - down) / max(border, 0.05), 0, 1)
    below = np.clip((down - border) / (1 - border), 0, 1)
    fall = rng.uniform(0.04, 0.22)
    light = 1.015 - fall * above * (0.25 + 0.75 * across**2) + 0.07 * np.sin(np.pi * below)
    light -= (0.05 + 0.5 * fall) * across**2 * below - 0.10 * np.clip(4 * below - 3, 0, 1) * np.sin(scene.azimuth)
    stains = cv2.resize(rng.normal(0, 0.008, (12, 18)), (width, height), interpolation=cv2.INTER_CUBIC)
    lit: Floats = light + stains * (0.3 + 0.7 * (below > 0))
    return lit


def _shadow(scene: Scene, car: Car, size: tuple[int, int], strength: float) -> Floats:
    """What the car leaves of the light on the floor, (height / 8, width / 8), 1 far from it."""
    edge = round(2 * _FLOOR * _DOTS)
    floor = np.zeros((edge, edge), np.float32)
    (plan,) = car.shape.lower.around(64, np.array([0.1]))
    outline = (scene.to_studio(plan)[:, :2] + _FLOOR) * _DOTS
    cv2.fillPoly(floor, [sub_pixels(outline)], 1.0, cv2.LINE_AA, 4)
    wide, near = (cv2.GaussianBlur(floor, (0, 0), metres * _DOTS) for metres in (0.34, 0.11))
    dark = 1 - (1 - 0.45 * strength * wide) * (1 - 0.85 * strength * near**1.3)
    corners = np.array([[0, 0], [edge, 0], [edge, edge], [0, edge]], np.float32)
    places = np.column_stack([corners / _DOTS - _FLOOR, np.zeros(4)])
    warp = cv2.getPerspectiveTransform(corners, (scene.project(places) / _COARSE).astype(np.float32))
    seen = cv2.warpPerspective(dark, warp, _coarse(size), flags=cv2.INTER_LINEAR)
    seen[: max(int(scene.centre[1] / _COARSE) + 2, 0)] = 0  # above the horizon
    left: Floats = 1 - seen.astype(np.float64)
    return left


def _reflection(scene: Scene, car: Car, size: tuple[int, int]) -> Floats:
    """How strongly the car's mirror image shows in the floor, (height / 8, width / 8), 0 to 1."""
    mirrored = car.shape.lower.around(32, np.array([0.0, 0.35, 0.7, 1.0])) * np.array([1.0, 1.0, -1.0])
    spots = sub_pixels(scene.pixels(mirrored) / _COARSE)
    image = np.zeros(_coarse(size)[::-1], np.float32)
    for row, strength in ((2, 0.6), (1, 1.0), (0, 0.5)):  # the nearer the floor, the clearer; the sill itself is dark
        for k in range(32):
            corners = np.array([spots[row, k], spots[row, k + 1], spots[row + 1, k + 1], spots[row + 1, k]])
            cv2.fillConvexPoly(image, corners, strength, cv2.LINE_8, 4)
    blurred: Floats = cv2.GaussianBlur(image, (0, 0), max(2.5 * scene.scale, 0.3))
    return blurred


def _grain(photo: Pixels, exposure: float, rng: np.random.Generator) -> Pixels:
    """Exposure and the sensor's noise."""
    height, width = photo.shape[:2]
    top, left = rng.integers(256, size=2)
    noise = cv2.copyMakeBorder(_noise(), 0, height, 0, width, cv2.BORDER_WRAP)[top : top + height, left : left + width]
    noisy: Pixels = cv2.add(cv2.convertScaleAbs(photo, alpha=exposure), noise, dtype=cv2.CV_8U)
    return noisy


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.int16]:
    """A tile of grain, display values."""
    noise = np.random.default_rng(20170725).standard_normal((512, 512, 3), np.float32)
    whole: NDArray[np.int16] = np.rint(noise + 0.6 * noise.mean(axis=2, keepdims=True)).astype(np.int16)
    return whole


def _coarse(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[1] // _COARSE), -(-size[0] // _COARSE)


def _tone(grey: float, warm: float) -> RGB:
    red, green, blue = (np.clip([grey + 0.6 * warm, grey, grey - warm], 0, 255) / 255).tolist()
    return red, green, blue


def _fill(photo: Pixels, outline: Floats, colour: RGB) -> None:
    cv2.fillPoly(photo, [sub_pixels(outline)], [255 * value for value in colour], cv2.LINE_AA, 4)


def _lines(photo: Pixels, lines: Sequence[Floats], thick: float, colour: RGB, share: float = 1.0) -> None:
    shown, width = [255 * share * value for value in colour], max(round(thick), 1)
    cv2.polylines(photo, [sub_pixels(line) for line in lines], False, shown, width, cv2.LINE_AA, 4)
