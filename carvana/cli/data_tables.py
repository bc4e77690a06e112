"""Tables about data folders: what ``carvana data check`` finds, and both sides of a split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from carvana.cli.tables import MOST_CLASSES, facts_table, make_table, plain_text

if TYPE_CHECKING:
    from carvana.data.check.files import Problem
    from carvana.data.check.report import Report
    from carvana.data.split import SplitReport

LISTED = 10
"""The number of files that are named for each kind of problem; ``--json`` names all."""


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
        for each in report.classes[:MOST_CLASSES]:
            there = (each.train > 0, each.val > 0)
            note = {(True, True): "", (False, False): "nowhere", (True, False): "in training alone"}.get(there)
            shares = (f"{share:.3%}" if share else "none" for share in (each.train, each.val))
            table.add_row(plain_text(each.name), *shares, "in validation alone" if note is None else note)
        if more := report.classes[MOST_CLASSES:]:
            alone = sum((each.train > 0) != (each.val > 0) for each in more)
            table.add_row("", "", "", f"and {len(more)} more classes, {alone} of them on one side alone")
    objects = [(side.foreground, *side.spread) for side in sides if side.foreground is not None and side.spread]
    if objects:
        shares = (f"{mean:.2%}" for mean, _, _ in objects)
        table.add_row("foreground", *shares, "mean share of the image that the object covers")
        spreads = (f"{low:.1%} .. {high:.1%}" for _, low, high in objects)
        table.add_row("", *spreads, "the range of the middle 80% of the images")
    return table


def _contents(report: Report, *, title: str) -> Table:
    table = facts_table(title)
    table.add_row("images", f"{report.image_count:,}", plain_text(f"in {report.images}"))
    labelled = "with labels" if report.values else "with a mask"
    table.add_row(labelled, f"{report.pairs:,}", plain_text(f"in {report.masks}"))
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
        table.add_row(
            "foreground", f"{report.foreground.mean:.2%}", plain_text(f"mean of the masks; {' to '.join(ends)}")
        )
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
    for each in report.values[:MOST_CLASSES]:
        near = f", nearest: {each.nearest}" if each.nearest else ""
        cells = [plain_text(f"no class{near}" if each.name is None else each.name)] if known else []
        cells += [plain_text(f"{each.objects:,}")] if each.objects is not None else []
        table.add_row(plain_text(str(each.value)), *cells, f"{each.share:.3%}", f"{each.images:,}")
    if len(report.values) > MOST_CLASSES:
        table.add_row(f"and {len(report.values) - MOST_CLASSES:,} more")
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
            table.add_row(plain_text(f"  {_short(problem.file, root)}"), plain_text(problem.message, "dim"))
        if len(found) > LISTED:
            table.add_row(Text(f"  and {len(found) - LISTED:,} more"), Text("--json names all", style="dim"))
        table.add_row()
    return table


def _short(file: str, root: Path) -> str:
    path, folder = Path(file).absolute(), root.absolute()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else file


def _range(counts: Iterable[int]) -> str:
    low, high = min(counts := list(counts)), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _images(counts: Iterable[int]) -> str:
    images = _range(counts)
    return f"{images} image{'s' * (images != '1')}"
