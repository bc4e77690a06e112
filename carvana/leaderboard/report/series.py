"""Which colour and shape a network has: the same in every chart of a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from carvana.leaderboard.records import LeaderboardData, Row
from carvana.leaderboard.report.markup import Markup, breakable, element
from carvana.leaderboard.report.svg import marker

COLOURS = 12
"""How many page.css has; a thirteenth network begins anew."""


@dataclass(frozen=True)
class Series:
    """One network in charts.

    Attributes:
        row: its numbers.
        place: from 0, in the order of the rows.
    """

    row: Row
    place: int

    @property
    def name(self) -> str:
        """Of the network."""
        return self.row.name

    @property
    def number(self) -> str:
        """What stands for it where there is no room for its name."""
        return str(self.row.rank if self.row.rank is not None else self.place + 1)

    @property
    def class_(self) -> str:
        """The class by which page.css gives it a colour and, from the seventh on, dashes."""
        return f"s{self.place % COLOURS}"

    def swatch(self) -> Markup:
        """Its mark, to stand beside its name."""
        return element(
            "svg", marker(8, 8, self.place), viewBox="0 0 16 16", class_=f"swatch {self.class_}", aria_hidden="true"
        )

    def label(self, *below: str) -> Markup:
        """Its mark and its name, and what stands below the name."""
        return element("span", self.swatch(), element("span", breakable(self.name), *below), class_="network")


def all_series(board: LeaderboardData) -> Mapping[str, Series]:
    """Those of the networks that were evaluated, by name, best first."""
    return {row.name: Series(row, place) for place, row in enumerate(board.ranked)}
