from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.samples import Sample, find_samples
from carvana.data.splits import Split, describe_split, read_split, split_folds, split_samples, write_split
from carvana.errors import ConfigError, DataError


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


def test_a_written_split_reads_back(tmp_path: Path, samples: list[Sample]) -> None:
    split = split_samples(samples)
    write_split(tmp_path / "split.csv", split)
    assert read_split(tmp_path / "split.csv", samples) == split


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "columns"),
        ("image,group\na,b\n", "columns"),
        ("image,group,subset\n00_1.jpg,00,test\n", "test"),
        ("image,group,subset\n00_1.jpg,00,val\n00_1.jpg,00,train\n", "twice"),
        ("image,group,subset\n00_1.jpg\n", "line 2"),
        ("image,group,subset\nabsent.jpg,00,val\n", "absent.jpg"),
        ("image,group,subset\n00_1.jpg,00,val\n", "training"),
    ],
)
def test_a_split_file_that_cannot_serve_is_told(tmp_path: Path, samples: list[Sample], text: str, word: str) -> None:
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=word):
        read_split(path, samples)


def test_shared_groups_names_the_leak(samples: list[Sample]) -> None:
    assert Split(tuple(samples[:3]), tuple(samples[3:])).shared_groups() == {"01"}


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
