from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from caching import SIZE, Listener, flip_byte, make_photos, same_as_files

from carvana.data import digest
from carvana.data.cache import build_caches
from carvana.data.digest import DigestIndex, cache_home, content_digest, content_digests
from carvana.data.samples import Sample, find_samples
from carvana.errors import DataError
from carvana.utils.files import file_digest
from carvana.utils.progress import SilentReporter


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARVANA_CACHE", str(tmp_path / "cache"))


def test_what_was_read_once_is_remembered(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = find_samples(tiny_data)[:3]
    (cache_home() / "samples").mkdir(parents=True)
    monkeypatch.setattr(digest, "_FRESH", -(10**12))  # files that were drawn a moment ago count as settled
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return file_digest(path)

    monkeypatch.setattr(digest, "file_digest", counted)
    first = content_digests(samples)
    assert len(read) == 6
    assert content_digests(samples) == first
    assert len(read) == 6


def test_without_a_cache_nothing_is_written(tiny_data: Path) -> None:
    assert all(content_digests(find_samples(tiny_data)[:2]))
    assert not cache_home().exists()


def test_a_cache_that_cannot_be_written_costs_the_digests_only_their_memory(tiny_data: Path) -> None:
    cache_home().write_text("not a folder")
    assert all(content_digests(find_samples(tiny_data)[:2]))


def test_a_missing_file_has_no_digest(tmp_path: Path) -> None:
    sample = Sample(tmp_path / "a.jpg", tmp_path / "a.png", "a")
    assert content_digests([sample]) == [""]
    with pytest.raises(DataError, match=f"{os.sep}a.jpg: it or its mask .* is missing"):
        content_digest([sample])


@pytest.fixture
def _sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are remembered though they were written a moment ago."""
    monkeypatch.setattr(digest, "_FRESH", 0)


def read_again(path: Path, samples: list[Sample]) -> int:
    told = Listener()
    known = DigestIndex(path)
    known.keys(samples, reporter=told)
    if known.changed:
        known.save()
    assert told.open == 0
    assert told.done == told.totals
    return told.totals["reading images"]


def test_a_key_is_the_digest_of_the_digests_of_both_files(tmp_path: Path) -> None:
    samples = make_photos(tmp_path, 3)
    keys, _ = DigestIndex(tmp_path / "files").keys(samples, reporter=Listener())
    for key, sample in zip(keys, samples, strict=True):
        parts = [hashlib.blake2b(path.read_bytes(), digest_size=16).digest() for path in (sample.image, sample.mask)]
        expected = hashlib.blake2b(b"".join(parts), digest_size=16).digest()
        assert bytes(key).ljust(16, b"\0") == expected


@pytest.mark.usefixtures("_sure")
def test_known_files_are_not_read_again(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 5)
    path = tmp_path / "files"
    assert read_again(path, samples[:4]) == 4
    assert read_again(path, samples[:4]) == 0
    assert read_again(path, samples) == 1
    (tmp_path / "link").symlink_to(samples[0].image)
    assert read_again(path, [Sample(tmp_path / "link", samples[0].mask, "a")]) == 0
    assert read_again(path, samples) == 0


@pytest.mark.usefixtures("_sure")
def test_a_changed_file_is_read_again_though_its_size_and_its_time_are_the_same(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 4)
    folder = tmp_path / "cache"
    build_caches([samples], SIZE, folder=folder)
    flip_byte(samples[2].image, -5)  # keeps size and time
    samples[0].image.replace(samples[1].image)  # another file under this name
    samples = samples[1:]
    told = Listener()
    [cache] = build_caches([samples], SIZE, folder=folder, reporter=told)
    assert same_as_files(cache, samples)
    assert told.totals["reading images"] == 2
    assert told.totals["caching"] == 3  # another list, in a pack of its own


def test_a_file_that_may_still_change_unseen_is_not_remembered(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 1)
    assert read_again(tmp_path / "files", samples) == 1
    assert read_again(tmp_path / "files", samples) == 1


@pytest.mark.usefixtures("_sure")
def test_a_damaged_memory_is_forgotten(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 2)
    path = tmp_path / "files"
    for harm in (lambda: flip_byte(path, 30), lambda: os.truncate(path, 70), lambda: os.truncate(path, 0)):
        read_again(path, samples)
        harm()
        assert read_again(path, samples) == 2
    assert read_again(path, samples) == 0


@pytest.mark.usefixtures("_sure")
def test_the_memory_is_bounded_and_keeps_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "REMEMBERED", 3)
    samples = make_photos(tmp_path / "photos", 5)
    path = tmp_path / "files"
    assert read_again(path, samples[:2]) == 2
    assert read_again(path, samples[2:]) == 3
    assert path.stat().st_size == 4 + 3 * 32
    assert read_again(path, samples[2:]) == 0
    assert read_again(path, samples[:2]) == 2


def test_missing_files_have_no_key(tmp_path: Path) -> None:
    samples = make_photos(tmp_path, 3)
    samples[0].image.unlink()
    samples[1] = Sample(samples[1].image, None, "a")
    keys, _ = DigestIndex(tmp_path / "files").keys(samples, reporter=Listener())
    assert [bool(key) for key in keys] == [False, False, True]


def test_each_of_several_masks_counts(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("x.jpg", "x_mask.png", "x_mask_1.png")]
    for number, file in enumerate(files):
        file.write_bytes(b"%d" % number)
    sample = Sample(files[0], tuple(files[1:]), "x")
    known = DigestIndex(tmp_path / "files")
    before, _ = known.keys([sample], reporter=SilentReporter())
    again, _ = known.keys([sample], reporter=SilentReporter())
    assert before[0]
    assert (before == again).all()
    files[2].write_bytes(b"other")
    after, _ = known.keys([sample], reporter=SilentReporter())
    assert after[0] not in (b"", before[0])
    files[2].unlink()
    gone, _ = known.keys([sample], reporter=SilentReporter())
    assert not gone[0]
