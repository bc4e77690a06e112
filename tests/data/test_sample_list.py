from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from carvana.data.sample_list import SampleList
from carvana.data.samples import Sample

SAMPLES = [
    Sample(
        Path("/data/train/00087a6bd4dc_01.jpg"),
        Path("/data/train_masks/00087a6bd4dc_01_mask.gif"),
        "00087a6bd4dc",
        "01",
    ),
    Sample(Path("/data/train/00087a6bd4dc_05.jpg"), None, "00087a6bd4dc", "05"),
    Sample(Path("photo.png"), Path("mask.png"), "photo"),
    Sample(Path("../wörld 車/😀.png"), Path("~/x/m.png"), "grüße", "left"),
    Sample(Path("/p.png"), Path("/"), "", ""),
    Sample(Path(), Path(".."), "dots"),
    Sample(Path("a/cut\udcff.jpg"), None, "a name that is no UTF-8"),
]


def many(count: int) -> list[Sample]:
    folder = Path("/somewhere/photos")
    return [
        Sample(
            folder / "train" / f"{car:012x}_{view:02}.jpg",
            folder / "train_masks" / f"{car:012x}_{view:02}_mask.gif",
            f"{car:012x}",
            f"{view:02}",
        )
        for car, view in (divmod(number, 16) for number in range(count))
    ]


def test_a_table_holds_the_samples_that_it_was_made_of() -> None:
    table = SampleList.of(SAMPLES)
    assert list(table) == SAMPLES
    assert [table[place] for place in range(len(SAMPLES))] == SAMPLES
    assert [table[place] for place in range(-len(SAMPLES), 0)] == SAMPLES
    assert table[np.int64(2)] == SAMPLES[2]
    assert list(SampleList.of(iter(SAMPLES))) == SAMPLES
    assert SampleList.of(table) is table


def test_a_table_does_what_a_tuple_does() -> None:
    table, like = SampleList.of(SAMPLES), tuple(SAMPLES)
    for part in (slice(2), slice(1, None), slice(None, None, -2), slice(-3, 100), slice(5, 2)):
        assert tuple(table[part]) == like[part]
        assert len(table[part]) == len(like[part])
    assert table == like
    assert like == table
    assert table == SAMPLES
    assert table != like[:-1]
    assert table != tuple(reversed(like))
    assert table != "samples"
    assert hash(table) == hash(like)
    assert list(reversed(table)) == SAMPLES[::-1]
    assert table.index(SAMPLES[3]) == 3
    assert table.count(SAMPLES[3]) == 1
    assert SAMPLES[4] in table
    assert not SampleList.of([])
    assert SampleList.of([]) == ()


@pytest.mark.parametrize("place", [7, -8, 100])
def test_a_place_beyond_the_table_is_an_index_error(place: int) -> None:
    with pytest.raises(IndexError, match=f"sample {place} of 7"):
        SampleList.of(SAMPLES)[place]


def test_tables_lists_and_tuples_are_joined() -> None:
    table = SampleList.of(SAMPLES)
    assert table[:3] + table[3:] == SAMPLES
    assert table + SampleList.of(many(3)) == SAMPLES + many(3)
    assert table + SAMPLES[:1] == SAMPLES + SAMPLES[:1]
    assert tuple(SAMPLES[:1]) + table == SAMPLES[:1] + SAMPLES
    assert SAMPLES[:1] + table == SAMPLES[:1] + SAMPLES
    assert isinstance(SAMPLES[:1] + table, SampleList)


def test_taken_samples_come_in_the_order_asked_for() -> None:
    table = SampleList.of(SAMPLES)
    assert table.take([3, 0, 0]) == [SAMPLES[3], SAMPLES[0], SAMPLES[0]]
    assert table[2:].take(np.array([1, 0])) == [SAMPLES[3], SAMPLES[2]]
    assert table.take([]) == []


def test_a_table_cannot_be_changed_and_says_what_it_is() -> None:
    table = SampleList.of(SAMPLES)
    with pytest.raises(TypeError):
        table[0] = SAMPLES[1]  # type: ignore[index]
    assert repr(table).startswith("SampleList(7 samples: Sample(image=PosixPath('/data/train/00087a6bd4dc_01.jpg')")
    assert repr(table).endswith(", ...)")
    assert repr(table[:0]) == "SampleList(no samples)"


def test_a_table_reaches_another_process() -> None:
    table = SampleList.of(SAMPLES)[1:]
    assert pickle.loads(pickle.dumps(table)) == table
    program = (
        "import pickle, sys; table = pickle.load(sys.stdin.buffer); print(len(table), table[1].name, table[-2].group)"
    )
    told = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(table), capture_output=True, check=True)
    assert told.stdout.decode().split() == ["6", "photo.png", "dots"]


def test_a_sample_takes_a_hundred_bytes() -> None:
    samples = many(5000)
    for sample in samples:
        str(sample.image), str(sample.mask)  # paths keep what they read like
    tracemalloc.start()
    try:
        table = SampleList.of(samples)
        parts = table.take(range(0, 5000, 2)), table.take(range(1, 5000, 2))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 150 * 5000
    assert parts[0] == samples[::2]
    assert len(pickle.dumps(table)) < 150 * 5000


def test_names_with_folders_and_several_masks_are_kept() -> None:
    samples = [
        Sample(Path("/data/images/a/1.jpg"), Path("/data/masks/a/1.png"), "a", depth=1),
        Sample(Path("images/a/b/1.jpg"), (Path("m/1.png"), Path("m/1_mask_1.png"), Path("/n/1.png")), "b", depth=2),
        SAMPLES[0],
    ]
    table = SampleList.of(samples)
    assert list(table) == samples
    assert pickle.loads(pickle.dumps(table)) == samples
    assert [sample.name for sample in table[:2]] == ["a/1.jpg", "a/b/1.jpg"]
