from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from carvana.data.io.labels import read_values
from carvana.data.samples import Sample
from carvana.data.splits import Split, describe_split, split_folds, split_samples
from carvana.errors import ConfigError, DataError
from carvana.task import Task
from tests.scenes import classes_on, write_labels


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Forty groups of two views; group i covers about i/40 of its images."""
    folder = tmp_path_factory.mktemp("masks")
    found = []
    for car in range(40):
        mask = np.zeros((1, 80), np.uint8)
        mask[:, : 2 * car] = 255
        for view in "12":
            path = folder / f"{car:02}_{view}.png"
            cv2.imwrite(str(path), mask)
            found.append(Sample(path.with_suffix(".jpg"), path, f"{car:02}", view))
    return found


def groups(samples: tuple[Sample, ...]) -> set[str]:
    return {sample.group for sample in samples}


def test_no_car_is_on_both_sides_and_none_is_lost(samples: list[Sample]) -> None:
    split = split_samples(samples, val=0.2)
    assert groups(split.val).isdisjoint(groups(split.train))
    assert sorted(split.train + split.val, key=lambda s: s.name) == samples
    assert len(groups(split.val)) == 8
    assert not split.shared_groups()


def test_the_same_seed_gives_the_same_split_whatever_the_order(samples: list[Sample]) -> None:
    assert split_samples(samples[::-1], seed=3) == split_samples(samples, seed=3)
    assert split_samples(samples, seed=3) != split_samples(samples, seed=4)


def test_both_sides_hold_small_and_large_cars(samples: list[Sample]) -> None:
    for seed in range(20):
        share = np.mean([int(s.group) for s in split_samples(samples, val=8, seed=seed).val]) / 39
        assert 0.4 < share < 0.6  # drawing without layers leaves these bounds in about a quarter of the seeds


def test_by_image_splits_cars_and_says_so(samples: list[Sample]) -> None:
    split = split_samples(samples, by="image", val=20)
    assert len(split.val) == 20
    assert split.shared_groups()


@pytest.mark.parametrize("folds", [2, 5, 7, 40])
def test_each_car_validates_in_one_fold_and_trains_in_all_others(samples: list[Sample], folds: int) -> None:
    splits = split_folds(samples, folds=folds)
    assert len(splits) == folds
    assert sorted((s for split in splits for s in split.val), key=lambda s: s.name) == samples
    for split in splits:
        assert not split.shared_groups()
        assert sorted(split.train + split.val, key=lambda s: s.name) == samples
    sizes = [len(groups(split.val)) for split in splits]
    assert max(sizes) - min(sizes) <= 1


def test_the_same_seed_gives_the_same_folds_whatever_the_order(samples: list[Sample]) -> None:
    assert split_folds(samples[::-1], folds=5, seed=3) == split_folds(samples, folds=5, seed=3)
    assert split_folds(samples, folds=5, seed=3) != split_folds(samples, folds=5, seed=4)


def test_every_fold_holds_small_and_large_cars(samples: list[Sample]) -> None:
    """Groups are numbered by size, and each fold has one of the five smallest, one of the next five, and so on."""
    for seed in range(10):
        splits = split_folds(samples, folds=5, seed=seed)
        for split in splits:
            assert sorted(int(group) // 5 for group in groups(split.val)) == list(range(8))
    assert len({frozenset(groups(split_folds(samples, folds=5, seed=seed)[0].val)) for seed in range(10)}) == 10


def test_folds_by_photo_deal_out_photos(samples: list[Sample]) -> None:
    splits = split_folds(samples, folds=6, by="image")
    assert sorted(len(split.val) for split in splits) == [13, 13, 13, 13, 14, 14]
    assert sorted((s for split in splits for s in split.val), key=lambda s: s.name) == samples
    assert all(split.shared_groups() for split in splits)


def test_folds_that_cannot_be_are_refused(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match="41 folds need as many groups, and there are 40"):
        split_folds(samples, folds=41)
    with pytest.raises(ConfigError, match="1 folds: expected at least 2"):
        split_folds(samples, folds=1)


@pytest.mark.parametrize("val", [40, 0.99999, 2.5])
def test_a_share_that_leaves_nothing_is_refused(samples: list[Sample], val: float) -> None:
    with pytest.raises(DataError, match=r"split\.val"):
        split_samples(samples, val=val)


def a_task(classes: int) -> Task:
    return Task(classes=[f"c{number}" for number in range(classes)])


def test_classes_that_two_groups_have_are_on_both_sides_however_many_there_are(tmp_path: Path) -> None:
    """Of 60 groups each class but the first has two, and no group more than one: one draw in a billion does."""
    groups = [[100] + [30 * (number % 30 == index) for index in range(30)] for number in range(60)]
    samples = write_labels(tmp_path, groups)
    for seed in range(3):
        split = split_samples(samples, val=30, seed=seed, task=a_task(31))
        assert (classes_on(split.train, 31) > 0).all()
        assert (classes_on(split.val, 31) > 0).all()
        assert (len(split.train), len(split.val)) == (30, 30)


def test_folds_have_each_class_where_as_many_groups_have_it(tmp_path: Path) -> None:
    groups = [[100] + [30 * (number % 8 == index) for index in range(8)] for number in range(32)]
    samples = write_labels(tmp_path, groups)
    for split in split_folds(samples, folds=4, task=a_task(9)):
        assert (classes_on(split.val, 9) > 0).all()
        assert (classes_on(split.train, 9) > 0).all()
        assert len(split.val) == 8


def test_shares_of_classes_on_both_sides_are_close(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = write_labels(tmp_path, rng.integers(0, 100, (50, 4)).tolist())
    for seed in range(5):
        split = split_samples(samples, val=10, seed=seed, task=a_task(4))
        on = classes_on(split.val, 4) / (classes_on(split.val, 4) + classes_on(split.train, 4))
        assert np.abs(on - 0.2).max() < 0.01


def test_of_few_groups_the_split_is_the_best_of_all_that_there_are(tmp_path: Path) -> None:
    counts = np.random.default_rng(1).integers(1, 100, (9, 3))
    counts[3:, 2] = 0  # three groups have the last class
    counts[0, 1] = 0
    split = split_samples(write_labels(tmp_path, counts.tolist()), val=3, task=a_task(3))
    total = counts.sum(0)

    def badness(held_out: tuple[int, ...]) -> tuple[int, float]:
        on = counts[list(held_out)].sum(0)
        return int((on == 0).sum() + (on == total).sum()), float(np.abs(on / total - 1 / 3).sum())

    best = min(badness(held_out) for held_out in itertools.combinations(range(9), 3))
    found = badness(tuple(int(sample.group) for sample in split.val))
    assert found == (best[0], pytest.approx(best[1], abs=1e-8))


def test_a_class_of_one_group_is_on_one_side(tmp_path: Path) -> None:
    samples = write_labels(tmp_path, [[10, 5, 0]] * 5 + [[10, 0, 3]])
    report = describe_split(split_samples(samples, val=2, task=a_task(3)), a_task(3))
    assert [(each.train > 0) + (each.val > 0) for each in report.classes] == [2, 2, 1]


def test_the_same_seed_gives_the_same_split_of_classes_whatever_the_order(tmp_path: Path) -> None:
    samples = write_labels(tmp_path, np.random.default_rng(0).integers(0, 100, (40, 4)).tolist())
    one = split_samples(samples, val=8, seed=3, task=a_task(4))
    assert split_samples(samples[::-1], val=8, seed=3, task=a_task(4)) == one
    assert split_samples(samples, val=8, seed=4, task=a_task(4)) != one
    folds = split_folds(samples, folds=4, seed=3, task=a_task(4))
    assert split_folds(samples[::-1], folds=4, seed=3, task=a_task(4)) == folds


def test_a_process_reads_an_unchanged_label_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, task = write_labels(tmp_path, [[5, 5], [4, 6], [3, 7]]), a_task(2)
    opened = list[Path]()

    def counting(source: Path, **options: object) -> np.ndarray:
        opened.append(source)
        return read_values(source, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("carvana.data.target.read_values", counting)
    split = split_samples(samples, val=1, task=task)
    describe_split(split, task)
    assert len(opened) == 3
    np.save(samples[1].masks[0], np.ones((1, 20), np.uint8))  # another size, so no clock matters
    report = describe_split(Split((samples[1],), (samples[0],)), task)
    assert (len(opened), [each.train for each in report.classes]) == (4, [0, 1])
