"""What is drawn on the body or cut into it: lights, grille, plates, seams, handles, wheel arches, windows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from carvana.data.demo.scene import Paint
from carvana.data.demo.shape import Floats, Quads, Shape, grid_quads

BLACK = Paint((0.05, 0.05, 0.055), 0.02)
PLASTIC = Paint((0.16, 0.16, 0.17), 0.02)
CHROME = Paint((0.80, 0.81, 0.82), 0.55, 0.6)
LENS = Paint((0.56, 0.58, 0.61), 0.25)
RED = Paint((0.62, 0.04, 0.06), 0.10)
AMBER = Paint((0.90, 0.42, 0.08), 0.10)
WHITE = Paint((0.93, 0.94, 0.96), 0.02)
BLUE = Paint((0.20, 0.55, 0.85), 0.02)

Surface = Callable[[Floats, Floats], Floats]
"""A place (..., 3) for the position along a row and the row, both (...,)."""


class Coat(NamedTuple):
    """A thin coat of paint on the body."""

    quads: Quads
    paint: Paint


class Arch(NamedTuple):
    """A hole in a flank, round the wheel of an axle at x; ``wheel_y`` is where the wheel's outer side lies."""

    axle: float
    left: bool
    wheel_y: float
    quads: Quads


class Pane(NamedTuple):
    """A window, and the share of light that passes."""

    quads: Quads
    clear: float


def strip(surface: Surface, rows: Floats, start: Floats | float, end: Floats | float) -> Quads:
    """Faces on ``surface(a, b)``: along each row b (M,) from a = start (M,) to a = end (M,)."""
    start, end = np.broadcast_to(start, rows.shape), np.broadcast_to(end, rows.shape)
    along = np.linspace(start, end, 3 + int(8 * np.abs(end - start).max()), axis=1)
    return grid_quads(surface(along, rows[:, None]))


def patch(
    surface: Surface, along: tuple[float, float], rows: tuple[float, float], *, round_by: float = 0.0, steps: int = 3
) -> Quads:
    """Faces on ``surface(a, b)`` over a range of a and one of b; round corners draw in by ``round_by`` along a."""
    share = np.linspace(0, 1, max(steps, 9) if round_by else steps)
    drawn_in = np.sign(along[1] - along[0]) * round_by * _corner(share, 0.4)
    return strip(surface, rows[0] + share * (rows[1] - rows[0]), along[0] + drawn_in, along[1] - drawn_in)


def arches(shape: Shape, gap: float) -> list[Arch]:
    """Holes in the flanks ``gap`` metres wider than the wheels."""
    holes = []
    radius = shape.wheel + gap
    for axle in (shape.front_axle, shape.rear_axle):
        low = float(shape.lower.bottom(np.array(axle))) - 0.01
        up = np.sin(np.linspace(np.arcsin((low - shape.wheel) / radius), np.pi / 2, 20))
        chord = radius * np.sqrt(np.maximum(1 - up**2, 1e-5))
        for left, side in ((True, 1), (False, -1)):
            flank = partial(shape.lower.side_at, left=left)
            wheel_y = float(flank(np.array(axle), np.array(shape.wheel + 0.1))[1]) - 0.015 * side
            hole = strip(flank, shape.wheel + radius * up, axle - chord, axle + chord)
            holes.append(Arch(axle, left, wheel_y, hole))
    return holes


def lower_coats(shape: Shape, rng: np.random.Generator, body: Paint) -> list[Coat]:
    """Everything drawn on the lower body, in the order of painting."""
    red, green, blue = (0.03 + 0.32 * value for value in body.colour)
    seam = Paint((red, green, blue), 0.0)  # the gap between two panels: the body's colour, deep in shade
    rugged = shape.kind in ("suv", "pickup") and rng.random() < 0.6
    skirt, paint = (rng.uniform(0.14, 0.24), PLASTIC) if rugged else (rng.uniform(0.02, 0.07), BLACK)
    coats = [Coat(grid_quads(shape.lower.around(96, np.linspace(0, skirt, 4))), paint)]
    if rugged:
        coats += [Coat(arch.quads, PLASTIC) for arch in arches(shape, 0.115)]
    trim = CHROME if rng.random() < 0.5 else BLACK
    moulding = bool(rng.random() < 0.35)
    for left in (True, False):
        coats += _flank(shape, partial(shape.lower.side, left=left), seam, trim, moulding)
    coats += _nose(shape, rng)
    coats += _rear(shape, rng, seam)
    return coats


def _flank(shape: Shape, flank: Surface, seam: Paint, trim: Paint, moulding: bool) -> list[Coat]:
    doors = [shape.screen_foot - 0.06, shape.pillar]
    if shape.kind != "coupe":
        doors.append(max(shape.rear_axle + shape.wheel + 0.10, shape.cabin_rear + 0.08))
    first, last = doors[0] - 0.05, doors[-1] + 0.05
    lamp = shape.front_axle + shape.wheel + 0.16
    coats = [
        Coat(patch(flank, (last, first + 0.1), (0.072, 0.085)), seam),
        Coat(patch(flank, (lamp, lamp + 0.09), (0.50, 0.56)), AMBER),
        Coat(patch(flank, (shape.cabin_rear + 0.1, first - 0.02), (0.984, 0.997)), trim),
    ]
    if moulding:
        coats.append(Coat(patch(flank, (last, first), (0.33, 0.365)), trim))
    coats += [Coat(patch(flank, (x - 0.0035, x + 0.0035), (0.075, 0.99), steps=16), seam) for x in doors]
    for x in doors[1:]:
        coats.append(Coat(patch(flank, (x + 0.06, x + 0.25), (0.745, 0.76)), seam))
        coats.append(Coat(patch(flank, (x + 0.06, x + 0.25), (0.758, 0.80)), trim))
    if shape.kind != "pickup":  # the hood's seams, on the top that goes on from the flank
        deck: Surface = lambda share, x: flank(x, 2 - share)  # noqa: E731
        front = shape.length / 2 - 0.40
        coats.append(Coat(patch(deck, (0.905, 0.915), (shape.screen_foot, front), steps=24), seam))
        coats.append(Coat(patch(deck, (0.0, 0.905), (front - 0.006, front + 0.002)), seam))
    return coats


def _nose(shape: Shape, rng: np.random.Generator) -> list[Coat]:
    front = partial(shape.lower.end, front=True)
    wide, low, high = rng.uniform(0.30, 0.46), rng.uniform(0.42, 0.52), rng.uniform(0.76, 0.86)
    frame = CHROME if rng.random() < 0.6 else BLACK
    coats = [
        Coat(patch(front, (-wide - 0.02, wide + 0.02), (low - 0.03, high + 0.025), round_by=0.1), frame),
        Coat(patch(front, (-wide, wide), (low, high), round_by=0.1), BLACK),
        Coat(patch(front, (-0.50, 0.50), (0.10, rng.uniform(0.20, 0.30)), round_by=0.05), BLACK),
    ]
    bars = np.linspace(low, high, int(rng.integers(2, 6)) + 2)[1:-1]
    coats += [Coat(patch(front, (-wide * 0.88, wide * 0.88), (v - 0.012, v + 0.012)), frame) for v in bars]
    badge = (low + high) / 2
    coats.append(Coat(patch(front, (-0.05, 0.05), (badge - 0.05, badge + 0.05), round_by=0.04), CHROME))
    inner, foot, tall = rng.uniform(0.46, 0.54), rng.uniform(0.62, 0.68), rng.uniform(0.16, 0.30)
    outer = _outline(0.91, shape.lower.powers[0])
    for side in (-1, 1):
        for start, end, rows, round_by, paint in (
            (inner, outer, (foot, foot + tall), 0.06, BLACK),
            (inner + 0.025, outer - 0.015, (foot + 0.1 * tall, foot + 0.9 * tall), 0.05, LENS),
            (inner + 0.09, inner + 0.18, (foot + 0.25 * tall, foot + 0.75 * tall), 0.03, CHROME),
            (outer - 0.05, outer - 0.02, (foot + 0.15 * tall, foot + 0.45 * tall), 0.0, AMBER),
            (0.60, 0.74, (0.14, 0.30), 0.0, BLACK),
            (0.64, 0.70, (0.18, 0.26), 0.0, LENS),
        ):
            coats.append(Coat(patch(front, (side * start, side * end), rows, round_by=round_by), paint))
    if rng.random() < 0.75:
        coats += _plate(front, rng.uniform(0.24, 0.32), shape, shape.nose)
    return coats


def _rear(shape: Shape, rng: np.random.Generator, seam: Paint) -> list[Coat]:
    back = partial(shape.lower.end, front=False)
    outer = _outline(rng.uniform(0.87, 0.91), shape.lower.powers[1])
    inner, low = (rng.uniform(0.64, 0.74), 0.60) if shape.boxy else (rng.uniform(0.50, 0.64), 0.68)
    high = rng.uniform(0.88, 0.97)
    coats = [
        Coat(patch(back, (-0.90, 0.90), (0.455, 0.47)), seam),
        Coat(patch(back, (-0.05, 0.05), (0.86, 0.93)), CHROME),
        Coat(patch(back, (-0.60, 0.60), (0.02, 0.12)), BLACK),
    ]
    for side in (-1, 1):
        lamp = side * inner, side * outer
        coats.append(Coat(patch(back, lamp, (low, high), round_by=0.05), RED))
        clear = 0.7 * low + 0.3 * high, 0.5 * low + 0.5 * high
        coats.append(Coat(patch(back, (side * (inner + 0.02), side * (outer - 0.06)), clear), LENS))
        coats.append(Coat(patch(back, (side * 0.62, side * 0.80), (0.30, 0.34)), RED))
        gap = side * (inner - 0.02)
        coats.append(Coat(patch(back, (gap - 0.004, gap + 0.004), (0.47, 0.99), steps=10), seam))
    if rng.random() < 0.5:
        coats.append(Coat(patch(back, (-0.30, 0.30), (0.80, 0.84)), CHROME))
    if shape.kind == "pickup":
        bumper = CHROME if rng.random() < 0.6 else PLASTIC
        coats.append(Coat(patch(back, (-0.93, 0.93), (0.02, 0.24), steps=5), bumper))
    return coats + _plate(back, 0.60 if rng.random() < 0.75 else 0.22, shape, shape.tail)


def _plate(surface: Surface, v: float, shape: Shape, top: float) -> list[Coat]:
    tall, half = 0.14 / (top - shape.sill), 0.155 / (shape.width / 2)
    return [
        Coat(patch(surface, (-half - 0.01, half + 0.01), (v - 0.015, v + tall + 0.015)), PLASTIC),
        Coat(patch(surface, (-half, half), (v, v + tall)), WHITE),
        Coat(patch(surface, (-half, half), (v, v + 0.2 * tall)), BLUE),
        Coat(patch(surface, (-half * 0.75, half * 0.6), (v + 0.45 * tall, v + 0.68 * tall)), PLASTIC),
    ]


def windows(shape: Shape, *, grow: float = 0.0, front: float = 0.7, rear: float = 0.7) -> list[Pane]:
    """All panes, windscreen and rear window last, ``grow`` metres wider than the glass for its frame.

    ``front`` and ``rear`` say how clear the glass is there.
    """
    cabin, up = shape.cabin, grow / (shape.height - shape.cowl)
    rows = _dense_ends(0.075 - up, 0.80 + up * 0.6)
    ahead, behind, _ = cabin.ends(rows)
    middle, half = (ahead + behind) / 2, (ahead - behind) / 2
    reach = {"sedan": 0.68, "coupe": 0.58, "hatch": 0.74}.get(shape.kind, 0.85)
    last = middle - reach * half - grow
    second = shape.pillar - 0.045 + grow
    cut = shape.rear_axle + 0.15 if shape.kind in ("suv", "van") else -shape.length
    drawn_in = 0.07 * _corner(np.linspace(0, 1, len(rows)), 0.20)
    panes = []
    for low, high, clear in (
        (shape.pillar + 0.045 - grow, middle + 0.845 * half + grow, front),
        (np.maximum(last, cut + 0.04 - grow), second, rear),
        (last, np.minimum(second, cut - 0.04 + grow), rear),
    ):
        if np.mean(high - low) > 0.12:
            for left in (True, False):
                side = partial(cabin.side, left=left)
                panes.append(Pane(strip(side, rows, low + drawn_in, np.maximum(high, low + 0.15) - drawn_in), clear))
    for ahead_of, low, high, width, clear in (
        (True, 0.03, 0.87, 0.80, 0.5 * front + 0.4),
        (False, 0.14 if shape.boxy else 0.08, 0.80 if shape.boxy else 0.87, 0.78, rear),
    ):
        edge = width + grow / (shape.width / 2) - drawn_in
        end = partial(cabin.end, front=ahead_of)
        panes.append(Pane(strip(end, _dense_ends(low - up, high + up * 0.5), -edge, edge), clear))
    return panes


def cabin_coats(shape: Shape, rng: np.random.Generator) -> list[Coat]:
    """What is drawn on the cabin before the panes are cut out: pillars, frames, a third brake light."""
    coats = []
    if rng.random() < 0.75:
        for left in (True, False):
            side = partial(shape.cabin.side, left=left)
            coats.append(Coat(patch(side, (shape.pillar - 0.06, shape.pillar + 0.06), (0.05, 0.815), steps=8), BLACK))
    frame = CHROME if rng.random() < 0.35 else BLACK
    *sides, windscreen, rear = windows(shape, grow=0.018)
    coats += [Coat(pane.quads, frame) for pane in sides] + [Coat(pane.quads, BLACK) for pane in (windscreen, rear)]
    if rng.random() < 0.5:
        coats.append(Coat(patch(partial(shape.cabin.end, front=False), (-0.12, 0.12), (0.885, 0.91)), RED))
    return coats


def wipers(shape: Shape) -> list[Coat]:
    """The two wipers, which lie on the windscreen."""
    screen = partial(shape.cabin.end, front=True)
    return [Coat(patch(screen, (foot, foot + 0.5), (0.06, 0.075)), BLACK) for foot in (-0.62, 0.02)]


def _outline(along: float, power: float) -> float:
    """Where a superellipse's outline is as far across as ``along`` says it is along, as shares of its half sides."""
    across: float = (1 - along**power) ** (1 / power)
    return across


def _corner(share: Floats, corner: float) -> Floats:
    """How far round corners, each ``corner`` of the way, draw in the ends of the rows at ``share``: 0 to 1."""
    near = np.clip(1 - np.minimum(share, 1 - share) / corner, 0, 1)
    drawn: Floats = 1 - np.sqrt(1 - near**2)
    return drawn


def _dense_ends(low: float, high: float) -> Floats:
    """Rows from low to high, closer together towards both ends, where corners are round."""
    rows: Floats = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 16))) / 2
    return rows
