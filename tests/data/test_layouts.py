"""Layouts that plugins and scripts add: pairs of folders, or the samples themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import carvana
from carvana.data.check.report import check_data
from carvana.data.samples import find_samples
from carvana.errors import ConfigError, DataError
from carvana.registry import registry


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry.layouts, "_entries", {e.name: e for e in registry.layouts.registered() if e.source == "carvana"}
    )


@pytest.fixture
def garage(tmp_path: Path) -> Path:
    """A folder for each group, image and mask side by side."""
    for car in ("red", "blue"):
        (tmp_path / car).mkdir()
        for view in ("1", "2"):
            mask = np.zeros((8, 12), np.uint8)
            mask[2:6, 3:9] = 255
            cv2.imwrite(str(tmp_path / car / f"{car}-{view}.jpg"), np.full((8, 12, 3), 90, np.uint8))
            cv2.imwrite(str(tmp_path / car / f"{car}-{view}.png"), mask)
    return tmp_path


def read_garage(root: Path) -> list[carvana.Sample] | None:
    photos = sorted(root.glob("*/*-?.jpg"))
    samples = [carvana.Sample(path, path.with_suffix(".png"), path.parent.name, path.stem[-1]) for path in photos]
    return samples or None


def test_a_layout_may_list_samples(garage: Path) -> None:
    assert {sample.group for sample in find_samples(garage)} == {
        f"{car}/{car}-{n}" for car in ("blue", "red") for n in (1, 2)
    }
    carvana.register_layout("garage", read_garage)
    found = find_samples(garage)
    assert [(s.name, s.group, s.view) for s in found] == [
        ("blue-1.jpg", "blue", "1"), ("blue-2.jpg", "blue", "2"), ("red-1.jpg", "red", "1"), ("red-2.jpg", "red", "2"),
    ]  # fmt: skip
    assert found[0].mask == garage / "blue" / "blue-1.png"


@pytest.mark.parametrize("kind", [tuple, list, iter])
def test_samples_may_come_in_any_iterable(garage: Path, kind: Callable[[Any], Any]) -> None:
    carvana.register_layout("garage", lambda root: kind(read_garage(root)))
    assert len(find_samples(garage)) == 4
    carvana.register_layout("two", lambda root: kind(read_garage(root)[:2]))
    assert len(find_samples(garage)) == 2


def test_folders_may_be_relative_to_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / "a" / "x.jpg"), np.zeros((4, 4, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b" / "x.png"), np.zeros((4, 4), np.uint8))
    monkeypatch.chdir(tmp_path.parent)
    for layout in (lambda root: ("a", "b"), lambda root: (root / "a", root / "b")):
        carvana.register_layout("ab", layout, replace=True)
        assert find_samples(tmp_path)[0].mask == tmp_path / "b" / "x.png"
        assert find_samples(tmp_path.name)[0].mask == Path(tmp_path.name, "b", "x.png")


def test_a_pattern_wins_over_what_the_layout_says(garage: Path) -> None:
    carvana.register_layout("garage", read_garage)
    assert {s.group for s in find_samples(garage, group=r"\w+-(\d)")} == {"1", "2"}
    with pytest.raises(ConfigError, match="does not match"):
        find_samples(garage, group=r"(\d+)")


def test_check_and_fit_read_through_it(garage: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    carvana.register_layout("garage", read_garage)
    report = check_data(garage)
    assert (report.image_count, report.pairs, report.group_count) == (4, 4, 2)
    config = carvana.FitConfig(
        data={"root": garage, "size": 32, "workers": 0, "cache_gb": 0},
        model={"options": {"width": 4}},
        split={"val": 1},
        train={"epochs": 1, "batch_size": 2},
    )
    run = carvana.fit(config, out=tmp_path_factory.mktemp("runs") / "run")
    assert run.read_groups("train") | run.read_groups("val") == {"red", "blue"}


def test_what_is_registered_last_is_asked_first(tmp_path: Path) -> None:
    for name in ("images", "masks", "others"):
        (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), np.zeros((4, 4, 3), np.uint8))
    for name in ("masks", "others"):
        cv2.imwrite(str(tmp_path / name / "a.png"), np.zeros((4, 4), np.uint8))
    assert find_samples(tmp_path)[0].mask == tmp_path / "masks" / "a.png"
    carvana.register_layout("mine", lambda root: (root / "images", root / "others"))
    assert find_samples(tmp_path)[0].mask == tmp_path / "others" / "a.png"
    assert find_samples(tmp_path, images="images", masks="masks")[0].mask == tmp_path / "masks" / "a.png"


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (lambda root: str(root), "expected None"),
        (lambda root: 3, "expected None"),
        (lambda root: ["a.jpg"], "lists 'a.jpg'"),
        (lambda root: [carvana.Sample(3, root / "a.png", "a")], "fails on it: TypeError"),
        (lambda root: [carvana.Sample(root / "a.jpg", root / "a.png", 5)], "as text"),
        (lambda root: sorted((root / "nowhere").iterdir()), "fails on it: FileNotFoundError"),
        (lambda root: (carvana.Sample(root / f"{n}.jpg", 3, "a") for n in "ab"), "fails on it: TypeError"),
        (lambda root: [], "lists no image"),
        (lambda root: [carvana.Sample(root / "a.jpg", None, "a")], "a.jpg without a mask"),
        (lambda root: [carvana.Sample(root / d / "a.jpg", root / "a.png", "a") for d in "xy"], "have the same name"),
    ],
)
def test_a_layout_that_cannot_serve_is_one_line(tmp_path: Path, layout: Callable[[Path], Any], words: str) -> None:
    carvana.register_layout("odd", layout)
    for reader in (find_samples, check_data):
        with pytest.raises(DataError, match=words) as caught:
            reader(tmp_path)
        assert "odd" in str(caught.value) or "the same name" in words
        assert "\n" not in str(caught.value)


def test_a_folder_that_nobody_reads_names_the_layouts_that_were_asked(tmp_path: Path) -> None:
    carvana.register_layout("garage", read_garage)
    with pytest.raises(DataError, match="nor is it laid out as garage are"):
        find_samples(tmp_path)
