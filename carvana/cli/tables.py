"""Results on stdout: tables, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from carvana.errors import plural, printable
from carvana.utils.files import check_target, write_json
from carvana.utils.progress import METRICS

if TYPE_CHECKING:
    from carvana.leaderboard.records import LeaderboardData

_FULL_WIDTH = 170
"""Characters of a line that are enough for all columns of a leaderboard."""


def show(table: RenderableType) -> None:
    """Print a table, or anything that rich prints, to stdout; lines are not folded where stdout is not a terminal."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = 200
    with console.capture() as printed:
        console.print(table)
    print("\n".join(line.rstrip() for line in printed.get().splitlines()))  # rich pads every line to the longest


def show_result(table: RenderableType, target: str | None, value: Any) -> None:
    """Print a table, unless stdout is for JSON, and write the same as JSON where ``--json`` asks for it."""
    if target == "-":
        print(json.dumps(value, indent=2, allow_nan=False))
        return
    show(table)
    if target is not None:
        write_json(target, value)


def check_json_target(target: str | None, *, replace: bool = False) -> None:
    """Refuse a file for ``--json`` as :func:`carvana.utils.files.check_target` does; ``-`` is stdout.

    Raises:
        ConfigError: it is there already, or cannot be written.
    """
    if target is not None and target != "-":
        check_target(target, option="--json", replace=replace, instead="name another file, or - for stdout")


MOST_CLASSES = 40
"""Classes, or values, of which a table has a row; JSON has all."""


_HEADINGS = {
    **METRICS, "dice_present": "Dice where present", "dice_at_half": "Dice at 0.5", "iou": "IoU",
    "boundary_dice": "boundary Dice",
}  # fmt: skip


def make_table(*columns: Column, title: str | None = None, header: bool = True) -> Table:
    """An empty table; its title is printed as it is."""
    heading = None if title is None else plain_text(title, "table.title")
    return Table(*columns, title=heading, box=SIMPLE, show_header=header, title_justify="left")


def evaluation_table(
    evaluation: Mapping[str, Any], *, title: str, threshold: str = "chosen on these images, stored in the model"
) -> Table:
    """The numbers of ``evaluation.json``, each with its meaning.

    Args:
        evaluation: the numbers.
        title: a line above them, printed as it is.
        threshold: the note on the last row.
    """
    metric = "miou" if "miou" in evaluation else "dice"
    groups, classes = evaluation["groups"], evaluation.get("per_class", ())
    images = f"{plural(evaluation['images'], 'image')} at full size (groups: {groups})"
    chosen = "thresholds chosen on other groups" if groups > 1 else "at threshold 0.5"
    of_classes: list[tuple[str, float, str]] = []
    if metric == "miou":
        known, total = [each for each in classes if each["iou"] is not None], sum(each["pixels"] for each in classes)
        some = len(classes) if len(known) == len(classes) else f"{len(known)} of {len(classes)}"
        notes = {
            "miou": f"mean of {some} classes, counted over all pixels of {images}",
            "pixel_accuracy": "of all pixels that count (aAcc)",
            "mean_accuracy": "mean recall of classes (mAcc)",
        }
        for each in known:
            recall = "not in the truth" if each["recall"] is None else f"recall {each['recall']:.3f}"
            note = f"{recall}, {each['pixels'] / max(1, total):.2%} of the pixels"
            of_classes.append((f"IoU {each['name']}", each["iou"], note))
    elif "dice_present" in evaluation:
        notes = {
            "dice": f"mean of {plural(len(classes), 'class')} and {images}, {chosen}",
            "dice_present": "images that hold the class alone",
            "dice_at_half": "without chosen thresholds",
            "pixel_accuracy": "of pixels, averaged over classes",
            "thresholds": f"{threshold}; by the Dice where present",
        }
        for each, best in zip(classes, evaluation["thresholds"], strict=True):
            held = each["images"]
            where = f"{each['dice_present']:.3f} where present, {plural(held, 'image')}" if held else "not in the truth"
            of_classes.append((f"Dice {each['name']}", each["mean_dice"], f"{where}, threshold {best:.3f}"))
    else:
        notes = {
            "dice": f"mean of {images}, {chosen}",
            "dice_at_half": "without a chosen threshold",
            "iou": "",
            "pixel_accuracy": "",
            "boundary_dice": "within 7 pixels of the true boundary",
            "threshold": threshold,
        }
    table = facts_table(title)
    for key, note in notes.items():
        value, digits = evaluation[key], 3 if key == "threshold" else 5
        shown = "" if value is None or key == "thresholds" else f"{value:.{digits}f}"
        table.add_row(_HEADINGS.get(key, key.replace("_", " ")), shown, note)
        if key == metric:
            _add_interval(table, evaluation.get("score_ci95") or evaluation["dice_ci95"], METRICS[metric])
    _add_folds(table, evaluation, metric)
    if of_classes:
        table.add_section()
    for name, score, note in sorted(of_classes, key=lambda row: -row[1])[:MOST_CLASSES]:
        table.add_row(plain_text(name), f"{score:.5f}", note)
    if len(of_classes) > MOST_CLASSES:
        table.add_row("", "", f"and {len(of_classes) - MOST_CLASSES} more classes, in the numbers as JSON")
    return table


def _add_interval(table: Table, interval: Sequence[float | None], metric: str) -> None:
    low, high = interval
    bounds = ("", "needs two groups in the validation: split.val, split.by: image, or --folds")
    if low is not None:
        bounds = (f"{low:.5f} .. {high:.5f}", f"of {metric}, bootstrap over groups")
    table.add_row("95% interval", *bounds)


def _add_folds(table: Table, evaluation: Mapping[str, Any], metric: str) -> None:
    """The score of each fold, where there are folds, and their mean."""
    for fold in evaluation.get("folds", ()):
        counts = f"{METRICS[metric]} of {plural(fold['images'], 'image')} (groups: {fold['groups']})"
        threshold = f", threshold {fold['threshold']:.3f}" if "threshold" in fold else ""
        table.add_row(fold["run"], f"{fold[metric]:.5f}", counts + threshold)
    if "folds" in evaluation:
        mean, deviation = (evaluation[f"folds_{metric}_{what}"] for what in ("mean", "std"))
        table.add_row("mean of folds", f"{mean:.5f}", f"± {deviation:.5f}, the standard deviation")


def leaderboard_table(board: LeaderboardData, *, width: int | None = None) -> RenderableType:
    """A leaderboard: facts, table, failures, notes and the path of the page.

    Args:
        board: The leaderboard.
        width: Characters of a line, by default the terminal's; narrow ones get the brief columns.
    """
    from carvana.leaderboard.report.columns import columns
    from carvana.leaderboard.report.text import facts, notes, remark, remarks

    head = Table.grid(padding=(0, 2))
    for label, text in facts(board):
        head.add_row(Text(label, style="dim"), Text(text))
    shown = columns(board, brief=(width or Console().width) < _FULL_WIDTH)
    table = make_table()
    for column in shown:
        table.add_column(
            Text(column.heading), justify="right" if column.numeric else "left", no_wrap=column.key != "name"
        )
    for row in board.ranked:
        style = "bold green" if row.rank == 1 else "bold" if row.tied_with_best else ""
        table.add_row(*(Text(column.cell(row)) for column in shown), style=style)
    others = [Text(f"{row.name}: {remark(row)}", style="red" if row.failed else "dim") for row in remarks(board)]
    below = [Text(note, style="dim") for note in notes(board)]
    page = [] if board.path is None else [Text(f"page  {board.path / 'leaderboard.html'}")]
    parts: list[RenderableType] = [head, table if board.ranked else Text("")]
    for part in (others, below):
        parts += [*part, Text("")] if part else []
    return Group(*parts, *page)


def facts_table(title: str) -> Table:
    """A table of names, values and notes."""
    return make_table(Column(style="bold"), Column(justify="right"), Column(style="dim"), title=title, header=False)


def plain_text(words: str, style: str = "") -> Text:
    """Text with names of files: not read as markup, and without control characters."""
    return Text(printable(words), style=style)
