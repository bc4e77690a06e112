"""What a reader wants to know first: which network is best, and which is the cheapest one that is as good."""

from __future__ import annotations

from carvana.leaderboard.records import LeaderboardData, Row
from carvana.leaderboard.report.columns import interval, millions, short
from carvana.leaderboard.report.markup import Markup, element


def highlights(board: LeaderboardData) -> Markup | str:
    """Up to four cards; nothing where no network is ranked."""
    ranked = board.ranked
    if not ranked:
        return ""
    best, equals = ranked[0], [row for row in ranked if row.tied_with_best or row.rank == 1]
    cards = [_card("Best", best, _dice(best))]
    if len(equals) > 1:
        told = f"{len(equals) - 1} of the other {len(ranked) - 1} cannot be told from it"
        cards[0] = _card("Best", best, f"{_dice(best)}; {told}")
    quickest = _least(equals, "latency_ms")
    if quickest and quickest is not best:
        cards.append(_card("Fastest that is tied with the best", quickest, _compared(quickest, best)))
    smallest = _least(equals, "params")
    if smallest and smallest is not best and smallest is not quickest:
        cards.append(_card("Smallest that is tied with the best", smallest, _compared(smallest, best)))
    fastest = _least(ranked, "latency_ms")
    if fastest and fastest is not quickest and fastest is not best:
        cards.append(_card("Fastest of all", fastest, _compared(fastest, best)))
    return element("ul", *cards, class_="highlights")


def _card(what: str, row: Row, detail: str) -> Markup:
    return element(
        "li",
        element("span", what, class_="what"),
        element("strong", row.name),
        element("span", detail, class_="what"),
    )


def _least(rows: list[Row] | tuple[Row, ...], key: str) -> Row | None:
    known = [row for row in rows if getattr(row, key) is not None]
    return min(known, key=lambda row: getattr(row, key)) if known else None


def _dice(row: Row) -> str:
    spread = f" ({interval(row.dice_ci95)})" if row.dice_ci95 else ""
    return f"Dice {row.dice:.5f}{spread}"


def _compared(row: Row, best: Row) -> str:
    """Its costs, and its error beside that of the best."""
    costs = [f"{short(row.latency_ms)} ms" if row.latency_ms is not None else ""]
    costs.append(f"{millions(row.params)} parameters" if row.params is not None else "")
    return ", ".join(filter(None, costs)) + f"; error x 1e4: {row.error:.1f} (best: {best.error:.1f})"
