"""The leaderboard's HTML tables: networks to sort, a heat map of views, a matrix of pairs, and one for notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from carvana.evaluation.statistics import LEVEL
from carvana.leaderboard.records import LeaderboardData, Pair, Row, ScoredImage
from carvana.leaderboard.report.columns import MISSING, Column, brief_columns, columns, interval
from carvana.leaderboard.report.facts import remark, remarks
from carvana.leaderboard.report.markup import Markup, Series, element

_BELOW = {"name": "init", "dice": "dice_ci95"}
"""Columns that stand in small letters below the cells of another one: they are long and rarely sorted by."""

_WITH_NAME = "arch"  # likewise, and only where it differs from the name

_TURN = 360 / 16  # degrees from one of Carvana's views to the next
_HOTTEST = 62  # per cent of the colour of heat; more would make the numbers hard to read


def sortable_table(board: LeaderboardData, series: Mapping[str, Series]) -> Markup:
    """Ranked rows, then those without a result, which stay at the end however the table is sorted."""
    all_columns = {column.key: column for column in columns(board)}
    shown = [column for key, column in all_columns.items() if key not in (*_BELOW.values(), _WITH_NAME)]
    below = {key: all_columns[lower] for key, lower in _BELOW.items() if lower in all_columns}
    head = element("tr", *(_heading(column, below.get(column.key)) for column in shown))
    body = [_ranked(series[row.name], shown, below) for row in board.ranked]
    others = [_unranked(row, len(shown)) for row in remarks(board) if not row.ok]
    return element("table", element("thead", head), element("tbody", *body, *others), class_="sortable")


def to_html_table(board: LeaderboardData) -> str:
    """The table in a notebook: the columns of a terminal, in the notebook's own style."""
    shown = brief_columns(board)
    align = ["text-align: right" if column.numeric else "text-align: left" for column in shown]
    head = [
        element("th", column.heading, scope="col", title=column.meaning, style=style)
        for column, style in zip(shown, align, strict=True)
    ]
    body = [
        element(
            "tr", *(element("td", column.cell(row), style=style) for column, style in zip(shown, align, strict=True))
        )
        for row in board.ranked
    ]
    others = [
        element(
            "tr",
            element("td"),
            element("td", row.name, style="text-align: left"),
            element("td", remark(row), colspan=len(shown) - 2, style="text-align: left"),
        )
        for row in remarks(board)
    ]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body, *others))


def view_errors(images: Iterable[ScoredImage], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The mean of 1 - Dice by view and network; empty unless the images have two views or more."""
    errors: dict[str, dict[str, list[float]]] = {}
    for image in images:
        if image.view:
            of_view = errors.setdefault(image.view, {})
            for name in names:
                if name in image.dice:
                    of_view.setdefault(name, []).append(1 - image.dice[name])
    if len(errors) < 2:
        return {}
    ordered = sorted(errors, key=lambda view: (len(view), view) if view.isdigit() else (math.inf, view))
    return {view: {name: float(np.mean(found)) for name, found in errors[view].items()} for view in ordered}


def view_table(images: Sequence[ScoredImage], series: Mapping[str, Series]) -> Markup | None:
    """A heat map of networks by views, darker for larger errors; None without views."""
    errors = view_errors(images, list(series))
    if not errors or not series:
        return None
    known = [error for of_view in errors.values() for error in of_view.values()]
    low, high = min(known), max(known)
    head = element("tr", element("th", "network", scope="col"), *(_view_heading(view) for view in errors))
    body = [
        element(
            "tr",
            element("th", each.label(), scope="row"),
            *(_heat(of_view.get(name), low, high) for of_view in errors.values()),
        )
        for name, each in series.items()
    ]
    return element(
        "table",
        element("thead", head),
        element("tbody", *body),
        class_="heat",
    )


def pair_matrix(pairs: Sequence[Pair], series: Mapping[str, Series]) -> Markup | None:
    """Each network against those ranked below it: the gap, and whether it is significant; None for one network."""
    found = {(pair.better, pair.worse): pair for pair in pairs if pair.better in series and pair.worse in series}
    if not found:
        return None
    names = list(series)
    head = element(
        "tr",
        element("th", "#", scope="col"),
        element("th", "network", scope="col"),
        *(element("th", series[name].number, scope="col", title=name) for name in names[1:]),
    )
    body = [
        element(
            "tr",
            element("td", series[name].number),
            element("th", series[name].label(), scope="row"),
            *(element("td") for _ in names[1 : index + 1]),
            *(_pair_cell(found.get((name, other))) for other in names[max(1, index + 1) :]),
        )
        for index, name in enumerate(names)
    ]
    return element(
        "table",
        element("thead", head),
        element("tbody", *body),
        class_="pairs",
    )


def pair_list(pairs: Sequence[Pair]) -> Markup:
    """All pairs with their gap, its interval and p."""
    head = [
        element("th", text, scope="col") for text in ("better", "worse", "gap x 1e4", "95% interval", "adjusted p", "")
    ]
    body = [
        element(
            "tr",
            element("td", pair.better),
            element("td", pair.worse),
            element("td", f"{1e4 * pair.gap:.1f}", class_="number"),
            element("td", interval(pair.ci95, scale=1e4, digits=1), class_="number"),
            element("td", _p(pair.p), class_="number"),
            element("td", "different" if significant(pair) else "tied"),
        )
        for pair in pairs
    ]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="list")


def significant(pair: Pair) -> bool:
    """Whether the gap is larger than chance explains."""
    return pair.p <= LEVEL


def _heading(column: Column, below: Column | None) -> Markup:
    return element(
        "th",
        column.heading,
        element("small", below.heading) if below else "",
        scope="col",
        title=f"{column.meaning} {below.meaning if below else ''}".strip(),
        class_="number" if column.numeric else None,
        data_key=column.key,
        data_best="high" if column.more_is_better else None,
    )


def _ranked(series: Series, shown: Sequence[Column], below: Mapping[str, Column]) -> Markup:
    row = series.row
    cells = []
    for column in shown:
        value = column.value(row)
        small = [element("small", below[column.key].cell(row))] if column.key in below else []
        if column.key == "name":
            small += [element("small", row.arch)] if row.arch and row.arch != row.name else []
            small += [element("small", remark(row))] if row.failed else []
            cells.append(element("th", series.label(*small), scope="row", data_value=row.name))
        else:
            number = "number" if column.numeric else None
            known = None if value is None else repr(value) if isinstance(value, float) else str(value)
            cells.append(element("td", column.cell(row), *small, class_=number, data_value=known))
    return element("tr", *cells, class_="best" if row.rank == 1 or row.tied_with_best else None)


def _unranked(row: Row, width: int) -> Markup:
    return element(
        "tr",
        element("td"),
        element("th", element("span", row.name, class_="network"), scope="row"),
        element("td", element("span", remark(row)), colspan=width - 2, class_="remark"),
        class_="unranked" if row.failed else "unranked waiting",
    )


def _view_heading(view: str) -> Markup:
    """A view and, for Carvana's sixteen, its angle."""
    carvana = len(view) == 2 and view.isdigit() and 1 <= int(view) <= 16
    angle = element("small", f"{_TURN * (int(view) - 1):g}°") if carvana else ""
    return element("th", view, angle, scope="col")


def _heat(error: float | None, low: float, high: float) -> Markup:
    if error is None:
        return element("td", MISSING)
    low, value, high = (math.log(max(each, 1e-6)) for each in (low, error, high))
    share = (value - low) / (high - low) if high > low else 0.0
    return element("td", f"{1e4 * error:.1f}", style=f"--heat: {_HOTTEST * share:.0f}%")


def _pair_cell(pair: Pair | None) -> Markup:
    if pair is None:
        return element("td", MISSING)
    apart = significant(pair)
    title = (
        f"{pair.better} - {pair.worse}: {1e4 * pair.gap:.1f} "
        f"({interval(pair.ci95, scale=1e4, digits=1)}), adjusted p {_p(pair.p)}"
    )
    text = f"{1e4 * pair.gap:.1f}" if apart else f"= {1e4 * pair.gap:.1f}"
    return element("td", text, title=title, class_="apart" if apart else "tied")


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 1e-4 else "< 0.0001"
