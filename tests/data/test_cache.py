from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from caching import SIZE, Listener, flip_byte, make_photos, packs, same_as_files
from torch.utils.data import DataLoader

from carvana.data.cache import build_caches
from carvana.data.dataset import EpochSampler, SegmentationDataset
from carvana.data.digest import cache_home
from carvana.data.samples import Sample, find_samples
from carvana.errors import ConfigError


def loaded(data: SegmentationDataset, **options: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
    sampler = EpochSampler(len(data), seed=3)
    sampler.set_epoch(2)
    return [tuple(batch) for batch in DataLoader(data, batch_size=6, sampler=sampler, **options)]


@pytest.mark.parametrize("target", ["coverage", "nearest"])
@pytest.mark.parametrize("augment", [None, "studio"])
@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_the_same_to_the_bit(
    tiny_data: Path, tmp_path: Path, target: str, augment: str | None, workers: int
) -> None:
    samples = find_samples(tiny_data)
    [cache] = build_caches([samples], SIZE, target=target, folder=tmp_path)
    assert cache.held == len(samples)
    options = {"target": target, "augment": augment, "seed": 5}
    cached = loaded(SegmentationDataset(samples, SIZE, cache=cache, **options), num_workers=workers)
    for expected, got in zip(loaded(SegmentationDataset(samples, SIZE, **options)), cached, strict=True):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(expected, got, strict=True))


def test_photos_of_any_kind_are_the_same_to_the_bit(tmp_path: Path) -> None:
    small = make_photos(tmp_path / "small", 3, shape=(10, 12))  # enlarged
    exact = make_photos(tmp_path / "exact", 3, shape=SIZE)
    samples = small + exact
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache")
    assert same_as_files(cache, samples)


@pytest.mark.slow
def test_a_started_process_opens_the_pack_anew(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 12)
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache")
    for sample in samples:
        sample.image.unlink()
    data = SegmentationDataset(samples, SIZE, cache=cache)
    expected = loaded(data)
    got = loaded(data, num_workers=1, multiprocessing_context="spawn")
    assert all(torch.equal(a, b) for old, new in zip(expected, got, strict=True) for a, b in zip(old, new, strict=True))


def test_a_pack_that_another_process_drops_stays_readable_where_it_is_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = make_photos(tmp_path / "photos", 4)
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache")
    [pack] = packs(tmp_path / "cache")
    pack.unlink()
    assert same_as_files(cache, samples)
    elsewhere = pickle.loads(pickle.dumps(cache))
    assert [elsewhere.read(index) for index in range(4)] == [None] * 4
    [record] = caplog.records
    assert f"{pack}: removed by another process" in record.message
    data = SegmentationDataset(samples, SIZE, cache=elsewhere)
    assert torch.equal(data[1][0], SegmentationDataset(samples, SIZE)[1][0])


@pytest.mark.parametrize("place", [-1, 5])  # the last record's coverage, the second record's checksum
def test_a_damaged_byte_is_found_told_and_mended(place: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = make_photos(tmp_path / "photos", 9)
    folder = tmp_path / "cache"
    build_caches([samples], SIZE, folder=folder, workers=1)
    [pack] = packs(folder)
    flip_byte(pack, place)
    [cache] = build_caches([samples], SIZE, folder=folder)
    [lost] = [index for index in range(9) if cache.read(index) is None]
    [record] = caplog.records
    assert str(pack) in record.message
    data = SegmentationDataset(samples, SIZE, cache=cache)
    for got, expected in zip(data[lost], SegmentationDataset(samples, SIZE)[lost], strict=True):
        assert torch.equal(got, expected)
    told = Listener()
    [mended] = build_caches([samples], SIZE, folder=folder, reporter=told)
    assert told.totals["caching"] == 1
    assert same_as_files(mended, samples)


@pytest.mark.parametrize("length", [0, 6, 20, 5000])
def test_a_pack_that_was_cut_is_found_at_opening(tmp_path: Path, length: int) -> None:
    samples = make_photos(tmp_path / "photos", 2)
    folder, told = tmp_path / "cache", Listener()
    build_caches([samples], SIZE, folder=folder, workers=1)
    [pack] = packs(folder)
    os.truncate(pack, length)
    [cache] = build_caches([samples], SIZE, folder=folder, reporter=told)
    assert str(pack) in told.warnings[0]
    assert same_as_files(cache, samples)


def test_an_augmentation_that_works_in_place_leaves_the_cache_as_it_is(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 2)
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache")

    def darken(*, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        image //= 2
        return {"image": image, "mask": mask}

    data = SegmentationDataset(samples, SIZE, augment=darken, cache=cache)
    assert torch.equal(data[0][0], data[0][0])
    assert same_as_files(cache, samples)


def test_a_cache_of_other_photos_is_refused(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 3)
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache")
    with pytest.raises(ConfigError, match="expected 2"):
        SegmentationDataset(samples[:2], SIZE, cache=cache)
    with pytest.raises(ConfigError, match="nearest"):
        SegmentationDataset(samples, SIZE, target="nearest", cache=cache)
    with pytest.raises(ConfigError, match="crop"):
        SegmentationDataset(samples, SIZE, mode="crop", cache=cache)


def test_a_photo_without_a_mask_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 2)
    samples[1] = Sample(samples[1].image, None, "a")
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache")
    assert cache.held == 1
    with pytest.raises(ValueError, match="no mask"):
        SegmentationDataset(samples, SIZE, cache=cache)[1]


def test_the_place_of_the_cache_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CARVANA_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_home() == tmp_path / "own"
    monkeypatch.delenv("CARVANA_CACHE")
    assert cache_home() == tmp_path / "xdg" / "carvana"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_home() == tmp_path / "home" / ".cache" / "carvana"


def test_a_user_without_a_home_has_a_cache_among_the_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(number: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("CARVANA_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_home() == tmp_path / f"carvana-{os.getuid()}"
