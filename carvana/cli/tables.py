"""Results as tables on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from carvana.utils.files import write_json
from carvana.utils.targets import check_target


def show(table: RenderableType) -> None:
    """Print a table, or what else rich can print, to stdout, never folded where stdout is no terminal."""
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
    """The numbers of ``evaluation.json``, each with what it means.

    Args:
        evaluation: the numbers.
        title: a line above them, printed as it is.
        threshold: what became of the threshold.
    """
    # A Text: in a string, brackets of a path would be read as markup.
    table = Table(title=Text(title, style="table.title"), box=SIMPLE, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    images = f"mean of {evaluation['images']} images at full size (groups: {evaluation['groups']})"
    chosen = "thresholds from other groups" if evaluation["groups"] > 1 else "threshold 0.5"
    table.add_row("Dice", _number(evaluation["dice"]), f"{images}, {chosen}")
    low, high = evaluation["dice_ci95"]
    interval = "" if low is None else f"{low:.5f} .. {high:.5f}"
    table.add_row("95% interval", interval, "bootstrap over groups" if interval else "needs two groups")
    table.add_row("Dice at 0.5", _number(evaluation["dice_at_half"]), "without a chosen threshold")
    table.add_row("IoU", _number(evaluation["iou"]), "")
    table.add_row("pixel accuracy", _number(evaluation["pixel_accuracy"]), "")
    table.add_row("boundary Dice", _number(evaluation["boundary_dice"]), "within 7 pixels of the true boundary")
    table.add_row("threshold", f"{evaluation['threshold']:.3f}", threshold)
    return table


def _number(value: float) -> str:
    return f"{value:.5f}"


def check_json_target(target: str | None, *, replace: bool = False) -> None:
    """Refuse a file for ``--json`` as :func:`carvana.utils.targets.check_target` does; ``-``, for stdout, is none.

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
