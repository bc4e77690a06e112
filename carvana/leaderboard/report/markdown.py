"""The leaderboard as Markdown, for a README or a pull request."""

from __future__ import annotations

import re

from carvana.leaderboard.records import LeaderboardData
from carvana.leaderboard.report.columns import columns
from carvana.leaderboard.report.facts import facts, notes, one_line, remark, remarks

# A low line within a word is itself, and names that hold one stay readable in the source.
_SPECIAL = re.compile(r"([\\`*\[\]<>|~#&]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9]))")


def to_markdown(board: LeaderboardData) -> str:
    """A list of facts, the table of ranked networks, those without a result and why, and how to read it."""
    parts = [[f"- **{label}**: {escaped(text)}" for label, text in facts(board)]]
    if board.ranked:
        parts.append(_table(board))
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


def _table(board: LeaderboardData) -> list[str]:
    shown = columns(board)
    lines = [
        [column.heading for column in shown],
        ["---:" if column.numeric else "---" for column in shown],
        *([escaped(column.cell(row)) for column in shown] for row in board.ranked),
    ]
    return [f"| {' | '.join(line)} |" for line in lines]
