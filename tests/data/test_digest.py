from __future__ import annotations

import os
from pathlib import Path

import pytest

from carvana.data import cache_keys
from carvana.data.cache_home import cache_home
from carvana.data.digest import content_digest, content_digests
from carvana.data.samples import Sample, find_samples
from carvana.errors import DataError
from carvana.utils.files import file_digest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARVANA_CACHE", str(tmp_path / "cache"))


def test_what_was_read_once_is_remembered(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = find_samples(tiny_data)[:3]
    (cache_home() / "samples").mkdir(parents=True)
    monkeypatch.setattr(cache_keys, "_FRESH", -(10**12))  # files that were drawn a moment ago count as settled
    read: list[Path] = []

    def digest(path: Path) -> str:
        read.append(path)
        return file_digest(path)

    monkeypatch.setattr(cache_keys, "file_digest", digest)
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
