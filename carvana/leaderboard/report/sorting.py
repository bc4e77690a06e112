"""The table of the page: all columns, in the order of rank until a heading is clicked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carvana.leaderboard.records import LeaderboardData, Row
from carvana.leaderboard.report.columns import Column, columns
from carvana.leaderboard.report.facts import remark, remarks
from carvana.leaderboard.report.markup import Markup, element
from carvana.leaderboard.report.series import Series

_BELOW = {"name": "init", "dice": "dice_ci95"}
"""Columns that stand in small letters below another one's cells: they are long, and nobody sorts by them."""

_WITH_NAME = "arch"  # likewise, and only where it differs from the name


def sortable_table(board: LeaderboardData, series: Mapping[str, Series]) -> Markup:
    """Ranked rows, then those without a result, which stay there however the table is sorted."""
    all_columns = {column.key: column for column in columns(board)}
    shown = [column for key, column in all_columns.items() if key not in (*_BELOW.values(), _WITH_NAME)]
    below = {key: all_columns[lower] for key, lower in _BELOW.items() if lower in all_columns}
    head = element("tr", *(_heading(column, below.get(column.key)) for column in shown))
    body = [_ranked(series[row.name], shown, below) for row in board.ranked]
    others = [_unranked(row, len(shown)) for row in remarks(board) if not row.ok]
    return element("table", element("thead", head), element("tbody", *body, *others), class_="sortable")


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
