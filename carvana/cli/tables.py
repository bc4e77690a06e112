"""Results as tables on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from carvana.files import write_json


def show(table: Table) -> None:
    """Print a table to stdout, never folded where stdout is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def evaluation_table(evaluation: Mapping[str, Any], *, title: str) -> Table:
    """The numbers of ``evaluation.json``, each with what it means."""
    table = Table(title=title, box=SIMPLE, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    photos = f"mean of {evaluation['images']} photos of {evaluation['groups']} cars, at full size"
    table.add_row("Dice", _number(evaluation["dice"]), photos)
    low, high = evaluation["dice_ci95"]
    interval = "" if low is None else f"{low:.5f} .. {high:.5f}"
    table.add_row("95% interval", interval, "bootstrap over cars" if interval else "needs two cars")
    table.add_row("Dice at 0.5", _number(evaluation["dice_at_half"]), "without a chosen threshold")
    table.add_row("IoU", _number(evaluation["iou"]), "")
    table.add_row("pixel accuracy", _number(evaluation["pixel_accuracy"]), "")
    table.add_row("boundary Dice", _number(evaluation["boundary_dice"]), "within 7 pixels of the true boundary")
    table.add_row("threshold", f"{evaluation['threshold']:.3f}", "chosen on these photos, stored in the model")
    return table


def _number(value: float) -> str:
    return f"{value:.5f}"


def write_json_result(target: str, value: Any) -> None:
    """Write JSON to a file, or to stdout where the target is ``-``."""
    if target == "-":
        print(json.dumps(value, indent=2, allow_nan=False))
    else:
        write_json(target, value)
