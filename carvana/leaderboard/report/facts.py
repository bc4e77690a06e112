"""What stands above and below the table, in words: the facts that all rows share, and how to read the numbers."""

from __future__ import annotations

from carvana.evaluation.statistics import LEVEL, groups_needed
from carvana.leaderboard.records import WAITING, LeaderboardData, Row


def facts(board: LeaderboardData) -> tuple[tuple[str, str], ...]:
    """The header as pairs of a label and a text."""
    header = board.header
    several = len(header.seeds) > 1
    return (
        ("data", header.data),
        ("judged on", counted(header.images, header.groups)),
        ("trained on", counted(header.train_images, header.train_groups)),
        ("scored", header.scored),
        ("split", f"{header.split} (content {header.content})"),
        ("recipe", header.recipe_name),
        ("budget", f"{header.budget} for each training" if header.budget else "that of each run"),
        ("seeds" if several else "seed", ", ".join(map(str, header.seeds)) or "that of each run"),
        ("carvana", f"{header.version} (commit {header.commit or 'unknown'})"),
        ("machine", header.machine),
    )


def notes(board: LeaderboardData) -> tuple[str, ...]:
    """How to read the table: one sentence or two for each thing that needs it."""
    ranked = board.ranked
    lines = []
    if any(row.tied_with_best and row.rank != 1 for row in ranked):
        lines.append(
            "Networks marked = cannot be told from the best: with the sign of the difference flipped for whole groups "
            f"at a time, p adjusted for all pairs is above {LEVEL:g}."
        )
    if len(ranked) > 1 and 0 < board.header.groups < groups_needed(LEVEL):
        lines.append(
            f"{board.header.groups} groups are too few to tell any two networks apart; it takes {groups_needed(LEVEL)}."
        )
    if any(row.dice_ci95 for row in ranked):
        lines.append("The 95% interval is from a bootstrap over groups, since images of one group are alike.")
    if any(row.dice_spread is not None for row in ranked):
        lines.append("The spread is the best minus the worst Dice of the trainings with different seeds.")
    if any(row.latency_ms is not None for row in ranked):
        lines.append("Prediction (ms, images/s, MB) was measured for each network alone, after all trainings.")
    elsewhere = _fitted_elsewhere(board)
    if elsewhere:
        lines.append(f"Not fitted by this version on this machine: {'; '.join(elsewhere)}.")
    return tuple(lines)


def _fitted_elsewhere(board: LeaderboardData) -> list[str]:
    """The networks whose trainings another version did, or another machine, with which."""
    found = []
    for row in board.ranked:
        others = {
            (refit.version, refit.machine)
            for refit in row.refits
            if refit.version not in (None, board.header.version)
            or (refit.machine is not None and refit.machine not in board.header.machine)
        }
        words = ", ".join(f"carvana {version} on {machine}" for version, machine in sorted(others, key=str))
        if words:
            found.append(f"{row.name} ({words})")
    return found


def remarks(board: LeaderboardData) -> tuple[Row, ...]:
    """The rows of which there is something to say: those that wait, then those of which something failed."""
    return tuple(sorted((row for row in board.rows if not row.ok or row.failed), key=lambda row: row.failed))


def remark(row: Row) -> str:
    """How a row stands: "waiting", or "failed: " and the reason."""
    return one_line(row.status) or WAITING


def one_line(text: str) -> str:
    """Text without line breaks, which a name or the message of an error may hold."""
    return " ".join(text.split())


def counted(images: int, groups: int) -> str:
    """Images and groups, in words.

    Example:
        >>> counted(1, 1), counted(5088, 318)
        ('1 image of 1 group', '5,088 images of 318 groups')
    """
    return f"{images:,} image{'s' * (images != 1)} of {groups:,} group{'s' * (groups != 1)}"
