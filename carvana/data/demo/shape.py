"""The measures of a car, drawn at random for six kinds of it.

The car's frame: x forward, y to the car's left, z up, metres, the origin on the ground under the middle of the car.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from carvana.data.demo.loft import Cabin, Lower
from carvana.data.demo.measures import Measures

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


class Shape(Measures):
    """One car's measures and the surfaces that they make."""

    @cached_property
    def lower(self) -> Lower:
        """The surface below the windows."""
        return Lower(self)

    @cached_property
    def cabin(self) -> Cabin:
        """The surface of pillars, windows and roof."""
        return Cabin(self, self.lower)


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
