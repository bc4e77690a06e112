from __future__ import annotations

import io
from pathlib import Path

import pytest
from boards import make_board
from rich.console import Console

from carvana.cli.tables import check_json_target, evaluation_table, leaderboard_table
from carvana.errors import ConfigError

NUMBERS = {
    "images": 4, "groups": 2, "dice": 0.9, "dice_ci95": [0.8, 0.95], "dice_at_half": 0.89, "iou": 0.8,
    "pixel_accuracy": 0.99, "boundary_dice": 0.7, "threshold": 0.412,
}  # fmt: skip


def shown(title: str, **words: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(evaluation_table(NUMBERS, title=title, **words))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("title", ["runs/[/x]", "runs/[bold]a[/bold]", "runs/:car:", "runs/a\\"])
def test_a_run_s_path_is_printed_as_it_is(title: str) -> None:
    assert title in shown(title)


def test_the_threshold_s_note_says_what_became_of_it() -> None:
    assert "stored in the model" in shown("run")
    assert "stored in the model" not in shown("run", threshold="only shown")
    assert "only shown" in shown("run", threshold="only shown")


def test_json_goes_to_stdout_or_into_folders_that_are_or_can_be_made(tmp_path: Path) -> None:
    for target in (None, "-", tmp_path / "n.json", tmp_path / "new" / "deep" / "n.json", "n.json"):
        check_json_target(None if target is None else str(target))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path, tmp_path / "file" / "n.json", tmp_path / "file" / "deep" / "n.json"):
        with pytest.raises(ConfigError, match=r"--json .*name (another|a) file") as error:
            check_json_target(str(target))
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"--json .*file: exists already; .* - for stdout, or .* --replace"):
        check_json_target(str(tmp_path / "file"))
    check_json_target(str(tmp_path / "file"), replace=True)


@pytest.mark.parametrize("width", [100, 250])
def test_the_table_of_a_leaderboard_holds_every_network(width: int) -> None:
    board = make_board()
    console = Console(file=io.StringIO(), width=width)
    console.print(leaderboard_table(board, width=width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(f"{row.dice:.5f}" in text for row in board.ranked)
    assert all(row.status in text for row in board.rows if row.failed)
    assert max(map(len, text.splitlines())) <= width
    assert ("GFLOP" in text) == (width == 250)
