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
    if "miou" in evaluation:
        return _labels_table(evaluation, title=title)
    if "dice_present" in evaluation:
        return _masks_table(evaluation, title=title, threshold=threshold)
    groups = evaluation["groups"]
    images = f"mean of {plural(evaluation['images'], 'image')} at full size (groups: {groups})"
    chosen = "thresholds chosen on other groups" if groups > 1 else "at threshold 0.5"
    table = facts_table(title)
    table.add_row("Dice", f"{evaluation['dice']:.5f}", f"{images}, {chosen}")
    _add_interval(table, evaluation["dice_ci95"], "Dice")
    table.add_row("Dice at 0.5", f"{evaluation['dice_at_half']:.5f}", "without a chosen threshold")
    table.add_row("IoU", f"{evaluation['iou']:.5f}")
    table.add_row("pixel accuracy", f"{evaluation['pixel_accuracy']:.5f}")
    table.add_row("boundary Dice", f"{evaluation['boundary_dice']:.5f}", "within 7 pixels of the true boundary")
    table.add_row("threshold", f"{evaluation['threshold']:.3f}", threshold)
    _add_folds(table, evaluation, "dice")
    return table


def _add_interval(table: Table, interval: Sequence[float | None], metric: str) -> None:
    low, high = interval
    bounds = ("", "needs two groups")
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


def _labels_table(evaluation: Mapping[str, Any], *, title: str) -> Table:
    """The numbers of an evaluation of several classes, then those of each class."""
    classes = [each for each in evaluation["per_class"] if each["iou"] is not None]
    total = max(1, sum(each["pixels"] for each in evaluation["per_class"]))
    of = len(evaluation["per_class"])
    some = str(of) if len(classes) == of else f"{len(classes)} of {of}"
    images = f"{plural(evaluation['images'], 'image')} at full size (groups: {evaluation['groups']})"

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.5f}"

    table = facts_table(title)
    table.add_row("mIoU", number(evaluation["miou"]), f"mean of {some} classes, counted over all pixels of {images}")
    _add_interval(table, evaluation["score_ci95"], "mIoU")
    table.add_row("pixel accuracy", number(evaluation["pixel_accuracy"]), "of all pixels that count (aAcc)")
    table.add_row("mean accuracy", number(evaluation["mean_accuracy"]), "mean recall of classes (mAcc)")
    _add_folds(table, evaluation, "miou")
    table.add_section()
    for each in sorted(classes, key=lambda each: -each["iou"])[:MOST_CLASSES]:
        recall = "not in the truth" if each["recall"] is None else f"recall {each['recall']:.3f}"
        share = f"{recall}, {each['pixels'] / total:.2%} of the pixels"
        table.add_row(plain_text(f"IoU {each['name']}"), number(each["iou"]), share)
    if len(classes) > MOST_CLASSES:
        table.add_row("", "", f"and {len(classes) - MOST_CLASSES} more classes, in the numbers as JSON")
    return table


def _masks_table(evaluation: Mapping[str, Any], *, title: str, threshold: str) -> Table:
    """The numbers of an evaluation of classes that overlap, then those of each class."""
    classes, groups = evaluation["per_class"], evaluation["groups"]
    images = f"{plural(evaluation['images'], 'image')} at full size (groups: {groups})"
    chosen = "thresholds chosen on other groups" if groups > 1 else "at threshold 0.5"
    present = evaluation["dice_present"]
    table = facts_table(title)
    table.add_row(
        "Dice", f"{evaluation['dice']:.5f}", f"mean of {plural(len(classes), 'class')} and {images}, {chosen}"
    )
    _add_interval(table, evaluation["score_ci95"], "Dice")
    table.add_row("Dice where present", "" if present is None else f"{present:.5f}", "images that hold the class alone")
    table.add_row("Dice at 0.5", f"{evaluation['dice_at_half']:.5f}", "without chosen thresholds")
    table.add_row("pixel accuracy", f"{evaluation['pixel_accuracy']:.5f}", "of pixels, averaged over classes")
    table.add_row("thresholds", "", f"{threshold}; by the Dice where present")
    _add_folds(table, evaluation, "dice")
    table.add_section()
    ranked = sorted(zip(classes, evaluation["thresholds"], strict=True), key=lambda pair: -pair[0]["mean_dice"])
    for each, best in ranked[:MOST_CLASSES]:
        if each["images"]:
            where = f"{each['dice_present']:.3f} where present, {plural(each['images'], 'image')}"
        else:
            where = "not in the truth"
        table.add_row(plain_text(f"Dice {each['name']}"), f"{each['mean_dice']:.5f}", f"{where}, threshold {best:.3f}")
    if len(classes) > MOST_CLASSES:
        table.add_row("", "", f"and {len(classes) - MOST_CLASSES} more classes, in the numbers as JSON")
    return table


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
