"""What several files share: a disk, a run, a comparison, a loss that can be told to go wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.comparison import undisturbed
from faults.disks import Disk, in_process, small_disk
from faults.pictures import saved_model
from faults.running import compare_words, fit_words
from faults.spoilt import Spoilt, registered
from submitting import small_predictor

from carvana.inference.predictor import Predictor


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(scope="session")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done = in_process(*fit_words(tiny_data, out))
    assert done.code == 0, done
    return out


@pytest.fixture(scope="session")
def compared(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of one network that nothing disturbed."""
    out = tmp_path_factory.mktemp("compared") / "compare"
    done = in_process(*compare_words(tiny_data, out))
    assert done.code == 0, done
    return out


@pytest.fixture(scope="session")
def whole_board(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A comparison by the real command that nothing disturbed: see :func:`faults.comparison.undisturbed`."""
    return undisturbed(tiny_data, tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    """Of a network of a few weights."""
    return small_predictor()


@pytest.fixture(scope="session")
def model(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as a folder."""
    return saved_model(predictor, tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def photos(tiny_data: Path, tmp_path: Path) -> Path:
    """Two images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in sorted((tiny_data / "train").iterdir())[:2]:
        shutil.copy(photo, folder)
    return folder


@pytest.fixture
def loss() -> Iterator[Spoilt]:
    """A loss under the name ``spoilt`` that does as it is told."""
    spoilt = Spoilt()
    with registered(spoilt):
        yield spoilt
