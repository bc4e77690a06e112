"""Surfaces in space as grids of points, cut into quads that know which way they face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

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

    def facing(self, eye: Floats) -> NDArray[np.bool_]:
        """Which faces show their outer side to a viewer at ``eye`` (3,)."""
        seen: NDArray[np.bool_] = np.einsum("fk,fk->f", self.normals, eye - self.centres) > 0
        return seen

    def where(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Quads:
        """The faces that a mask or an order of indices picks."""
        return Quads(self.corners[keep], self.normals[keep])

    def far_to_near(self, eye: Floats) -> NDArray[np.intp]:
        """The order in which a painter lays the faces down."""
        return np.argsort(-np.linalg.norm(self.centres - eye, axis=1), kind="stable")


def join(*parts: Quads) -> Quads:
    """All faces of several surfaces in one."""
    return Quads(np.concatenate([p.corners for p in parts]), np.concatenate([p.normals for p in parts]))


def grid_quads(grid: Floats, inside: Floats = INSIDE) -> Quads:
    """The faces between neighbouring points of a grid (M, N, 3); normals point away from ``inside``."""
    corners = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], axis=2).reshape(-1, 4, 3)
    return oriented(corners, inside)


def oriented(corners: Floats, inside: Floats = INSIDE) -> Quads:
    """Faces from corners (F, 4, 3) whose winding is common to all; degenerate ones are dropped."""
    normals = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    areas = np.linalg.norm(normals, axis=1)
    good = areas > 1e-9
    corners, normals = corners[good], normals[good] / areas[good, None]
    outward = np.einsum("fk,fk->f", normals, corners.mean(axis=1) - inside)
    if (outward * areas[good]).sum() < 0:
        normals = -normals
    return Quads(corners, normals)


def box(centre: Floats, size: tuple[float, float, float], lean: float = 0.0) -> Quads:
    """A box of ``size`` (x, y, z) whose upper end leans ``lean`` metres back along x."""
    half = np.array(size) / 2
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
    points = centre + signs * half
    points[:, 0] -= lean * (signs[:, 2] + 1) / 2
    faces = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    return join(*(oriented(points[list(face)][None], centre) for face in faces))


def bulge(centre: Floats, size: tuple[float, float, float], power: float = 3.0, steps: int = 12) -> Quads:
    """A superellipsoid of full ``size`` (x, y, z): a pebble at power 2, a rounded box at 5."""
    around = np.linspace(-np.pi, np.pi, 2 * steps + 1)
    up = np.linspace(-np.pi / 2, np.pi / 2, steps + 1)
    flat, tall = np.meshgrid(around, up)
    e = 2.0 / power
    grid = np.stack(
        [
            _bend(np.cos(tall), e) * _bend(np.cos(flat), e),
            _bend(np.cos(tall), e) * _bend(np.sin(flat), e),
            _bend(np.sin(tall), e),
        ],
        axis=-1,
    )
    return grid_quads(centre + grid * (np.array(size) / 2), centre)


def smooth_curve(at: Floats | float, knots: list[tuple[float, float]]) -> Floats:
    """A curve through ``knots`` (x ascending) that overshoots nowhere; flat beyond the ends.

    Fritsch and Carlson's monotone cubic interpolation, https://doi.org/10.1137/0717021.

    >>> smooth_curve(0.5, [(0, 0), (1, 1)]).tolist()
    0.5
    """
    x, y = np.array(knots, dtype=np.float64).T
    step = np.diff(x)
    slope = np.diff(y) / step
    tangent = np.concatenate([slope[:1], slope, slope[-1:]])
    before, after = tangent[:-1], tangent[1:]
    total = before + after
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(before * after > 0, 2 * before * after / total, 0.0)
    mean[0], mean[-1] = slope[0], slope[-1]
    at = np.clip(np.asarray(at, dtype=np.float64), x[0], x[-1])
    index = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(step) - 1)
    h = step[index]
    t = (at - x[index]) / h
    curve: Floats = (
        y[index] * (1 + 2 * t) * (1 - t) ** 2
        + mean[index] * h * t * (1 - t) ** 2
        + y[index + 1] * t * t * (3 - 2 * t)
        + mean[index + 1] * h * t * t * (t - 1)
    )
    return curve


def _bend(value: Floats, power: float) -> Floats:
    bent: Floats = np.sign(value) * np.abs(value) ** power
    return bent
