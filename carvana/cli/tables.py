"""Results on stdout: tables, and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from carvana.errors import plural, printable
from carvana.utils.files import check_target, write_json
from carvana.utils.progress import METRICS

if TYPE_CHECKING:
    from carvana.data.check.files import Problem
    from carvana.data.check.report import Report
    from carvana.data.split_report import SplitReport
    from carvana.leaderboard.records import LeaderboardData

LISTED = 10
"""The number of files that are named for each kind of problem; ``--json`` names all."""

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


_MOST_CLASSES = 40


def make_table(*columns: Column, title: str | None = None, header: bool = True) -> Table:
    """An empty table; its title is printed as it is."""
    heading = None if title is None else _text(title, "table.title")
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
    low, high = evaluation["dice_ci95"]
    interval = (
        ("", "needs two groups") if low is None else (f"{low:.5f} .. {high:.5f}", "of Dice, bootstrap over groups")
    )
    table = _facts(title)
    table.add_row("Dice", f"{evaluation['dice']:.5f}", f"{images}, {chosen}")
    table.add_row("95% interval", *interval)
    table.add_row("Dice at 0.5", f"{evaluation['dice_at_half']:.5f}", "without a chosen threshold")
    table.add_row("IoU", f"{evaluation['iou']:.5f}")
    table.add_row("pixel accuracy", f"{evaluation['pixel_accuracy']:.5f}")
    table.add_row("boundary Dice", f"{evaluation['boundary_dice']:.5f}", "within 7 pixels of the true boundary")
    table.add_row("threshold", f"{evaluation['threshold']:.3f}", threshold)
    _add_folds(table, evaluation, "dice")
    return table


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
    low, high = evaluation["score_ci95"]
    of = len(evaluation["per_class"])
    some = str(of) if len(classes) == of else f"{len(classes)} of {of}"
    images = f"{plural(evaluation['images'], 'image')} at full size (groups: {evaluation['groups']})"

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.5f}"

    table = _facts(title)
    table.add_row("mIoU", number(evaluation["miou"]), f"mean of {some} classes, counted over all pixels of {images}")
    interval = (
        ("", "needs two groups") if low is None else (f"{low:.5f} .. {high:.5f}", "of mIoU, bootstrap over groups")
    )
    table.add_row("95% interval", *interval)
    table.add_row("pixel accuracy", number(evaluation["pixel_accuracy"]), "of all pixels that count (aAcc)")
    table.add_row("mean accuracy", number(evaluation["mean_accuracy"]), "mean recall of classes (mAcc)")
    _add_folds(table, evaluation, "miou")
    table.add_section()
    for each in sorted(classes, key=lambda each: -each["iou"])[:_MOST_CLASSES]:
        recall = "not in the truth" if each["recall"] is None else f"recall {each['recall']:.3f}"
        share = f"{recall}, {each['pixels'] / total:.2%} of the pixels"
        table.add_row(_text(f"IoU {each['name']}"), number(each["iou"]), share)
    if len(classes) > _MOST_CLASSES:
        table.add_row("", "", f"and {len(classes) - _MOST_CLASSES} more classes, in the numbers as JSON")
    return table


def _masks_table(evaluation: Mapping[str, Any], *, title: str, threshold: str) -> Table:
    """The numbers of an evaluation of classes that overlap, then those of each class."""
    classes, groups = evaluation["per_class"], evaluation["groups"]
    images = f"{plural(evaluation['images'], 'image')} at full size (groups: {groups})"
    chosen = "thresholds chosen on other groups" if groups > 1 else "at threshold 0.5"
    low, high = evaluation["score_ci95"]
    interval = (
        ("", "needs two groups") if low is None else (f"{low:.5f} .. {high:.5f}", "of Dice, bootstrap over groups")
    )
    present = evaluation["dice_present"]
    table = _facts(title)
    table.add_row(
        "Dice", f"{evaluation['dice']:.5f}", f"mean of {plural(len(classes), 'class')} and {images}, {chosen}"
    )
    table.add_row("95% interval", *interval)
    table.add_row("Dice where present", "" if present is None else f"{present:.5f}", "images that hold the class alone")
    table.add_row("Dice at 0.5", f"{evaluation['dice_at_half']:.5f}", "without chosen thresholds")
    table.add_row("pixel accuracy", f"{evaluation['pixel_accuracy']:.5f}", "of pixels, averaged over classes")
    table.add_row("thresholds", "", f"{threshold}; by the Dice where present")
    _add_folds(table, evaluation, "dice")
    table.add_section()
    ranked = sorted(zip(classes, evaluation["thresholds"], strict=True), key=lambda pair: -pair[0]["mean_dice"])
    for each, best in ranked[:_MOST_CLASSES]:
        if each["images"]:
            where = f"{each['dice_present']:.3f} where present, {plural(each['images'], 'image')}"
        else:
            where = "not in the truth"
        table.add_row(_text(f"Dice {each['name']}"), f"{each['mean_dice']:.5f}", f"{where}, threshold {best:.3f}")
    if len(classes) > _MOST_CLASSES:
        table.add_row("", "", f"and {len(classes) - _MOST_CLASSES} more classes, in the numbers as JSON")
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
        table.add_column(column.heading, justify="right" if column.numeric else "left", no_wrap=column.key != "name")
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


def report_tables(report: Report, *, root: Path) -> RenderableType:
    """The report on a data folder: its contents, the ceilings, all problems."""
    from carvana.data.check.files import ADVICE, NOTES

    parts: list[RenderableType] = [_contents(report, title=str(root))]
    if report.ceilings:
        parts += _ceilings(report)
    known = any(each.name is not None for each in report.values)
    if report.values:
        parts.append(_values(report, known=known))
    if report.problems:
        parts.append(_problems("What is wrong", report.problems, ADVICE, root, style="yellow"))
    if report.notes:
        parts.append(_problems("Notes", report.notes, NOTES, root, style="dim"))
    if not report.problems:
        parts.append(Text("  Nothing is wrong.\n", style="green"))
    if report.values and not known:
        block = yaml.safe_dump({"task": report.task}, sort_keys=False)
        how = "  To train on them, copy this into a config; change names, and list in ignore what counts for nothing."
        if any(each.objects is not None for each in report.values):
            how += "\n  Where objects overlap the smaller one counts; with kind: multilabel, all of them do."
        parts.append(Text(f"{how}\n\n{block}"))
    return Group(*parts)


def split_table(report: SplitReport, *, title: str) -> Table:
    """Both sides of a split, side by side."""
    right = [Column(side, justify="right") for side in ("training", "validation")]
    table = make_table(Column(style="bold"), *right, Column(), title=title)
    sides, shared = (report.train, report.val), len(report.shared)
    table.add_row("images", *(f"{side.images:,}" for side in sides))
    table.add_row(
        "groups", *(f"{side.groups:,}" for side in sides), f"{f'{shared:,}' if shared else 'none'} on both sides"
    )
    if all(side.views for side in sides):
        table.add_row("views", *(str(len(side.views)) for side in sides))
        table.add_row("images of a view", *(_range(side.views.values()) for side in sides))
    if report.classes:
        table.add_section()
        for each in report.classes[:_MOST_CLASSES]:
            there = (each.train > 0, each.val > 0)
            note = {(True, True): "", (False, False): "nowhere", (True, False): "in training alone"}.get(there)
            shares = (f"{share:.3%}" if share else "none" for share in (each.train, each.val))
            table.add_row(_text(each.name), *shares, "in validation alone" if note is None else note)
        if more := report.classes[_MOST_CLASSES:]:
            alone = sum((each.train > 0) != (each.val > 0) for each in more)
            table.add_row("", "", "", f"and {len(more)} more classes, {alone} of them on one side alone")
    objects = [(side.foreground, *side.spread) for side in sides if side.foreground is not None and side.spread]
    if objects:
        shares = (f"{mean:.2%}" for mean, _, _ in objects)
        table.add_row("foreground", *shares, "mean share of the image that the object covers")
        spreads = (f"{low:.1%} .. {high:.1%}" for _, low, high in objects)
        table.add_row("", *spreads, "the range of the middle 80% of the images")
    return table


def _facts(title: str) -> Table:
    """A table of names, values and notes."""
    return make_table(Column(style="bold"), Column(justify="right"), Column(style="dim"), title=title, header=False)


def _contents(report: Report, *, title: str) -> Table:
    table = _facts(title)
    table.add_row("images", f"{report.image_count:,}", _text(f"in {report.images}"))
    labelled = "with labels" if report.values else "with a mask"
    table.add_row(labelled, f"{report.pairs:,}", _text(f"in {report.masks}"))
    for number, (part, count) in enumerate(report.parts.items()):
        table.add_row("parts" if not number else "", f"{count:,}", part)
    table.add_row("groups", f"{report.group_count:,}", f"{_images(report.images_per_group)} each")
    if report.views:
        table.add_row("views", str(len(report.views)), f"{_images(report.views.values())} of each")
    sizes = sorted(report.sizes.items(), key=lambda entry: -entry[1])
    for number, ((height, width), count) in enumerate(sizes[:5]):
        table.add_row("size" if not number else "", f"{height} x {width}", f"height x width, {_images([count])}")
    if len(sizes) > 5:
        table.add_row("", f"{len(sizes) - 5:,} more", _images([sum(count for _, count in sizes[5:])]))
    if report.foreground is not None:
        ends = (
            f"{share:.2%} ({Path(file).name})" for file, share in (report.foreground.lowest, report.foreground.highest)
        )
        table.add_row("foreground", f"{report.foreground.mean:.2%}", _text(f"mean of the masks; {' to '.join(ends)}"))
    return table


def _ceilings(report: Report) -> list[RenderableType]:
    every = report.ceiling_masks == report.pairs
    masks = "all masks" if every else f"mean of {report.ceiling_masks:,} of {report.pairs:,} masks"
    table = make_table(
        Column("trained at", justify="right", style="bold"),
        Column("coverage", justify="right"),
        Column("nearest", justify="right", style="dim"),
    )
    for ceiling in report.ceilings:
        height, width = ceiling.size
        table.add_row(f"{height} x {width}", f"{ceiling.coverage:.5f}", f"{ceiling.nearest:.5f}")
    # Not the table's own title, which would be folded to the table's width.
    title = f"The best Dice at full size that a perfect network could reach ({masks})"
    return [Text(title, style="table.title"), table]


def _values(report: Report, *, known: bool) -> Table:
    """The values of label files, or the categories of objects, with their classes where a task was given."""
    objects = any(each.objects is not None for each in report.values)
    table = make_table(
        Column("category" if objects else "value", justify="left" if objects else "right", style="bold"),
        title="Categories of objects" if objects else "Label values",
    )
    for heading in (["class"] if known else []) + (["objects"] if objects else []) + ["pixels", "images"]:
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for each in report.values[:_MOST_CLASSES]:
        near = f", nearest: {each.nearest}" if each.nearest else ""
        cells = [_text(f"no class{near}" if each.name is None else each.name)] if known else []
        cells += [_text(f"{each.objects:,}")] if each.objects is not None else []
        table.add_row(_text(str(each.value)), *cells, f"{each.share:.3%}", f"{each.images:,}")
    if len(report.values) > _MOST_CLASSES:
        table.add_row(f"and {len(report.values) - _MOST_CLASSES:,} more")
    return table


def _problems(title: str, problems: Sequence[Problem], advice: dict[str, str], root: Path, *, style: str) -> Table:
    """A block for each kind: its number, what to do about it, and the files."""
    table = make_table(Column(overflow="fold"), Column(), title=title, header=False)
    for kind in advice:
        found = [problem for problem in problems if problem.kind == kind]
        if not found:
            continue
        table.add_row(Text(f"{kind}  {len(found):,}", style=f"bold {style}"), Text(advice[kind], style="bold"))
        for problem in found[:LISTED]:
            table.add_row(_text(f"  {_short(problem.file, root)}"), _text(problem.message, "dim"))
        if len(found) > LISTED:
            table.add_row(Text(f"  and {len(found) - LISTED:,} more"), Text("--json names all", style="dim"))
        table.add_row()
    return table


def _short(file: str, root: Path) -> str:
    path, folder = Path(file).absolute(), root.absolute()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else file


def _text(words: str, style: str = "") -> Text:
    """Text with names of files: not read as markup, and without control characters."""
    return Text(printable(words), style=style)


def _range(counts: Iterable[int]) -> str:
    low, high = min(counts := list(counts)), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _images(counts: Iterable[int]) -> str:
    images = _range(counts)
    return f"{images} image{'s' * (images != '1')}"
