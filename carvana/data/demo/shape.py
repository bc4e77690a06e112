"""The measures of a car, drawn at random for six kinds of it, and the two surfaces that they make.

The car's frame: x forward, y to the car's left, z up, metres, the origin on the ground under the middle of the car.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carvana.data.demo.surface import Floats, Loft, curve, ease


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
