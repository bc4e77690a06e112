"""Killed: compare, at random times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults.commands import killed_after
from faults.comparison import same_again, words
from faults.killing import moments


@pytest.mark.fault(
    done="SIGKILL at random times of a comparison",
    promised="as above",
    reaches="leaderboard/worker_pool.py: any state of its processes",
    quick=0,
)
@pytest.mark.parametrize("number", range(20))
def test_killed_at_a_random_time(number: int, whole_board: dict[str, Any], tiny_data: Path, tmp_path: Path) -> None:
    [seconds] = moments(number, 1, least=0.1 * whole_board["seconds"], most=whole_board["seconds"])
    killed_after(seconds, *words(tiny_data, tmp_path))
    same_again(tiny_data, tmp_path, whole_board)
