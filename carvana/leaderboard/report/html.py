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

from carvana.evaluation.statistics import LEVEL, groups_needed
from carvana.leaderboard.records import LeaderboardData, Row, ScoredImage
from carvana.leaderboard.report.charts import (
    COST_AXES,
    MANY,
    CostAxis,
    Figure,
    Quality,
    Series,
    all_series,
    learning_curves,
    qualities,
    quality_against_cost,
)
from carvana.leaderboard.report.columns import MISSING, columns, interval, millions, short
from carvana.leaderboard.report.images import disagreements
from carvana.leaderboard.report.svg import AxisScale
from carvana.leaderboard.report.text import facts, notes, remark, remarks, unfinished
from carvana.utils.progress import METRICS

_HOTTEST = 62  # per cent of the colour of heat; more would make the numbers hard to read


def to_html(board: LeaderboardData) -> str:
    """One self-contained page with the table, charts and images; sections without data are left out."""
    series = list(all_series(board).values())
    count, root, metric, shown = len(board.rows), board.header.data, METRICS[board.task.metric], qualities(board)
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
        qualities=shown,
        costs=[(cost, figures) for cost in COST_AXES if (figures := _figures(series, cost, shown))],
        curves=learning_curves(series, metric),
        views=(views := view_errors(board.images, [each.name for each in series])),
        angles=angles(views),
        classes=class_scores(board),
        metric=metric,
        unit=board.unit,
        many=MANY,
        pairs={(pair.better, pair.worse): pair for pair in board.pairs},
        level=LEVEL,
        pictures=disagreements(board) if series else [],
        ignores=bool(board.task.ignore),
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
    details = f"{METRICS[best.metric]} {best.score:.5f}"
    details += f" ({interval(best.score_ci95)})" if best.score_ci95 else ""
    if len(tied) > 1:
        details += f"; {len(tied) - 1} of {len(ranked) - 1} other{'s' * (len(ranked) > 2)} tied with it"
    if unfinished(board):
        return [("Best so far", best.name, details)]
    found = {best.name: ("Best", details)}
    tested = tied if board.header.groups >= groups_needed(LEVEL) else []  # else all are tied, however bad
    for title, rows, key in (
        ("Fastest that is tied with the best", tested, "latency_ms"),
        ("Smallest that is tied with the best", tested, "params"),
        ("Fastest of all", ranked, "latency_ms"),
    ):
        known = [row for row in rows if getattr(row, key) is not None]
        if known:
            row = min(known, key=lambda row: getattr(row, key))
            found.setdefault(row.name, (title, _costs(row, best)))
    return [(title, name, details) for name, (title, details) in found.items()]


def view_errors(images: Iterable[ScoredImage], names: Sequence[str]) -> dict[str, dict[str, tuple[float, float]]]:
    """By view and network the mean of 1 - score, and the share of the colour of heat that it is shown on, in per cent.

    Empty unless the images have two views or more.
    """
    errors: dict[str, dict[str, list[float]]] = {}
    for image in images:
        if image.view:
            of_view = errors.setdefault(image.view, {})
            for name in names:
                if name in image.scores:
                    of_view.setdefault(name, []).append(1 - image.scores[name])
    if len(errors) < 2:
        return {}
    ordered = sorted(errors, key=lambda view: (len(view), view) if view.isdigit() else (math.inf, view))
    means = {view: {name: float(np.mean(found)) for name, found in errors[view].items()} for view in ordered}
    known = [max(mean, 1e-6) for of_view in means.values() for mean in of_view.values()]
    heat = AxisScale(min(known, default=1), max(known, default=1), 0, _HOTTEST, log=True)
    return {view: {name: (mean, heat(mean)) for name, mean in of_view.items()} for view, of_view in means.items()}


def angles(views: Iterable[str]) -> dict[str, float]:
    """The angle of each view in degrees, of Carvana's cars: all of their sixteen views, or so many evenly spread ones.

    Empty for other views.

    Example:
        >>> angles(["01", "05", "09", "13"]), angles(["01", "02", "03", "04"])
        ({'01': 0.0, '05': 90.0, '09': 180.0, '13': 270.0}, {})
    """
    found = sorted(views)
    steps = [16 * place // len(found) for place in range(len(found))]
    spread = {f"{1 + step:02d}": 22.5 * step for step in steps}
    return spread if list(spread) == found else {}


def class_scores(board: LeaderboardData) -> dict[str, dict[str, tuple[float, float, bool]]]:
    """By class and network: the score, its share of the colour of heat in per cent, and whether it is the best one.

    Empty unless there are several classes; without those that are not in the true labels.
    """
    found = {}
    for name in board.task.names if len(board.task.classes) > 1 else ():
        scores = {row.name: score for row in board.ranked if (score := row.score_of(name)) is not None}
        best = max(scores.values(), default=0.0)
        if scores:
            found[name] = {key: (score, _HOTTEST * (1 - score), score == best > 0) for key, score in scores.items()}
    return found


def _figures(series: Sequence[Series], cost: CostAxis, shown: Sequence[Quality]) -> dict[int, Figure]:
    """The charts of a cost by the place of their score; none where no network has both."""
    found = {place: quality_against_cost(series, cost, quality) for place, quality in enumerate(shown)}
    return {place: figure for place, figure in found.items() if figure is not None}


def _costs(row: Row, best: Row) -> str:
    """The costs of a network, and its score or error beside that of the best."""
    costs = [f"{short(row.latency_ms)} ms" if row.latency_ms is not None else ""]
    costs.append(f"{millions(row.params)} parameters" if row.params is not None else "")
    quality = f"{METRICS[row.metric]} {row.score:.5f} (best: {best.score:.5f})"
    if row.error is not None and best.error is not None:
        quality = f"error x 1e4: {row.error:.1f} (best: {best.error:.1f})"
    return f"{', '.join(filter(None, costs))}; {quality}"


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
        "gap": lambda gap, unit: f"{unit * gap:.{1 if unit > 100 else 2}f}",
        "p": lambda p: f"{p:.4f}" if p >= 1e-4 else "< 0.0001",
        "remark": remark,
    }
    return found


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
