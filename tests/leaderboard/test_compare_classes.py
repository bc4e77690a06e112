"""Comparisons of networks for several classes: real fits in real processes, ranked by the metric of their task."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import NAMES, OVERLAPPING, TASK, write_overlapping, write_scenes

import carvana
from carvana.config import FitConfig
from carvana.data.io.labels import read_values
from carvana.errors import ConfigError
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.entries import make_entries
from carvana.leaderboard.plan import make_plan
from carvana.run import Run
from carvana.training.fit import fit
from carvana.utils.progress import SilentReporter

SETTINGS: dict[str, Any] = {
    "task": TASK.model_dump(mode="json"),
    "model": {"options": {"width": 4}},
    "data": {"size": [24, 32], "workers": 0},
    "split": {"val": 3},
    "train": {"epochs": 2, "batch_size": 4, "lr": 1e-2, "precision": "fp32"},
}


def settings(data: Path, **changes: Any) -> FitConfig:
    return FitConfig(**SETTINGS).replace({"data.root": str(data), **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def board(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    return carvana.compare(
        ["narrow=unet-ref", "wide=unet-ref"],
        settings(data),
        settings=["wide:model.options={width: 8}"],
        seeds=2,
        out=tmp_path_factory.mktemp("boards") / "board",
        columns=["pole", "car"],
        device="cpu",
        reporter=SilentReporter(),
    )


def confusion(board: Leaderboard, masks: Path) -> np.ndarray:
    """Counted pixel by pixel from the label maps that were written and the true ones."""
    matrix = np.zeros((len(NAMES), len(NAMES)), int)
    for sample in board.samples:
        true, found = TASK.encode(read_values(sample.mask)), read_values(masks / f"{sample.stem}_mask.png")
        labels = TASK.written.encode(found)
        for row, column in zip(true.ravel().tolist(), labels.ravel().tolist(), strict=True):
            if row != TASK.void:
                matrix[row, column] += 1
    return matrix


def mean_iou(matrix: np.ndarray) -> float:
    hits = np.diag(matrix)
    true = matrix.sum(1) > 0
    return float((hits / (matrix.sum(0) + matrix.sum(1) - hits))[true].mean())


def test_networks_are_ranked_by_the_mean_iou_of_the_label_maps_that_they_wrote(board: Leaderboard) -> None:
    assert [row.rank for row in board.rows] == [1, 2]
    for row in board.rows:
        found = [mean_iou(confusion(board, Run(refit.run).masks_path)) for refit in row.refits]
        assert [refit.score for refit in row.refits] == pytest.approx(found)
        assert row.score == pytest.approx(np.mean(found))
        assert row.score_spread == pytest.approx(abs(found[0] - found[1]))
    assert board.rows[0].score >= board.rows[1].score  # type: ignore[operator]


def test_classes_have_the_scores_of_all_pixels(board: Leaderboard) -> None:
    for row in board.rows:
        matrices = [confusion(board, Run(refit.run).masks_path) for refit in row.refits]
        for index, name in enumerate(NAMES):
            ious = [m[index, index] / (m[index].sum() + m[:, index].sum() - m[index, index]) for m in matrices]
            assert row.score_of(name) == pytest.approx(np.mean(ious))
    [pole] = [each for each in board.rows[0].per_class if each["name"] == "pole"]
    assert pole["pixels"] == confusion(board, Run(board.rows[0].refits[0].run).masks_path)[NAMES.index("pole")].sum()


def test_the_gap_of_a_pair_is_that_of_the_scores_and_lies_in_its_interval(board: Leaderboard) -> None:
    [pair] = board.pairs
    best, other = board.rows
    assert (pair.better, pair.worse) == (best.name, other.name)
    assert pair.gap == pytest.approx(best.score - other.score)  # type: ignore[operator]
    assert pair.ci95 is not None
    assert pair.ci95[0] <= pair.gap <= pair.ci95[1]
    assert pair.p == other.p_best


def test_all_its_forms_name_the_metric_and_the_chosen_classes(board: Leaderboard) -> None:
    for text in (str(board), (board.path / "leaderboard.md").read_text()):  # type: ignore[operator]
        heading = next(line for line in text.splitlines() if "network" in line and "mIoU" in line)
        assert re.search("mIoU.*95% interval.*pole.*car", heading)
        assert "Dice" not in text
    page = (board.path / "leaderboard.html").read_text()  # type: ignore[operator]
    assert "Scores of classes" in page
    assert "Dice" not in page
    assert page.count('class="shows-errors"') == page.count('class="shows-labels"') == 2 * 3  # networks, images


def test_numbers_are_written_by_metric_and_class(board: Leaderboard) -> None:
    values = json.loads((board.path / "leaderboard.json").read_text())  # type: ignore[operator]
    row = values["rows"][0]
    assert {"name", "status", "metric", "score", "score_ci95", "tied_with_best", "per_class"} <= set(row)
    assert "dice" not in row
    assert (row["metric"], row["score"]) == ("miou", board.rows[0].score)
    assert [each["name"] for each in row["per_class"]] == NAMES
    with (board.path / "leaderboard.csv").open() as file:  # type: ignore[operator]
        [line, _] = csv.DictReader(file)
    assert float(line["score_pole"]) == board.rows[0].score_of("pole")
    again = Leaderboard.load(board.path)  # type: ignore[arg-type]
    assert again.rows == board.rows
    assert again.images == board.images


def test_a_run_of_other_classes_is_refused_by_name(data: Path, board: Leaderboard, tmp_path: Path) -> None:
    other = {"kind": None, "classes": {"up": 10, "down": [20, 30, 31, 250]}, "ignore": [77]}
    run = fit(
        settings(data, task=other, **{"train.epochs": 1}), out=tmp_path / "two", device="cpu", reporter=SilentReporter()
    )
    with pytest.raises(ConfigError, match=r"two: has the classes of another task \(multiclass, up, down\)"):
        carvana.compare([run.path, "unet-ref"], settings(data), out=tmp_path / "board", reporter=SilentReporter())
    assert not (tmp_path / "board").exists()


def test_columns_are_classes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'poles' is not one of the classes; did you mean 'pole'\?"):
        carvana.compare(["unet-ref"], settings(data), columns=["poles"], out=tmp_path / "b", reporter=SilentReporter())


def test_a_class_that_is_named_twice_is_one_column(data: Path, tmp_path: Path) -> None:
    made = make_plan(
        make_entries(["unet-ref"]), settings(data), out=tmp_path, seeds=1, config_name="test",
        columns=["pole", "car", "pole"], device="cpu", reporter=SilentReporter(),
    )  # fmt: skip
    assert made.header.columns == ("pole", "car")


@pytest.mark.parametrize("settings_", [{"quick": False}, {"quick": True, "data": True}])
def test_drawn_scenes_are_for_quick_comparisons_without_images(
    settings_: dict[str, bool], data: Path, tmp_path: Path
) -> None:
    config = settings(data) if settings_.get("data") else None
    with pytest.raises(ConfigError, match="classes = 4: is for a quick comparison"):
        carvana.compare(["unet-ref"], config, quick=settings_["quick"], classes=4, out=tmp_path / "b")


def test_finished_runs_alone_bring_their_images_and_their_classes(board: Leaderboard, tmp_path: Path) -> None:
    runs = [f"{row.name}={row.run}" for row in board.rows]
    again = carvana.compare(runs, out=tmp_path / "again", device="cpu", reporter=SilentReporter())
    assert {row.name: row.refits[0].score for row in again.rows} == {
        row.name: pytest.approx(row.refits[0].score) for row in board.rows
    }
    assert again.task.names == NAMES


@pytest.mark.slow
def test_classes_that_overlap_are_ranked_by_their_mean_dice(tmp_path: Path) -> None:
    data = write_overlapping(tmp_path / "data")
    config = settings(data, task=OVERLAPPING.model_dump(mode="json"))
    board = carvana.compare(
        ["unet-ref"], config, out=tmp_path / "board", columns=["dot"], device="cpu", reporter=SilentReporter()
    )
    [row] = board.rows
    numbers = Run(row.run).read_evaluation()  # type: ignore[arg-type]
    assert (row.metric, row.score) == ("dice", pytest.approx(numbers["score"]))
    assert row.score_of("dot") == numbers["per_class"][2]["mean_dice"]
    assert row.error is None
    assert "Dice" in str(board)
