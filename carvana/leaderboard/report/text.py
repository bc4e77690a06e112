"""The leaderboard as text: CSV for programs, Markdown for a README or a pull request, aligned columns for terminals."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

from carvana.leaderboard.records import LeaderboardData, Row, SeedRun
from carvana.leaderboard.report.columns import Column, brief_columns, columns
from carvana.leaderboard.report.facts import facts, notes, one_line, remark, remarks

_REFIT_KEYS = tuple(field.name for field in fields(SeedRun) if field.name != "curve")
_GAP = "  "
_TAG = re.compile(r"(\\*)(\[[a-z#/@][^[]*?])")
# An underscore within a word needs no escape, so names stay readable in the source.
_SPECIAL = re.compile(r"([\\`*\[\]<>|~#&]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9]))")


def to_csv(board: LeaderboardData) -> str:
    """One line for each row under one header line, all digits kept.

    Unknown values are empty. An interval has two columns; values of each seed are a JSON list, such as ``refit_dice``
    with ``[0.98732, 0.98868]``; the curves are in leaderboard.json only.
    """
    lines = [_flat(row) for row in board.rows] or [_flat(Row(""))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(lines[0])
    writer.writerows([line.values() for line in lines] if board.rows else [])
    return text.getvalue()


def to_text(board: LeaderboardData, *, markup: bool = False) -> str:
    """Facts, table and notes as aligned lines.

    Args:
        board: the leaderboard.
        markup: as console markup of rich, where the best and those tied with it are bold; brackets of names are
            escaped.
    """
    shown = brief_columns(board)
    rows = board.ranked
    cells = [[column.heading for column in shown], *([column.cell(row) for column in shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    strong = [True, *(row.rank == 1 or bool(row.tied_with_best) for row in rows)]
    table = [(_aligned(line, shown, widths), bold) for line, bold in zip(cells, strong, strict=True)] if rows else []
    others = [f"{one_line(row.name)}: {remark(row)}" for row in remarks(board)]
    parts = [_plain(_facts(board)), table, _plain(others), _plain(notes(board))]
    lines = [line for part in parts if part for line in [*part, ("", False)]][:-1]
    return _marked_up(lines) if markup else "\n".join(line for line, _ in lines)


def to_markdown(board: LeaderboardData) -> str:
    """A list of facts, the table of ranked networks, those without a result and why, and how to read it."""
    parts = [[f"- **{label}**: {escaped(text)}" for label, text in facts(board)]]
    if board.ranked:
        parts.append(_markdown_table(board))
    if others := remarks(board):
        parts.append([f"- {escaped(row.name)}: {escaped(remark(row))}" for row in others])
    parts.append(list(notes(board)))
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def escaped(text: str) -> str:
    r"""Text as Markdown that shows just that, on one line, in a cell or outside.

    Example:
        >>> escaped("a|b\n<c>")
        'a\\|b \\<c\\>'
    """
    return _SPECIAL.sub(r"\\\1", one_line(text))


def _flat(row: Row) -> dict[str, Any]:
    """A row's fields as cells, by their names in the header line."""
    flat: dict[str, Any] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if field.name == "refits":
            for key in _REFIT_KEYS:
                flat[f"refit_{key}"] = json.dumps([getattr(refit, key) for refit in value])
        elif field.name == "dice_ci95":
            flat["dice_ci95_low"], flat["dice_ci95_high"] = value or (None, None)
        elif field.name == "size":
            flat["size"] = value if isinstance(value, str | None) else "x".join(map(str, value))
        else:
            flat[field.name] = json.dumps(value) if isinstance(value, bool) else value
        if field.name == "dice":
            flat["error_1e4"] = row.error
    return flat


def _aligned(cells: Iterable[str], shown: Sequence[Column], widths: Sequence[int]) -> str:
    padded = (
        cell.rjust(width) if column.numeric else cell.ljust(width)
        for cell, column, width in zip(cells, shown, widths, strict=True)
    )
    return _GAP.join(padded).rstrip()


def _facts(board: LeaderboardData) -> list[str]:
    known = facts(board)
    width = max(len(label) for label, _ in known)
    return [f"{label.ljust(width)}{_GAP}{text}" for label, text in known]


def _plain(lines: Iterable[str]) -> list[tuple[str, bool]]:
    return [(line, False) for line in lines]


def _marked_up(lines: Sequence[tuple[str, bool]]) -> str:
    r"""Lines as console markup of rich, some of them bold.

    A bracket opens a tag where it could be one, and the tag may end in a later line; an odd number of backslashes
    before it makes it text again. So what lies between two of our own tags is escaped as one piece.
    """
    pieces = []
    for bold, run in groupby(lines, key=lambda line: line[1]):
        text = _TAG.sub(r"\1\1\\\2", "\n".join(line for line, _ in run))
        # The tag of ours that follows must not be taken for text.
        text += "\\" * (len(text) - len(text.rstrip("\\"))) if bold else ""
        pieces.append(f"[bold]{text}[/bold]" if bold else text)
    return "\n".join(pieces)


def _markdown_table(board: LeaderboardData) -> list[str]:
    shown = columns(board)
    lines = [
        [column.heading for column in shown],
        ["---:" if column.numeric else "---" for column in shown],
        *([escaped(column.cell(row)) for column in shown] for row in board.ranked),
    ]
    return [f"| {' | '.join(line)} |" for line in lines]
