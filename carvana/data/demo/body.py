"""Paint one car on a sheet: what lies behind first, then lower body, cabin and glass, what sticks out last."""

from __future__ import annotations

import numpy as np

from carvana.data.demo.canvas import Canvas
from carvana.data.demo.car import Car, Part
from carvana.data.demo.details import BLACK, Decal
from carvana.data.demo.glass import Pane
from carvana.data.demo.light import Paint, shade
from carvana.data.demo.scene import Scene
from carvana.data.demo.surface import Floats, Quads
from carvana.data.demo.wheels import paint_wheel


def car_box(car: Car, scene: Scene, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part (x0, y0, x1, y1) of a photo of ``size`` (height, width) that can hold the car."""
    s = car.shape
    points = [car.lower.corners.reshape(-1, 3), car.cabin.corners.reshape(-1, 3)]
    points += [part.quads.corners.reshape(-1, 3) for part in car.parts]
    ground = np.array(
        [[x, y, 0.0] for x in (s.front_axle + s.wheel, s.rear_axle - s.wheel) for y in (-s.width / 2, s.width / 2)]
    )
    points += [ground] if car.mast is None else [ground, car.mast[0]]
    pixels = scene.pixels(np.concatenate(points))
    x0, y0 = np.floor(pixels.min(axis=0)).astype(int) - 4
    x1, y1 = np.ceil(pixels.max(axis=0)).astype(int) + 5
    return max(int(x0), 0), max(int(y0), 0), min(int(x1), size[1]), min(int(y1), size[0])


def paint_car(car: Car, scene: Scene, box: tuple[int, int, int, int]) -> Canvas:
    """The car on a sheet of its own, transparent where the studio shows beside it and half so behind its glass."""
    eye = scene.eye
    sheet = Canvas(box)
    for axle, left, _ in car.holes:
        if (eye[1] > 0) != left:
            paint_wheel(sheet, car, scene, axle, left=left)
    _paint_lower(sheet, car, scene)
    for part in car.parts:
        if _is_far(part, eye):
            _paint(sheet, part.quads, part.paint, scene)
    _paint_cabin(sheet, car, scene)
    _decals(sheet, car.glass_decals, scene)
    for part in car.parts:
        if not _is_far(part, eye):
            _paint(sheet, part.quads, part.paint, scene)
    if car.mast is not None:
        _paint_mast(sheet, car.mast, scene)
    return sheet


def _paint_lower(sheet: Canvas, car: Car, scene: Scene) -> None:
    eye = scene.eye
    near = [hole for hole in car.holes if (eye[1] > 0) == hole[1]]
    for axle, left, hole in sorted(near, key=lambda hole: -abs(hole[0] - eye[0])):
        seen = hole.where(hole.facing(eye))
        sheet.faces(scene.pixels(seen.corners), np.full((len(seen.normals), 3), 12, np.uint8))
        paint_wheel(sheet, car, scene, axle, left=left)
    shell = sheet.like()
    _paint(shell, car.lower, car.body, scene)
    shell.soften(_soft(scene))
    _decals(shell, car.lower_decals, scene)
    if car.bed:
        _paint_bed(shell, car, scene)
    for _, _, hole in near:
        seen = hole.where(hole.facing(eye))
        shell.erase(scene.pixels(seen.corners))
        shell.erase(scene.pixels(_below(seen, car.shape.sill)))
    sheet.lay(shell)


def _soft(scene: Scene) -> int:
    """How far, in sub-pixels, neighbouring faces are blended: about the width of one."""
    return 2 * round(9.0 * scene.camera.focal / 1986.0) + 1


def _below(hole: Quads, sill: float) -> Floats:
    """The lowest faces of a wheel arch moved down: the body's edge must not cross the hole."""
    lowest = hole.corners[hole.centres[:, 2] < sill + 0.10]
    moved: Floats = lowest - np.array([0.0, 0.0, 0.05])
    return moved


def _paint_cabin(sheet: Canvas, car: Car, scene: Scene) -> None:
    eye = scene.eye
    with sheet.clip_to([scene.pixels(pane.quads.where(pane.quads.facing(eye)).corners) for pane in car.panes]):
        _paint_inside(sheet, car, scene)
        _glaze(sheet, car.panes, scene, near=True)
    shell = sheet.like()
    _paint(shell, car.cabin, car.body, scene)
    shell.soften(_soft(scene))
    _decals(shell, car.cabin_decals, scene)
    for pane in car.panes:
        seen = pane.quads.where(pane.quads.facing(eye))
        shell.erase(scene.pixels(seen.corners))
    sheet.lay(shell)


def _paint_inside(sheet: Canvas, car: Car, scene: Scene) -> None:
    """What the windows show: the far side's lining and glass, with the studio behind it, then seats and wheel."""
    eye = scene.eye
    far = car.cabin.where(~car.cabin.facing(eye))
    lining = sheet.like()
    _paint(lining, Quads(far.corners, -far.normals), Paint((0.16, 0.155, 0.15), 0.01), scene)
    for pane in car.panes:
        back = pane.quads.where(~pane.quads.facing(eye))
        lining.erase(scene.pixels(back.corners))
    floor = car.shape.cabin.point(np.linspace(0, 2 * np.pi, 60), np.array(0.0))
    sheet.polygon(scene.pixels(floor), (22.0, 21.0, 20.0))
    sheet.lay(lining)
    _glaze(sheet, car.panes, scene, near=False)
    distance = lambda part: -float(np.linalg.norm(part.quads.centres.mean(axis=0) - eye))  # noqa: E731
    for part in sorted(car.interior, key=distance):
        _paint(sheet, part.quads, part.paint, scene)


def _glaze(sheet: Canvas, panes: tuple[Pane, ...], scene: Scene, *, near: bool) -> None:
    eye, glass = scene.eye, sheet.like()
    for pane in panes:
        seen = pane.quads.where(pane.quads.facing(eye) == near)
        if not len(seen.normals):
            continue
        normals = seen.normals if near else -seen.normals
        mirror = shade(
            Quads(seen.corners, normals), Paint((0.0, 0.0, 0.0), 0.05 if near else 0.02), scene.pose, eye, scene.lamps
        )
        clear = pane.clear if near else min(pane.clear + 0.15, 0.9)
        swallow = int(255 * (1 - clear))
        tinted = np.minimum(mirror * 0.8, swallow + 40.0).astype(np.uint8)
        glass.faces(scene.pixels(seen.corners), np.minimum(tinted, swallow), alpha=max(swallow, 1))
    sheet.glaze(glass)


def _paint_bed(shell: Canvas, car: Car, scene: Scene) -> None:
    """The open box of a pickup: its floor and the walls that the rim leaves in sight."""
    s, eye = car.shape, scene.eye
    ends = np.linspace(-s.length / 2 + 0.16, s.cabin_rear - 0.06, 16)
    rim = np.concatenate(
        [s.lower.flank(ends, np.full(16, 1.12), True), s.lower.flank(ends[::-1], np.full(16, 1.12), False)]
    )
    outline = scene.pixels(rim)
    floor = rim.copy()
    floor[:, 2] = s.sill + 0.35
    walls = np.stack([rim, np.roll(rim, -1, axis=0), np.roll(floor, -1, axis=0), floor], axis=1)
    quads = Quads(walls, _unit(np.array([rim.mean(axis=0)]) - walls.mean(axis=1)))
    with shell.clip_to([outline[None]]):
        shell.polygon(scene.pixels(floor), (30.0, 30.0, 31.0))
        seen = quads.where(quads.facing(eye))
        shell.faces(scene.pixels(seen.corners), shade(seen, BLACK, scene.pose, eye, scene.lamps) // 2 + 16)


def _paint_mast(sheet: Canvas, mast: tuple[Floats, float], scene: Scene) -> None:
    ends, thick = scene.pixels(mast[0]), mast[1]
    along = ends[1] - ends[0]
    across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
    metre = scene.camera.focal / float(np.linalg.norm(scene.eye - mast[0][0]))
    foot, tip = across * thick * metre / 2, across * thick * metre * 0.36
    outline = np.stack([ends[0] - foot * 1.6, ends[0] + foot * 1.6, ends[1] + tip, ends[1] - tip])
    sheet.faces(outline[None], np.array([[28, 28, 30]], np.uint8))


def _decals(sheet: Canvas, decals: tuple[Decal, ...], scene: Scene) -> None:
    for decal in decals:
        _paint(sheet, decal.quads, decal.paint, scene)


def _paint(sheet: Canvas, quads: Quads, paint: Paint, scene: Scene) -> None:
    seen = quads.where(quads.facing(scene.eye))
    if not len(seen.normals):
        return
    seen = seen.where(seen.far_to_near(scene.eye))
    sheet.faces(scene.pixels(seen.corners), shade(seen, paint, scene.pose, scene.eye, scene.lamps))


def _is_far(part: Part, eye: Floats) -> bool:
    if part.behind:
        return bool(eye[0] > 0)
    return bool(part.side * eye[1] < -0.25 * np.linalg.norm(eye))


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
