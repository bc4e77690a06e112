"""Load: very many images."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.many import Taken, draw_folder, growth, measured, some_photos, touch_folder, write_tables
from submitting import small_predictor

from carvana.data.check.duplicates import find_near_duplicates

KB = 1000
"""Bytes that an image may add to a command's memory."""

STEP = 4_000_000
"""Bytes by which two processes differ that do the same; they hide nothing where there are 90,000 images more."""

Folders = Callable[[int], Path]


@pytest.fixture
def counts(whole: bool) -> tuple[int, int]:
    """Few images and many."""
    return (10_000, 100_000) if whole else (1_000, 2_000)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Folders]:
    """A data folder of so many images, drawn once."""
    root = tmp_path_factory.mktemp("many")

    def folder(count: int) -> Path:
        return root / str(count) if (root / str(count)).exists() else draw_folder(root / str(count), count)

    yield folder
    if request.config.getoption("--whole"):
        shutil.rmtree(root)  # pytest would keep 200,000 files for a while


@pytest.fixture
def bounded(
    counts: tuple[int, int], whole: bool, came_out: Callable[..., None]
) -> Callable[[Callable[[int], Taken]], list[Taken]]:
    """Measure the same work on few images and on many, and hold it to its memory."""

    def check(work: Callable[[int], Taken]) -> list[Taken]:
        few, many = counts
        taken = [work(few), work(many)]
        each = growth(*taken, many - few)
        came_out(f"{each} bytes an image from {few:,} to {many:,} images, which took {taken[1].seconds:.0f} s")
        assert each < KB + (0 if whole else STEP // (many - few))
        return taken

    return check


@pytest.mark.fault(
    done="data check of 100,000 names, of which 99,000 are hard links to one of the others",
    promised="memory grows by less than 1 kB an image; each duplicate is reported",
    reaches="data/check/files.py: PairSummary, FolderContents",
)
def test_data_check(folder_of: Folders, bounded: Any, counts: tuple[int, int]) -> None:
    taken = bounded(lambda count: measured("data", "check", folder_of(count), codes=(0, 1)))
    assert f"duplicate  {counts[1] - 1000:,}" in taken[1].out
    assert f"{counts[1]:,}" in taken[1].out


@pytest.mark.fault(
    done="16,384 images compared with one another, all different but four",
    promised="the four are found; memory grows by less than 1 kB an image besides the images",
    reaches="data/check/duplicates.py: _candidates, block by block",
)
def test_all_photos_are_compared_with_all(whole: bool, came_out: Callable[..., None]) -> None:
    rng = np.random.default_rng(0)
    many = 16_384 if whole else 4_096
    thumbnails = rng.integers(0, 256, (many, 64, 64), dtype=np.uint8)
    thumbnails = thumbnails // 8 + np.repeat(np.repeat(rng.integers(0, 220, (many, 8, 8), np.uint8), 8, 1), 8, 2)
    thumbnails[[1500, many - 1]] = thumbnails[[3, 1200]]
    thumbnails[many - 2] = thumbnails[7][:, ::-1]
    peaks = []
    for count in (2_048, many):
        chosen = np.r_[np.arange(count - 2), many - 2, many - 1]
        pictures = thumbnails[chosen].reshape(count, 16, 4, 16, 4).sum(axis=(2, 4), dtype=np.uint16)
        tracemalloc.start()
        found = find_near_duplicates(
            pictures, map(str, range(count)), look=lambda number, chosen=chosen: thumbnails[chosen[number]]
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        twins = [(each.first, each.second, each.mirrored) for each in found]
        assert twins == [(3, 1500, False), (7, count - 2, True), (1200, count - 1, False)]
    each = round((peaks[1] - peaks[0]) / (many - 2_048))
    came_out(f"{each} bytes an image from 2,048 to {many:,}")
    assert each < KB - 512  # what the photos themselves are compared by


@pytest.mark.fault(
    done="data split of 100,000 names, by group and by image",
    promised="memory grows by less than 1 kB an image; each image stands in the file",
    reaches="data/splits.py: split_samples, describe_split",
    quick=1,
)
@pytest.mark.parametrize("by", ["group", "image"])
def test_data_split(by: str, folder_of: Folders, bounded: Any, tmp_path: Path) -> None:
    def split(count: int) -> Taken:
        out = tmp_path / f"{count}.csv"
        taken: Taken = measured("data", "split", folder_of(count), "--by", by, "--out", out)
        assert len(set(out.read_text().splitlines())) == count + 1
        return taken

    bounded(split)


@pytest.mark.fault(
    done="digests of 100,000 images and their masks, each a file of its own",
    promised="memory grows by less than 1 kB an image",
    reaches="data/digest.py: DigestIndex.keys",
)
def test_digests(bounded: Any, tmp_path: Path) -> None:
    script = """
from carvana.data.digest import DigestIndex
from carvana.data.samples import find_samples
from carvana.utils.progress import SilentReporter
from pathlib import Path
samples = find_samples(sys.argv[1])
for _ in range(2):
    known = DigestIndex(Path(sys.argv[1]) / "files")
    keys, _ = known.keys(samples, reporter=SilentReporter())
    known.save()
print((keys != b"").sum())
"""

    def listed(count: int) -> Taken:
        root = touch_folder(tmp_path / str(count), count)
        taken = measured(root, script=script)
        shutil.rmtree(root)
        assert taken.out.split() == [str(count)]
        return taken

    bounded(listed)


@pytest.mark.fault(
    done="the cache is built for 100,000 names and opened again",
    promised="memory grows by less than 1 kB an image; what is linked is kept once",
    reaches="data/cache.py: build_caches, Pack",
    quick=0,
)
def test_cache_building(folder_of: Folders, bounded: Any, tmp_path: Path) -> None:
    script = """
from carvana.data.cache import build_caches
from carvana.data.samples import find_samples
samples = find_samples(sys.argv[1])
half = len(samples) // 2
for _ in range(2):
    caches = build_caches([samples[:half], samples[half:]], (16, 24), folder=sys.argv[2])
print(sum(cache.read(number) is not None for cache in caches for number in range(half)))
"""

    def built(count: int) -> Taken:
        taken = measured(folder_of(count), tmp_path / str(count), script=script)
        assert taken.out.split() == [str(count)]
        assert sum(path.stat().st_size for path in (tmp_path / str(count)).rglob("*.pack")) < 1_000 * 1_700
        return taken

    bounded(built)


@pytest.mark.fault(
    done="submit --check of a table of 100,000 rows",
    promised="memory grows by less than 1 kB an image",
    reaches="inference/submission/table.py: check_submission",
)
def test_submit_check(bounded: Any, tmp_path: Path) -> None:
    def checked(count: int) -> Taken:
        table, sample = write_tables(tmp_path, count)
        taken = measured("submit", "--check", table, "--against", sample)
        assert f"{count} rows, no problem" in taken.out
        return taken

    bounded(checked)


@pytest.mark.fault(
    done="10,000 predictions in one process: one by one, and as a stream",
    promised="as many open files at the end as after 2,000, and no more than 4 MB of memory more",
    reaches="inference/predictor.py: predict; utils/parallel.py: threaded",
    quick=1,
)
@pytest.mark.parametrize("way", ["predict_many", "predict"])
def test_predictions_one_after_another(way: str, whole: bool, tiny_data: Path, came_out: Callable[..., None]) -> None:
    script = """
import itertools
sys.path.insert(0, sys.argv[4])
from pathlib import Path
from submitting import small_predictor
predictor, images = small_predictor(), sorted(Path(sys.argv[1], "train").iterdir())
way, count = sys.argv[2], int(sys.argv[3])
again = itertools.islice(itertools.cycle(images), count)
if way == "predict":
    made = map(predictor.predict, again)
else:
    made = predictor.predict_many(again, want="probabilities")
area = 0
for number, prediction in enumerate(made):
    area += int(prediction.mask.sum())
    if number == count // 5:
        tell()
print(area)
"""
    count = 10_000 if whole else 300
    taken = measured(tiny_data, way, count, Path(__file__).parents[1], script=script)
    began = taken.before
    assert began is not None
    masks = [small_predictor().predict(photo).mask for photo in sorted((tiny_data / "train").iterdir())]
    assert int(taken.out) == sum(int(masks[number % len(masks)].sum()) for number in range(count))
    came_out(f"{way}: {(taken.held - began.held) / 1e6:+.1f} MB after the first fifth, {taken.files} open files")
    assert taken.files == began.files
    assert taken.held - began.held < STEP


@pytest.mark.fault(
    done="carvana predict of a folder of 10,000 images, then again",
    promised="memory grows by less than 1 kB an image, open files do not; nothing is made twice",
    reaches="inference/predict_folder.py",
    quick=0,
)
def test_predict_a_large_folder(whole: bool, folder_of: Folders, tmp_path: Path, came_out: Callable[..., None]) -> None:
    small_predictor().model.save_pretrained(tmp_path / "model")
    counts = (2_000, 10_000) if whole else (100, 300)
    files = {count: some_photos(folder_of(counts[1]), tmp_path / str(count), count) for count in counts}

    def predicted(count: int) -> Taken:
        return measured(
            "predict", tmp_path / "model", files[count], "--out", tmp_path / f"masks-{count}", "--device", "cpu"
        )  # fmt: skip

    few, many = predicted(counts[0]), predicted(counts[1])
    assert len(list((tmp_path / f"masks-{counts[1]}").glob("*_mask.png"))) == counts[1]
    again = predicted(counts[1])
    assert f"0 written to {tmp_path / f'masks-{counts[1]}'}, {counts[1]} there already" in again.out
    each = growth(few, many, counts[1] - counts[0])
    came_out(f"{each} bytes an image, {many.files} open files, {many.seconds:.0f} s; again {again.seconds:.0f} s")
    assert few.files == many.files == again.files
    slack = 0 if whole else STEP // (counts[1] - counts[0])
    assert max(each, growth(few, again, counts[1] - counts[0])) < KB + slack
