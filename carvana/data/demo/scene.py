"""Who looks at what in which light: the camera, the car's pose, and the colour of a surface in the studio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carvana.data.demo.shape import Floats, Quads, ease

FULL = (1280, 1918)
"""(height, width) of a photo at full size."""
FOCAL = 1986.0
"""Focal length in pixels of a photo at full size."""

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
class Scene:
    """One view. The studio's frame: x towards the camera, z up, metres, the origin in the middle of the turntable.

    Attributes:
        distance: From the camera to the middle of the turntable, metres.
        height: Of the camera.
        focal: Focal length in pixels of this photo.
        centre: The vanishing point (x, y) in pixels; the lens is shifted, so that verticals stay vertical.
        angle: How far the car is turned, radians.
        shift: The car's place (x, y) on the turntable, metres in its own frame.
        azimuth: Direction of the brightest side.
        strips: Number of strips of lamps overhead.
        strength: Brightness of the lamps.
        floor: The turntable's colour, 0 to 1.
        exposure: Of the photo, about 1.
    """

    distance: float
    height: float
    focal: float
    centre: tuple[float, float]
    angle: float
    shift: tuple[float, float]
    azimuth: float
    strips: float
    strength: float
    floor: RGB
    exposure: float

    @property
    def scale(self) -> float:
        """Pixels of this photo for one of a photo at full size."""
        return self.focal / FOCAL

    @property
    def eye(self) -> Floats:
        """The camera's place in the car's frame, (3,)."""
        x, y = self.distance * np.cos(self.angle), -self.distance * np.sin(self.angle)
        return np.array([x - self.shift[0], y - self.shift[1], self.height])

    def turn(self, directions: Floats) -> Floats:
        """Directions of the car's frame (..., 3) in the studio's."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        x, y, z = np.moveaxis(directions, -1, 0)
        return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)

    def to_studio(self, points: Floats) -> Floats:
        """Points of the car's frame (..., 3) in the studio's."""
        return self.turn(points + np.array([*self.shift, 0.0]))

    def project(self, points: Floats) -> Floats:
        """Points of the studio (..., 3) as pixels (x, y), (..., 2); they must lie in front of the camera."""
        zoom = self.focal / (self.distance - points[..., 0])
        return np.stack(
            [self.centre[0] + zoom * points[..., 1], self.centre[1] - zoom * (points[..., 2] - self.height)], axis=-1
        )

    def pixels(self, points: Floats) -> Floats:
        """Points of the car's frame (..., 3) as pixels (x, y), (..., 2)."""
        return self.project(self.to_studio(points))

    def shade(self, quads: Quads, paint: Paint) -> NDArray[np.uint8]:
        """The colour (F, 3) of each face: what it sends back diffusely, and what of the room it mirrors."""
        normals, centres = self.turn(quads.normals), quads.centres
        to_eye = self.turn(self.eye - centres)
        to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
        cosine = np.einsum("fk,fk->f", normals, to_eye)
        mirrored = 2 * cosine[:, None] * normals - to_eye
        base = np.array(paint.colour) ** 2.2
        up = normals[:, 2]
        side = normals[:, 0] * np.cos(self.azimuth) + normals[:, 1] * np.sin(self.azimuth)
        lit = np.maximum(0.80 + 0.34 * up + 0.06 * up * np.abs(up) + 0.12 * side, 0.08) * (0.75 + 0.25 * self.strength)
        polish = min(12 * paint.gloss, 1.0) * (1 - paint.gloss)  # rough materials do not shine at grazing angles either
        fresnel = (paint.gloss + polish * (1 - np.abs(cosine)) ** 5)[:, None]
        open_sky = np.clip((centres[:, 2] - 0.05) / 0.7, 0.0, 1.0)[:, None]
        diffuse = base * lit[:, None] * (0.62 + 0.38 * open_sky) * (1 - 0.3 * paint.metal)
        gleam = self._room(mirrored, centres[:, 2]) * fresnel * (0.3 + 0.7 * open_sky) * (1 + paint.metal * (base - 1))
        return _display(diffuse + gleam)

    def _room(self, directions: Floats, height: Floats) -> Floats:
        """What is seen of the room in directions (F, 3) from ``height`` (F,) over the floor, linear RGB (F, 3)."""
        x, y, up = directions.T
        azimuth = np.arctan2(y, x)
        # The wall's white begins about a metre up, six metres away.
        white = ease(up / np.maximum(np.hypot(x, y), 1e-6), 0.116 - 0.05 * height, 0.236)
        wall = 0.78 + 0.10 * np.cos(azimuth - self.azimuth) - 0.10 * ease(np.cos(3 * azimuth + self.strips), 0.5, 0.9)
        over = np.cos(self.strips * np.pi * x / np.maximum(up, 0.3)) * np.cos(1.3 * y / np.maximum(up, 0.3))
        lamps = 0.55 + 0.75 * self.strength * ease(over, -0.3, 0.7)
        ceiling = ease(up, 0.55, 0.70)
        above = (wall * (1 - ceiling) + lamps * ceiling) * white
        # Steep rays end in the car's own shadow.
        under = 0.50 - 0.36 * ease(-up, 0.35, 0.9) + 0.05 * np.cos(azimuth - self.azimuth)
        seen: Floats = above[:, None] + (under * (1 - white))[:, None] * np.array(self.floor) / 0.73
        return seen


def _display(light: Floats) -> NDArray[np.uint8]:
    """Amounts of light as display values 0 to 255, with a camera's contrast and its soft shoulder near white."""
    value = np.clip(light, 0, None) ** (1 / 2.2)
    value = value - 0.06 * np.sin(2 * np.pi * np.clip(value, 0, 1))
    value = np.where(value > 0.85, 0.85 + 0.15 * np.tanh((value - 0.85) / 0.15), value)
    return (value * 255 + 0.5).astype(np.uint8)
