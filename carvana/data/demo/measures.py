"""The measures of a car, from which its surfaces are made.

The car's frame: x forward, y to the car's left, z up, metres, the origin on the ground under the middle of the car.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measures:
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
