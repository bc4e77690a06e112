"""Surfaces in space: flat faces that know which way they face, pebbles and boxes, and bodies lofted from outlines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
