"""The camera of the studio: it stands still while the car turns on its table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carvana.data.demo.surface import Floats

FULL = (1280, 1918)
"""(height, width) of a photo at full size, to which the focal length refers."""


@dataclass(frozen=True)
class Camera:
    """A camera with a shifted lens (verticals stay vertical) that looks along -x at the middle of the turntable.

    Lengths are metres, ``focal`` and ``centre`` (x, y of the vanishing point) pixels of the photo that is drawn.
    """

    distance: float
    height: float
    focal: float
    centre: tuple[float, float]

    @property
    def eye(self) -> Floats:
        """The camera's place in the studio, (3,)."""
        return np.array([self.distance, 0.0, self.height])

    def matrix(self) -> Floats:
        """The (3, 4) matrix from the studio's homogeneous metres to the photo's homogeneous pixels."""
        focal, (cx, cy) = self.focal, self.centre
        return np.array(
            [
                [-cx, focal, 0.0, cx * self.distance],
                [-cy, 0.0, -focal, cy * self.distance + focal * self.height],
                [-1.0, 0.0, 0.0, self.distance],
            ]
        )

    def project(self, points: Floats) -> Floats:
        """Points of the studio (..., 3) as (x, y) pixels (..., 2); they must lie in front of the camera."""
        matrix = self.matrix()
        flat = points @ matrix[:, :3].T + matrix[:, 3]
        pixels: Floats = flat[..., :2] / flat[..., 2:]
        return pixels

    def floor_homography(self) -> Floats:
        """The (3, 3) matrix from metres (x, y, 1) on the floor to pixels."""
        return self.matrix()[:, [0, 1, 3]]


@dataclass(frozen=True)
class Pose:
    """How the car stands: turned by ``angle`` radians, moved by ``shift`` (x, y) metres on the turntable."""

    angle: float
    shift: tuple[float, float] = (0.0, 0.0)

    def to_studio(self, points: Floats) -> Floats:
        """Points or, with a zero shift, directions of the car's frame (..., 3) in the studio's."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = points + np.array([*self.shift, 0.0])
        x, y, z = turned[..., 0], turned[..., 1], turned[..., 2]
        return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)

    def to_car(self, point: Floats) -> Floats:
        """A point of the studio (3,) in the car's frame."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        x, y, z = point
        return np.array([cos * x + sin * y - self.shift[0], -sin * x + cos * y - self.shift[1], z])

    def turn(self, directions: Floats) -> Floats:
        """Directions of the car's frame (..., 3) in the studio's."""
        return Pose(self.angle).to_studio(directions)


def view_angle(view: int) -> float:
    """How far the table has turned, in radians, at ``view`` 1 (front) to 16; 5 shows the car facing left, 9 its rear.

    >>> round(view_angle(5) / np.pi, 3)
    -0.5
    """
    return -np.pi / 8 * (view - 1)
