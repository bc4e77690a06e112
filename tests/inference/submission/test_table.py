from __future__ import annotations

import gzip
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from carvana.data.io import rle
from carvana.errors import DataError
from carvana.inference.submission.table import SHOWN, SubmissionReport, check_submission, read_header, read_names

SIZE = 6, 10
NAMES = [f"car_{number:02}.jpg" for number in range(12)]


def table(path: Path, rows: list[tuple[str, str]], header: str = "img,rle_mask", end: str = "\n") -> Path:
    text = "".join(line + end for line in [header, *(f"{name},{runs}" for name, runs in rows)])
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def sound(rng: np.random.Generator) -> list[tuple[str, str]]:
    return [(name, rle.encode(rng.integers(0, 2, SIZE, np.uint8))) for name in NAMES]


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return table(tmp_path / "sample.csv", [(name, "1 1") for name in NAMES])


def check(path: Path, sample: Path) -> SubmissionReport:
    return check_submission(path, sample, size=SIZE)


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_sound_table_has_no_problem(
    tmp_path: Path, sample: Path, rng: np.random.Generator, name: str, end: str
) -> None:
    rows = sound(rng)
    rows[0], rows[1], rows[2] = (NAMES[0], ""), (NAMES[1], "1 60"), (NAMES[2], "60 1")
    report = check(table(tmp_path / name, rows, end=end), sample)
    assert report.ok
    assert (report.rows, report.expected, report.first) == (12, 12, [])


def test_a_table_need_not_be_in_one_compressed_piece(tmp_path: Path, sample: Path, rng: np.random.Generator) -> None:
    lines = ["img,rle_mask\n", *(f"{name},{runs}\n" for name, runs in sound(rng))]
    (tmp_path / "s.gz").write_bytes(b"".join(gzip.compress(line.encode()) for line in lines))
    assert check(tmp_path / "s.gz", sample).ok


BAD_RUNS = {
    "1 2 3": "an odd count",
    "1 x": "not numbers",
    "-1 2": "not numbers",
    "3 0": "no length",
    "0 1": "outside",
    "60 2": "outside",
    "1 99999999999999999999": "outside",
    "1 3 2 1": "overlapping",
    "9 1 1 1": "unsorted",
}


@pytest.mark.parametrize("runs", BAD_RUNS)
def test_bad_runs_are_found_and_named(tmp_path: Path, sample: Path, rng: np.random.Generator, runs: str) -> None:
    rows = sound(rng)
    rows[4] = NAMES[4], runs
    report = check(table(tmp_path / "s.csv", rows), sample)
    assert report.counts == {BAD_RUNS[runs]: 1}
    assert report.first[0].startswith(f"line 6, {NAMES[4]}: ")
    assert "\n" not in report.first[0]


def test_every_problem_of_names_is_counted(tmp_path: Path, sample: Path, rng: np.random.Generator) -> None:
    rows = sound(rng)
    del rows[7]
    rows[2:2] = [rows[0], ("stranger.jpg", "")]
    rows[9], rows[10] = rows[10], rows[9]
    path = table(tmp_path / "s.csv", rows, header="image,rle")
    with open(path, "a") as file:
        file.write("car_03.jpg\n\na,b,1 1\n")
    report = check(path, sample)
    assert report.counts == {
        "header": 1, "doubled": 1, "unknown": 1, "missing": 1, "out of order": 1, "no row": 3,
    }  # fmt: skip
    assert report.rows == 16
    assert any(line.startswith(f"{NAMES[7]}: has no row") for line in report.first)


def test_a_table_with_image_and_class_in_columns_of_their_own_is_checked(tmp_path: Path) -> None:
    sample, path = tmp_path / "sample.csv", tmp_path / "s.csv"
    pairs = [(image, name) for image in ("a,b.jpg", "c.jpg") for name in ("sky", "road")]
    rows = [f'"{image}",{name},' for image, name in pairs]
    sample.write_text("\n".join(["id,class,predicted", *rows]))
    path.write_text("\n".join(['"id",class,predicted', *(f"{row}1 3 60 1" for row in rows)]))
    assert check(path, sample).ok
    path.write_text("\n".join(["id,class,predicted", rows[1], rows[0] + "1 2 2 1", rows[1] + "61 1", "c.jpg,sky"]))
    report = check(path, sample)
    assert report.counts == {"overlapping": 1, "out of order": 1, "outside": 1, "doubled": 1, "no row": 1, "missing": 2}
    assert "c.jpg,road: has no row" in report.first


def test_runs_may_stand_in_another_column_than_the_last(tmp_path: Path) -> None:
    sample, path = tmp_path / "sample.csv", tmp_path / "s.csv"
    sample.write_text("ImageId,EncodedPixels,ClassId\na.jpg,1 1,1\na.jpg,,2\n")
    assert read_header(sample) == (("ImageId", "EncodedPixels", "ClassId"), 1)
    assert read_names(sample) == ["a.jpg,1", "a.jpg,2"]
    path.write_text("ImageId,EncodedPixels,ClassId\na.jpg,,1\na.jpg,59 2,2\n")
    assert check(path, sample).ok
    path.write_text("ImageId,EncodedPixels,ClassId\na.jpg,60 2,1\na.jpg,1 1\n")
    assert check(path, sample).counts == {"outside": 1, "no row": 1, "missing": 1}
    sample.write_text("img,rle_mask\n12 34,\n")  # two columns are the competition's
    assert read_header(sample).runs == 1


def expected_counts(order: list[str]) -> dict[str, int]:
    """By definition: a row is out of order if an image that follows it in the sample has a row before it."""
    counts = Counter({"missing": len(set(NAMES) - set(order))})
    for place, name in enumerate(order):
        before = order[:place]
        if name not in NAMES:
            counts["unknown"] += 1
        elif name in before:
            counts["doubled"] += 1
        elif any(other in NAMES and NAMES.index(other) > NAMES.index(name) for other in before):
            counts["out of order"] += 1
    return +counts


def test_names_in_any_disorder_are_counted_by_definition(
    tmp_path: Path, sample: Path, rng: np.random.Generator
) -> None:
    kinds = set()
    for _ in range(60):
        order = rng.choice([*NAMES, "x.jpg"], rng.integers(0, 16)).tolist()
        if rng.random() < 0.3:
            order = sorted(order)
        report = check(table(tmp_path / "s.csv", [(name, "") for name in order]), sample)
        expected = expected_counts(order)
        assert report.counts == expected
        kinds |= set(expected)
        assert len(report.first) == min(SHOWN, sum(expected.values()))
    assert kinds == {"missing", "unknown", "doubled", "out of order"}


def test_an_empty_table_lacks_everything(tmp_path: Path, sample: Path) -> None:
    (tmp_path / "s.csv").write_text("")
    assert check(tmp_path / "s.csv", sample).counts == {"header": 1, "missing": 12}


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path, sample: Path, rng: np.random.Generator) -> None:
    whole = table(tmp_path / "s.csv.gz", sound(rng)).read_bytes()
    cut, damaged = tmp_path / "cut.gz", tmp_path / "damaged.gz"
    cut.write_bytes(whole[:-20])
    damaged.write_bytes(whole[:30] + bytes(len(whole) - 30))
    doubled = table(tmp_path / "doubled.csv", [("a.jpg", ""), ("a.jpg", "")])
    none = table(tmp_path / "none.csv", [])
    for path, against, words in (
        (cut, sample, "is cut short"),
        (damaged, sample, "is damaged"),
        (tmp_path / "nowhere.csv", sample, "cannot be read"),
        (tmp_path, sample, "cannot be read"),
        (sample, tmp_path / "nowhere.csv", "cannot be read"),
        (sample, doubled, "names a.jpg a second time"),
        (sample, none, "names no image"),
    ):
        with pytest.raises(DataError, match=words) as error:
            check(path, against)
        assert "\n" not in str(error.value)


def test_memory_does_not_grow_with_the_runs(tmp_path: Path) -> None:
    names = [f"{number:06}.jpg" for number in range(300)]
    runs = rle.encode((np.indices((512, 512)).sum(axis=0) % 2).astype(np.uint8))  # 1 MB of text
    sample = table(tmp_path / "sample.csv", [(name, "1 1") for name in names])
    path = tmp_path / "s.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"img,rle_mask\n" + b"".join(f"{name},{runs}\n".encode() for name in names[:30]))
    tracemalloc.start()
    report = check_submission(path, sample, size=(512, 512))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.counts == {"missing": 270}
    assert peak < 15e6 < 30 * len(runs)
