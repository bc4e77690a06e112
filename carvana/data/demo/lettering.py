"""A plain alphabet of strokes, for lettering on walls."""

from __future__ import annotations

import itertools

import numpy as np

from carvana.data.demo.surface import Floats

# Strokes in a box one high: points (x, y from the foot), curves cut into short lines that turn to the left.
_ARC = [(0.5 + 0.5 * float(np.cos(t)), 0.5 + 0.5 * float(np.sin(t))) for t in np.linspace(0.72, 5.56, 40)]
_HALF_TURN = np.linspace(0, np.pi, 24)
_BOWL = [
    (0.0, 0.44),
    *((0.38 + 0.28 * float(np.sin(t)), 0.72 - 0.28 * float(np.cos(t))) for t in _HALF_TURN),
    (0.0, 1.0),
]
_GLYPHS: dict[str, list[list[tuple[float, float]]]] = {
    "A": [[(0, 0), (0.42, 1), (0.84, 0)], [(0.62, 0.33), (0.72, 0.33)]],
    "C": [_ARC],
    "E": [[(0.6, 0), (0, 0), (0, 1), (0.6, 1)], [(0, 0.5), (0.5, 0.5)]],
    "H": [[(0, 0), (0, 1)], [(0.7, 0), (0.7, 1)], [(0, 0.5), (0.7, 0.5)]],
    "L": [[(0, 1), (0, 0), (0.55, 0)]],
    "M": [[(0, 0), (0, 1), (0.45, 0.3), (0.9, 1), (0.9, 0)]],
    "N": [[(0, 0), (0, 1), (0.75, 0), (0.75, 1)]],
    "O": [[(0.5 + 0.5 * float(np.cos(t)), 0.5 + 0.5 * float(np.sin(t))) for t in np.linspace(0, 2 * np.pi, 49)]],
    "R": [[(0, 0), (0, 1)], _BOWL, [(0.30, 0.46), (0.72, 0)]],
    "T": [[(0, 1), (0.75, 1)], [(0.375, 1), (0.375, 0)]],
    "V": [[(0, 1), (0.42, 0), (0.84, 1)]],
    "Z": [[(0, 1), (0.7, 1), (0, 0), (0.7, 0)]],
}


def letter_width(letter: str) -> float:
    """How wide a letter is, for a height of 1."""
    return max(x for stroke in _GLYPHS[letter] for x, _ in stroke)


def letter_outlines(letter: str, tall: float, thick: float) -> list[Floats]:
    """Outlines (K, 2), x to the right and y up from the foot, of a letter ``tall`` high in strokes ``thick`` wide."""
    return [outline for stroke in _GLYPHS[letter] for outline in _ribbons(np.array(stroke) * tall, thick, tall)]


def _ribbons(stroke: Floats, thick: float, tall: float) -> list[Floats]:
    """Outlines (K, 2) of a stroke: one for a curve, one for each straight piece else, cut level at foot and top."""
    if len(stroke) > 12:
        along = np.gradient(stroke, axis=0)
        if np.allclose(stroke[0], stroke[-1]):
            along[0] = along[-1] = along[0] + along[-1]
        inward = np.stack([-along[:, 1], along[:, 0]], axis=-1) / np.hypot(along[:, :1], along[:, 1:])
        return [np.concatenate([stroke, (stroke + thick * inward)[::-1]])]
    outlines = []
    for a, b in itertools.pairwise(stroke):
        run, rise = np.abs(b - a)
        if rise < 0.2 * run:
            inset = np.array([0.0, np.clip(a[1], thick / 2, tall - thick / 2) - a[1]])
            side, ends = np.array([0.0, thick / 2]), np.array([np.sign(b[0] - a[0]) * thick / 2, 0.0])
            a, b = a + inset - ends, b + inset + ends
        else:  # a slanted stroke keeps level ends, as sans-serif letters have them
            side = np.array([thick / 2 * np.hypot(run, rise) / rise, 0.0])
        outlines.append(np.concatenate([np.linspace(a + side, b + side, 4), np.linspace(b - side, a - side, 4)]))
    return outlines
