"""One car, complete: shape, paint, glass, wheels and what sticks out of the body, all of it from (seed, car)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from carvana.data.demo.details import BLACK, CHROME, Decal, arches, lower_decals
from carvana.data.demo.glass import Pane, cabin_decals, glass_decals, windows
from carvana.data.demo.light import RGB, Paint
from carvana.data.demo.shape import Shape, draw_shape
from carvana.data.demo.surface import Floats, Quads, box, bulge, grid_quads, join

# How often cars of a colour stand in such a studio, the colour in white light, and how much of a metal it is.
_COLOURS: tuple[tuple[float, RGB, float], ...] = (
    (0.20, (0.028, 0.028, 0.031), 0.0),
    (0.17, (0.87, 0.87, 0.86), 0.0),
    (0.17, (0.74, 0.75, 0.76), 0.25),
    (0.16, (0.42, 0.43, 0.44), 0.25),
    (0.11, (0.55, 0.06, 0.08), 0.05),
    (0.09, (0.08, 0.15, 0.38), 0.1),
    (0.03, (0.62, 0.57, 0.48), 0.2),
    (0.03, (0.20, 0.30, 0.55), 0.1),
    (0.02, (0.16, 0.27, 0.20), 0.1),
    (0.01, (0.80, 0.38, 0.08), 0.0),
    (0.01, (0.80, 0.68, 0.15), 0.0),
)


@dataclass(frozen=True)
class Wheels:
    """What the four wheels look like; ``rim`` is the rim's share of the wheel's radius."""

    rim: float
    spokes: int
    spoke_width: float
    twin: bool
    paint: Paint
    turned: tuple[float, float]


@dataclass(frozen=True)
class Part:
    """A solid thing fixed to the body at ``side`` -1 (right), 0 or 1 (left), or ``behind`` at the rear end."""

    quads: Quads
    paint: Paint
    side: int = 0
    behind: bool = False


@dataclass(frozen=True)
class Car:
    """Everything of a car that does not depend on the view."""

    shape: Shape
    body: Paint
    lower: Quads
    cabin: Quads
    lower_decals: tuple[Decal, ...]
    cabin_decals: tuple[Decal, ...]
    glass_decals: tuple[Decal, ...]
    panes: tuple[Pane, ...]
    holes: tuple[tuple[float, bool, Quads], ...]
    wheels: Wheels
    parts: tuple[Part, ...]
    interior: tuple[Part, ...]
    mast: tuple[Floats, float] | None
    """The antenna: its two ends (2, 3) and its thickness in metres."""
    bed: bool


@lru_cache(maxsize=2)
def build_car(car: int, seed: int) -> Car:
    """The car with this number; the same in every process."""
    rng = np.random.default_rng([seed, car, 1])
    shape = draw_shape(rng)
    body = _body_paint(rng)
    frame = CHROME if rng.random() < 0.35 else BLACK
    roof = BLACK if rng.random() < 0.06 else None
    front = rng.uniform(0.50, 0.78)
    dark = shape.kind in ("suv", "van", "pickup", "hatch") and rng.random() < 0.7
    rear = rng.uniform(0.10, 0.35) if dark else front * rng.uniform(0.85, 1.0)
    return Car(
        shape=shape,
        body=body,
        lower=shape.lower.quads(),
        cabin=shape.cabin.quads(),
        lower_decals=tuple(lower_decals(shape, rng, body)),
        cabin_decals=tuple(cabin_decals(shape, rng, frame, roof)),
        glass_decals=tuple(glass_decals(shape, rng)),
        panes=tuple(windows(shape, tint=(front, rear))),
        holes=tuple(arches(shape, rng.uniform(0.035, 0.085))),
        wheels=_wheels(rng),
        parts=tuple(_parts(shape, rng, body)),
        interior=tuple(_interior(shape, rng)),
        mast=_mast(shape, rng),
        bed=shape.kind == "pickup",
    )


def _body_paint(rng: np.random.Generator) -> Paint:
    chances = np.array([chance for chance, _, _ in _COLOURS])
    _, colour, metal = _COLOURS[rng.choice(len(_COLOURS), p=chances / chances.sum())]
    tone = np.clip(np.array(colour) * rng.normal(1, 0.10) + rng.normal(0, 0.012, 3), 0.03, 0.90)
    r, g, b = (float(value) for value in tone)
    return Paint((r, g, b), float(rng.uniform(0.035, 0.085)), metal)


def _wheels(rng: np.random.Generator) -> Wheels:
    dark = rng.random() < 0.2
    tone = float(rng.uniform(0.08, 0.16) if dark else rng.uniform(0.55, 0.80))
    spokes = int(rng.choice([5, 6, 7, 8, 10, 12]))
    return Wheels(
        rim=float(rng.uniform(0.64, 0.76)),
        spokes=spokes,
        spoke_width=float(rng.uniform(0.35, 0.60) * 2 * np.pi / spokes),
        twin=bool(spokes <= 6 and rng.random() < 0.4),
        paint=Paint((tone, tone, tone * 1.01), 0.2, 0.3),
        turned=(float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28))),
    )


def _parts(shape: Shape, rng: np.random.Generator, body: Paint) -> list[Part]:
    parts = []
    big = 1.25 if shape.kind in ("pickup", "van", "suv") else 1.0
    cap = body if rng.random() < 0.8 else BLACK
    x = shape.screen_foot - rng.uniform(0.42, 0.52)
    for side in (1, -1):
        foot = shape.width / 2 * 0.90
        z = float(shape.lower.shoulder(np.array(x))) + 0.10
        stalk = box(np.array([x, side * (foot + 0.04), z - 0.055]), (0.07, 0.16, 0.045))
        shell = bulge(np.array([x, side * (foot + 0.15), z]), (0.12, 0.21 * big**0.5, 0.130 * big), 3.2)
        glass = bulge(np.array([x - 0.045, side * (foot + 0.15), z]), (0.05, 0.18 * big**0.5, 0.105 * big), 4.0)
        parts += [Part(stalk, BLACK, side), Part(glass, Paint((0.35, 0.37, 0.40), 0.5), side), Part(shell, cap, side)]
    cabin, top = shape.cabin, 1.0
    if shape.kind in ("suv", "van") and rng.random() < 0.7:
        rail = CHROME if rng.random() < 0.6 else BLACK
        line = np.linspace(shape.roof_front - 0.25, shape.roof_rear + 0.15, 24)
        for side in (1, -1):
            middle = cabin.side(line, np.full(24, top + 0.12), side > 0) + np.array([0, 0, 0.045])
            ends = np.minimum(1, 14 * np.linspace(0, 1, 24) * np.linspace(1, 0, 24))
            middle[:, 2] -= 0.045 * (1 - ends)
            parts.append(Part(_tube(middle, 0.02), rail, side))
    if shape.kind in ("suv", "hatch", "van") and rng.random() < 0.75:
        x0 = shape.roof_rear
        z = cabin.crest(x0) + 0.01
        parts.append(
            Part(
                bulge(np.array([x0 + 0.01, 0, z + 0.02]), (0.24, shape.roof_width * shape.width * 0.86, 0.05), 4.0),
                body,
                0,
                True,
            )
        )
    if shape.kind in ("sedan", "coupe") and rng.random() < 0.3:
        x0 = -shape.length / 2 + 0.22
        z = float(shape.lower.shoulder(np.array(x0)))
        parts.append(Part(bulge(np.array([x0, 0, z + 0.065]), (0.20, shape.width * 0.74, 0.035), 4.0), body, 0, True))
        parts += [
            Part(box(np.array([x0, side * shape.width * 0.27, z + 0.04]), (0.1, 0.03, 0.06)), body, 0, True)
            for side in (1, -1)
        ]
    if rng.random() < 0.35:
        fin = np.array([shape.roof_rear + 0.22, 0.0, cabin.crest(shape.roof_rear + 0.22) + 0.03])
        parts.append(Part(bulge(fin, (0.20, 0.045, 0.08), 2.2), body if rng.random() < 0.5 else BLACK))
    return parts


def _mast(shape: Shape, rng: np.random.Generator) -> tuple[Floats, float] | None:
    if rng.random() < 0.5:
        return None
    if shape.kind == "pickup" or rng.random() < 0.2:
        foot = shape.lower.flank(np.array(shape.front_axle - 0.45), np.array(1.08), bool(rng.random() < 0.3))
        tip = foot + np.array([-0.12, 0.0, rng.uniform(0.6, 0.8)])
    else:
        x = shape.roof_rear + 0.18 if rng.random() < 0.7 else shape.roof_front - 0.1
        foot = np.array([x, 0.0, shape.cabin.crest(x) - 0.005])
        tip = foot + np.array([-rng.uniform(0.1, 0.35), 0.0, rng.uniform(0.15, 0.42)])
    return np.stack([foot, tip]), float(rng.uniform(0.007, 0.011))


def _interior(shape: Shape, rng: np.random.Generator) -> list[Part]:
    tone = float(rng.choice([0.10, 0.13, 0.17, 0.42, 0.52]))
    cloth = Paint((tone * 1.05, tone, tone * 0.94), 0.01)
    dark = Paint((0.09, 0.09, 0.095), 0.02)
    belt = shape.cowl
    parts = [Part(box(np.array([shape.screen_foot - 0.32, 0, belt - 0.02]), (0.42, shape.width * 0.72, 0.10)), dark)]
    first = (shape.screen_foot + shape.roof_front) / 2 - 0.85
    rows = [first]
    if shape.kind not in ("coupe",):
        rows.append(first - 0.88)
    if shape.kind == "van":
        rows.append(first - 1.75)
    top = shape.height - 0.30
    for i, x in enumerate(row for row in rows if row > shape.cabin_rear + 0.15):
        for y in (-0.36, 0.36) if i == 0 else (-0.42, 0.0, 0.42):
            parts.append(
                Part(bulge(np.array([x - 0.05, y, top - 0.30]), (0.16, 0.46 if i == 0 else 0.40, 0.62), 4.0, 6), cloth)
            )
            parts.append(Part(bulge(np.array([x - 0.12, y, top + 0.09]), (0.11, 0.24, 0.17), 3.0, 6), cloth))
    turn = np.linspace(0, 2 * np.pi, 25)
    centre = np.array([first + 0.52, 0.36, belt + 0.02])
    ring = centre + np.stack([-0.10 * np.sin(turn) * 0.18 / 0.18, 0.18 * np.cos(turn), 0.15 * np.sin(turn)], axis=-1)
    parts.append(Part(_tube(ring, 0.014), dark))
    mirror = np.array([shape.roof_front + 0.12, 0.0, shape.height - 0.19])
    parts.append(Part(bulge(mirror, (0.04, 0.24, 0.065), 4.0, 6), dark))
    if rng.random() < 0.8:
        parts.append(
            Part(box(np.array([shape.cabin_rear + 0.45, 0.0, belt - 0.01]), (0.5, shape.width * 0.66, 0.03)), dark)
        )
    return parts


def _tube(line: Floats, radius: float) -> Quads:
    """A square bar along a line (N, 3)."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    up = np.array([0.0, 0.0, 1.0]) if np.abs(tangent[:, 2]).max() < 0.95 else np.array([1.0, 0.0, 0.0])
    across = np.cross(tangent, up)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    other = np.cross(across, tangent)
    corners = [line + radius * (a * across + b * other) for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1), (1, 1))]
    grid = np.stack(corners)
    faces = []
    for k in range(4):
        side = grid_quads(grid[k : k + 2])
        middle = (line[:-1] + line[1:]) / 2
        outward = np.einsum("fk,fk->f", side.normals, side.centres - middle[: len(side.normals)])
        faces.append(Quads(side.corners, side.normals * np.sign(outward)[:, None]))
    return join(*faces)
