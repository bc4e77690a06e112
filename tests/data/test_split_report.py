from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carvana.data.samples import Sample, find_samples
from carvana.data.splits import describe_split, split_samples
from carvana.task import Task
from tests.scenes import classes_on, write_labels


def shares(samples: tuple[Sample, ...]) -> list[float]:
    return [float((np.asarray(Image.open(sample.mask)) > 0).mean()) for sample in samples]


@pytest.mark.parametrize("by", ["group", "image"])
def test_both_sides_are_counted(tiny_data: Path, by: str) -> None:
    split = split_samples(find_samples(tiny_data), by=by, val=0.4, seed=1)  # type: ignore[arg-type]
    report = describe_split(split)
    for side, samples in ((report.train, tuple(split.train)), (report.val, tuple(split.val))):
        assert side.images == len(samples)
        assert side.groups == len({sample.group for sample in samples})
        assert side.views == Counter(sample.view for sample in samples)
        assert side.foreground == pytest.approx(np.mean(shares(samples)))
        assert side.spread == pytest.approx(tuple(np.quantile(shares(samples), (0.1, 0.9))))
    assert set(report.shared) == {s.group for s in split.train} & {s.group for s in split.val}
    assert bool(report.shared) == (by == "image")


def test_shares_of_classes_are_those_of_what_counts_on_each_side(tmp_path: Path) -> None:
    task = Task(classes={"a": 0, "b": [1, 2], "never": 9}, ignore=[3])
    split = split_samples(write_labels(tmp_path, [[6, 2, 2, 90], [1, 1, 0, 0], [9, 0, 0, 1]]), val=1, task=task)
    report = describe_split(split, task)
    assert (report.train.foreground, report.train.spread, report.train.images) == (None, None, 2)
    for samples, side in ((split.train, "train"), (split.val, "val")):
        a, *b = classes_on(samples, 4)[:3]
        shares = [a / (a + sum(b)), sum(b) / (a + sum(b)), 0]
        assert [getattr(each, side) for each in report.classes] == pytest.approx(shares)
    assert [each.name for each in report.classes] == ["a", "b", "never"]


def test_one_class_of_label_files_is_described_as_an_object_is(tmp_path: Path) -> None:
    task = Task(classes={"cell": "1-9"})
    split = split_samples(write_labels(tmp_path, [[6, 2, 2], [1, 1, 0], [9, 0, 1]]), val=1, task=task)
    report = describe_split(split, task)
    truth = {"000": 0.4, "001": 0.5, "002": 0.1}
    assert report.train.foreground == pytest.approx(np.mean([truth[sample.group] for sample in split.train]))
    assert report.classes == ()
