"""Surfaces in space, and the shape of a car: its measures, drawn at random for six kinds, and the bodies they make.

Surfaces are flat faces that know which way they face, pebbles and boxes, and bodies lofted from outlines. The car's
frame: x forward, y to the car's left, z up, metres, the origin on the ground under the middle of the car.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]

INSIDE = np.array([0.0, 0.0, 0.7])
"""A point inside every car, metres in the car's own frame: what "outward" is measured from."""


@dataclass(frozen=True)
class Quads:
    """Flat four-cornered faces: ``corners`` (F, 4, 3) in metres, ``normals`` (F, 3) of unit length."""

    corners: Floats
    normals: Floats

    @property
    def centres(self) -> Floats:
        """The middle of each face, (F, 3)."""
        centres: Floats = self.corners.mean(axis=1)
        return centres

    def seen(self, eye: Floats) -> Quads:
        """The faces that show their outer side to a viewer at ``eye`` (3,), in a painter's order: far ones first."""
        to_eye = eye - self.centres
        shown = np.flatnonzero(np.einsum("fk,fk->f", self.normals, to_eye) > 0)
        order = shown[np.argsort(-np.linalg.norm(to_eye[shown], axis=1), kind="stable")]
        return Quads(self.corners[order], self.normals[order])

    def flipped(self) -> Quads:
        """The same faces with their inner side out."""
        return Quads(self.corners, -self.normals)


def grid_quads(grid: Floats, inside: Floats = INSIDE) -> Quads:
    """The faces between neighbouring points of a grid (M, N, 3), without those that have no area.

    All are wound alike; normals point away from ``inside``.
    """
    corners = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], axis=2).reshape(-1, 4, 3)
    normals = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    areas = np.linalg.norm(normals, axis=1)
    good = areas > 1e-9
    corners, normals = corners[good], normals[good]
    outward = np.einsum("fk,fk->", normals, corners.mean(axis=1) - inside)
    return Quads(corners, normals * np.sign(outward) / areas[good, None])


def bulge(centre: Sequence[float], size: tuple[float, float, float], power: float = 20.0, steps: int = 8) -> Quads:
    """A superellipsoid of full ``size`` (x, y, z): a pebble at power 2, a rounded box at 5, a box at 20."""
    around, up = np.meshgrid(np.linspace(-np.pi, np.pi, 2 * steps + 1), np.linspace(-np.pi / 2, np.pi / 2, steps + 1))
    ball = np.stack([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)], axis=-1)
    ball /= np.linalg.norm(ball, ord=power, axis=-1, keepdims=True)
    middle = np.array(centre)
    return grid_quads(middle + ball * (np.array(size) / 2), middle)


def curve(x: Sequence[float], y: Sequence[float]) -> Curve:
    """A line through knots (x ascending) with its corners rounded: it overshoots nowhere, and is flat beyond the ends.

    >>> np.round(curve([0, 1], [0, 1])(np.array([-1, 0.5, 2])), 2).tolist()
    [0.01, 0.5, 0.99]
    """
    dense = np.linspace(x[0], x[-1], 401)
    around = np.linspace(-0.04, 0.04, 9) * (x[-1] - x[0])
    smooth = np.mean([np.interp(dense + shift, x, y) for shift in around], axis=0)
    return lambda at: np.interp(at, dense, smooth)


def ease(value: Floats, low: float | Floats = 0.0, high: float | Floats = 1.0) -> Floats:
    """From 0 to 1 while ``value`` goes from ``low`` to ``high``, level at both ends."""
    share = np.clip((value - low) / (high - low), 0, 1)
    eased: Floats = share * share * (3 - 2 * share)
    return eased


@dataclass(frozen=True)
class Loft:
    """A body's surface, from levels v = 0 (lower edge) to 1 (upper edge) and over the top to its middle line, 2.

    Its outline at a level is a superellipse.

    Attributes:
        ends: Of a level, the x of the front, the x of the rear, and half the width.
        bottom: Height of the lower edge over x.
        top: Height of the upper edge over x.
        rise: Of a level, the share of the way from the lower to the upper edge.
        crown: How far the middle line lies above the upper edge, over x.
        powers: The superellipse's power in front and behind: the higher, the squarer.
    """

    ends: Callable[[Floats], tuple[Floats, Floats, Floats]]
    bottom: Curve
    top: Curve
    rise: Curve
    crown: Curve
    powers: tuple[float, float]

    def around(self, count: int, v: Floats) -> Floats:
        """Points (V, count + 1, 3) all round the body at each level (V,)."""
        turn = np.linspace(-np.pi, np.pi, count + 1)
        cos, sin = np.cos(turn), 1.6 * np.sin(turn)  # a body is longer than wide: more of the points on its flanks
        power = np.where(cos >= 0, *self.powers)
        reach = (np.abs(cos) ** power + np.abs(sin) ** power) ** (1 / power)
        return self._point(cos / reach, sin / reach, v[:, None])

    def side(self, x: Floats, v: Floats, *, left: bool) -> Floats:
        """Points of a flank at x and v."""
        front, rear, _ = self.ends(np.minimum(v, 1.0))
        along = np.clip((x - (front + rear) / 2) / ((front - rear) / 2), -1, 1)
        across = self._other(along, np.where(along >= 0, *self.powers))
        return self._point(along, across if left else -across, v)

    def end(self, y: Floats, v: Floats, *, front: bool) -> Floats:
        """Points of the front or the rear end at v and at y, given as a share of the half width there."""
        along = self._other(y, np.array(self.powers[0 if front else 1]))
        return self._point(along if front else -along, y, v)

    def side_at(self, x: Floats, z: Floats, *, left: bool) -> Floats:
        """Points of a flank at x and z."""
        steps = np.linspace(0, 1, 201)
        bottom = self.bottom(x)
        return self.side(x, np.interp((z - bottom) / (self.top(x) - bottom), self.rise(steps), steps), left=left)

    def crest(self, x: float) -> float:
        """Height of the middle line at x."""
        return float(self.side(np.array(x), np.array(2.0), left=True)[2])

    def _other(self, share: Floats, power: Floats) -> Floats:
        other: Floats = (1 - np.minimum(np.abs(share), 1) ** power) ** (1 / power)
        return other

    def _point(self, along: Floats, across: Floats, v: Floats) -> Floats:
        along, across, v = np.broadcast_arrays(along, across, v)
        front, rear, half = self.ends(np.minimum(v, 1.0))
        x = (front + rear) / 2 + (front - rear) / 2 * along
        bottom, inward = self.bottom(x), 2.0 - np.maximum(v, 1.0)
        z = bottom + (self.top(x) - bottom) * self.rise(np.minimum(v, 1.0)) + self.crown(x) * (1 - inward**2)
        return np.stack([x, half * across * inward, z], axis=-1)


class _Kind(NamedTuple):
    """A kind of car on average.

    Attributes:
        chance: How often it is drawn.
        sizes: Length, width, height, nose, cowl (belt in front), tail (belt behind), sill, wheel radius.
        layout: Front overhang, wheelbase as a share of the length, cowl behind the front axle, the windscreen's run,
            the roof's end before the rear axle.
        cabin_end: The cabin's foot before the rear axle; None: near the tail.
    """

    chance: float
    sizes: tuple[float, ...]
    layout: tuple[float, float, float, float, float]
    cabin_end: float | None = None


_KINDS = {
    "sedan": _Kind(0.30, (4.80, 1.83, 1.45, 0.70, 0.94, 1.02, 0.21, 0.330), (0.93, 0.580, 0.16, 0.80, 0.30), -0.62),
    "suv": _Kind(0.30, (4.65, 1.87, 1.70, 0.93, 1.10, 1.14, 0.27, 0.365), (0.90, 0.585, 0.22, 0.68, -0.60)),
    "hatch": _Kind(0.12, (4.15, 1.77, 1.50, 0.76, 0.98, 1.02, 0.21, 0.315), (0.83, 0.610, 0.05, 0.72, -0.42)),
    "coupe": _Kind(0.10, (4.55, 1.85, 1.36, 0.66, 0.90, 0.97, 0.18, 0.340), (0.90, 0.585, 0.32, 0.78, 0.42), -0.72),
    "pickup": _Kind(0.10, (5.45, 1.94, 1.82, 1.02, 1.19, 1.18, 0.36, 0.395), (0.95, 0.620, 0.38, 0.62, 0.98), 0.88),
    "van": _Kind(0.08, (5.05, 1.96, 1.74, 0.84, 1.04, 1.07, 0.22, 0.340), (0.95, 0.595, -0.10, 0.98, -0.85)),
}


class Shape:
    """One car's measures in metres; ``lower`` is the surface below the windows, ``cabin`` that of pillars and roof."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.kind = str(rng.choice(list(_KINDS), p=[kind.chance for kind in _KINDS.values()]))
        kind = _KINDS[self.kind]
        spread = [0.035, 0.018, 0.022, 0.035, 0.02, 0.025, 0.08, 0.03]
        sizes: list[float] = (np.array(kind.sizes) * rng.normal(1.0, spread)).tolist()
        self.length, self.width, self.height, nose, self.cowl, tail, self.sill, self.wheel = sizes
        self.nose, self.tail = min(nose, self.cowl - 0.08), max(tail, self.cowl - 0.02)
        overhang, base, foot, run, roof_end = kind.layout
        self.front_axle = self.length / 2 - overhang * rng.normal(1, 0.03)
        self.rear_axle = self.front_axle - base * self.length * rng.normal(1, 0.012)
        self.screen_foot = self.front_axle - foot + rng.normal(0, 0.06)
        self.roof_rear = self.rear_axle + roof_end + rng.normal(0, 0.08)
        self.cabin_rear = -self.length / 2 + rng.uniform(0.10, 0.22)
        if kind.cabin_end is None:
            self.roof_rear = max(self.roof_rear, self.cabin_rear + rng.uniform(0.16, 0.42))
        else:
            self.cabin_rear = self.rear_axle + kind.cabin_end + rng.normal(0, 0.05)
        self.roof_front = self.screen_foot - run * rng.normal(1, 0.06)
        self.roof_half = self.width / 2 * (rng.uniform(0.76, 0.82) + 0.05 * (self.kind in ("van", "pickup")))
        self.lower = self._lower(rng)
        self.cabin = self._cabin(rng)

    def _lower(self, rng: np.random.Generator) -> Loft:
        half, cowl, nose = self.length / 2, self.cowl, self.nose
        rake = rng.uniform(0.7, 1.25) * (0.55 if self.kind in ("pickup", "suv") else 1.0)
        front_power = rng.uniform(3.8, 5.2) + (1.2 if self.kind == "pickup" else 0.0)
        rear_power = rng.uniform(4.8, 6.4) + (1.5 if self.kind in ("pickup", "van") else 0.0)
        front = curve(
            [0, 0.1, 0.3, 0.45, 0.6, 0.85, 1], [-0.1, -0.03, 0, -0.01, -0.05 * rake, -0.12 * rake, -0.3 * rake]
        )
        rear = curve([0, 0.12, 0.3, 0.42, 0.5, 0.85, 0.95, 1], [-0.12, -0.03, 0, -0.005, -0.04, -0.07, -0.09, -0.14])
        wide = curve(
            [0, 0.1, 0.3, 0.5, 0.64, 0.7, 0.9, 0.96, 1], [0.915, 0.955, 0.985, 1, 0.992, 0.978, 0.955, 0.935, 0.9]
        )
        return Loft(
            ends=lambda v: (half + front(v), -half - rear(v), self.width / 2 * wide(v)),
            bottom=curve(  # bumpers hang lower in front and higher behind
                [-half, self.rear_axle, 0, self.front_axle, half],
                [self.sill + 0.09, self.sill + 0.03, self.sill, self.sill, self.sill + 0.02],
            ),
            top=curve(
                [-half, 0.25 - half, self.screen_foot - 0.9, self.screen_foot, half - 0.3, half],
                [self.tail - 0.03, self.tail, (cowl + self.tail) / 2, cowl, nose + 0.15 * (cowl - nose), nose - 0.03],
            ),
            rise=curve([0, 0.12, 0.5, 0.8, 0.93, 1], [0, 0.05, 0.5, 0.84, 0.965, 1]),
            crown=lambda x: 0.055 * ease(half - np.abs(x), 0.22, 1.02),
            powers=(front_power, rear_power),
        )

    def _cabin(self, rng: np.random.Generator) -> Loft:
        foot = self.width / 2 * (0.925 if self.kind != "pickup" else 0.94)
        fall = rng.uniform(0.02, 0.06) * (1.8 if self.kind in ("coupe", "sedan") else 1.0)
        front, rear, peak = self.roof_front, self.roof_rear, 0.65 * self.roof_front + 0.35 * self.roof_rear
        slope = curve([0, 0.5, 0.88, 1], [0, 0.47, 0.86, 1])
        inward = curve([0, 0.5, 0.85, 0.94, 1], [0, 0.42, 0.78, 0.90, 1.1])

        def roof(x: Floats) -> Floats:
            ahead = np.clip((x - peak) / max(front - peak, 0.3), 0, 1.5)
            behind = np.clip((peak - x) / max(peak - rear, 0.3), 0, 1.5)
            edge: Floats = self.height - 0.065 - 0.035 * ahead**2 - fall * behind**2
            return edge

        return Loft(
            ends=lambda v: (
                self.screen_foot + 0.06 + (front - self.screen_foot - 0.06) * slope(v),
                self.cabin_rear + (rear - self.cabin_rear) * slope(v),
                foot + (self.roof_half - foot) * inward(v),
            ),
            bottom=lambda x: self.lower.top(x) - 0.01,
            top=roof,
            rise=curve([0, 0.5, 0.85, 0.95, 1], [0, 0.49, 0.86, 0.96, 1]),
            crown=lambda x: 0.065 * ease(1.02 * (front - x) / 0.6) * ease((x - rear) / 0.6),
            powers=(4.6, 4.6),
        )

    @property
    def boxy(self) -> bool:
        """Whether its rear end is upright."""
        return self.kind in ("suv", "van", "pickup", "hatch")

    @property
    def pillar(self) -> float:
        """X of the pillar behind the front door."""
        if self.kind == "coupe":
            return self.rear_axle + 0.78
        if self.kind == "pickup":
            return (self.screen_foot + self.cabin_rear) / 2 - 0.12
        return (self.roof_front + max(self.rear_axle + 0.35, self.roof_rear)) / 2 - 0.02
