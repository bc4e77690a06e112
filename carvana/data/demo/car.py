"""One car, complete: shape, paint, glass, wheels and what sticks out of the body."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carvana.data.demo.details import BLACK, CHROME, arches, cabin_coats, lower_coats, windows, wipers
from carvana.data.demo.scene import RGB, Paint
from carvana.data.demo.shape import Floats, Quads, Shape, bulge, grid_quads

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


class Part(NamedTuple):
    """A solid thing; ``outward`` is the direction in which it sticks out of the body."""

    quads: Quads
    paint: Paint
    outward: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def is_behind(self, eye: Floats) -> bool:
        """Whether the body hides it, or its foot, from a viewer at ``eye`` (3,)."""
        return bool(np.dot(self.outward, eye) < -0.25 * np.linalg.norm(eye))


class Car:
    """Everything of a car that does not depend on the view, drawn at random."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.shape = Shape(rng)
        self.body = _body_paint(rng)
        around = np.concatenate([np.linspace(0, 0.86, 26), np.linspace(0.88, 1, 11), np.linspace(1.04, 2, 22)])
        self.lower = grid_quads(self.shape.lower.around(168, around))
        up = np.concatenate([np.linspace(0, 0.8, 11), np.linspace(0.84, 1, 8), np.linspace(1.06, 2, 15)])
        self.cabin = grid_quads(self.shape.cabin.around(120, up))
        self.lower_coats = lower_coats(self.shape, rng, self.body)
        self.cabin_coats = cabin_coats(self.shape, rng)
        self.glass_coats = wipers(self.shape)
        front = rng.uniform(0.50, 0.78)
        dark = self.shape.boxy and rng.random() < 0.7
        rear = rng.uniform(0.10, 0.35) if dark else front * rng.uniform(0.85, 1.0)
        self.panes = windows(self.shape, front=front, rear=rear)
        self.arches = arches(self.shape, rng.uniform(0.035, 0.085))
        self.rim = self.shape.wheel * rng.uniform(0.64, 0.76)
        self.spokes = int(rng.choice([5, 6, 7, 8, 10, 12]))
        self.spoke_width = rng.uniform(0.35, 0.60) * 2 * np.pi / self.spokes
        tone = rng.uniform(0.08, 0.16) if rng.random() < 0.2 else rng.uniform(0.55, 0.80)
        self.rim_paint = Paint((tone, tone, tone * 1.01), 0.2, 0.3)
        self.rims_turned = rng.uniform(0, 2 * np.pi, 2)
        self.parts = _parts(self.shape, rng, self.body)
        self.interior = _interior(self.shape, rng)
        self.mast = _mast(self.shape, rng)
        """The antenna's ends (2, 3), if it has one."""


def _body_paint(rng: np.random.Generator) -> Paint:
    chances = np.array([chance for chance, _, _ in _COLOURS])
    _, colour, metal = _COLOURS[rng.choice(len(_COLOURS), p=chances / chances.sum())]
    red, green, blue = np.clip(np.array(colour) * rng.normal(1, 0.10) + rng.normal(0, 0.012, 3), 0.03, 0.90).tolist()
    return Paint((red, green, blue), rng.uniform(0.035, 0.085), metal)


def _parts(shape: Shape, rng: np.random.Generator, body: Paint) -> list[Part]:
    """Mirrors, roof rails, spoiler and fin."""
    parts = []
    big = 1.25 if shape.kind in ("pickup", "van", "suv") else 1.0
    cap = body if rng.random() < 0.8 else BLACK
    x = shape.screen_foot - rng.uniform(0.42, 0.52)
    z = float(shape.lower.top(np.array(x))) + 0.10
    rails = shape.kind in ("suv", "van") and rng.random() < 0.7
    rail = CHROME if rng.random() < 0.6 else BLACK
    for left, side in ((True, 1), (False, -1)):
        outward = (0.0, float(side), 0.0)
        y, wide = side * (shape.width / 2 * 0.90 + 0.15), 0.21 * big**0.5
        parts.append(Part(bulge((x, y - side * 0.11, z - 0.055), (0.07, 0.16, 0.045)), BLACK, outward))
        glass = bulge((x - 0.045, y, z), (0.05, wide - 0.03, 0.105 * big), 4.0)
        parts.append(Part(glass, Paint((0.35, 0.37, 0.40), 0.5), outward))
        parts.append(Part(bulge((x, y, z), (0.12, wide, 0.130 * big), 3.2, 12), cap, outward))
        if rails:
            edge = np.linspace(shape.roof_front - 0.25, shape.roof_rear + 0.15, 24)
            foot = shape.cabin.side(edge, np.array(1.12), left=left)
            up = np.array([0, 0, 0.065]) * np.minimum(1, 14 * np.linspace(0, 1, 24) * np.linspace(1, 0, 24))[:, None]
            ribbon = grid_quads(np.stack([foot, foot + up]))
            parts += [Part(ribbon, rail, outward), Part(ribbon.flipped(), rail, outward)]
    x = shape.roof_rear + 0.01
    if shape.kind in ("suv", "hatch", "van") and rng.random() < 0.75:
        spoiler = bulge((x, 0, shape.cabin.crest(x) + 0.03), (0.24, 1.72 * shape.roof_half, 0.05), 4.0, 12)
        parts.append(Part(spoiler, body, (-1.0, 0.0, 0.0)))
    x = shape.roof_rear + 0.22
    if rng.random() < 0.35:
        parts.append(Part(bulge((x, 0, shape.cabin.crest(x) + 0.03), (0.20, 0.045, 0.08), 2.2), body))
    return parts


def _mast(shape: Shape, rng: np.random.Generator) -> Floats | None:
    if rng.random() < 0.5:
        return None
    if shape.kind == "pickup" or rng.random() < 0.2:
        foot = shape.lower.side(np.array(shape.front_axle - 0.45), np.array(1.08), left=bool(rng.random() < 0.3))
        return np.stack([foot, foot + np.array([-0.12, 0.0, rng.uniform(0.6, 0.8)])])
    x = shape.roof_rear + 0.18 if rng.random() < 0.7 else shape.roof_front - 0.1
    foot = np.array([x, 0.0, shape.cabin.crest(x) - 0.005])
    return np.stack([foot, foot + np.array([-rng.uniform(0.1, 0.35), 0.0, rng.uniform(0.15, 0.42)])])


def _interior(shape: Shape, rng: np.random.Generator) -> list[Part]:
    """The dashboard and the seats."""
    tone = float(rng.choice([0.10, 0.13, 0.17, 0.42, 0.52]))
    cloth, dark = Paint((tone * 1.05, tone, tone * 0.94), 0.01), Paint((0.09, 0.09, 0.095), 0.02)
    dashboard = bulge((shape.screen_foot - 0.32, 0, shape.cowl - 0.02), (0.42, shape.width * 0.72, 0.10), steps=4)
    parts = [Part(dashboard, dark)]
    first, top = (shape.screen_foot + shape.roof_front) / 2 - 0.85, shape.height - 0.30
    for x in first - 0.88 * np.arange({"coupe": 1, "van": 3}.get(shape.kind, 2)):
        if x > shape.cabin_rear + 0.15:
            for y in (-0.36, 0.36) if x == first else (-0.42, 0.0, 0.42):
                parts.append(Part(bulge((x - 0.05, y, top - 0.30), (0.16, 0.44, 0.62), 4.0), cloth))
                parts.append(Part(bulge((x - 0.12, y, top + 0.09), (0.11, 0.24, 0.17), 3.0), cloth))
    return parts
