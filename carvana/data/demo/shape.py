"""The parametric body: a lower body and a cabin, each lofted from rounded outlines, for six kinds of car.

The car's frame: x forward, y to the car's left, z up, metres, the origin on the ground under the middle of the car.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from carvana.data.demo.surface import Floats, Quads, grid_quads, smooth_curve

KINDS = {"sedan": 0.30, "suv": 0.30, "hatch": 0.12, "coupe": 0.10, "pickup": 0.10, "van": 0.08}
"""The kinds of car and how often each is drawn."""

# length, width, height, nose, cowl (belt in front), tail (belt behind), sill, wheel radius
_SIZES = {
    "sedan": (4.80, 1.83, 1.45, 0.70, 0.94, 1.02, 0.21, 0.330),
    "coupe": (4.55, 1.85, 1.36, 0.66, 0.90, 0.97, 0.18, 0.340),
    "hatch": (4.15, 1.77, 1.50, 0.76, 0.98, 1.02, 0.21, 0.315),
    "suv": (4.65, 1.87, 1.70, 0.93, 1.10, 1.14, 0.27, 0.365),
    "van": (5.05, 1.96, 1.74, 0.84, 1.04, 1.07, 0.22, 0.340),
    "pickup": (5.45, 1.94, 1.82, 1.02, 1.19, 1.18, 0.36, 0.395),
}
# front overhang, wheelbase as a share of the length, cowl behind the front axle, windscreen's run,
# roof's end before the rear axle, cabin's foot before the rear axle (None: near the tail)
_LAYOUT: dict[str, tuple[float, float, float, float, float, float | None]] = {
    "sedan": (0.93, 0.580, 0.16, 0.80, 0.30, -0.62),
    "coupe": (0.90, 0.585, 0.32, 0.78, 0.42, -0.72),
    "hatch": (0.83, 0.610, 0.05, 0.72, -0.42, None),
    "suv": (0.90, 0.585, 0.22, 0.68, -0.60, None),
    "van": (0.95, 0.595, -0.10, 0.98, -0.85, None),
    "pickup": (0.95, 0.620, 0.38, 0.62, 0.98, 0.88),
}


@dataclass(frozen=True)
class Shape:
    """One car's measures, metres; x positions in the car's frame."""

    kind: str
    length: float
    width: float
    height: float
    nose: float
    cowl: float
    tail: float
    sill: float
    wheel: float
    front_axle: float
    rear_axle: float
    screen_foot: float
    roof_front: float
    roof_rear: float
    cabin_rear: float
    roof_width: float
    rake: float
    front_power: float
    rear_power: float
    roof_fall: float

    @cached_property
    def lower(self) -> Lower:
        """The surface below the windows."""
        return Lower(self)

    @cached_property
    def cabin(self) -> Cabin:
        """The surface of pillars, windows and roof."""
        return Cabin(self)


def draw_shape(rng: np.random.Generator) -> Shape:
    """A car at random."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    sizes = np.array(_SIZES[kind]) * rng.normal(1.0, [0.035, 0.018, 0.022, 0.035, 0.02, 0.025, 0.08, 0.03])
    length, width, height, nose, cowl, tail, sill, wheel = (float(value) for value in sizes)
    overhang, base, foot, run, roof_end, cabin_end = _LAYOUT[kind]
    front_axle = length / 2 - overhang * rng.normal(1, 0.03)
    rear_axle = front_axle - base * length * rng.normal(1, 0.012)
    screen_foot = front_axle - foot + rng.normal(0, 0.06)
    roof_rear = rear_axle + roof_end + rng.normal(0, 0.08)
    end = -length / 2 + rng.uniform(0.10, 0.22)
    cabin_rear = end if cabin_end is None else rear_axle + cabin_end + rng.normal(0, 0.05)
    if cabin_end is None:
        roof_rear = max(roof_rear, end + rng.uniform(0.16, 0.42))
    return Shape(
        kind=kind,
        length=length,
        width=width,
        height=height,
        nose=min(nose, cowl - 0.08),
        cowl=cowl,
        tail=max(tail, cowl - 0.02),
        sill=sill,
        wheel=wheel,
        front_axle=float(front_axle),
        rear_axle=float(rear_axle),
        screen_foot=float(screen_foot),
        roof_front=float(screen_foot - run * rng.normal(1, 0.06)),
        roof_rear=float(roof_rear),
        cabin_rear=float(cabin_rear),
        roof_width=float(rng.uniform(0.76, 0.82) if kind not in ("van", "pickup") else rng.uniform(0.82, 0.87)),
        rake=float(rng.uniform(0.7, 1.25) * (0.55 if kind in ("pickup", "suv") else 1.0)),
        front_power=float(rng.uniform(3.8, 5.2) + (1.2 if kind == "pickup" else 0.0)),
        rear_power=float(rng.uniform(4.8, 6.4) + (1.5 if kind in ("pickup", "van") else 0.0)),
        roof_fall=float(rng.uniform(0.02, 0.06) * (1.8 if kind in ("coupe", "sedan") else 1.0)),
    )


class Lower:
    """The body below the windows: ``point(theta, v)``, theta round the car from the nose, v from the sill (0) to the
    shoulder (1) and on over hood and deck to the middle line (2).
    """

    _STEPS = np.linspace(0, 1, 201)

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        v, rake = self._STEPS, shape.rake
        self._rise = smooth_curve(v, [(0, 0), (0.12, 0.05), (0.5, 0.5), (0.8, 0.84), (0.93, 0.965), (1, 1)])
        self._wide = smooth_curve(
            v,
            [
                (0, 0.915),
                (0.1, 0.955),
                (0.3, 0.985),
                (0.5, 1.0),
                (0.64, 0.992),
                (0.7, 0.978),
                (0.9, 0.955),
                (0.96, 0.935),
                (1, 0.90),
            ],
        )
        self._front = smooth_curve(
            v,
            [
                (0, -0.10),
                (0.1, -0.03),
                (0.3, 0),
                (0.45, -0.01),
                (0.6, -0.05 * rake),
                (0.85, -0.12 * rake),
                (1, -0.3 * rake),
            ],
        )
        self._rear = smooth_curve(
            v,
            [
                (0, -0.12),
                (0.12, -0.03),
                (0.3, 0),
                (0.42, -0.005),
                (0.5, -0.04),
                (0.85, -0.07),
                (0.95, -0.09),
                (1, -0.14),
            ],
        )

    def shoulder(self, x: Floats) -> Floats:
        """Height of the shoulder over x."""
        s = self.shape
        front, rear = s.length / 2, -s.length / 2
        knots = [
            (rear, s.tail - 0.03),
            (rear + 0.25, s.tail),
            (s.screen_foot - 0.9, (s.cowl + s.tail) / 2),
            (s.screen_foot, s.cowl),
            (s.front_axle, s.cowl - 0.25 * (s.cowl - s.nose) - 0.01),
            (front - 0.3, s.nose + 0.15 * (s.cowl - s.nose)),
            (front, s.nose - 0.03),
        ]
        knots = [knot for i, knot in enumerate(knots) if i == 0 or knot[0] > knots[i - 1][0] + 0.02]
        return smooth_curve(x, knots)

    def bottom(self, x: Floats) -> Floats:
        """Height of the lower edge over x: bumpers hang lower in front and higher behind."""
        s = self.shape
        return smooth_curve(
            x,
            [
                (-s.length / 2, s.sill + 0.09),
                (s.rear_axle, s.sill + 0.03),
                (0.0, s.sill),
                (s.front_axle, s.sill),
                (s.length / 2, s.sill + 0.02),
            ],
        )

    def point(self, theta: Floats, v: Floats) -> Floats:
        """Points (..., 3) of the surface."""
        s = self.shape
        theta, v = np.broadcast_arrays(theta, v)
        low = np.minimum(v, 1.0)
        cos, sin = np.cos(theta), np.sin(theta)
        reach, power = self._reach(cos >= 0, low)
        x = np.sign(cos) * reach * np.abs(cos) ** (2 / power)
        y = np.sign(sin) * np.abs(sin) ** (2 / power) * s.width / 2 * np.interp(low, self._STEPS, self._wide)
        bottom, top = self.bottom(x), self.shoulder(x)
        z = bottom + (top - bottom) * np.interp(low, self._STEPS, self._rise)
        across = 2.0 - np.maximum(v, 1.0)
        crown = 0.055 * np.clip((s.length / 2 - np.abs(x)) / 0.6, 0.15, 1)
        return np.stack([x, y * across, z + crown * (1 - across**2)], axis=-1)

    def side(self, x: Floats, z: Floats, left: bool) -> Floats:
        """Points of the flank at x and z."""
        x, z = np.broadcast_arrays(x, z)
        bottom, top = self.bottom(x), self.shoulder(x)
        return self.flank(x, np.interp((z - bottom) / (top - bottom), self._rise, self._STEPS), left)

    def flank(self, x: Floats, v: Floats, left: bool) -> Floats:
        """Points of the flank at x and v."""
        x, v = np.broadcast_arrays(x, v)
        reach, power = self._reach(x >= 0, np.minimum(v, 1.0))
        theta = np.arccos(np.sign(x) * np.minimum(np.abs(x) / reach, 1.0) ** (power / 2))
        return self.point(theta if left else -theta, v)

    def end(self, y: Floats, v: Floats, front: bool) -> Floats:
        """Points of the nose (or tail) at v and at y, given as a share of the half width there."""
        y, v = np.broadcast_arrays(y, v)
        power = self.shape.front_power if front else self.shape.rear_power
        theta = np.arcsin(np.sign(y) * np.minimum(np.abs(y), 1.0) ** (power / 2))
        return self.point(theta if front else np.pi - theta, v)

    def quads(self) -> Quads:
        """The whole surface, finely cut: small faces need no interpolation of their shade."""
        theta = _even_angles(lambda t: self.point(t, np.array(0.5)), 168)
        v = np.concatenate([np.linspace(0, 0.86, 22), np.linspace(0.88, 1, 9), np.linspace(1.06, 2, 12)])
        return grid_quads(self.point(theta[None, :], v[:, None]))

    def _reach(self, front: Floats, v: Floats) -> tuple[Floats, Floats]:
        s = self.shape
        ahead = np.interp(v, self._STEPS, self._front)
        behind = np.interp(v, self._STEPS, self._rear)
        return s.length / 2 + np.where(front, ahead, behind), np.where(front, s.front_power, s.rear_power)


class Cabin:
    """Pillars, windows and roof: ``point(phi, s)``, phi round the cabin, s from the belt (0) to the roof's edge (1) and on
    to the roof's middle line (2).
    """

    _STEPS = np.linspace(0, 1, 101)

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        s = self._STEPS
        self._rise = smooth_curve(s, [(0, 0), (0.5, 0.49), (0.85, 0.86), (0.95, 0.96), (1, 1)])
        self._in = smooth_curve(s, [(0, 0), (0.5, 0.42), (0.85, 0.78), (0.94, 0.90), (1, 1.1)])
        self._slope = smooth_curve(s, [(0, 0), (0.5, 0.47), (0.88, 0.86), (1, 1.0)])

    def ends(self, s: Floats) -> tuple[Floats, Floats, Floats]:
        """At level s: x of the front, x of the rear, half width."""
        c = self.shape
        slope = np.interp(s, self._STEPS, self._slope)
        inward = np.interp(s, self._STEPS, self._in)
        foot = c.width / 2 * (0.925 if c.kind != "pickup" else 0.94)
        return (
            c.screen_foot + 0.06 + (c.roof_front - c.screen_foot - 0.06) * slope,
            c.cabin_rear + (c.roof_rear - c.cabin_rear) * slope,
            foot + (c.roof_width * c.width / 2 - foot) * inward,
        )

    def roof(self, x: Floats) -> Floats:
        """Height of the roof's edge over x."""
        c = self.shape
        peak = c.roof_front + 0.35 * (c.roof_rear - c.roof_front)
        ahead = np.clip((x - peak) / max(c.roof_front - peak, 0.3), 0, 1.5)
        behind = np.clip((peak - x) / max(peak - c.roof_rear, 0.3), 0, 1.5)
        return c.height - 0.065 - 0.035 * ahead**2 - c.roof_fall * behind**2

    def point(self, phi: Floats, s: Floats) -> Floats:
        """Points (..., 3) of the surface."""
        c = self.shape
        phi, s = np.broadcast_arrays(phi, s)
        low = np.minimum(s, 1.0)
        front, rear, half = self.ends(low)
        power = self._power(low)
        cos, sin = np.cos(phi), np.sin(phi)
        x = (front + rear) / 2 + (front - rear) / 2 * np.sign(cos) * np.abs(cos) ** (2 / power)
        y = half * np.sign(sin) * np.abs(sin) ** (2 / power)
        belt = c.lower.shoulder(x) - 0.01
        z = belt + (self.roof(x) - belt) * np.interp(low, self._STEPS, self._rise)
        across = 2.0 - np.maximum(s, 1.0)
        return np.stack([x, y * across, z + 0.065 * (1 - across**2)], axis=-1)

    def side(self, x: Floats, s: Floats, left: bool) -> Floats:
        """Points of the flank at x and s."""
        x, s = np.broadcast_arrays(x, s)
        front, rear, _ = self.ends(np.minimum(s, 1.0))
        along = (x - (front + rear) / 2) / ((front - rear) / 2)
        phi = np.arccos(np.sign(along) * np.minimum(np.abs(along), 1.0) ** (self._power(s) / 2))
        return self.point(phi if left else -phi, s)

    def end(self, y: Floats, s: Floats, front: bool) -> Floats:
        """Points of the windscreen (or rear window) at s and at y, given as a share of the half width there."""
        y, s = np.broadcast_arrays(y, s)
        phi = np.arcsin(np.sign(y) * np.minimum(np.abs(y), 1.0) ** (self._power(s) / 2))
        return self.point(phi if front else np.pi - phi, s)

    def quads(self) -> Quads:
        """The whole surface, finely cut."""
        phi = _even_angles(lambda t: self.point(t, np.array(0.5)), 120)
        s = np.concatenate([np.linspace(0, 0.8, 11), np.linspace(0.84, 1, 8), np.linspace(1.07, 2, 12)])
        return grid_quads(self.point(phi[None, :], s[:, None]))

    def _power(self, s: Floats) -> Floats:
        return np.full(np.shape(s), 4.6)


def _even_angles(curve: object, count: int) -> Floats:
    """Angles at which a closed curve's points are evenly spaced along it."""
    assert callable(curve)
    quarter = np.linspace(0, 1, 600) ** 3 * np.pi / 4  # a superellipse runs fastest where it crosses an axis
    eighth = np.concatenate([quarter, np.pi / 2 - quarter[::-1][1:]])
    dense = np.concatenate([eighth + k * np.pi / 2 for k in range(4)])
    points = curve(dense)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return np.interp(np.linspace(0, along[-1], count + 1), along, dense)
