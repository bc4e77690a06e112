"""Leaderboards of several classes made in memory: what names of classes, and classes that are not there, may not do."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from boards import HEADER, make_board
from PIL import Image
from rich.console import Console
from rich.text import Text

from carvana.cli.tables import leaderboard_table
from carvana.config import TaskConfig
from carvana.data.io.images import write_image
from carvana.data.io.labels import write_labels
from carvana.data.samples import Sample
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.records import Row, ScoredImage
from carvana.leaderboard.report.html import class_scores, to_html
from carvana.leaderboard.report.images import _disagreement, disagreements
from carvana.leaderboard.report.text import to_csv, to_markdown
from carvana.task import Task

NASTY = ["a|b", "<script>alert(1)</script>", "[/red]", 'x" onmouseover="y']


def board_of(names: Sequence[str], *, absent: Sequence[str] = (), score: float | None = None) -> Leaderboard:
    """Two networks whose classes have different scores, each of which is a column."""

    def row(place: int) -> Row:
        of_class = [
            {"name": name, "pixels": 0 if name in absent else 9, "iou": score if score is not None else 0.5 / (k + 2)}
            for k, name in enumerate(names)
        ]
        mean = 0.4 - 0.1 * place if score is None else score
        return Row(
            f"net{place}", status="ok", arch="unet-ref", metric="miou", rank=1 + place, score=mean, params=10**6,
            per_class=tuple(of_class), latency_ms=10.0 + place, score_worst=0.125,
        )  # fmt: skip

    header = replace(HEADER, task=Task(classes=list(names)).model_dump(mode="json"), columns=tuple(names))
    return Leaderboard(header, (row(0), row(1)))


def test_the_chart_of_a_class_is_shown_where_its_switch_is_on() -> None:
    page = to_html(board_of(["sky", "gone", "road"], absent=["gone"]))
    switches = dict(re.findall(r'id="of-(\d)"[^>]*>(\w+)<', page))
    charts = re.findall(r'class="cost by-latency_ms of-(\d)">\s*<svg[^>]*aria-label="Error(?: of (\w+))? ', page)
    assert switches == {"0": "mIoU", "1": "sky", "2": "road"}
    assert {place: name or "mIoU" for place, name in charts} == switches


def test_names_of_classes_break_no_table() -> None:
    board = board_of(NASTY)
    head, *others = (line for line in to_markdown(board).splitlines() if line.startswith("|"))
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in (head, *others)}) == 1
    assert "<script>" not in head.replace("\\<", "")
    console = Console(file=io.StringIO(), width=300)
    console.print(leaderboard_table(board, width=300))
    assert "[/red]" in Text(console.file.getvalue()).plain  # type: ignore[attr-defined]
    page = to_html(board)
    assert "<script>alert" not in page
    assert 'onmouseover="' not in page


def test_no_class_takes_the_column_of_another_value_in_csv() -> None:
    names = ["worst", "worst_", "spread", "ci95_low", "ci95_high", "road"]
    board = board_of(names)
    line, _ = csv.DictReader(io.StringIO(to_csv(board)))
    assert float(line["score_worst"]) == 0.125
    assert line["score_ci95_low"] == line["score_spread"] == ""
    keys = ["score_worst_", "score_worst__", "score_spread_", "score_ci95_low_", "score_ci95_high_", "score_road"]
    assert [float(line[key]) for key in keys] == [board.rows[0].score_of(name) for name in names]


def test_an_axis_of_scores_does_not_go_below_0() -> None:
    page = to_html(board_of(["sky", "road"], score=0.0))
    assert not re.search(r'class="tick"[^>]*>-', page)


def test_trainings_keep_the_json_keys_of_dice() -> None:
    row = make_board(1).to_json()["rows"][0]
    assert [refit["dice"] for refit in row["refits"]] == [refit["score"] for refit in row["refits"]]
    [row] = (each for each in board_of(["sky", "road"]).to_json()["rows"] if each["rank"] == 1)
    assert "dice" not in row


def test_a_file_of_an_earlier_version_has_the_task_of_its_config() -> None:
    task = TaskConfig(classes={"cell": 3}, ignore=[255])
    board = make_board(1)
    old = replace(board, header=replace(HEADER, config={"task": task.model_dump(mode="json")}))
    assert old.task == task.task()
    assert board.task == Task.binary()


@pytest.mark.parametrize(("width", "shown"), [(600, 300), (4000, 720)])
def test_a_part_with_labels_is_at_most_so_wide_that_a_page_can_hold_many(
    width: int, shown: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    task, image, mask = Task(classes=["sky", "road"]), tmp_path / "a.jpg", tmp_path / "a.png"
    write_image(image, np.zeros((width // 2, width, 3), np.uint8))
    write_labels(mask, np.zeros((width // 2, width), np.uint8), task)
    board = board_of(["sky", "road"])
    for row in board.rows:
        write_labels(tmp_path / row.name / "a_mask.png", rng.integers(0, 2, (width // 2, width)).astype(np.uint8), task)
    sample = Sample(image, mask, "a", "", 0)
    scored = ScoredImage(sample.name, "a", "", {row.name: 0.5 for row in board.rows}, metric="miou")
    rows = tuple(replace(row, masks=str(tmp_path / row.name)) for row in board.rows)
    [picture] = disagreements(replace(board, rows=rows, images=(scored,), samples=(sample,)))
    assert not isinstance(picture, str)
    for url in (picture.crop, picture.truth, *picture.labels.values(), *picture.errors.values()):
        assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size[0] == shown


@pytest.mark.parametrize("networks", [2, 5])
def test_a_pixel_weighs_as_many_pairs_as_differ_there(networks: int, rng: np.random.Generator) -> None:
    labels = [rng.integers(0, 4, (6, 8)).astype(np.uint8) for _ in range(networks)]
    for row in range(6):
        for column in range(8):
            here = [int(each[row, column]) for each in labels]
            differ = [a != b for place, a in enumerate(here) for b in here[place + 1 :]]
            assert _disagreement(labels)[row, column] == pytest.approx(np.mean(differ))


def test_a_class_that_nobody_finds_has_no_best_network() -> None:
    best = {
        name: [each[2] for each in found.values()] for name, found in class_scores(board_of(["sky", "road"])).items()
    }
    assert best == {"sky": [True, True], "road": [True, True]}
    assert not any(each[2] for each in class_scores(board_of(["sky", "road"], score=0.0))["sky"].values())


def test_long_names_of_classes_fit_into_charts() -> None:
    page = to_html(board_of(["x" * 200, "road"]))
    assert max(map(len, re.findall(r'class="axis-title"[^>]*>([^<]*)<', page))) <= 40


def ignoring_board(tmp_path: Path, kind: str, ignore: Sequence[int]) -> Leaderboard:
    """Two networks that differ in all pixels of the upper half, which may be ignored, and below it in one image."""
    names = {"sky": 0, "road": 1} if kind == "multiclass" else {"road": 1}
    task = Task(kind=kind, classes=names, ignore=ignore)
    board = board_of(["sky", "road"])
    true = np.zeros((64, 64), np.uint8)
    true[:32] = max(ignore, default=0)
    samples = []
    for name, columns in (("void", 0), ("seen", 4)):
        write_image(tmp_path / f"{name}.jpg", np.full((64, 64, 3), 200, np.uint8))
        write_image(tmp_path / f"{name}.png", true)
        samples.append(Sample(tmp_path / f"{name}.jpg", tmp_path / f"{name}.png", name, "", 0))
        for place, row in enumerate(board.rows):
            found = np.zeros((64, 64), np.uint8)
            found[:32] = place
            found[32:, :columns] = place
            write_labels(tmp_path / row.name / f"{name}_mask.png", found, task)
    images = [ScoredImage(each.name, each.group, "", {row.name: 0.5 for row in board.rows}) for each in samples]
    rows = tuple(replace(row, masks=str(tmp_path / row.name)) for row in board.rows)
    header = replace(HEADER, task=task.model_dump(mode="json"))
    return replace(board, header=header, rows=rows, images=tuple(images), samples=tuple(samples))


@pytest.mark.parametrize("kind", ["multiclass", "binary"])
def test_what_is_ignored_is_no_disagreement(kind: str, tmp_path: Path) -> None:
    shown = disagreements(ignoring_board(tmp_path, kind, [9]))
    assert not isinstance(shown, str)
    assert {picture.image.group: picture.distance > 0 for picture in shown} == {"seen": True, "void": False}


@pytest.mark.parametrize("ignore", [[9], []])
def test_the_legend_of_pictures_names_what_is_ignored_where_something_is(ignore: list[int], tmp_path: Path) -> None:
    page = to_html(ignoring_board(tmp_path, "multiclass", ignore))
    assert "The images whose labels differ most" in page
    assert ('<i class="void"></i>ignored' in page) == bool(ignore)


def test_names_in_notes_are_no_markup_either() -> None:
    board = board_of(["sky", "road"])
    rows = (replace(board.rows[0], name="<b>a</b>", absent_share=0.25), board.rows[1])
    assert r"\<b\>a\</b\> 25.00%" in to_markdown(replace(board, rows=rows))
