"""The charts that are tables: Dice by view angle as a heat map, and who can be told from whom as a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from carvana.evaluation.statistics import LEVEL
from carvana.leaderboard.records import Pair, ScoredImage
from carvana.leaderboard.report.columns import MISSING, interval
from carvana.leaderboard.report.markup import Markup, element
from carvana.leaderboard.report.series import Series

_TURN = 360 / 16  # degrees from one of Carvana's views to the next
_HOTTEST = 62  # per cent of the colour of heat; more would make the numbers hard to read


def view_errors(images: Iterable[ScoredImage], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The mean of 1 - Dice by view and network; empty where images tell no two views apart."""
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
    return {view: {name: float(np.mean(found)) for name, found in errors[view].items()} for view in ordered}


def view_table(images: Sequence[ScoredImage], series: Mapping[str, Series]) -> Markup | None:
    """A heat map of networks by views, the darker the larger the error; None where there are no views."""
    errors = view_errors(images, list(series))
    if not errors or not series:
        return None
    known = [error for of_view in errors.values() for error in of_view.values()]
    low, high = min(known), max(known)
    head = element("tr", element("th", "network", scope="col"), *(_view_heading(view) for view in errors))
    body = [
        element(
            "tr",
            element("th", each.label(), scope="row"),
            *(_heat(of_view.get(name), low, high) for of_view in errors.values()),
        )
        for name, each in series.items()
    ]
    return element(
        "table",
        element("thead", head),
        element("tbody", *body),
        class_="heat",
    )


def pair_matrix(pairs: Sequence[Pair], series: Mapping[str, Series]) -> Markup | None:
    """Each network against those below it: by how much it is better, and whether that can be told; None for one."""
    found = {(pair.better, pair.worse): pair for pair in pairs if pair.better in series and pair.worse in series}
    if not found:
        return None
    names = list(series)
    head = element(
        "tr",
        element("th", "#", scope="col"),
        element("th", "network", scope="col"),
        *(element("th", series[name].number, scope="col", title=name) for name in names[1:]),
    )
    body = [
        element(
            "tr",
            element("td", series[name].number),
            element("th", series[name].label(), scope="row"),
            *(element("td") for _ in names[1 : place + 1]),
            *(_pair_cell(found.get((name, other))) for other in names[max(1, place + 1) :]),
        )
        for place, name in enumerate(names)
    ]
    return element(
        "table",
        element("thead", head),
        element("tbody", *body),
        class_="pairs",
    )


def pair_list(pairs: Sequence[Pair]) -> Markup:
    """All pairs with their gap, its interval and p."""
    head = [
        element("th", text, scope="col") for text in ("better", "worse", "gap x 1e4", "95% interval", "adjusted p", "")
    ]
    body = [
        element(
            "tr",
            element("td", pair.better),
            element("td", pair.worse),
            element("td", f"{1e4 * pair.gap:.1f}", class_="number"),
            element("td", interval(pair.ci95, scale=1e4, digits=1), class_="number"),
            element("td", _p(pair.p), class_="number"),
            element("td", "told apart" if told_apart(pair) else "tied"),
        )
        for pair in pairs
    ]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="list")


def told_apart(pair: Pair) -> bool:
    """Whether chance does not explain the gap."""
    return pair.p <= LEVEL


def _view_heading(view: str) -> Markup:
    """A view and, for Carvana's sixteen, its angle."""
    carvana = len(view) == 2 and view.isdigit() and 1 <= int(view) <= 16
    angle = element("small", f"{_TURN * (int(view) - 1):g}°") if carvana else ""
    return element("th", view, angle, scope="col")


def _heat(error: float | None, low: float, high: float) -> Markup:
    if error is None:
        return element("td", MISSING)
    low, value, high = (math.log(max(each, 1e-6)) for each in (low, error, high))
    share = (value - low) / (high - low) if high > low else 0.0
    return element("td", f"{1e4 * error:.1f}", style=f"--heat: {_HOTTEST * share:.0f}%")


def _pair_cell(pair: Pair | None) -> Markup:
    if pair is None:
        return element("td", MISSING)
    apart = told_apart(pair)
    title = (
        f"{pair.better} - {pair.worse}: {1e4 * pair.gap:.1f} "
        f"({interval(pair.ci95, scale=1e4, digits=1)}), adjusted p {_p(pair.p)}"
    )
    text = f"{1e4 * pair.gap:.1f}" if apart else f"= {1e4 * pair.gap:.1f}"
    return element("td", text, title=title, class_="apart" if apart else "tied")


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 1e-4 else "< 0.0001"
