"""How strongly each place of the studio is lit: the lamps' fall-off, stains, the car's shadow and its reflection.

All of it varies slowly, so it is computed on every eighth pixel and multiplied onto the crisp surfaces.
"""

from __future__ import annotations

import cv2
import numpy as np

from carvana.data.demo.camera import Camera, Pose
from carvana.data.demo.shape import Shape
from carvana.data.demo.studio import Studio
from carvana.data.demo.surface import Floats

_COARSE = 8


def lamplight(studio: Studio, camera: Camera, size: tuple[int, int]) -> Floats:
    """How strongly each place is lit, (height / 8, width / 8, 3), about 1."""
    height, width = -(-size[0] // _COARSE), -(-size[1] // _COARSE)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    across, down = x / width * 2 - 1, y / height
    border = (
        camera.centre[1] + camera.focal * (camera.height - studio.foot_height) / (camera.distance + studio.radius)
    ) / size[0]
    light = 1.0 + 0.02 * np.cos(studio.light_azimuth) * across
    above = np.clip((border - down) / max(border, 0.05), 0, 1)
    below = np.clip((down - border) / (1 - border), 0, 1)
    light -= studio.fall_off * (0.25 * above + 0.75 * above * across**2)
    light += 0.07 * np.sin(np.pi * np.clip(below * 1.15, 0, 1)) - 0.05 * np.exp(-(((below - 0.04) / 0.05) ** 2)) * (
        below > 0
    )
    light += 0.10 * np.clip((below - 0.75) / 0.25, 0, 1) * (np.sin(studio.light_azimuth))
    light -= (0.05 + 0.5 * studio.fall_off) * across**2 * below
    rng = np.random.default_rng(studio.stains)
    stains = cv2.resize(rng.normal(0, 1, (12, 18)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.normal(0, 1, (48, 40)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    light += (0.008 * stains + 0.005 * fine) * (0.3 + 0.7 * (below > 0.05))
    tint = 0.004 * cv2.resize(
        rng.normal(0, 1, (5, 7)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    return np.stack([light + tint, light, light - tint], axis=-1).astype(np.float64)


def shadow(studio: Studio, camera: Camera, pose: Pose, shape: Shape, size: tuple[int, int]) -> Floats:
    """What the car leaves of the light on the floor, (height / 8, width / 8), 1 far from it."""
    dots, span = 48, 7.0  # per metre; metres of floor around the middle
    edge = int(dots * span)
    floor = np.zeros((edge, edge), np.float32)
    to_floor = np.array([[dots, 0, edge / 2], [0, dots, edge / 2], [0, 0, 1.0]])
    s, half = shape, shape.width / 2
    plan = s.lower.point(np.linspace(0, 2 * np.pi, 64), np.array(0.1))
    plan[:, 2] = 0

    def fill(points: Floats, value: float) -> None:
        spots = pose.to_studio(points)[:, :2] @ to_floor[:2, :2].T + to_floor[:2, 2]
        cv2.fillPoly(floor, [np.rint(spots * 16).astype(np.int32)], value, cv2.LINE_AA, 4)

    fill(plan, 1.0)
    wide = cv2.GaussianBlur(floor, (0, 0), 0.34 * dots)
    near = cv2.GaussianBlur(floor, (0, 0), 0.11 * dots)
    floor[:] = 0
    for axle in (s.front_axle, s.rear_axle):
        for side in (1, -1):
            fill(
                np.array(
                    [
                        [axle + dx, side * (half - 0.02 + dy), 0]
                        for dx, dy in ((-0.19, 0.02), (0.19, 0.02), (0.19, -0.26), (-0.19, -0.26))
                    ]
                ),
                1.0,
            )
    touch = cv2.GaussianBlur(floor, (0, 0), 0.05 * dots)
    dark = 1 - (1 - 0.45 * studio.shadow * wide) * (1 - 0.85 * studio.shadow * near**1.3) * (1 - 0.6 * touch)
    coarse = np.diag([1 / _COARSE, 1 / _COARSE, 1.0])
    warp = coarse @ camera.floor_homography() @ np.linalg.inv(to_floor)
    out = (-(-size[1] // _COARSE), -(-size[0] // _COARSE))
    seen = cv2.warpPerspective(dark, warp, out, flags=cv2.INTER_LINEAR)
    horizon = int(camera.centre[1] / _COARSE) + 2
    seen[: max(horizon, 0)] = 0
    left: Floats = 1 - seen.astype(np.float64)
    return left


def reflection(studio: Studio, camera: Camera, pose: Pose, shape: Shape, body: Floats, size: tuple[int, int]) -> Floats:
    """How the car's mirror image in the floor tints it, (height / 8, width / 8, 3), 1 where there is none."""
    out = np.zeros((-(-size[0] // _COARSE), -(-size[1] // _COARSE)), np.float32)
    theta = np.linspace(0, 2 * np.pi, 33)
    grid = shape.lower.point(theta[None, :], np.array([0.0, 0.35, 0.7, 1.0])[:, None]) * np.array([1.0, 1.0, -1.0])
    spots = np.rint(camera.project(pose.to_studio(grid)) / _COARSE * 16).astype(np.int32)
    strength = (0.5, 1.0, 0.6)  # the nearer the floor, the clearer; the sill itself is dark
    for row in (2, 1, 0):
        for k in range(32):
            corners = np.array([spots[row, k], spots[row, k + 1], spots[row + 1, k + 1], spots[row + 1, k]])
            cv2.fillConvexPoly(out, corners, strength[row], cv2.LINE_8, 4)
    share = studio.reflection * cv2.GaussianBlur(out, (0, 0), max(2.5 * camera.focal / 1986.0, 0.3))[..., None]
    tint: Floats = 1 - share * (1 - body / np.array(studio.table))
    return tint
