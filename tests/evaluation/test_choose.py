from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from carvana.config import FitConfig
from carvana.data.samples import find_samples
from carvana.data.splits import Split, split_samples, write_split
from carvana.errors import DataError, RunError
from carvana.evaluation.choose import choose_samples
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
    assert choose_samples(run.path, data=tiny_data) == list(split.val)


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


def test_without_data_it_must_be_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.yaml"):
        choose_samples(tmp_path)
