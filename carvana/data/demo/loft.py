"""The two surfaces of a body: the part below the windows and the cabin, each lofted from rounded outlines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from carvana.data.demo.measures import Measures
from carvana.data.demo.surface import Floats, Quads, grid_quads, smooth_curve


class Lower:
    """The body below the windows, as ``point(theta, v)``.

    theta runs round the car from the nose, v from the sill (0) to the shoulder (1) and on over hood and deck to the
    middle line (2).
    """

    _STEPS = np.linspace(0, 1, 201)

    def __init__(self, shape: Measures) -> None:
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
        crown = 0.055 * _ease((s.length / 2 - 0.22 - np.abs(x)) / 0.8)
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
        v = np.concatenate([np.linspace(0, 0.86, 26), np.linspace(0.88, 1, 11), np.linspace(1.04, 2, 22)])
        return grid_quads(self.point(theta[None, :], v[:, None]))

    def _reach(self, front: NDArray[np.bool_], v: Floats) -> tuple[Floats, Floats]:
        s = self.shape
        ahead = np.interp(v, self._STEPS, self._front)
        behind = np.interp(v, self._STEPS, self._rear)
        return s.length / 2 + np.where(front, ahead, behind), np.where(front, s.front_power, s.rear_power)


class Cabin:
    """Pillars, windows and roof, as ``point(phi, s)``.

    phi runs round the cabin from the windscreen, s from the belt (0) to the roof's edge (1) and on to the roof's
    middle line (2).
    """

    _STEPS = np.linspace(0, 1, 101)

    def __init__(self, shape: Measures, lower: Lower) -> None:
        self.shape = shape
        self.lower = lower
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
        belt = self.lower.shoulder(x) - 0.01
        z = belt + (self.roof(x) - belt) * np.interp(low, self._STEPS, self._rise)
        across = 2.0 - np.maximum(s, 1.0)
        crown = 0.065 * _ease(1.02 * (c.roof_front - x) / 0.6) * _ease((x - c.roof_rear) / 0.6)
        return np.stack([x, y * across, z + crown * (1 - across**2)], axis=-1)

    def crest(self, x: float) -> float:
        """Height of the roof's middle line at x."""
        return float(self.side(np.array(x), np.array(2.0), True)[2])

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
        s = np.concatenate([np.linspace(0, 0.8, 11), np.linspace(0.84, 1, 8), np.linspace(1.06, 2, 15)])
        return grid_quads(self.point(phi[None, :], s[:, None]))

    def _power(self, s: Floats) -> Floats:
        return np.full(np.shape(s), 4.6)


def _ease(share: Floats) -> Floats:
    """From 0 to 1 while ``share`` goes from 0 to 1, level at both ends."""
    t = np.clip(share, 0, 1)
    eased: Floats = t * t * (3 - 2 * t)
    return eased


def _even_angles(curve: Callable[[Floats], Floats], count: int) -> Floats:
    """Angles at which a closed curve's points are evenly spaced along it."""
    quarter = np.linspace(0, 1, 600) ** 3 * np.pi / 4  # a superellipse runs fastest where it crosses an axis
    eighth = np.concatenate([quarter, np.pi / 2 - quarter[::-1][1:]])
    dense = np.concatenate([eighth + k * np.pi / 2 for k in range(4)])
    points = curve(dense)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    angles: Floats = np.interp(np.linspace(0, along[-1], count + 1), along, dense)
    return angles
