from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from reference import Lines

from carvana.config import FitConfig
from carvana.data.digest import content_digests
from carvana.data.samples import find_samples
from carvana.data.splits import Split, split_samples, write_split
from carvana.errors import ConfigError, DataError, RunError
from carvana.evaluation.samples import choose_samples
from carvana.run import Run


@pytest.fixture
def run(tiny_data: Path, tmp_path: Path) -> Run:
    """A run as fit leaves it, but for the network, which nothing here looks at."""
    made = Run.create(tmp_path / "run", arch="a")
    made.write_config(FitConfig(data={"root": tiny_data}))
    write_split(made.split_path, split_samples(find_samples(tiny_data), val=1))
    return made


def test_the_runs_own_validation_photos_are_the_default(run: Run, tiny_data: Path) -> None:
    split = split_samples(find_samples(tiny_data), val=1)
    assert choose_samples(run.path) == list(split.val)
    assert choose_samples(run.path, split="train") == list(split.train)
    assert len(choose_samples(run.path, split="all")) == 20
    told = Lines()
    assert choose_samples(run.path, data=tiny_data, reporter=told) == list(split.val)
    assert told.infos == [
        f"{tiny_data} is the run's own data folder: its validation part is taken; --split all for all of it"
    ]


def test_other_data_counts_whole(run: Run, tiny_data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_data, tmp_path / "other"))
    assert len(choose_samples(run.path, data=other)) == 20
    assert len(choose_samples(tmp_path, data=other)) == 20  # what is no run has trained on nothing
    with pytest.raises(DataError, match="--split val"):
        choose_samples(run.path, data=other, split="val")


def test_a_validation_folder_of_its_own_even_with_the_same_names(tiny_data: Path, tmp_path: Path) -> None:
    val = Path(shutil.copytree(tiny_data, tmp_path / "val"))
    made = Run.create(tmp_path / "run", arch="a")
    made.write_config(FitConfig(data={"root": tiny_data}, split={"file": val}))
    write_split(made.split_path, Split(tuple(find_samples(tiny_data)), tuple(find_samples(val))))
    assert choose_samples(made.path) == find_samples(val)
    assert choose_samples(made.path, split="train") == find_samples(tiny_data)
    expected = find_samples(val)
    first = expected[0]
    [mask] = first.masks
    shutil.copy(first.image, first.image.with_name(f"new_{first.image.name}"))
    shutil.copy(mask, mask.with_name(f"new_{mask.name}"))
    assert len(find_samples(val)) == len(expected) + 1
    assert choose_samples(made.path) == expected  # the run's own
    first.image.unlink()
    mask.unlink()
    with pytest.raises(DataError, match=f"1 of its images are not in the data folder .*{first.name}"):
        choose_samples(made.path)


def test_without_data_it_must_be_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.yaml"):
        choose_samples(tmp_path)


@pytest.fixture
def moved(tiny_data: Path, tmp_path: Path) -> tuple[Run, Path]:
    """A run whose data folder lies elsewhere by now, and where it lies."""
    data, now = Path(shutil.copytree(tiny_data, tmp_path / "data")), tmp_path / "elsewhere"
    made = Run.create(tmp_path / "run", arch="a")
    made.write_config(FitConfig(data={"root": data}))
    split = split_samples(find_samples(data), val=1)
    write_split(made.split_path, split, digests=content_digests(split.train + split.val))
    data.rename(now)
    return made, now


def test_a_data_folder_that_is_gone_is_asked_for(moved: tuple[Run, Path]) -> None:
    run, _ = moved
    with pytest.raises(DataError, match=r"data: the data folder of .*run is missing.*--root DIR"):
        choose_samples(run.path)


def test_a_data_folder_that_has_moved_gives_the_same_photos(moved: tuple[Run, Path]) -> None:
    run, now = moved
    before = run.config_path.read_bytes()
    split, told = split_samples(find_samples(now), val=1), Lines()
    assert choose_samples(run.path, root=now, reporter=told) == list(split.val)
    assert choose_samples(run.path, split="all", root=now, reporter=told) == list(split.train + split.val)
    assert told.warnings == []
    assert run.config_path.read_bytes() == before


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_another_folder_with_the_same_names_is_refused(moved: tuple[Run, Path], kind: str) -> None:
    run, now = moved
    samples = find_samples(now)
    first, second, other = (getattr(samples[place], kind) for place in (3, 7, 8))
    for path in (first, second):
        shutil.copy(other, path)
    with pytest.raises(DataError, match=r"2 of 20 images have.: .*--root.*--data.*--init") as caught:
        choose_samples(run.path, root=now)
    assert str(first) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_digests_is_compared_by_names_which_is_said(moved: tuple[Run, Path]) -> None:
    run, now = moved
    write_split(run.split_path, split_samples(find_samples(now), val=1))  # as earlier versions did
    told = Lines()
    assert len(choose_samples(run.path, root=now, reporter=told)) == 4
    assert len(told.warnings) == 1
    assert "kept no digests" in told.warnings[0]
    find_samples(now)[0].image.unlink()
    with pytest.raises(DataError):
        choose_samples(run.path, root=now)


def test_a_validation_folder_within_the_data_folder_moves_with_it(tiny_data: Path, tmp_path: Path) -> None:
    data, now = Path(shutil.copytree(tiny_data, tmp_path / "data")), tmp_path / "elsewhere"
    val = Path(shutil.copytree(tiny_data, data / "val"))
    made = Run.create(tmp_path / "run", arch="a")
    made.write_config(FitConfig(data={"root": data}, split={"file": val}))
    split = Split(tuple(find_samples(data)), tuple(find_samples(val)))
    write_split(made.split_path, split, digests=content_digests(split.train + split.val))
    data.rename(now)
    assert choose_samples(made.path, root=now) == find_samples(now / "val")
    assert choose_samples(made.path, split="train", root=now) == find_samples(now)


def test_a_moved_folder_and_other_data_exclude_one_another(moved: tuple[Run, Path]) -> None:
    run, now = moved
    with pytest.raises(ConfigError, match=r"--root .* with --data"):
        choose_samples(run.path, data=now, root=now)
