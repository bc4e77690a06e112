"""Results as tables on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from carvana.utils.files import check_target, write_json


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


def evaluation_table(
    evaluation: Mapping[str, Any], *, title: str, threshold: str = "chosen on these images, stored in the model"
) -> Table:
    """The numbers of ``evaluation.json``, each with its meaning.

    Args:
        evaluation: the numbers.
        title: a line above them, printed as it is.
        threshold: the note on the last row.
    """
    # A Text, since rich reads brackets in a string as markup.
    table = Table(title=Text(title, style="table.title"), box=SIMPLE, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    count, groups = evaluation["images"], evaluation["groups"]
    images = f"mean of {count} image{'s' * (count != 1)} at full size (groups: {groups})"
    chosen = "thresholds chosen on other groups" if groups > 1 else "at threshold 0.5"
    table.add_row("Dice", _number(evaluation["dice"]), f"{images}, {chosen}")
    low, high = evaluation["dice_ci95"]
    interval = "" if low is None else f"{low:.5f} .. {high:.5f}"
    table.add_row("95% interval", interval, "of Dice, bootstrap over groups" if interval else "needs two groups")
    table.add_row("Dice at 0.5", _number(evaluation["dice_at_half"]), "without a chosen threshold")
    table.add_row("IoU", _number(evaluation["iou"]), "")
    table.add_row("pixel accuracy", _number(evaluation["pixel_accuracy"]), "")
    table.add_row("boundary Dice", _number(evaluation["boundary_dice"]), "within 7 pixels of the true boundary")
    table.add_row("threshold", f"{evaluation['threshold']:.3f}", threshold)
    return table


def _number(value: float) -> str:
    return f"{value:.5f}"


def check_json_target(target: str | None, *, replace: bool = False) -> None:
    """Refuse a file for ``--json`` as :func:`carvana.utils.files.check_target` does; ``-`` is stdout.

    Raises:
        ConfigError: it is there already, or cannot be written.
    """
    if target is not None and target != "-":
        check_target(target, option="--json", replace=replace, instead="name another file, or - for stdout")


def write_json_result(target: str, value: Any) -> None:
    """Write JSON to a file, or to stdout where the target is ``-``."""
    if target == "-":
        print(json.dumps(value, indent=2, allow_nan=False))
    else:
        write_json(target, value)
