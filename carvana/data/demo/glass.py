"""The windows, and what is drawn on the cabin round them and on the glass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from carvana.data.demo.details import BLACK, RED, WHITE, Decal, Surface, deck, door_pillar, rounded, strip
from carvana.data.demo.light import Paint
from carvana.data.demo.shape import Shape
from carvana.data.demo.surface import Floats, Quads, grid_quads


@dataclass(frozen=True)
class Pane:
    """A window: its faces and the share of light that passes."""

    quads: Quads
    clear: float


# How far back the side windows reach, as a share of half the cabin's length.
_REACH = {"sedan": 0.68, "coupe": 0.58, "hatch": 0.74, "suv": 0.84, "van": 0.86, "pickup": 0.86}


def windows(shape: Shape, grow: float = 0.0, tint: tuple[float, float] = (0.7, 0.7)) -> list[Pane]:
    """All panes, ``grow`` metres wider than the glass for its frame; ``tint``: how clear front and rear are."""
    cabin, front, rear = shape.cabin, tint[0], tint[1]
    tall = shape.height - shape.cowl
    up = grow / tall
    panes = []
    rows = _dense_ends(0.075 - up, 0.80 + up * 0.6, 16)
    shrink = rounded(rows, 0.20) * 0.07
    ahead, behind, _ = cabin.ends(rows)
    middle, half = (ahead + behind) / 2, (ahead - behind) / 2
    pillar = door_pillar(shape)
    first = (pillar + 0.045 - grow + 0 * rows, middle + 0.845 * half + grow, front)
    last = middle - _REACH[shape.kind] * half - grow
    second = pillar - 0.045 + grow + 0 * rows
    if shape.kind in ("suv", "van"):
        cut = shape.rear_axle + (0.12 if shape.kind == "suv" else 0.25)
        spans = [
            first,
            (np.maximum(last, cut + 0.04 - grow), second, rear),
            (last, np.minimum(second, cut - 0.04 + grow), rear),
        ]
    else:
        spans = [first, (last, second, rear)]
    for low, high, clear in spans:
        if (high - low).mean() < 0.12:
            continue
        starts, ends = low + shrink, np.maximum(high - shrink, low + shrink + 0.01)
        panes += [Pane(strip(partial(cabin.side, left=left), rows, starts, ends, 8), clear) for left in (True, False)]
    wide = grow / (shape.width / 2)
    rows = _dense_ends(0.03 - up, 0.87 + up * 0.5, 16)
    edge = 0.80 + wide - rounded(rows, 0.12) * 0.05
    panes.append(Pane(strip(partial(cabin.end, front=True), rows, -edge, edge, 16), 0.5 * front + 0.4))
    boxy = shape.kind in ("suv", "van", "pickup", "hatch")
    rows = _dense_ends((0.14 if boxy else 0.08) - up, (0.80 if boxy else 0.87) + up * 0.5, 16)
    edge = (0.76 if boxy else 0.80) + wide - rounded(rows, 0.25) * 0.08
    panes.append(Pane(strip(partial(cabin.end, front=False), rows, -edge, edge, 16), rear))
    return panes


def cabin_decals(shape: Shape, rng: np.random.Generator, frame: Paint, roof: Paint | None) -> list[Decal]:
    """What is drawn on the cabin before the panes are cut out: another roof colour, sunroof, pillars and frames."""
    cabin, decals = shape.cabin, []
    if roof is not None:
        around = np.linspace(-np.pi, np.pi, 81)
        decals.append(Decal(grid_quads(cabin.point(around[None, :], np.linspace(0.88, 2, 14)[:, None])), roof))
    if rng.random() < 0.4:
        rows = np.linspace(shape.roof_front - 0.30, shape.roof_front - rng.uniform(0.8, 1.2), 8)
        for left in (True, False):
            sunroof = strip(deck(partial(cabin.side, left=left)), rows, 0.0, 0.66, 6)
            decals += [Decal(sunroof, Paint((0.06, 0.07, 0.08), 0.08))]
    pillar = door_pillar(shape)
    dark = BLACK if rng.random() < 0.75 else None
    for left in (True, False):
        if dark is not None:
            side: Surface = partial(cabin.side, left=left)
            decals.append(Decal(strip(side, np.linspace(0.05, 0.815, 8), pillar - 0.06, pillar + 0.06, 3), dark))
    frames = windows(shape, grow=0.018)
    decals += [Decal(pane.quads, frame) for pane in frames[:-2]] + [Decal(pane.quads, BLACK) for pane in frames[-2:]]
    if rng.random() < 0.5:
        decals.append(Decal(strip(partial(cabin.end, front=False), np.array([0.885, 0.91]), -0.12, 0.12, 4), RED))
    return decals


def glass_decals(shape: Shape, rng: np.random.Generator) -> list[Decal]:
    """What lies on the glass: wipers, a sticker."""
    screen = partial(shape.cabin.end, front=True)
    back = partial(shape.cabin.end, front=False)
    decals = []
    for foot, tip in ((0.02, 0.52), (-0.62, -0.10)):
        along = np.linspace(0, 1, 9)[:, None]
        reach, height = foot + (tip - foot) * along, 0.05 + 0.07 * along * (1.4 - along)
        blade = screen(np.broadcast_to(reach, (9, 2)), height + np.array([-0.010, 0.012]))
        decals.append(Decal(grid_quads(blade), BLACK))
    if rng.random() < 0.7:
        y = rng.uniform(0.5, 0.62)
        decals.append(Decal(strip(screen, np.array([0.15, 0.24]), y, y + 0.09, 2), WHITE))
    if shape.kind in ("suv", "van", "hatch") and rng.random() < 0.7:
        decals.append(Decal(strip(back, np.array([0.175, 0.20]), -0.42, 0.03, 8), BLACK))
    return decals


def _dense_ends(low: float, high: float, count: int) -> Floats:
    """Rows from low to high, closer together towards both ends, where corners are round."""
    rows: Floats = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, count))) / 2
    return rows
