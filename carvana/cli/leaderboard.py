"""Prints a leaderboard, with the columns that fit the terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from carvana.cli.tables import show
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.records import Row
from carvana.leaderboard.report.columns import Column, brief_columns, columns
from carvana.leaderboard.report.text import facts, notes, remark, remarks

_FULL_WIDTH = 170
"""Characters of a line that are enough for all columns."""


def show_leaderboard(board: Leaderboard) -> None:
    """Print the facts, the table, the failures and the path of the page."""
    show(leaderboard_table(board, width=Console().width))
    if board.path is not None:
        show(Text(f"page  {board.path / 'leaderboard.html'}"))


def leaderboard_table(board: Leaderboard, *, width: int) -> RenderableType:
    """Make what :func:`show_leaderboard` prints.

    Args:
        board: The leaderboard.
        width: Characters of a line; narrow ones get the brief columns.
    """
    head = Table.grid(padding=(0, 2))
    for label, text in facts(board):
        head.add_row(Text(label, style="dim"), Text(text))
    parts: list[RenderableType] = [head]
    if board.ranked:
        parts.append(_table(board, columns(board) if width >= _FULL_WIDTH else brief_columns(board)))
    else:
        parts.append(Text(""))
    others = [Text(f"{row.name}: {remark(row)}", style="red" if row.failed else "dim") for row in remarks(board)]
    below = [Text(note, style="dim") for note in notes(board)]
    for part in (others, below):
        parts += [*part, Text("")] if part else []
    return Group(*parts)


def _table(board: Leaderboard, shown: tuple[Column, ...]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for column in shown:
        table.add_column(column.heading, justify="right" if column.numeric else "left", no_wrap=column.key != "name")
    for row in board.ranked:
        table.add_row(*(Text(column.cell(row)) for column in shown), style=_style(row))
    return table


def _style(row: Row) -> str:
    if row.rank == 1:
        return "bold green"
    return "bold" if row.tied_with_best else ""
