"""What the ``carvana data`` commands print."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from carvana.data.check.files import ADVICE, NOTES, Problem
from carvana.data.check.report import Report
from carvana.data.splits import Side, SplitReport
from carvana.errors import printable

LISTED = 10
"""The number of files that are named for each kind of problem; ``--json`` names all."""


def report_tables(report: Report, *, root: Path) -> RenderableType:
    """The report on a data folder: its contents, the ceilings, all problems."""
    parts: list[RenderableType] = [_contents(report, title=str(root))]
    if report.ceilings:
        parts.append(_ceilings(report))
    if report.problems:
        parts.append(_problems("What is wrong", report.problems, ADVICE, root, style="yellow"))
    if report.notes:
        parts.append(_problems("Notes", report.notes, NOTES, root, style="dim"))
    if not report.problems:
        parts.append(Text("  Nothing is wrong.\n", style="green"))
    return Group(*parts)


def split_table(report: SplitReport, *, title: str) -> Table:
    """Both sides of a split, side by side."""
    table = _table(title, header=True)
    for head, how in (("", "left"), ("training", "right"), ("validation", "right"), ("", "left")):
        table.add_column(head, justify=how, style="bold" if not head and not table.columns else "")  # type: ignore[arg-type]
    sides = report.train, report.val
    table.add_row("images", *(f"{side.images:,}" for side in sides))
    table.add_row("groups", *(f"{side.groups:,}" for side in sides), _shared(report))
    if all(side.views for side in sides):
        table.add_row("views", *(str(len(side.views)) for side in sides))
        table.add_row("images of a view", *(_ends(side.views.values()) for side in sides))
    table.add_row(
        "foreground", *(f"{side.foreground:.2%}" for side in sides), "mean share of the image that the object covers"
    )
    table.add_row("", *(_range(side) for side in sides), "the range of the middle 80% of the images")
    return table


def _contents(report: Report, *, title: str) -> Table:
    table = _table(title)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("images", f"{report.image_count:,}", _text(f"in {report.images}"))
    table.add_row("with a mask", f"{report.pairs:,}", _text(f"in {report.masks}"))
    table.add_row("groups", f"{report.group_count:,}", f"{_images(report.images_per_group)} each")
    if report.views:
        table.add_row("views", str(len(report.views)), f"{_images(report.views.values())} of each")
    sizes = sorted(report.sizes.items(), key=lambda entry: -entry[1])
    for number, ((height, width), count) in enumerate(sizes[:5]):
        table.add_row("size" if not number else "", f"{height} x {width}", f"height x width, {_images([count])}")
    if len(sizes) > 5:
        table.add_row("", f"{len(sizes) - 5:,} more", _images([sum(count for _, count in sizes[5:])]))
    if report.foreground is not None:
        (low_file, low), (high_file, high) = report.foreground.lowest, report.foreground.highest
        ends = f"{low:.2%} ({Path(low_file).name}) to {high:.2%} ({Path(high_file).name})"
        table.add_row("foreground", f"{report.foreground.mean:.2%}", _text(f"mean of the masks; {ends}"))
    return table


def _ceilings(report: Report) -> RenderableType:
    every = report.ceiling_masks == report.pairs
    masks = "all masks" if every else f"mean of {report.ceiling_masks:,} of {report.pairs:,} masks"
    table = _table("", header=True)
    table.title = None
    table.add_column("trained at", justify="right", style="bold")
    table.add_column("coverage", justify="right")
    table.add_column("nearest", justify="right", style="dim")
    for ceiling in report.ceilings:
        height, width = ceiling.size
        table.add_row(f"{height} x {width}", f"{ceiling.coverage:.5f}", f"{ceiling.nearest:.5f}")
    # Not the table's own title, which would be folded to the table's width.
    title = Text(f"The best Dice at full size that a perfect network could reach ({masks})", style="table.title")
    return Group(title, table)


def _problems(
    title: str, problems: Sequence[Problem], advice: dict[str, str], root: Path, *, style: str
) -> RenderableType:
    """A block for each kind: its number, what to do about it, and the files."""
    table = _table(title)
    table.add_column(overflow="fold")
    table.add_column()
    for kind in advice:
        found = [problem for problem in problems if problem.kind == kind]
        if not found:
            continue
        table.add_row(Text(f"{kind}  {len(found):,}", style=f"bold {style}"), Text(advice[kind], style="bold"))
        for problem in found[:LISTED]:
            table.add_row(_text("  " + _short(problem.file, root)), _text(problem.message, style="dim"))
        if len(found) > LISTED:
            table.add_row(Text(f"  and {len(found) - LISTED:,} more"), Text("--json names all", style="dim"))
        table.add_row()
    return table


def _short(file: str, root: Path) -> str:
    path, folder = Path(file).absolute(), root.absolute()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else file


def _table(title: str, *, header: bool = False) -> Table:
    return Table(title=_text(title, style="table.title"), box=SIMPLE, show_header=header, title_justify="left")


def _text(words: str, style: str = "") -> Text:
    """Text with names of files: not read as markup, and without control characters."""
    return Text(printable(words), style=style)


def _ends(counts: Iterable[int]) -> str:
    low, high = min(counts := list(counts)), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _images(counts: Iterable[int]) -> str:
    ends = _ends(counts)
    return f"{ends} image{'' if ends == '1' else 's'}"


def _range(side: Side) -> str:
    low, high = side.spread
    return f"{low:.1%} .. {high:.1%}"


def _shared(report: SplitReport) -> str:
    count = len(report.shared)
    return f"{count:,} on both sides" if count else "none on both sides"
