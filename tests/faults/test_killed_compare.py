"""Killed: compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.comparison import same_again, words
from faults.killing import Point, events, kill_at, points, told, unknown

OWN = ("*/board/split.csv", "*/board/costs/*.json", "*/board/leaderboard.json")
PAGES = ("*/board/leaderboard.csv", "*/board/leaderboard.md", "*/board/leaderboard.html")
LATER = (("*/board/leaderboard.json", 4), ("*/board/costs/second-*.json", 1))
RUNS = ("*/board/runs/*",)
ELSEWHERE = ("*/samples/*", "/tmp/*")
"""The cache, which has cases of its own, and what is measured in a temporary folder."""

OF_A_RUN: tuple[Point, ...] = (
    ("written", "*/runs/first-*/config.yaml", 1), ("written", "*/runs/second-*/state/state.json", 2),
    ("written", "*/runs/first-*/model/model.safetensors", 2), ("appended", "*/runs/second-*/metrics.jsonl", 2),
    ("renamed", "*/runs/first-*/masks/*", 3), ("synced", "*/runs/first-*/evaluation.json", 1),
    ("written", "*/runs/second-*/evaluation.json", 1),
)  # fmt: skip
"""Within the networks' own processes, which live a moment longer than the one that is killed."""


@pytest.mark.fault(
    done="each write of a comparison is recorded, and compared with the writes that these cases kill",
    promised="every place that writes is killed",
    reaches="the same event, in leaderboard/board.py and jobs.py",
    quick=0,
)
def test_all_places_that_write_are_known(whole_board: dict[str, Any], came_out: Callable[..., None]) -> None:
    assert unknown(whole_board["record"], [*OWN, *PAGES, *RUNS, *ELSEWHERE]) == set()
    came_out(f"{len(list(events(whole_board['record'])))} steps")


@pytest.mark.fault(
    done="SIGKILL in the middle of each kind of file that compare writes, and after it",
    promised="the same command again ends with the same leaderboard, and fits nothing twice",
    reaches="leaderboard/records.py and plan.py: what is done already",
    quick=0,
)
@pytest.mark.parametrize("point", points(OWN, again=[*LATER, *((page, 1) for page in PAGES)]), ids=told)
def test_killed_at_a_write(point: Point, whole_board: dict[str, Any], tiny_data: Path, tmp_path: Path) -> None:
    kill_at(point, *words(tiny_data, tmp_path))
    same_again(tiny_data, tmp_path, whole_board)


@pytest.mark.fault(
    done="SIGKILL while a network's own process writes into its run",
    promised="as above",
    reaches="leaderboard/jobs.py: the end of a process whose parent is gone; a run that is still held",
    quick=0,
)
@pytest.mark.parametrize("point", OF_A_RUN, ids=told)
def test_killed_within_a_network(point: Point, whole_board: dict[str, Any], tiny_data: Path, tmp_path: Path) -> None:
    kill_at(point, *words(tiny_data, tmp_path))
    same_again(tiny_data, tmp_path, whole_board)
