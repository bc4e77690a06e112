"""The leaderboard as one HTML page that loads nothing from elsewhere, and as a table for notebooks."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import PurePath

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from carvana.evaluation.statistics import LEVEL
from carvana.leaderboard.records import LeaderboardData, Row, ScoredImage
from carvana.leaderboard.report.charts import COST_AXES, all_series, learning_curves, quality_against_cost
from carvana.leaderboard.report.columns import MISSING, columns, interval, millions, short
from carvana.leaderboard.report.images import disagreements
from carvana.leaderboard.report.svg import AxisScale
from carvana.leaderboard.report.text import facts, notes, remark, remarks, unfinished

_HOTTEST = 62  # per cent of the colour of heat; more would make the numbers hard to read


def to_html(board: LeaderboardData) -> str:
    """One self-contained page with the table, charts and images; sections without data are left out."""
    series = list(all_series(board).values())
    count, root = len(board.rows), board.header.data
    script = _asset("page.js")
    return _environment().get_template("page.html.jinja").render(
        title=f"{count} network{'s' * (count != 1)} on {PurePath(root).name or root}",
        header=board.header,
        status=unfinished(board),
        highlights=highlights(board),
        columns=columns(board),
        series=series,
        unranked=[row for row in remarks(board) if not row.ok],
        notes=notes(board),
        facts=facts(board),
        config=yaml.safe_dump(json.loads(json.dumps(board.header.config, default=str)), sort_keys=False),
        costs=[(cost, figure) for cost in COST_AXES if (figure := quality_against_cost(series, cost))],
        curves=learning_curves(series),
        views=view_errors(board.images, [each.name for each in series]),
        pairs={(pair.better, pair.worse): pair for pair in board.pairs},
        level=LEVEL,
        pictures=disagreements(board) if series else [],
        style=_asset("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )  # fmt: skip


def to_html_table(board: LeaderboardData) -> str:
    """The table in a notebook: the columns of a terminal, in the notebook's own style."""
    template = _environment().get_template("table.html.jinja")
    return template.render(columns=columns(board, brief=True), ranked=board.ranked, others=remarks(board))


def highlights(board: LeaderboardData) -> list[tuple[str, str, str]]:
    """Up to four networks to look at first: a title, the name and details of each; costs count once all are known."""
    ranked = board.ranked
    if not ranked:
        return []
    best, tied = ranked[0], [row for row in ranked if row.tied_with_best or row.rank == 1]
    details = f"Dice {best.dice:.5f}" + (f" ({interval(best.dice_ci95)})" if best.dice_ci95 else "")
    if len(tied) > 1:
        details += f"; {len(tied) - 1} of {len(ranked) - 1} other{'s' * (len(ranked) > 2)} tied with it"
    if unfinished(board):
        return [("Best so far", best.name, details)]
    found = {best.name: ("Best", details)}
    for title, rows, key in (
        ("Fastest that is tied with the best", tied, "latency_ms"),
        ("Smallest that is tied with the best", tied, "params"),
        ("Fastest of all", ranked, "latency_ms"),
    ):
        known = [row for row in rows if getattr(row, key) is not None]
        if known:
            row = min(known, key=lambda row: getattr(row, key))
            found.setdefault(row.name, (title, _costs(row, best)))
    return [(title, name, details) for name, (title, details) in found.items()]


def view_errors(images: Iterable[ScoredImage], names: Sequence[str]) -> dict[str, dict[str, tuple[float, float]]]:
    """By view and network the mean of 1 - Dice, and the share of the colour of heat that it is shown on, in per cent.

    Empty unless the images have two views or more.
    """
    errors: dict[str, dict[str, list[float]]] = {}
    for image in images:
        if image.view:
            of_view = errors.setdefault(image.view, {})
            for name in names:
                if name in image.dice:
                    of_view.setdefault(name, []).append(1 - image.dice[name])
    if len(errors) < 2:
        return {}
    ordered = sorted(errors, key=lambda view: (len(view), view) if view.isdigit() else (math.inf, view))
    means = {view: {name: float(np.mean(found)) for name, found in errors[view].items()} for view in ordered}
    known = [max(mean, 1e-6) for of_view in means.values() for mean in of_view.values()]
    heat = AxisScale(min(known, default=1), max(known, default=1), 0, _HOTTEST, log=True)
    return {view: {name: (mean, heat(mean)) for name, mean in of_view.items()} for view, of_view in means.items()}


def _costs(row: Row, best: Row) -> str:
    """The costs of a network, and its error beside that of the best."""
    costs = [f"{short(row.latency_ms)} ms" if row.latency_ms is not None else ""]
    costs.append(f"{millions(row.params)} parameters" if row.params is not None else "")
    return ", ".join(filter(None, costs)) + f"; error x 1e4: {row.error:.1f} (best: {best.error:.1f})"


@functools.cache
def _environment() -> Environment:
    """The templates, which escape every text, and what they write numbers with."""
    found = Environment(
        loader=PackageLoader("carvana.leaderboard.report", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.globals["MISSING"] = MISSING
    found.filters |= {
        "px": "{:.1f}".format,
        "breakable": lambda name: filter(None, re.split(r"(?<=[/_])", name)),
        "interval": interval,
        "p": lambda p: f"{p:.4f}" if p >= 1e-4 else "< 0.0001",
        "remark": remark,
    }
    return found


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
