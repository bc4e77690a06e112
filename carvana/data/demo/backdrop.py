"""The empty studio as a picture: a round white wall with lettering over a grey foot, and the turntable."""

from __future__ import annotations

import cv2
import numpy as np

from carvana.data.demo.camera import Camera, Pose
from carvana.data.demo.canvas import Pixels
from carvana.data.demo.floor import lamplight, reflection, shadow
from carvana.data.demo.lettering import letter_outlines, letter_width
from carvana.data.demo.shape import Shape
from carvana.data.demo.studio import Studio
from carvana.data.demo.surface import Floats

_SHIFT = 4


def paint_studio(
    studio: Studio, camera: Camera, pose: Pose, shape: Shape, body: Floats, size: tuple[int, int]
) -> Pixels:
    """The room without the car but with its shadow and its reflection, (height, width, 3) RGB.

    ``body`` is the car's colour, (3,), 0 to 255.
    """
    flat = _surfaces(studio, camera, pose, size)
    light = lamplight(studio, camera, size) * shadow(studio, camera, pose, shape, size)[..., None]
    light *= reflection(studio, camera, pose, shape, body, size)
    coarse = np.clip(light * 200, 0, 255).astype(np.uint8)
    smooth = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    lit: Pixels = cv2.multiply(flat, smooth, scale=1 / 200)
    return lit


def _surfaces(studio: Studio, camera: Camera, pose: Pose, size: tuple[int, int]) -> Pixels:
    height, width = size
    scale = camera.focal / 1986.0
    photo = np.empty((height, width, 3), np.uint8)
    photo[:] = np.array(studio.foot, np.uint8)
    turn = np.linspace(0, 2 * np.pi, 181)
    rim = np.stack([studio.table_radius * np.cos(turn), studio.table_radius * np.sin(turn), np.zeros(181)], axis=-1)
    _fill(photo, camera.project(rim), studio.table)
    _lines(photo, [camera.project(rim)], 1.0 * scale + 0.7, _dim(studio.foot, 0.62))
    _seams(photo, studio, camera, pose, scale)
    _wall(photo, studio, camera, scale)
    if studio.kerb:
        _kerb(photo, studio, scale)
    return photo


def _seams(photo: Pixels, studio: Studio, camera: Camera, pose: Pose, scale: float) -> None:
    """Joints and scratches of the turntable: they turn with the car."""
    rng = np.random.default_rng(studio.stains)
    spin = Pose(pose.angle)
    lines = []
    for angle in np.arange(6) * np.pi / 3 + rng.uniform(0, 1):
        ends = np.array([[0.6, 0, 0], [studio.table_radius, 0, 0]])
        turned = Pose(float(angle)).to_studio(ends)
        lines.append(camera.project(spin.to_studio(np.linspace(turned[0], turned[1], 12))))
    _lines(photo, lines, 0.9 * scale + 0.5, _dim(studio.table, 0.84))
    scratches = []
    for _ in range(14):
        start = rng.uniform(-studio.table_radius, studio.table_radius, 2) * 0.7
        end = start + rng.normal(0, 0.25, 2)
        scratches.append(
            camera.project(
                spin.to_studio(
                    np.array([[*start, 0.0], [*((start + end) / 2 + rng.normal(0, 0.02, 2)), 0.0], [*end, 0.0]])
                )
            )
        )
    _lines(photo, scratches, 0.8 * scale + 0.5, _dim(studio.table, float(rng.uniform(0.80, 0.95))))


def _wall(photo: Pixels, studio: Studio, camera: Camera, scale: float) -> None:
    turn = np.linspace(-1.45, 1.45, 80)
    edge = camera.project(_on_wall(studio, turn * studio.radius, np.full(80, studio.foot_height)))
    outline = np.concatenate(
        [
            edge,
            [
                [edge[-1, 0] + 4000, edge[-1, 1]],
                [edge[-1, 0] + 4000, -4000],
                [edge[0, 0] - 4000, -4000],
                [edge[0, 0] - 4000, edge[0, 1]],
            ],
        ]
    )
    _fill(photo, outline, studio.wall)
    if studio.corners:
        for at in (-1.9, 2.1):
            line = _on_wall(studio, np.full(2, at * studio.radius * 0.4), np.array([studio.foot_height, 6.0]))
            _lines(photo, [camera.project(line)], 2.0 * scale + 0.5, _dim(studio.wall, 0.93))
    _word(photo, studio, camera)
    if studio.panel:
        low, high, half = studio.foot_height - 0.6, studio.foot_height + studio.letter_height + 0.28, 1.95
        u = np.array([-half, -half, half, half])
        edges = camera.project(_on_wall(studio, u - 0.5, np.array([low, high, high, low])))
        _lines(photo, [edges], 1.0 * scale + 0.4, _dim(studio.wall, 0.80))
    if studio.lamps:
        for left in (-4.0, -1.2, 1.6, 4.4):
            box = _on_wall(
                studio, left + np.array([0.0, 1.3, 1.3, 0.0]), studio.foot_height + np.array([2.0, 2.0, 2.5, 2.5])
            )
            _fill(photo, camera.project(box), (255.0, 255.0, 254.0))
            _lines(
                photo,
                [np.concatenate([camera.project(box), camera.project(box)[:1]])],
                1.2 * scale + 0.4,
                _dim(studio.wall, 0.86),
            )


def _word(photo: Pixels, studio: Studio, camera: Camera) -> None:
    """Lettering along the wall: thin strokes first, bold ones later."""
    tall, gap = studio.letter_height, 0.42 * studio.letter_height
    widths = [letter_width(letter) * tall for letter in studio.word]
    at = -(sum(widths) + gap * (len(widths) - 1)) / 2
    for index, (letter, wide) in enumerate(zip(studio.word, widths, strict=True)):
        for outline in letter_outlines(letter, tall, tall * (0.10 if index < studio.bold_from else 0.20)):
            place = _on_wall(studio, at + outline[:, 0], studio.foot_height + 0.03 + outline[:, 1])
            _fill(photo, camera.project(place), studio.letters)
        at += wide + gap


def _kerb(photo: Pixels, studio: Studio, scale: float) -> None:
    rng = np.random.default_rng(studio.stains + 1)
    height, width = photo.shape[:2]
    top = height - float(rng.uniform(60, 110)) * scale
    x = np.linspace(-10, width + 10, 40)
    wave = np.cumsum(rng.normal(0, 0.6, 40)) * scale
    upper, lower = np.stack([x, top + wave], axis=-1), np.stack([x, top + wave + 22 * scale], axis=-1)
    _fill(photo, np.concatenate([upper, [[width + 10, height + 10], [-10, height + 10]]]), _dim(studio.foot, 1.12))
    _fill(photo, np.concatenate([upper, lower[::-1]]), (146.0, 112.0, 96.0))
    _lines(photo, [upper], 2 * scale + 0.5, (236.0, 234.0, 230.0))


def _on_wall(studio: Studio, along: Floats, z: Floats) -> Floats:
    turn = along / studio.radius
    return np.stack([-studio.radius * np.cos(turn), studio.radius * np.sin(turn), z], axis=-1)


def _fill(photo: Pixels, outline: Floats, colour: tuple[float, float, float]) -> None:
    cv2.fillPoly(photo, [_units(outline)], colour, cv2.LINE_AA, _SHIFT)


def _lines(photo: Pixels, lines: list[Floats], thick: float, colour: tuple[float, float, float]) -> None:
    cv2.polylines(photo, [_units(line) for line in lines], False, colour, max(round(thick), 1), cv2.LINE_AA, _SHIFT)


def _units(points: Floats) -> np.ndarray:
    return np.rint(np.clip(points, -9000, 9000) * (1 << _SHIFT)).astype(np.int32)


def _dim(colour: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    r, g, b = (min(value * share, 255.0) for value in colour)
    return r, g, b
