"""The leaderboard as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePath

import yaml

from carvana.leaderboard.records import LeaderboardData
from carvana.leaderboard.report.charts import COST_AXES, learning_curves, quality_against_cost
from carvana.leaderboard.report.facts import facts, highlights, notes, unfinished
from carvana.leaderboard.report.images import disagreements
from carvana.leaderboard.report.markup import Markup, Series, all_series, element, joined
from carvana.leaderboard.report.tables import pair_list, pair_matrix, sortable_table, view_table


def to_html(board: LeaderboardData) -> str:
    """One self-contained page with the table, charts and images; sections without data are left out."""
    series = all_series(board)
    title = _title(board)
    body = [
        element(
            "header",
            element("h1", title),
            element("p", *_lead(board), class_="lead"),
            _cards(board),
        ),
        element(
            "main",
            _table_section(board, series),
            _header_section(board),
            _cost_section(series),
            _curve_section(series),
            _view_section(board, series),
            _pair_section(board, series),
            _image_section(board, series),
        ),
        element("footer", f"Written by carvana {board.header.version}. This file is complete: it loads nothing."),
        _script(),
    ]
    return "<!doctype html>\n" + element("html", _head(title), element("body", *body), lang="en") + "\n"


def _title(board: LeaderboardData) -> str:
    count = len(board.rows)
    return f"{count} network{'s' * (count != 1)} on {PurePath(board.header.data).name or board.header.data}"


def _lead(board: LeaderboardData) -> tuple[str, ...]:
    status, scored = unfinished(board), f"{_capital(board.header.scored)}."
    return (element("strong", f"{_capital(status)}."), " ", scored) if status else (scored,)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cards(board: LeaderboardData) -> Markup | str:
    cards = [
        element(
            "li", element("span", title, class_="what"), element("strong", name), element("span", words, class_="what")
        )
        for title, name, words in highlights(board)
    ]
    return element("ul", *cards, class_="highlights") if cards else ""


def _head(title: str) -> Markup:
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{_hash(_asset('page.js'))}'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} - leaderboard"),
        element("link", rel="icon", href="data:,"),  # without it browsers ask a server for one
        element("style", Markup(_asset("page.css"))),
    )


def _script() -> Markup:
    return element("script", Markup(_asset("page.js")))


def _section(title: str, explanation: str, *content: str) -> Markup:
    return element("section", element("h2", title), element("p", explanation, class_="muted"), *content)


def _scroll(content: Markup, label: str) -> Markup:
    """Content that may be wider than the screen: it scrolls by itself, also by keyboard."""
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def _table_section(board: LeaderboardData, series: Mapping[str, Series]) -> Markup:
    below = [element("ul", *(element("li", note) for note in notes(board)), class_="notes")] if notes(board) else []
    return _section(
        "Leaderboard",
        joined(["A bar marks the best and the networks tied with it. ", _SORTS]),
        _scroll(sortable_table(board, series), "Leaderboard"),
        *below,
    )


def _header_section(board: LeaderboardData) -> Markup:
    known = [element("div", element("dt", label), element("dd", text)) for label, text in facts(board)]
    config = yaml.safe_dump(json.loads(json.dumps(board.header.config, default=str)), sort_keys=False)
    return element(
        "section",
        element("h2", "What was compared"),
        element("dl", *known, class_="facts"),
        element("details", element("summary", "The config that all networks share"), element("pre", config)),
    )


def _cost_section(series: Mapping[str, Series]) -> Markup:
    charts = [(cost, chart) for cost in COST_AXES if (chart := quality_against_cost(series.values(), cost))]
    if not charts:
        return Markup()
    buttons = [
        element(
            "label",
            element("input", type="radio", name="cost", id=f"by-{cost.key}", checked=index == 0),
            cost.heading,
        )
        for index, (cost, _) in enumerate(charts)
    ]
    shown = [element("div", chart, class_=f"cost by-{cost.key}") for cost, chart in charts]
    return _section(
        "Quality against cost",
        "Both on log scales. Filled marks lie on the Pareto front, the dashed line: no network is both better and "
        "cheaper. Whiskers are the 95% intervals.",
        element(
            "div",
            element("fieldset", element("legend", "cost", hidden=True), *buttons, class_="switch"),
            _legend(series),
            *shown,
            class_="costs",
        ),
    )


def _legend(series: Mapping[str, Series]) -> Markup:
    """Each network's mark, rank and name."""
    return element(
        "ul",
        *(element("li", each.swatch(), f"{each.number} {each.name}") for each in series.values()),
        class_="legend",
    )


def _curve_section(series: Mapping[str, Series]) -> Markup:
    chart = learning_curves(series.values())
    if chart is None:
        return Markup()
    again = any(len(each.row.refits) > 1 for each in series.values())
    return _section(
        "Learning curves",
        "Dice on the validation images, at the training size and threshold 0.5, over the minutes of training alone. "
        "The scale is that of the error, so 0.9, 0.99 and 0.999 lie equally far apart."
        + " Thin lines are the trainings with other seeds."
        * again,
        _legend(series),
        chart,
    )


def _view_section(board: LeaderboardData, series: Mapping[str, Series]) -> Markup:
    table = view_table(board.images, series)
    if table is None:
        return Markup()
    return _section(
        "Dice by view angle",
        "Mean error x 1e4 on the images from each side: the stronger the colour, the larger.",
        _scroll(table, "Dice by view angle"),
    )


def _pair_section(board: LeaderboardData, series: Mapping[str, Series]) -> Markup:
    matrix = pair_matrix(board.pairs, series)
    if matrix is None:
        return Markup()
    return _section(
        "Which networks differ",
        "By how much a network (row) is better than those ranked below it (columns), in Dice x 1e4. Bold on colour: "
        "a significant difference. Grey and =: tied, it may be chance.",
        _scroll(matrix, "Which networks differ"),
        element(
            "details",
            element("summary", "All pairs with intervals and p-values"),
            _scroll(pair_list(board.pairs), "All pairs"),
        ),
    )


def _image_section(board: LeaderboardData, series: Mapping[str, Series]) -> Markup:
    if not series:
        return Markup()
    shown = disagreements(board, series)
    title = "Where networks disagree most"
    if not isinstance(shown, Markup):
        return _section(title, shown)
    key = joined(
        [
            "The images whose masks differ most:",
            *(element("span", element("i", class_=name), text) for name, text in _KEY.items()),
        ]
    )
    return _section(title, element("span", key, class_="key"), shown)


_SORTS = element("span", "A click on a heading sorts.", class_="sorts", hidden=True)  # the script shows it
_KEY = {"extra": "too much", "missed": "missed", "outline": "the true outline"}


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
