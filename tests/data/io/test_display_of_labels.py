"""Label maps on images: colours of classes, void, errors, legend."""

from __future__ import annotations

import numpy as np
import pytest

from carvana.data.io.display import legend_of, overlay_labels
from carvana.errors import DataError
from carvana.task import Task

TASK = Task(
    classes=[
        {"name": "sky", "value": 0, "color": "#0000ff"},
        {"name": "road", "value": 1, "color": "#00ff00"},
        {"name": "car", "value": 2, "color": "#ff0000"},
    ],
    ignore=[255],
)
IMAGE = np.full((40, 120, 3), 100, np.uint8)
LABELS = np.repeat(np.array([0, 1, 255], np.uint8), 40)[None].repeat(40, axis=0)


def test_each_class_has_its_colour_over_the_grey_image_and_void_stays_grey() -> None:
    shown = overlay_labels(IMAGE, LABELS, TASK, legend=False)
    assert shown.shape == IMAGE.shape
    assert shown[20, 20].tolist() == [40, 40, 40 + 153]
    assert shown[20, 60].tolist() == [40, 40 + 153, 40]
    assert len(set(shown[20, 100].tolist())) == 1


def test_a_line_parts_two_classes() -> None:
    shown = overlay_labels(IMAGE, LABELS, TASK, legend=False)
    assert shown[20, 40].tolist() == [0, 127, 0]
    assert shown[20, 41].tolist() == shown[20, 60].tolist()


def test_of_errors_only_these_are_painted() -> None:
    errors = np.zeros(LABELS.shape, bool)
    errors[:, 50:60] = True
    shown = overlay_labels(IMAGE, LABELS, TASK, legend=False, errors=errors)
    coloured = np.ptp(shown.astype(int), axis=2) > 0
    assert (coloured == errors).all()


def test_the_legend_names_the_classes_that_there_are() -> None:
    shown = overlay_labels(IMAGE, LABELS, TASK)
    strip = shown[len(IMAGE) :].reshape(-1, 3).tolist()
    assert shown.shape[1] == IMAGE.shape[1]
    assert [TASK.palette[index].tolist() in strip for index in range(3)] == [True, True, False]
    assert overlay_labels(IMAGE, np.full_like(LABELS, 255), TASK).shape == IMAGE.shape


def test_a_legend_that_is_too_long_for_a_line_takes_several() -> None:
    many = Task(classes=[f"a class of number {number}" for number in range(9)])
    heights = [legend_of(many, range(count), 400).shape[0] for count in (1, 9)]
    assert heights[1] >= 3 * heights[0]
    assert legend_of(many, range(9), 4000).shape[1] == 4000


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(DataError, match=r"labels of shape \(40, 119\) do not lie on an image of shape \(40, 120\)"):
        overlay_labels(IMAGE, LABELS[:, 1:], TASK)
