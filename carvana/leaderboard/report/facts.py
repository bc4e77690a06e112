"""The words around the table: the facts that all rows share, the best networks, and how to read the numbers."""

from __future__ import annotations

from carvana.evaluation.statistics import LEVEL, groups_needed
from carvana.leaderboard.records import OK, WAITING, LeaderboardData, Row
from carvana.leaderboard.report.columns import interval, millions, short


def facts(board: LeaderboardData) -> tuple[tuple[str, str], ...]:
    """The header as pairs of a label and a text; first of all, whether the comparison is still unfinished."""
    header = board.header
    several = len(header.seeds) > 1
    status = unfinished(board)
    return (
        *((("status", status),) if status else ()),
        ("data", header.data),
        ("evaluated on", counted(header.images, header.groups)),
        ("trained on", counted(header.train_images, header.train_groups)),
        ("scored", header.scored),
        ("split", f"{header.split} (content {header.content})"),
        ("config", header.config_name),
        ("budget", f"{header.budget} for each training" if header.budget else "that of each run"),
        ("seeds" if several else "seed", ", ".join(map(str, header.seeds)) or "that of each run"),
        ("carvana", f"{header.version} (commit {header.commit or 'unknown'})"),
        ("machine", header.machine),
    )


def unfinished(board: LeaderboardData) -> str:
    """What is still missing, in words; empty for a finished comparison."""
    waiting = sum(row.status == WAITING for row in board.rows)
    unmeasured = sum(row.status == OK and row.latency_ms is None for row in board.ranked)
    missing = [f"{waiting} still waiting" if waiting else "", f"{unmeasured} not yet measured" if unmeasured else ""]
    words = ", ".join(filter(None, missing))
    return words and f"not finished: of {len(board.rows)} network{'s' * (len(board.rows) > 1)} {words}"


def highlights(board: LeaderboardData) -> list[tuple[str, str, str]]:
    """Up to four networks to look at first: a title, the name and details of each; costs count once all are known."""
    ranked = board.ranked
    if not ranked:
        return []
    best, tied = ranked[0], [row for row in ranked if row.tied_with_best or row.rank == 1]
    details = f"Dice {best.dice:.5f}" + (f" ({interval(best.dice_ci95)})" if best.dice_ci95 else "")
    if len(tied) > 1:
        details += f"; {len(tied) - 1} of {len(ranked) - 1} other{'s' * (len(ranked) > 2)} tied with it"
    if unfinished(board):
        return [("Best so far", best.name, details)]
    found = {best.name: ("Best", details)}
    for title, rows, key in (
        ("Fastest that is tied with the best", tied, "latency_ms"),
        ("Smallest that is tied with the best", tied, "params"),
        ("Fastest of all", ranked, "latency_ms"),
    ):
        known = [row for row in rows if getattr(row, key) is not None]
        if known:
            row = min(known, key=lambda row: getattr(row, key))
            found.setdefault(row.name, (title, _costs(row, best)))
    return [(title, name, details) for name, (title, details) in found.items()]


def notes(board: LeaderboardData) -> tuple[str, ...]:
    """How to read the table, as sentences."""
    ranked = board.ranked
    lines = []
    if any(row.tied_with_best and row.rank != 1 for row in ranked):
        lines.append(
            "Networks marked = are tied with the best: in a test that flips the sign of the difference for whole "
            f"groups, the p-value, adjusted for all pairs, is above {LEVEL:g}."
        )
    if len(ranked) > 1 and 0 < board.header.groups < groups_needed(LEVEL):
        lines.append(
            f"With {board.header.groups} group{'s' * (board.header.groups > 1)} no difference is significant; it takes "
            f"{groups_needed(LEVEL)}."
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
    """The networks that were fitted by another version or on another machine, and by which."""
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
    """The rows with a remark: networks that wait, then those that failed."""
    return tuple(sorted((row for row in board.rows if not row.ok or row.failed), key=lambda row: row.failed))


def remark(row: Row) -> str:
    """The status of a row: "waiting", or "failed: " and the reason."""
    return one_line(row.status) or WAITING


def one_line(text: str) -> str:
    """Text without the line breaks that a name or an error's message may hold."""
    return " ".join(text.split())


def counted(images: int, groups: int) -> str:
    """Images and groups, in words.

    Example:
        >>> counted(1, 1), counted(5088, 318)
        ('1 image of 1 group', '5,088 images of 318 groups')
    """
    return f"{images:,} image{'s' * (images != 1)} of {groups:,} group{'s' * (groups != 1)}"


def _costs(row: Row, best: Row) -> str:
    """The costs of a network, and its error beside that of the best."""
    costs = [f"{short(row.latency_ms)} ms" if row.latency_ms is not None else ""]
    costs.append(f"{millions(row.params)} parameters" if row.params is not None else "")
    return ", ".join(filter(None, costs)) + f"; error x 1e4: {row.error:.1f} (best: {best.error:.1f})"
