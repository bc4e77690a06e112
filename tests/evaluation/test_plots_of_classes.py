"""Pictures of an evaluation of several classes, whose names may be anything."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from carvana.data.io.display import overlay_labels
from carvana.data.samples import Sample
from carvana.evaluation.labels import LabelCounts, label_evaluation
from carvana.evaluation.plots import class_bars, confusion_picture, contact_sheet
from carvana.task import Task

ODD = ["100 % $\\broken", "Straße", "線路", "two\nlines", "a_very_long_name " * 9, "<b>[red]{0}|"]


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("names", [ODD, [f"class {number}" for number in range(60)]], ids=["odd", "many"])
def test_names_of_any_kind_and_number_are_drawn(names: list[str], tmp_path: Path) -> None:
    task, rng = Task(classes=names), np.random.default_rng(0)
    matrix = rng.integers(0, 50, (len(names), len(names))) + 500 * np.eye(len(names), dtype=np.int64)
    sample, counts = Sample(Path("a.png"), None, "g"), LabelCounts.of(matrix)
    evaluation = label_evaluation(task, [sample], [counts], matrix, scale="native", seconds=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confusion_picture(evaluation, tmp_path / "confusion.png")
        class_bars(evaluation, tmp_path / "classes.png")
        contact_sheet([np.zeros((9, 9, 3), np.uint8)], ["cost $\\5.png"], path=tmp_path / "sheet.png", title="one")
    bars = pixels(tmp_path / "classes.png")
    shown = sorted(range(len(names)), key=lambda index: -matrix.sum(1)[index])[:40]
    assert all((bars == task.palette[index]).all(2).any() for index in shown)


def test_a_legend_names_the_largest_classes_and_does_not_grow_without_end() -> None:
    task = Task(classes=[f"class {number}" for number in range(60)])
    image, labels = np.full((240, 320, 3), 90, np.uint8), np.repeat(np.arange(60, dtype=np.uint8), 4)[:, None]
    few = overlay_labels(image, np.broadcast_to(labels % 12, (240, 320)), task)
    many = overlay_labels(image, np.broadcast_to(labels, (240, 320)), task)
    for index in range(12):  # as many pixels of each: the first ones
        assert (many[240:] == task.palette[index]).all(2).any()
    assert not any((many[240:] == task.palette[index]).all(2).any() for index in range(12, 60))
    assert many.shape[0] <= few.shape[0] + 20  # "and 48 more"


def test_a_legend_has_umlauts_and_names_of_two_lines() -> None:
    labels, image = np.zeros((60, 400), np.uint8), np.zeros((60, 400, 3), np.uint8)
    strips = [overlay_labels(image, labels, Task(classes=[name, "b"]))[60:] for name in ("Stra\u00dfe", "Stra\u00e4e")]
    assert not np.array_equal(*strips)  # a font without them draws the same box for both
    assert overlay_labels(image, labels, Task(classes=["two\nlines", "b"])).shape[1] == 400
