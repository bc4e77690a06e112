"""What is cut into or drawn on the body: windows, wheel arches, lights, grille, plates, seams, handles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from carvana.data.demo.light import Paint
from carvana.data.demo.shape import Shape
from carvana.data.demo.surface import Floats, Quads, grid_quads

BLACK = Paint((0.05, 0.05, 0.055), 0.02)
PLASTIC = Paint((0.16, 0.16, 0.17), 0.02)
CHROME = Paint((0.80, 0.81, 0.82), 0.55, 0.6)
LENS = Paint((0.56, 0.58, 0.61), 0.25)
RED = Paint((0.62, 0.04, 0.06), 0.10)
AMBER = Paint((0.90, 0.42, 0.08), 0.10)
WHITE = Paint((0.93, 0.94, 0.96), 0.02)

Surface = Callable[[Floats, Floats], Floats]
"""A place (..., 3) for the position along a row and the row, both (...,)."""


@dataclass(frozen=True)
class Decal:
    """A thin coat on the body."""

    quads: Quads
    paint: Paint


def strip(surface: Surface, rows: Floats, left: Floats | float, right: Floats | float, columns: int = 6) -> Quads:
    """Faces on ``surface(a, b)``: along each row b (M,) from a = left (M,) to a = right (M,)."""
    share = np.linspace(0, 1, columns + 1)
    left, right = np.broadcast_to(left, rows.shape), np.broadcast_to(right, rows.shape)
    along = left[:, None] + (right - left)[:, None] * share
    return grid_quads(surface(along, np.broadcast_to(rows[:, None], along.shape)))


def swapped(surface: Surface) -> Surface:
    """The same surface with rows and columns exchanged."""
    return lambda a, b: surface(b, a)


def deck(flank: Surface) -> Surface:
    """The top that goes on from a flank, as a function of the share of the half width (0 in the middle) and x."""
    return lambda share, x: flank(x, 2 - share)


def _mirrored(surface: Surface, sign: float) -> Surface:
    return lambda y, v: surface(sign * y, v)


def _slanted(surface: Surface, inner: float, low: float, tall: float, slope: float) -> Surface:
    """A lamp's own frame: rows 0 to 1 over ``tall`` above ``low``, rising by ``slope`` outward of y = ``inner``."""
    return lambda y, t: surface(y, low + t * tall + slope * (y - inner))


def rounded(rows: Floats, corner: float) -> Floats:
    """How far the ends of each row draw in where a pane's corners are round, 0 to 1."""
    span = (rows[-1] - rows[0]) * corner
    near = np.clip(1 - np.minimum(rows - rows[0], rows[-1] - rows) / span, 0, 1)
    drawn: Floats = 1 - np.sqrt(1 - near**2)
    return drawn


def arches(shape: Shape, gap: float) -> list[tuple[float, bool, Quads]]:
    """Holes in the flanks ``gap`` metres wider than the wheels: (x of the axle, whether left, faces)."""
    holes = []
    radius = shape.wheel + gap
    for axle in (shape.front_axle, shape.rear_axle):
        low = float(shape.lower.bottom(np.array(axle))) - 0.01
        rows = shape.wheel + radius * np.sin(np.linspace(np.arcsin((low - shape.wheel) / radius), np.pi / 2, 20))
        chord = np.sqrt(np.maximum(radius**2 - (rows - shape.wheel) ** 2, 1e-6))
        for left in (True, False):
            quads = strip(partial(shape.lower.side, left=left), rows, axle - chord, axle + chord, 14)
            holes.append((axle, left, quads))
    return holes


def seam_of(body: Paint) -> Paint:
    """The gap between two panels: the body's colour, deep in shade."""
    r, g, b = (0.03 + 0.32 * value for value in body.colour)
    return Paint((r, g, b), 0.0)


def lower_decals(shape: Shape, rng: np.random.Generator, body: Paint) -> list[Decal]:
    """Everything drawn on the lower body, in the order of painting."""
    low, decals = shape.lower, []
    seam = seam_of(body)
    around = np.linspace(-np.pi, np.pi, 97)
    rugged = shape.kind in ("suv", "pickup") and rng.random() < 0.6
    skirt = rng.uniform(0.14, 0.24) if rugged else rng.uniform(0.0, 0.07)
    decals.append(
        Decal(grid_quads(low.point(around[None, :], np.linspace(0, skirt, 4)[:, None])), PLASTIC if rugged else BLACK)
    )
    if rugged:
        for axle, left, _ in arches(shape, 0.0):
            decals.append(Decal(_ring(shape, axle, left, shape.wheel + 0.03, shape.wheel + 0.115), PLASTIC))
    decals += _flank(shape, rng, body, seam)
    decals += _nose(shape, rng)
    decals += _rear(shape, rng, seam)
    if shape.kind != "pickup":
        decals += _lid(shape, seam)
    return decals


def _flank(shape: Shape, rng: np.random.Generator, body: Paint, seam: Paint) -> list[Decal]:
    low = shape.lower
    thick = 0.0035
    doors = [shape.screen_foot - 0.06, door_pillar(shape)]
    if shape.kind not in ("coupe",):
        doors.append(max(shape.rear_axle + shape.wheel + 0.10, shape.cabin_rear + 0.08))
    bright = CHROME if rng.random() < 0.5 else body
    moulding = rng.random() < 0.35
    decals = []
    for left in (True, False):
        across = partial(low.flank, left=left)
        flank = swapped(across)
        rows = np.linspace(0.075, 0.99, 16)
        for i, x in enumerate(doors):
            slant = np.where(rows > 0.6, 0, (0.6 - rows) * (0.10 if i != 1 else 0.02))
            decals.append(Decal(strip(across, rows, x - thick + slant, x + thick + slant, 1), seam))
        ends = np.linspace(doors[-1] + 0.05, doors[0] + 0.05, 30)
        decals.append(Decal(strip(flank, ends, 0.072, 0.085, 1), seam))
        if moulding:
            ends = np.linspace(doors[-1] + 0.08, doors[0] - 0.05, 30)
            decals.append(Decal(strip(flank, ends, 0.33, 0.365, 1), CHROME if rng.random() < 0.5 else BLACK))
        for x in doors[1:] if len(doors) > 2 else doors[1:2]:
            grip = np.linspace(x + 0.06, x + 0.25, 6)
            decals.append(Decal(strip(flank, grip, 0.745, 0.76, 1), seam))
            decals.append(Decal(strip(flank, grip, 0.758, 0.80, 2), bright))
        cap = shape.rear_axle - 0.05
        if left:
            height = float(low.flank(np.array(cap), np.array(0.80), left)[2])
            decals.append(Decal(_ring(shape, cap, left, 0.075, 0.079, height, full=True), seam))
        lamp = np.linspace(0.50, 0.56, 2)
        spot = shape.front_axle + shape.wheel + 0.16
        decals.append(Decal(strip(across, lamp, spot, spot + 0.09, 2), AMBER))
        decals.append(
            Decal(
                strip(flank, np.linspace(shape.cabin_rear + 0.1, shape.screen_foot - 0.1, 40), 0.984, 0.997, 1),
                CHROME if bright is CHROME else BLACK,
            )
        )
    return decals


def _nose(shape: Shape, rng: np.random.Generator) -> list[Decal]:
    front = partial(shape.lower.end, front=True)
    power = shape.front_power
    corner = (1 - 0.91**power) ** (1 / power)
    decals = []
    wide, low, high = rng.uniform(0.30, 0.46), rng.uniform(0.42, 0.52), rng.uniform(0.76, 0.86)
    rows = np.linspace(low, high, 9)
    taper = wide * (0.82 + 0.18 * (rows - low) / (high - low)) - rounded(rows, 0.3) * 0.05
    frame = CHROME if rng.random() < 0.6 else BLACK
    decals.append(Decal(strip(front, np.linspace(low - 0.03, high + 0.025, 9), -taper - 0.02, taper + 0.02, 12), frame))
    decals.append(Decal(strip(front, rows, -taper, taper, 12), BLACK))
    bars = int(rng.integers(2, 6))
    for v in np.linspace(low, high, bars + 2)[1:-1]:
        bar = strip(front, np.array([v - 0.012, v + 0.012]), -wide * 0.88, wide * 0.88, 12)
        decals += [Decal(bar, frame if rng.random() < 0.8 else PLASTIC)]
    rows = np.linspace(0.10, rng.uniform(0.20, 0.30), 5)
    decals.append(Decal(strip(front, rows, -0.52 + (rows - 0.1) * 0.6, 0.52 - (rows - 0.1) * 0.6, 12), BLACK))
    inner = rng.uniform(0.46, 0.54)
    slant, tall = rng.uniform(0.0, 0.14), rng.uniform(0.16, 0.30)
    rows = np.linspace(0, 1, 7)
    for sign in (-1.0, 1.0):
        lamp = _slanted(_mirrored(front, sign), inner, 0.62, tall, slant / (corner - inner))
        shut = rounded(rows, 0.5) * 0.05
        decals.append(Decal(strip(lamp, rows, inner + shut, corner - shut, 8), BLACK))
        decals.append(
            Decal(strip(lamp, np.linspace(0.10, 0.90, 6), inner + 0.025 + shut[0] * 0.4, corner - 0.02, 8), LENS)
        )
        for spot in (0.3, 0.68):
            y = inner + (corner - inner) * spot
            tall_rows = 0.5 + 0.24 * np.cos(np.linspace(np.pi, 0, 8))
            round_half = 0.001 + 0.036 * np.sin(np.linspace(0, np.pi, 8))
            decals.append(Decal(strip(lamp, tall_rows, y - round_half, y + round_half, 3), CHROME))
        decals.append(Decal(strip(lamp, np.linspace(0.15, 0.45, 3), corner - 0.05, corner - 0.02, 2), AMBER))
        fog = _mirrored(front, sign)
        decals.append(Decal(strip(fog, np.linspace(0.14, 0.30, 4), 0.60, 0.74, 4), BLACK))
        decals.append(Decal(strip(fog, np.linspace(0.18, 0.26, 3), 0.64, 0.70, 3), LENS))
    badge = (low + high) / 2
    decals.append(Decal(strip(front, np.linspace(badge - 0.05, badge + 0.05, 4), -0.05, 0.05, 4), CHROME))
    if rng.random() < 0.75:
        decals += _plate(front, rng.uniform(0.24, 0.32), shape, rng, shape.nose)
    return decals


def _rear(shape: Shape, rng: np.random.Generator, seam: Paint) -> list[Decal]:
    back = partial(shape.lower.end, front=False)
    power = shape.rear_power
    corner = (1 - rng.uniform(0.87, 0.91) ** power) ** (1 / power)
    decals = [Decal(strip(back, np.array([0.455, 0.47]), -0.90, 0.90, 24), seam)]
    tall_lamp = shape.kind in ("suv", "van", "pickup", "hatch")
    inner = rng.uniform(0.64, 0.74) if tall_lamp else rng.uniform(0.50, 0.64)
    rows = np.linspace(0.60 if tall_lamp else 0.68, rng.uniform(0.88, 0.97), 7)
    shut = rounded(rows, 0.4) * 0.04
    for sign in (-1.0, 1.0):
        lamp = _mirrored(back, sign)
        decals.append(Decal(strip(lamp, rows, inner + shut, corner - shut, 8), RED))
        part = rows[2:4]
        decals.append(Decal(strip(lamp, part, inner + 0.02, corner - 0.06, 6), LENS))
        decals.append(Decal(strip(lamp, np.array([0.30, 0.34]), 0.62, 0.80, 3), RED))
        if rng.random() < 0.6:
            decals.append(Decal(strip(lamp, np.linspace(0.03, 0.10, 3), 0.52, 0.64, 3), CHROME))
    gap = np.linspace(0.47, 0.99, 10)
    for y in (-inner + 0.02, inner - 0.02):
        decals += [Decal(strip(back, gap, y - 0.004, y + 0.004, 1), seam)]
    if rng.random() < 0.5:
        decals.append(Decal(strip(back, np.array([0.80, 0.84]), -0.30, 0.30, 8), CHROME))
    decals.append(Decal(strip(back, np.array([0.86, 0.93]), -0.05, 0.05, 4), CHROME))
    decals.append(Decal(strip(back, np.linspace(0.02, 0.12, 3), -0.60, 0.60, 10), BLACK))
    if shape.kind == "pickup":
        decals.append(
            Decal(strip(back, np.linspace(0.02, 0.24, 5), -0.93, 0.93, 24), CHROME if rng.random() < 0.6 else PLASTIC)
        )
    decals += _plate(back, 0.60 if rng.random() < 0.75 else 0.22, shape, rng, shape.tail)
    return decals


def _plate(surface: Surface, v: float, shape: Shape, rng: np.random.Generator, top: float) -> list[Decal]:
    tall = 0.14 / (top - shape.sill)
    half = 0.155 / (shape.width / 2)
    blue = Paint((0.20, 0.55, 0.85), 0.02)
    plate = [Decal(strip(surface, np.linspace(v - 0.015, v + tall + 0.015, 3), -half - 0.01, half + 0.01, 4), PLASTIC)]
    plate.append(Decal(strip(surface, np.linspace(v, v + tall, 3), -half, half, 4), WHITE))
    plate.append(Decal(strip(surface, np.array([v, v + 0.2 * tall]), -half, half, 4), blue))
    for y in np.linspace(-half * 0.75, half * 0.55, 6):
        if rng.random() < 0.85:
            plate += [Decal(strip(surface, np.array([v + 0.45 * tall, v + 0.68 * tall]), y, y + half * 0.09, 1), BLACK)]
    return plate


def _lid(shape: Shape, seam: Paint) -> list[Decal]:
    low = shape.lower
    front = shape.length / 2 - 0.40
    decals = []
    for left in (True, False):
        edge = deck(partial(low.flank, left=left))
        decals.append(Decal(strip(edge, np.linspace(shape.screen_foot, front, 24), 0.905, 0.915, 1), seam))
        nose = swapped(edge)
        decals.append(Decal(strip(nose, np.linspace(0, 0.905, 12), front - 0.006, front + 0.002, 1), seam))
        if shape.kind in ("sedan", "coupe"):
            rear = np.linspace(-shape.length / 2 + 0.22, shape.cabin_rear, 12)
            decals.append(Decal(strip(edge, rear, 0.84, 0.848, 1), seam))
    return decals


def _ring(
    shape: Shape, x: float, left: bool, inner: float, outer: float, height: float | None = None, *, full: bool = False
) -> Quads:
    low = 0.0 if full else np.arcsin(np.clip((float(shape.lower.bottom(np.array(x))) - shape.wheel) / outer, -1, 1))
    turn = np.linspace(-np.pi, np.pi, 33) if full else np.linspace(low, np.pi - low, 33)
    middle = shape.wheel if height is None else height
    radii = np.array([[inner], [outer]])
    return grid_quads(shape.lower.side(x + radii * np.cos(turn), middle + radii * np.sin(turn), left))


def door_pillar(shape: Shape) -> float:
    """X of the pillar behind the front door."""
    if shape.kind == "coupe":
        return shape.rear_axle + 0.78
    return (
        (shape.roof_front + max(shape.rear_axle + 0.35, shape.roof_rear)) / 2 - 0.02
        if shape.kind != "pickup"
        else (shape.screen_foot + shape.cabin_rear) / 2 - 0.12
    )
