from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import forkserver
import pytest
from caching import SIZE, Listener, make_photos, packs, records, same_as_files, total_bytes
from PIL import Image

from carvana.data.cache import build_caches, pack_bytes, record_bytes
from carvana.data.samples import Sample
from carvana.errors import DataError

CODE = """
import sys
from pathlib import Path
from caching import SIZE, Listener
from carvana.data.cache import build_caches
from carvana.data.samples import Sample

images = [Sample(path, path.with_name(path.stem + "_mask.png"), "a") for path in sorted(Path("photos").glob("*.bmp"))]
told = Listener()
build_caches([images], SIZE, folder="cache", workers=2, reporter=told)
print(told.totals["caching"])
"""


def start(folder: Path) -> subprocess.Popen[str]:
    return forkserver.Popen(
        [sys.executable, "-c", CODE], cwd=folder, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def written(cache: Path) -> dict[int, bytes]:
    return records(packs(cache)[0], 240) if packs(cache) else {}


def test_a_building_that_is_killed_loses_nothing_that_is_written(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 240, shape=(300, 400))
    cache = tmp_path / "cache"
    kept: dict[int, bytes] = {}
    for wanted in (0, 32, 96):
        builder = start(tmp_path)
        wait_until(lambda wanted=wanted: len(packs(cache)) and len(written(cache)) >= wanted)
        builder.kill()
        builder.communicate()
        now = written(cache)
        assert len(now) < 240
        assert kept.items() <= now.items()
        kept = now
    told = Listener()
    [opened] = build_caches([samples], SIZE, folder=cache, reporter=told)
    assert told.warnings == []
    assert told.totals["caching"] == 240 - len(kept)
    assert same_as_files(opened, samples)
    assert not list(cache.rglob(".part-*"))


def test_two_processes_that_start_at_once_decode_each_photo_once(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 60, shape=(200, 300))
    both = [start(tmp_path), start(tmp_path)]
    assert sorted(int(process.communicate()[0]) for process in both) == [0, 60]
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache")
    assert same_as_files(cache, samples)


class Interrupted(Listener):
    """Ctrl-C, once a certain number of images is cached."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        super().advance(task, steps, **values)
        if task == "caching" and self.done[task] == self.after:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_the_finished_images(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 40)
    told = Interrupted(after=21)
    with pytest.raises(KeyboardInterrupt):
        build_caches([samples], SIZE, folder=tmp_path / "cache", workers=1, reporter=told)
    assert told.open == 0
    assert not list((tmp_path / "cache").rglob(".part-*"))
    again = Listener()
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache", reporter=again)
    assert again.totals["caching"] == 19
    assert same_as_files(cache, samples)


def test_progress_is_told_and_a_second_building_has_nothing_to_do(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 30)
    told = Listener()
    train, val = build_caches([samples[:20], samples[20:]], SIZE, folder=tmp_path / "cache", reporter=told)
    assert told.totals["caching"] == told.done["caching"] == 30
    assert told.open == 0
    assert "cached 30 images at 24x32" in told.infos[-1]
    assert same_as_files(train, samples[:20])
    assert same_as_files(val, samples[20:])
    again = Listener()
    other = samples[9::-1], samples[10:]  # the same images in another order and divided otherwise
    for cache, part in zip(build_caches(other, SIZE, folder=tmp_path / "cache", reporter=again), other, strict=True):
        assert same_as_files(cache, part)
    assert not again.totals["caching"]
    assert again.infos == []


def test_the_same_content_is_kept_once(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 10)
    shutil.copytree(tmp_path / "photos", tmp_path / "copies")
    (tmp_path / "links").symlink_to(tmp_path / "photos")
    many = list(samples)
    for folder in (tmp_path / "copies", tmp_path / "links"):
        many += [Sample(folder / sample.image.name, folder / sample.mask.name, sample.group) for sample in samples]
    [cache] = build_caches([many], SIZE, folder=tmp_path / "cache", workers=1)
    assert cache.held == 30
    assert same_as_files(cache, many)
    assert sum(path.stat().st_size for path in packs(tmp_path / "cache")) == pack_bytes(10, SIZE)


def test_a_photo_with_another_mask_is_another_content(tmp_path: Path) -> None:
    one, two = make_photos(tmp_path / "photos", 2)
    samples = [one, two, Sample(one.image, two.mask, "c")]
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache")
    assert same_as_files(cache, samples)


class Watching(Listener):
    """Looks at the folder after every image."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.most = 0

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        self.most = max(self.most, total_bytes(self.folder))


def test_the_cache_never_exceeds_its_bound_and_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    sets = [make_photos(tmp_path / str(number), 20, seed=number) for number in range(3)]
    limit = 2.5 * pack_bytes(20, SIZE) / 1e9
    told = Watching(folder)

    def use(number: int) -> int:
        [cache] = build_caches([sets[number]], SIZE, folder=folder, limit_gb=limit, workers=1, reporter=told)
        assert same_as_files(cache, sets[number])
        assert total_bytes(folder) <= limit * 1e9
        time.sleep(0.02)  # times of files are no finer than some ms
        return told.totals["caching"]

    assert [use(0), use(1), use(0)] == [20, 40, 40]
    assert use(2) == 60  # the first set was used after the second, which goes
    assert [use(2), use(0)] == [60, 60]
    assert use(1) == 80
    assert use(0) == 80
    assert told.most <= limit * 1e9


def test_other_sizes_and_targets_live_side_by_side_and_under_one_bound(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 6)
    folder = tmp_path / "cache"
    limit = (pack_bytes(6, SIZE) + pack_bytes(6, (48, 64)) + 2000) / 1e9
    for size, target in ((SIZE, "coverage"), (SIZE, "nearest"), ((48, 64), "nearest"), (SIZE, "coverage")):
        [cache] = build_caches([samples], size, target=target, folder=folder, limit_gb=limit, workers=1)
        assert same_as_files(cache, samples, target=target)
        assert total_bytes(folder) <= limit * 1e9
        time.sleep(0.02)


def test_of_too_many_photos_as_many_are_kept_as_fit(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 20)
    folder = tmp_path / "cache"
    whole, each = pack_bytes(20, SIZE), record_bytes(SIZE)
    for limit, workers, held in ((whole - 13 * each, 1, 7), (whole - 5 * each + 9, 1, 15), (whole - 9 * each, 2, 11)):
        told = Listener()
        [cache] = build_caches([samples], SIZE, folder=folder, limit_gb=limit / 1e9, workers=workers, reporter=told)
        assert cache.held == held
        assert total_bytes(folder) <= limit
        assert [f"{20 - cache.held} images do not fit" in line for line in told.infos].count(True) == 1
        rest = [index for index in range(20) if cache.read(index) is None]
        assert len(rest) == 20 - cache.held
    told = Listener()
    [cache] = build_caches([samples], SIZE, folder=folder, reporter=told)
    assert cache.held == 20
    assert told.totals["caching"] == 9
    assert same_as_files(cache, samples)


def test_no_gigabytes_mean_no_cache(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 3)
    train, val = build_caches([samples[:2], samples[2:]], SIZE, folder=tmp_path / "cache", limit_gb=0)
    assert (len(train), len(val), train.held, val.held) == (2, 1, 0, 0)
    assert train.read(1) is None
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_to_is_told_and_done_without(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 3)
    (tmp_path / "file").write_text("in the way")
    told = Listener()
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "file" / "cache", reporter=told)
    assert cache.held == 0
    [warning] = told.warnings
    assert str(tmp_path / "file") in warning
    assert "CARVANA_CACHE" in warning


def test_a_full_disk_is_told_and_what_was_finished_serves(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 12)
    full = pack_bytes(12, SIZE)
    build_caches([samples], SIZE, folder=tmp_path / "cache", limit_gb=(full - 10 * record_bytes(SIZE)) / 1e9)
    told = Listener()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (full - 7 * record_bytes(SIZE), limits[1]))
    try:
        [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache", workers=1, reporter=told)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 2 <= cache.held <= 5
    assert len(told.warnings) == 1
    assert not list((tmp_path / "cache").rglob(".part-*"))
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache")
    assert same_as_files(cache, samples)


def test_a_list_with_another_image_is_a_pack_of_its_own(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 9)
    folder, told = tmp_path / "cache", Listener()
    for count in (8, 9):
        [cache] = build_caches([samples[:count]], SIZE, folder=folder, reporter=told)
        assert same_as_files(cache, samples[:count])
    assert told.totals["caching"] == 8 + 9
    assert len(packs(folder)) == 2


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 9)
    samples[4].image.write_bytes(b"BM no picture")
    told = Listener()
    with pytest.raises(DataError, match=r"0004\.bmp"):
        build_caches([samples], SIZE, folder=tmp_path / "cache", reporter=told)
    assert told.open == 0
    assert not list((tmp_path / "cache").rglob(".part-*"))


class Editing(Listener):
    """Changes a file while others are read."""

    def __init__(self, path: Path, other: bytes) -> None:
        super().__init__()
        self.path = path
        self.other = other

    def start(self, task: str, total: int | None) -> None:
        super().start(task, total)
        if task == "caching":
            self.path.write_bytes(self.other)


def test_a_photo_that_changes_under_our_hands_is_never_kept(tmp_path: Path) -> None:
    samples = make_photos(tmp_path / "photos", 4)
    other = samples[1].image.read_bytes()
    with pytest.raises(DataError, match=r"0003\.bmp.*changed"):
        build_caches([samples], SIZE, folder=tmp_path / "cache", reporter=Editing(samples[3].image, other))
    [cache] = build_caches([samples], SIZE, folder=tmp_path / "cache")
    assert same_as_files(cache, samples)


def test_another_reader_of_some_kind_of_images_makes_a_pack_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, folder = make_photos(tmp_path / "photos", 2), tmp_path / "cache"
    Image.open(samples[0].image).save(tmp_path / "photo.tif")
    tiff = replace(samples[0], image=tmp_path / "photo.tif")
    packs_of = []
    for found in ("", "2026.1"):
        monkeypatch.setattr("carvana.data.cache.version_of", lambda name, found=found: found)
        for each in ([samples[0]], [tiff]):
            build_caches([each], SIZE, folder=folder)
        packs_of.append(len(packs(folder)))
    assert packs_of == [2, 3]
