"""Wheels: tyre, rim, brake disc and spokes, with the dark that shows between them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from carvana.data.demo.canvas import Canvas
from carvana.data.demo.car import Car
from carvana.data.demo.light import RGB, Paint, shade
from carvana.data.demo.scene import Scene
from carvana.data.demo.surface import Floats, Quads

_TURN = np.linspace(0, 2 * np.pi, 57)[:-1]


def paint_wheel(sheet: Canvas, car: Car, scene: Scene, axle: float, *, left: bool) -> None:
    """Paint the wheel of one axle on one side."""
    shape, look = car.shape, car.wheels
    side = 1.0 if left else -1.0
    radius, tyre = shape.wheel, 0.60 * shape.wheel
    outside = side * (abs(float(shape.lower.side(np.array(axle), np.array(shape.wheel + 0.1), left)[1])) - 0.015)

    def circle(r: float, inset: float) -> Floats:
        return _disc(axle, outside - side * inset, radius, r, _TURN)

    rims = scene.pixels(
        np.concatenate(
            [circle(radius * 0.97, 0.0), circle(radius, 0.03), circle(radius, tyre - 0.03), circle(radius * 0.97, tyre)]
        )
    )
    hull = cv2.convexHull(rims.astype(np.float32))[:, 0]
    sheet.polygon(hull.astype(np.float64), (17.0, 17.0, 18.0))
    eye = scene.eye
    if (eye[1] - outside) * side <= 0:
        sheet.polygon(scene.pixels(circle(radius * 0.85, tyre)), (11.0, 11.0, 11.0))
        return
    sheet.polygon(scene.pixels(circle(radius * 0.97, 0.0)), (29.0, 29.0, 30.0))
    rim = radius * look.rim
    metal = _metal(scene, look.paint, side)
    sheet.polygon(scene.pixels(circle(rim * 1.07, 0.0)), (20.0, 20.0, 21.0))
    sheet.polygon(scene.pixels(circle(rim, 0.0)), metal(0.95))
    lip = scene.pixels(circle(rim * 0.94, 0.006))
    with sheet.clip_to([lip[None]]):
        sheet.polygon(lip, metal(0.30))
        sheet.polygon(scene.pixels(circle(rim * 0.90, 0.11)), (17.0, 17.0, 18.0))
        sheet.polygon(scene.pixels(circle(rim * 0.62, 0.10)), (88.0, 86.0, 84.0))
        sheet.polygon(scene.pixels(circle(rim * 0.34, 0.095)), (40.0, 40.0, 40.0))
        start = look.turned[0 if axle > 0 else 1]
        for k in range(look.spokes):
            middle = start + 2 * np.pi * k / look.spokes
            width = look.spoke_width
            for turn, wide in (
                ((middle - width * 0.3, width * 0.32), (middle + width * 0.3, width * 0.32))
                if look.twin
                else ((middle, width),)
            ):
                spoke = _spoke(axle, outside, side, radius, rim, turn, wide)
                sheet.polygon(scene.pixels(spoke + np.array([0, -side * 0.02, 0])), metal(0.40))
                sheet.polygon(scene.pixels(spoke), metal(0.80 + 0.20 * float(np.sin(turn))))
        sheet.polygon(scene.pixels(circle(rim * 0.22, 0.025)), metal(0.85))
        sheet.polygon(scene.pixels(circle(rim * 0.13, 0.020)), metal(0.45))


def _metal(scene: Scene, paint: Paint, side: float) -> Callable[[float], RGB]:
    """The rim's colour in this view, for a strength of 0 (black) to 1."""
    face = Quads(np.zeros((1, 4, 3)) + np.array([0, side * 0.9, 0.35]), np.array([[0.0, side, 0.0]]))
    red, green, blue = (float(value) for value in shade(face, paint, scene.pose, scene.eye, scene.lamps)[0])
    return lambda strength: (red * strength, green * strength, blue * strength)


def _disc(axle: float, y: float, height: float, radius: float, turn: Floats) -> Floats:
    return np.stack([axle + radius * np.cos(turn), np.full(turn.shape, y), height + radius * np.sin(turn)], axis=-1)


def _spoke(axle: float, outside: float, side: float, height: float, rim: float, turn: float, width: float) -> Floats:
    hub, end = rim * 0.16, rim * 0.95
    angles = np.array([-1.0, 1.0, 0.42, -0.42]) * np.array([1.0, 1.0, 0.0, 0.0]) * width / 2 * 0.62
    outer = _disc(axle, outside - side * 0.012, height, end, turn + angles[:2])
    inner = _disc(axle, outside - side * 0.035, height, hub, turn + np.array([1.0, -1.0]) * 0.55)
    return np.concatenate([outer, inner])
