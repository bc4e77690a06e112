"""Results as tables on stdout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from carvana.errors import ConfigError
from carvana.files import write_json


def show(table: RenderableType) -> None:
    """Print a table, or what else rich can print, to stdout, never folded where stdout is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def evaluation_table(
    evaluation: Mapping[str, Any], *, title: str, threshold: str = "chosen on these photos, stored in the model"
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
    photos = f"mean of {evaluation['images']} photos at full size (cars: {evaluation['groups']})"
    chosen = "thresholds from other cars" if evaluation["groups"] > 1 else "threshold 0.5"
    table.add_row("Dice", _number(evaluation["dice"]), f"{photos}, {chosen}")
    low, high = evaluation["dice_ci95"]
    interval = "" if low is None else f"{low:.5f} .. {high:.5f}"
    table.add_row("95% interval", interval, "bootstrap over cars" if interval else "needs two cars")
    table.add_row("Dice at 0.5", _number(evaluation["dice_at_half"]), "without a chosen threshold")
    table.add_row("IoU", _number(evaluation["iou"]), "")
    table.add_row("pixel accuracy", _number(evaluation["pixel_accuracy"]), "")
    table.add_row("boundary Dice", _number(evaluation["boundary_dice"]), "within 7 pixels of the true boundary")
    table.add_row("threshold", f"{evaluation['threshold']:.3f}", threshold)
    return table


def _number(value: float) -> str:
    return f"{value:.5f}"


def check_json_target(target: str | None) -> None:
    """Refuse a file that cannot be written, before any work is done for what shall be in it.

    Raises:
        ConfigError: it is a folder, or would lie in something that is none or may not be written to.
    """
    if target is None or target == "-":
        return
    path = Path(target).absolute()
    if path.is_dir():
        raise ConfigError(f"--json {target}: is a folder; name a file in it, or - for stdout")
    folder = next(parent for parent in path.parents if parent.exists())  # folders that are missing will be made
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--json {target}: cannot be written into {folder}; name another file, or - for stdout")


def write_json_result(target: str, value: Any) -> None:
    """Write JSON to a file, or to stdout where the target is ``-``."""
    if target == "-":
        print(json.dumps(value, indent=2, allow_nan=False))
    else:
        write_json(target, value)
