"""The leaderboard in words: facts and notes; as CSV for programs, as Markdown, and as aligned lines for terminals."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from carvana.errors import listed
from carvana.evaluation.statistics import LEVEL, groups_needed
from carvana.leaderboard.records import OK, WAITING, LeaderboardData, Row, SeedRun
from carvana.leaderboard.report.columns import columns
from carvana.utils.devices import one_core
from carvana.utils.progress import METRICS

_GAP = "  "
_TAG = re.compile(r"(\\*)(\[[a-z#/@][^[]*?])")
# An underscore within a word needs no escape, so names stay readable in the source.
_SPECIAL = re.compile(r"([\\`*\[\]<>|~#&]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9]))")


def facts(board: LeaderboardData) -> tuple[tuple[str, str], ...]:
    """The header as pairs of a label and a text; first of all, whether the comparison is still unfinished."""
    header = board.header
    status = unfinished(board)
    those = f"; that of each run for {listed([*map(_one_line, header.finished)])}" if header.finished else ""
    return (
        *((("status", status),) if status else ()),
        ("data", header.data),
        ("evaluated on", counted(header.images, header.groups)),
        ("trained on", counted(header.train_images, header.train_groups) if header.train_images else "not known"),
        ("scored", header.scored),
        ("split", f"{header.split} (content {header.content})"),
        ("config", f"{header.config_name}{those}" if header.config_name else "that of each run"),
        ("budget", f"{header.budget} for each training{those}" if header.budget else "that of each run"),
        (
            "seeds" if len(header.seeds) > 1 else "seed",
            f"{', '.join(map(str, header.seeds))}{those}" if header.seeds else "that of each run",
        ),
        ("carvana", f"{header.version} (commit {header.commit or 'unknown'})"),
        ("machine", one_core(header.machine)),
    )


def unfinished(board: LeaderboardData) -> str:
    """What is still missing, in words; empty for a finished comparison."""
    waiting = sum(row.status == WAITING for row in board.rows)
    unmeasured = sum(row.status == OK and row.latency_ms is None for row in board.ranked)
    missing = [
        f"{waiting} still waiting" if waiting else "",
        f"the costs of {unmeasured} not measured" if unmeasured else "",
    ]
    words = ", ".join(filter(None, missing))
    return words and f"not finished: of {len(board.rows)} network{'s' * (len(board.rows) > 1)} {words}"


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
    if any(row.score_ci95 for row in ranked):
        lines.append("The 95% interval is from a bootstrap over groups, since images of one group are alike.")
    if any(row.score_spread is not None for row in ranked):
        metric = METRICS[board.task.metric]
        lines.append(f"The spread is the best minus the worst {metric} of the trainings with different seeds.")
    if ranked and board.task.metric == "miou":
        true = sum(bool(each["pixels"]) for each in ranked[0].per_class)
        some = "" if true == len(ranked[0].per_class) else f" {true} of {len(ranked[0].per_class)}"
        lines.append(f"The mean is over the{some} classes that are in the true labels, the same for all networks.")
        absent = [f"{_one_line(row.name)} {row.absent_share:.2%}" for row in ranked if row.absent_share]
        if absent:
            lines.append(
                f"Of the pixels were predicted as classes that are not in the true labels: {', '.join(absent)}."
            )
    if any(row.latency_ms is not None for row in ranked):
        lines.append(
            "Prediction (ms, images/s, MB) was measured for each network alone, by torch, after all trainings."
        )
    here = board.header
    elsewhere = [
        f"{row.name} (carvana {refit.version} on {one_core(str(refit.machine))})"
        for row in ranked
        for refit in row.refits
        if refit.version not in (None, here.version) or not _is_of(refit.machine or "", here.machine)
    ]
    if elsewhere:
        lines.append(f"Not fitted by this version on this machine: {'; '.join(dict.fromkeys(elsewhere))}.")
    return tuple(lines)


def _is_of(hardware: str, machine: str) -> bool:
    """Whether the hardware of a run is that of a header's machine, whose line says more."""
    return not hardware or re.search(rf"(^|: |\d x ){re.escape(hardware)}(, torch|$)", machine) is not None


def remarks(board: LeaderboardData) -> tuple[Row, ...]:
    """The rows with a remark: networks that wait, then those that failed."""
    return tuple(sorted((row for row in board.rows if not row.ok or row.failed), key=lambda row: row.failed))


def remark(row: Row) -> str:
    """The status of a row: "waiting", or "failed: " and the reason."""
    return _one_line(row.status) or WAITING


def counted(images: int, groups: int) -> str:
    """Images and groups, in words.

    Example:
        >>> counted(1, 1), counted(5088, 318)
        ('1 image of 1 group', '5,088 images of 318 groups')
    """
    return f"{images:,} image{'s' * (images != 1)} of {groups:,} group{'s' * (groups != 1)}"


def to_csv(board: LeaderboardData) -> str:
    """One line for each row under one header line, all digits kept.

    Unknown values are empty. An interval has two columns; values of each seed are a JSON list, such as ``refit_score``
    with ``[0.98732, 0.98868]``; of several classes each has a column, ``score_road`` (``score_worst_`` of a class
    ``worst``, as ``score_worst`` is another column). The curves are in leaderboard.json only.
    """
    lines = [_flat(replace(row, metric=board.task.metric)) for row in board.rows or (Row(""),)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines if board.rows else ())
    return text.getvalue()


def to_text(board: LeaderboardData) -> str:
    """Facts, table and notes as aligned lines."""
    known = facts(board)
    width = max(len(label) for label, _ in known)
    parts: list[Sequence[str]] = [
        [f"{label.ljust(width)}{_GAP}{text}" for label, text in known],
        _table(board) if board.ranked else [],
        [f"{_one_line(row.name)}: {remark(row)}" for row in remarks(board)],
        notes(board),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def to_rich(board: LeaderboardData) -> str:
    """The same as console markup of rich, with a backslash before each bracket that would open a tag."""
    return _TAG.sub(r"\1\1\\\2", to_text(board))


def to_markdown(board: LeaderboardData) -> str:
    """A list of facts, the table of ranked networks, those without a result and why, and how to read it."""
    parts = [[f"- **{label}**: {escaped(text)}" for label, text in facts(board)]]
    if board.ranked:
        shown = columns(board)
        cells = [
            [escaped(column.heading) if column.of_class else column.heading for column in shown],
            ["---:" if column.numeric else "---" for column in shown],
            *([escaped(column.cell(row)) for column in shown] for row in board.ranked),
        ]
        parts.append([f"| {' | '.join(line)} |" for line in cells])
    parts.append([f"- {escaped(row.name)}: {escaped(remark(row))}" for row in remarks(board)])
    parts.append([escaped(note) for note in notes(board)])
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def escaped(text: str) -> str:
    r"""Text as Markdown that shows just that, on one line, in a cell or outside.

    Example:
        >>> escaped("a|b\n<c>")
        'a\\|b \\<c\\>'
    """
    return _SPECIAL.sub(r"\\\1", _one_line(text))


def _one_line(text: str) -> str:
    """Text without the line breaks that a name or an error's message may hold."""
    return " ".join(text.split())


def _flat(row: Row) -> dict[str, Any]:
    """A row's values as cells, by their names in the header line."""
    flat: dict[str, Any] = {}
    for key, value in row.to_json().items():
        if key == "refits":
            refits = [refit.to_json() for refit in row.refits]
            for name in SeedRun("", None, 0.0, None, metric=row.metric).to_json():
                if name not in ("curve", "metric"):
                    flat[f"refit_{name}"] = json.dumps([refit[name] for refit in refits])
        elif key == "per_class":
            names = [each["name"] for each in value if len(value) > 1]
            flat |= {key: row.score_of(name) for name, key in _class_keys(names).items()}
        elif key.endswith("_ci95"):
            flat[f"{key}_low"], flat[f"{key}_high"] = value or (None, None)
        elif key == "size":
            flat["size"] = value if isinstance(value, str | None) else "x".join(map(str, value))
        else:
            flat[key] = json.dumps(value) if isinstance(value, bool) else value
        if key == "dice":
            flat["error_1e4"] = row.error
    return flat


def _class_keys(names: Sequence[str]) -> dict[str, str]:
    """The column of each class, none of which is another's or that of a value which all networks have."""
    keys: dict[str, str] = {}
    taken = {"score_ci95_low", "score_ci95_high", "score_spread", "score_worst"}
    for name in names:
        key = f"score_{name}"
        while key in taken:
            key += "_"
        taken.add(key)
        keys[name] = key
    return keys


def _table(board: LeaderboardData) -> list[str]:
    shown = columns(board, brief=True)
    cells = [[column.heading for column in shown], *([column.cell(row) for column in shown] for row in board.ranked)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        _GAP.join(
            cell.rjust(width) if column.numeric else cell.ljust(width)
            for cell, column, width in zip(line, shown, widths, strict=True)
        ).rstrip()
        for line in cells
    ]
