"""HTML and SVG elements, and the mark of each network. Text is escaped, so no name can become a tag."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from carvana.leaderboard.records import LeaderboardData, Row

COLOURS = 12
"""Colours in page.css; the thirteenth network has the first one again."""

_SHAPES = ("circle", "square", "triangle", "diamond", "inverse", "cross")


VOID = frozenset({"meta", "link", "img", "input", "wbr"})
"""Elements that have no end tag."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element.

    Args:
        name: of the tag.
        children: text, which is escaped, and :class:`Markup`, which is not.
        attributes: ``class_`` is written class, ``aria_label`` aria-label; None and False are left out, True stands
            alone, and numbers are rounded to what a screen can show.

    Example:
        >>> element("p", "a < b", element("b", "c"), class_="note", id=None)
        '<p class="note">a &lt; b<b>c</b></p>'
    """
    words = [name, *(_attribute(key, value) for key, value in attributes.items() if _given(value))]
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{joined(children)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """One piece of markup from several, text among them escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def breakable(name: str) -> Markup:
    """A name with possible line breaks after each slash and underscore.

    Example:
        >>> breakable("unet/resnet34")
        'unet/<wbr>resnet34'
    """
    parts = re.split(r"(?<=[/_])", name)
    return Markup(element("wbr").join(escape(part) for part in parts if part))


def marker(
    x: float, y: float, index: int, *, radius: float = 5.5, title: str | None = None, class_: str = ""
) -> Markup:
    """A network's mark. The first six places have different shapes, so that colour is not the only difference."""
    shape = _SHAPES[index % len(_SHAPES)]
    children = [element("title", title)] if title else []
    names = f"mark {class_}".strip()
    if shape == "circle":
        return element("circle", *children, cx=x, cy=y, r=radius, class_=names)
    corners = {
        "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        "triangle": [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "inverse": [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
        "cross": [
            *((-0.4, -1.15), (0.4, -1.15), (0.4, -0.4), (1.15, -0.4), (1.15, 0.4), (0.4, 0.4)),
            *((0.4, 1.15), (-0.4, 1.15), (-0.4, 0.4), (-1.15, 0.4), (-1.15, -0.4), (-0.4, -0.4)),
        ],
    }[shape]
    path = " ".join(f"{x + radius * dx:.1f},{y + radius * dy:.1f}" for dx, dy in corners)
    return element("polygon", *children, points=path, class_=names)


@dataclass(frozen=True)
class Series:
    """One network in charts.

    Attributes:
        row: its numbers.
        index: from 0, in the order of the rows.
    """

    row: Row
    index: int

    @property
    def name(self) -> str:
        """The network's name."""
        return self.row.name

    @property
    def number(self) -> str:
        """Its rank, for where there is no room for its name."""
        return str(self.row.rank if self.row.rank is not None else self.index + 1)

    @property
    def class_(self) -> str:
        """The class by which page.css gives it a colour and, from the seventh on, dashes."""
        return f"s{self.index % COLOURS}"

    def swatch(self) -> Markup:
        """Its mark, to be put beside its name."""
        return element(
            "svg", marker(8, 8, self.index), viewBox="0 0 16 16", class_=f"swatch {self.class_}", aria_hidden="true"
        )

    def label(self, *below: str) -> Markup:
        """Its mark and its name, with more below the name."""
        return element("span", self.swatch(), element("span", breakable(self.name), *below), class_="network")


def all_series(board: LeaderboardData) -> Mapping[str, Series]:
    """The networks that were evaluated, by name, best first."""
    return {row.name: Series(row, index) for index, row in enumerate(board.ranked)}


def _attribute(key: str, value: str | float | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return name
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f'{name}="{escape(text)}"'


def _given(value: str | float | bool | None) -> bool:
    return value is not None and value is not False
