"""The studio of one session, drawn at random: its walls, its turntable, its lettering and its light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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


def _tone(grey: float, warm: float) -> tuple[float, float, float]:
    r, g, b = (float(v) for v in np.clip([grey + warm * 0.6, grey, grey - warm], 0, 255))
    return r, g, b
