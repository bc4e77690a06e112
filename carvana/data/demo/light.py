"""How the studio lights a surface: what it sends back diffusely, and what of the room it mirrors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carvana.data.demo.camera import Pose
from carvana.data.demo.surface import Floats, Quads

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Paint:
    """A material: colour as it looks in white light (sRGB, 0 to 1), mirroring when looked at squarely, and how far
    the mirrored light takes the colour of the material (1 for metal).
    """

    colour: RGB
    gloss: float = 0.04
    metal: float = 0.0


@dataclass(frozen=True)
class Lamps:
    """The lamps: azimuth of the brightest side, number of strips overhead, their strength; and the floor's tint."""

    azimuth: float = 0.0
    strips: float = 3.0
    strength: float = 1.0
    floor: RGB = (0.72, 0.73, 0.74)


def shade(quads: Quads, paint: Paint, pose: Pose, eye: Floats, lamps: Lamps) -> NDArray[np.uint8]:
    """The colour (F, 3) of each face, seen from ``eye`` (in the car's frame) with the car at ``pose``."""
    normals = pose.turn(quads.normals)
    centres = quads.centres
    to_eye = pose.turn(eye - centres)
    to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
    cosine = np.abs(np.einsum("fk,fk->f", normals, to_eye))
    mirrored = 2 * np.einsum("fk,fk->f", normals, to_eye)[:, None] * normals - to_eye
    base = linear(np.array(paint.colour))
    polish = min(12 * paint.gloss, 1.0) * (1 - paint.gloss)  # rough materials do not shine at grazing angles either
    fresnel = (paint.gloss + polish * (1 - cosine) ** 5)[:, None]
    tint = 1 + paint.metal * (base - 1)
    open_sky = np.clip((centres[:, 2] - 0.05) / 0.7, 0.0, 1.0)[:, None]
    diffuse = base * irradiance(normals, lamps)[:, None] * (0.62 + 0.38 * open_sky)
    gleam = (
        room(mirrored, centres[:, 2], lamps) * fresnel * (0.3 + 0.7 * open_sky) * np.where(paint.metal > 0, tint, 1.0)
    )
    return display(diffuse * (1 - 0.3 * paint.metal) + gleam)


def irradiance(normals: Floats, lamps: Lamps) -> Floats:
    """Light that falls on faces with these normals (F, 3): most from above, some back from walls and floor."""
    up = normals[:, 2]
    side = normals[:, 0] * np.cos(lamps.azimuth) + normals[:, 1] * np.sin(lamps.azimuth)
    lit: Floats = 0.80 + 0.34 * up + 0.06 * up * np.abs(up) + 0.12 * side
    return np.maximum(lit, 0.08) * (0.75 + 0.25 * lamps.strength)


def room(directions: Floats, height: Floats, lamps: Lamps) -> Floats:
    """What is seen of the room in these directions (F, 3) from ``height`` (F,) over the floor, linear RGB (F, 3)."""
    up = directions[:, 2]
    flat = np.hypot(directions[:, 0], directions[:, 1])
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    band = np.tanh(1.1 / 6.0 * 1.2)  # the wall's white begins about a metre up, six metres away
    white = _step(up / np.maximum(flat, 1e-6), band - 0.10 - 0.05 * height, band + 0.02)
    wall = 0.78 + 0.10 * np.cos(azimuth - lamps.azimuth) - 0.10 * _step(np.cos(3 * azimuth + lamps.strips), 0.5, 0.9)
    ceiling = _step(up, 0.55, 0.70)
    over = np.cos(lamps.strips * np.pi * directions[:, 0] / np.maximum(up, 0.3)) * np.cos(
        1.3 * directions[:, 1] / np.maximum(up, 0.3)
    )
    lamp = 0.55 + 0.75 * lamps.strength * _step(over, -0.3, 0.7)
    above = wall * (1 - ceiling) + lamp * ceiling
    under = (
        0.50 - 0.36 * _step(-up, 0.35, 0.9) + 0.05 * np.cos(azimuth - lamps.azimuth)
    )  # steep rays end in the car's own shadow
    below = under[:, None] * np.array(lamps.floor) / 0.73
    seen: Floats = below * (1 - white[:, None]) + (above * white)[:, None]
    return seen


def linear(colour: Floats) -> Floats:
    """Display values 0 to 1 as amounts of light."""
    light: Floats = np.power(colour, 2.2)
    return light


def display(light: Floats) -> NDArray[np.uint8]:
    """Amounts of light as display values 0 to 255, with a camera's soft shoulder near white."""
    value = np.power(np.clip(light, 0, None), 1 / 2.2)
    value = value - 0.06 * np.sin(2 * np.pi * np.clip(value, 0, 1))  # a camera's contrast
    value = np.where(value > 0.85, 0.85 + 0.15 * np.tanh((value - 0.85) / 0.15), value)
    return (value * 255 + 0.5).astype(np.uint8)


def _step(value: Floats, low: float | Floats, high: float | Floats) -> Floats:
    t = np.clip((value - low) / (high - low), 0, 1)
    stepped: Floats = t * t * (3 - 2 * t)
    return stepped
