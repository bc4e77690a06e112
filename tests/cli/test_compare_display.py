from __future__ import annotations

import io

import pytest
from boards import make_board
from rich.console import Console

from carvana.cli import compare_display
from carvana.cli.compare_display import LiveComparisonProgress, sparkline
from carvana.cli.display import LiveReporter
from carvana.cli.tables import leaderboard_table
from carvana.leaderboard.executor import FITTING, MEASURING
from carvana.leaderboard.records import Row, SeedRun

ROWS = (Row("done", status="ok", dice=0.98, refits=(SeedRun("r", 0, 0.98, 0.5, curve=({"val_dice": 0.9},)),)),
        Row("now"), Row("later"))  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(compare_display.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def watcher(clock: list[float]) -> LiveComparisonProgress:
    reporter = LiveReporter()
    reporter.console = Console(file=io.StringIO(), width=120, force_terminal=True)
    return LiveComparisonProgress(reporter)


def shown(watcher: LiveComparisonProgress) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(watcher.render())
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_every_network_has_a_line_that_says_what_it_does(watcher: LiveComparisonProgress, clock: list[float]) -> None:
    watcher.begin(ROWS, fits=2, minutes=None, devices=1)
    watcher.stage("now", FITTING)
    watcher.event("now", "start", "training", 100)
    for steps in (0, 10, 15):
        watcher.event("now", "advance", "training", steps)
        clock[0] += 5
    watcher.event("now", "epoch", {"val_dice": 0.9})
    watcher.event("now", "epoch", {"val_dice": 0.95})
    done, now, later, _, summary = shown(watcher).splitlines()[:5]
    assert "Dice 0.98000" in done
    assert "fitting: training " in now
    assert " 25% 0:00:30" in now
    assert "▁█ 0.9500" in now
    assert "waiting" in later
    assert "1 of 3 networks" in summary
    watcher.close()


def test_the_time_left_counts_those_that_wait(watcher: LiveComparisonProgress, clock: list[float]) -> None:
    watcher.begin(ROWS, fits=2, minutes=None, devices=1)
    watcher.stage("now", FITTING)
    watcher.event("now", "start", "training", 100)
    clock[0] += 60
    watcher.row(Row("now", status="ok", dice=0.97))
    watcher.stage("later", FITTING)
    clock[0] += 10
    assert "2 of 3 networks, about 0:50 left" in shown(watcher)
    watcher.close()


def test_with_a_budget_of_minutes_it_is_known_from_the_start(
    watcher: LiveComparisonProgress, clock: list[float]
) -> None:
    watcher.begin(ROWS, fits=2, minutes=2.0, devices=1)
    watcher.stage("now", FITTING)
    clock[0] += 10
    assert "about 4:50 left" in shown(watcher)  # 140 s, and two minutes and a half for the other
    watcher.close()


def test_a_fit_that_goes_on_is_not_taken_for_a_quick_one(watcher: LiveComparisonProgress, clock: list[float]) -> None:
    watcher.begin(ROWS, fits=2, minutes=None, devices=1)
    watcher.stage("now", FITTING)
    watcher.event("now", "start", "training", 100)
    watcher.event("now", "advance", "training", 50)  # done by an earlier process
    clock[0] += 10
    watcher.event("now", "advance", "training", 10)
    assert "60% 0:00:40" in shown(watcher)
    watcher.close()


def test_a_failure_shows_its_reason_and_a_measurement_its_name(watcher: LiveComparisonProgress) -> None:
    watcher.begin(ROWS, fits=2, minutes=None, devices=1)
    watcher.row(Row("now", status="failed: out of memory"))
    watcher.stage("done", MEASURING)
    assert "failed: out of memory" in shown(watcher)
    assert "measuring" in shown(watcher)
    watcher.close()


def test_a_curve_shows_errors_on_a_log_scale_and_its_last_epochs() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.9]) == "▁"
    assert sparkline([0.9, 0.99, 0.999]) == "▁▄█"
    assert len(sparkline([0.5 + number / 100 for number in range(40)])) == 12


@pytest.mark.parametrize("width", [100, 250])
def test_the_table_holds_every_network(width: int) -> None:
    board = make_board()
    console = Console(file=io.StringIO(), width=width)
    console.print(leaderboard_table(board, width=width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(f"{row.dice:.5f}" in text for row in board.ranked)
    assert all(row.status in text for row in board.rows if row.failed)
    assert max(map(len, text.splitlines())) <= width
    assert ("GFLOP" in text) == (width == 250)
