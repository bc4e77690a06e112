"""The empty studio: a round white wall with lettering over a grey foot, the turntable, shadow and reflection on its floor."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

from carvana.data.demo.camera import Camera, Pose
from carvana.data.demo.canvas import Pixels
from carvana.data.demo.shape import Shape
from carvana.data.demo.surface import Floats

_COARSE = 8
"""Light and stains vary slowly: they are computed on every eighth pixel."""
_SHIFT = 4

# Strokes of a plain alphabet in a box one high: points (x, y from the foot), curves cut into short lines.
_ARC = [(0.5 + 0.5 * float(np.cos(t)), 0.5 + 0.5 * float(np.sin(t))) for t in np.linspace(0.72, 5.56, 40)]
_BOWL = [(0.0, 0.44), *((0.38 + 0.28 * float(np.sin(t)), 0.72 - 0.28 * float(np.cos(t))) for t in np.linspace(0, np.pi, 24)), (0.0, 1.0)]
_GLYPHS: dict[str, list[list[tuple[float, float]]]] = {
    "A": [[(0, 0), (0.42, 1), (0.84, 0)], [(0.62, 0.33), (0.72, 0.33)]],
    "C": [_ARC],
    "E": [[(0.6, 0), (0, 0), (0, 1), (0.6, 1)], [(0, 0.5), (0.5, 0.5)]],
    "H": [[(0, 0), (0, 1)], [(0.7, 0), (0.7, 1)], [(0, 0.5), (0.7, 0.5)]],
    "L": [[(0, 1), (0, 0), (0.55, 0)]],
    "M": [[(0, 0), (0, 1), (0.45, 0.3), (0.9, 1), (0.9, 0)]],
    "N": [[(0, 0), (0, 1), (0.75, 0), (0.75, 1)]],
    "O": [[(0.5 + 0.5 * float(np.cos(t)), 0.5 + 0.5 * float(np.sin(t))) for t in np.linspace(0, 2 * np.pi, 49)]],
    "R": [[(0, 0), (0, 1)], _BOWL, [(0.30, 0.46), (0.72, 0)]],
    "T": [[(0, 1), (0.75, 1)], [(0.375, 1), (0.375, 0)]],
    "V": [[(0, 1), (0.42, 0), (0.84, 1)]],
    "Z": [[(0, 1), (0.7, 1), (0, 0), (0.7, 0)]],
}


@dataclass(frozen=True)
class Studio:
    """What of the room belongs to one car's session. Colours are display values 0 to 255."""

    wall: tuple[float, float, float]
    foot: tuple[float, float, float]
    table: tuple[float, float, float]
    letters: tuple[float, float, float]
    word: str
    bold_from: int
    radius: float
    foot_height: float
    table_radius: float
    letter_height: float
    reflection: float
    shadow: float
    light_azimuth: float
    fall_off: float
    kerb: bool
    panel: bool
    corners: bool
    lamps: bool
    stains: int


def draw_studio(rng: np.random.Generator) -> Studio:
    """A studio at random, its measures near those of the competition's photos."""
    warm = rng.normal(0, 1.3)
    tone = rng.normal(0, 8.0)
    table = rng.uniform(-1, 1)
    return Studio(
        wall=_tone(247 + 0.3 * tone, warm * 0.5),
        foot=_tone(182 + tone, warm - 2.5),
        table=_tone(181 + tone + 5 * table, warm + 3 + 4 * table),
        letters=_tone(float(rng.uniform(80, 112)), 0.4 * warm),
        word="".join(rng.choice(list("AAACCRRVVNNNEHLMOTZ"), size=int(rng.integers(6, 9)))),
        bold_from=int(rng.integers(2, 6)),
        radius=float(rng.uniform(5.2, 5.9)),
        foot_height=float(rng.normal(1.10, 0.06)),
        table_radius=float(rng.uniform(3.1, 3.5)),
        letter_height=float(rng.uniform(1.15, 1.45)),
        reflection=float(rng.uniform(0.02, 0.14)),
        shadow=float(rng.uniform(0.45, 0.75)),
        light_azimuth=float(rng.uniform(-np.pi, np.pi)),
        fall_off=float(rng.uniform(0.04, 0.22)),
        kerb=bool(rng.random() < 0.12),
        panel=bool(rng.random() < 0.6),
        corners=bool(rng.random() < 0.2),
        lamps=bool(rng.random() < 0.2),
        stains=int(rng.integers(1 << 30)),
    )


def paint_studio(studio: Studio, camera: Camera, pose: Pose, shape: Shape, body: Floats, size: tuple[int, int]) -> Pixels:
    """The room without the car but with its shadow and what its ``body`` colour, 0 to 255, leaves on the floor: (height, width, 3) RGB."""
    flat = _surfaces(studio, camera, pose, size)
    light = _light(studio, camera, size) * _shadow(studio, camera, pose, shape, size)[..., None]
    light *= _reflection(studio, camera, pose, shape, body, size)
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
        frame = camera.project(_on_wall(studio, u - 0.5, np.array([low, high, high, low])))
        _lines(photo, [frame], 1.0 * scale + 0.4, _dim(studio.wall, 0.80))
    if studio.lamps:
        for u in (-4.0, -1.2, 1.6, 4.4):
            box = _on_wall(
                studio, np.array([u, u + 1.3, u + 1.3, u]), studio.foot_height + np.array([2.0, 2.0, 2.5, 2.5])
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
    widths = [max(x for stroke in _GLYPHS[letter] for x, _ in stroke) * tall for letter in studio.word]
    at = -(sum(widths) + gap * (len(widths) - 1)) / 2
    for index, (letter, wide) in enumerate(zip(studio.word, widths, strict=True)):
        thick = tall * (0.10 if index < studio.bold_from else 0.20)
        for stroke in _GLYPHS[letter]:
            for outline in _ribbons(np.array(stroke) * tall, thick, tall):
                place = _on_wall(studio, at + outline[:, 0], studio.foot_height + 0.03 + outline[:, 1])
                _fill(photo, camera.project(place), studio.letters)
        at += wide + gap


def _ribbons(stroke: Floats, thick: float, tall: float) -> list[Floats]:
    """Outlines (K, 2) of a stroke: one for a curve, one for each straight piece else, cut level at foot and top."""
    if len(stroke) > 12:
        along = np.gradient(stroke, axis=0)
        if np.allclose(stroke[0], stroke[-1]):
            along[0] = along[-1] = along[0] + along[-1]
        inward = np.stack([-along[:, 1], along[:, 0]], axis=-1) / np.hypot(along[:, :1], along[:, 1:])
        return [np.concatenate([stroke, (stroke + thick * inward)[::-1]])]
    outlines = []
    for a, b in itertools.pairwise(stroke):
        run, rise = np.abs(b - a)
        if rise < 0.2 * run:
            inset = np.array([0.0, np.clip(a[1], thick / 2, tall - thick / 2) - a[1]])
            side, ends = np.array([0.0, thick / 2]), np.array([np.sign(b[0] - a[0]) * thick / 2, 0.0])
            a, b = a + inset - ends, b + inset + ends
        else:  # a slanted stroke keeps level ends, as sans-serif letters have them
            side = np.array([thick / 2 * np.hypot(run, rise) / rise, 0.0])
        outlines.append(np.concatenate([np.linspace(a + side, b + side, 4), np.linspace(b - side, a - side, 4)]))
    return outlines


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


def _light(studio: Studio, camera: Camera, size: tuple[int, int]) -> Floats:
    """How strongly each place is lit, (height / 8, width / 8, 3), about 1."""
    height, width = -(-size[0] // _COARSE), -(-size[1] // _COARSE)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    across, down = x / width * 2 - 1, y / height
    border = (
        camera.centre[1] + camera.focal * (camera.height - studio.foot_height) / (camera.distance + studio.radius)
    ) / size[0]
    light = 1.0 + 0.02 * np.cos(studio.light_azimuth) * across
    above = np.clip((border - down) / max(border, 0.05), 0, 1)
    below = np.clip((down - border) / (1 - border), 0, 1)
    light -= studio.fall_off * (0.25 * above + 0.75 * above * across**2)
    light += 0.07 * np.sin(np.pi * np.clip(below * 1.15, 0, 1)) - 0.05 * np.exp(-(((below - 0.04) / 0.05) ** 2)) * (
        below > 0
    )
    light += 0.10 * np.clip((below - 0.75) / 0.25, 0, 1) * (np.sin(studio.light_azimuth))
    light -= (0.05 + 0.5 * studio.fall_off) * across**2 * below
    rng = np.random.default_rng(studio.stains)
    stains = cv2.resize(rng.normal(0, 1, (12, 18)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.normal(0, 1, (48, 40)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    light += (0.008 * stains + 0.005 * fine) * (0.3 + 0.7 * (below > 0.05))
    tint = 0.004 * cv2.resize(
        rng.normal(0, 1, (5, 7)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    return np.stack([light + tint, light, light - tint], axis=-1).astype(np.float64)


def _shadow(studio: Studio, camera: Camera, pose: Pose, shape: Shape, size: tuple[int, int]) -> Floats:
    """What the car leaves of the light on the floor, (height / 8, width / 8), 1 far from it."""
    dots, span = 48, 7.0  # per metre; metres of floor around the middle
    edge = int(dots * span)
    floor = np.zeros((edge, edge), np.float32)
    to_floor = np.array([[dots, 0, edge / 2], [0, dots, edge / 2], [0, 0, 1.0]])
    s, half = shape, shape.width / 2
    plan = s.lower.point(np.linspace(0, 2 * np.pi, 64), np.array(0.1))
    plan[:, 2] = 0

    def fill(points: Floats, value: float) -> None:
        spots = pose.to_studio(points)[:, :2] @ to_floor[:2, :2].T + to_floor[:2, 2]
        cv2.fillPoly(floor, [np.rint(spots * 16).astype(np.int32)], value, cv2.LINE_AA, 4)

    fill(plan, 1.0)
    wide = cv2.GaussianBlur(floor, (0, 0), 0.34 * dots)
    near = cv2.GaussianBlur(floor, (0, 0), 0.11 * dots)
    floor[:] = 0
    for axle in (s.front_axle, s.rear_axle):
        for side in (1, -1):
            fill(
                np.array(
                    [
                        [axle + dx, side * (half - 0.02 + dy), 0]
                        for dx, dy in ((-0.19, 0.02), (0.19, 0.02), (0.19, -0.26), (-0.19, -0.26))
                    ]
                ),
                1.0,
            )
    touch = cv2.GaussianBlur(floor, (0, 0), 0.05 * dots)
    dark = 1 - (1 - 0.45 * studio.shadow * wide) * (1 - 0.85 * studio.shadow * near**1.3) * (1 - 0.6 * touch)
    coarse = np.diag([1 / _COARSE, 1 / _COARSE, 1.0])
    warp = coarse @ camera.floor_homography() @ np.linalg.inv(to_floor)
    out = (-(-size[1] // _COARSE), -(-size[0] // _COARSE))
    seen = cv2.warpPerspective(dark, warp, out, flags=cv2.INTER_LINEAR)
    horizon = int(camera.centre[1] / _COARSE) + 2
    seen[: max(horizon, 0)] = 0
    return 1 - seen.astype(np.float64)


def _reflection(
    studio: Studio, camera: Camera, pose: Pose, shape: Shape, body: Floats, size: tuple[int, int]
) -> Floats:
    """How the car's mirror image in the floor tints it, (height / 8, width / 8, 3), 1 where there is none."""
    out = np.zeros((-(-size[0] // _COARSE), -(-size[1] // _COARSE)), np.float32)
    theta = np.linspace(0, 2 * np.pi, 33)
    grid = shape.lower.point(theta[None, :], np.array([0.0, 0.35, 0.7, 1.0])[:, None]) * np.array([1.0, 1.0, -1.0])
    spots = np.rint(camera.project(pose.to_studio(grid)) / _COARSE * 16).astype(np.int32)
    strength = (0.5, 1.0, 0.6)  # the nearer the floor, the clearer; the sill itself is dark
    for row in (2, 1, 0):
        for k in range(32):
            corners = np.array([spots[row, k], spots[row, k + 1], spots[row + 1, k + 1], spots[row + 1, k]])
            cv2.fillConvexPoly(out, corners, strength[row], cv2.LINE_8, 4)
    share = studio.reflection * cv2.GaussianBlur(out, (0, 0), max(2.5 * camera.focal / 1986.0, 0.3))[..., None]
    return 1 - share * (1 - body / np.array(studio.table))


def _on_wall(studio: Studio, along: Floats, z: Floats) -> Floats:
    turn = along / studio.radius
    return np.stack([-studio.radius * np.cos(turn), studio.radius * np.sin(turn), z], axis=-1)


def _fill(photo: Pixels, outline: Floats, colour: tuple[float, float, float]) -> None:
    cv2.fillPoly(photo, [_units(outline)], colour, cv2.LINE_AA, _SHIFT)


def _lines(photo: Pixels, lines: list[Floats], thick: float, colour: tuple[float, float, float]) -> None:
    cv2.polylines(photo, [_units(line) for line in lines], False, colour, max(round(thick), 1), cv2.LINE_AA, _SHIFT)


def _units(points: Floats) -> np.ndarray:
    return np.rint(np.clip(points, -9000, 9000) * (1 << _SHIFT)).astype(np.int32)


def _tone(grey: float, warm: float) -> tuple[float, float, float]:
    r, g, b = (float(v) for v in np.clip([grey + warm * 0.6, grey, grey - warm], 0, 255))
    return r, g, b


def _dim(colour: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    r, g, b = (min(value * share, 255.0) for value in colour)
    return r, g, b
