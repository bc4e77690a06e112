"""Names of the last release: each still works, and says in one warning what it is called now."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from boards import HEADER

import carvana
from carvana.leaderboard.records import Header

OLD = {
    "carvana.compare.entries": ("carvana.leaderboard.entries", "Entry", "NetworkEntry"),
    "carvana.compare.records": ("carvana.leaderboard.records", "Photo", "ScoredImage"),
    "carvana.compare.statistics": ("carvana.evaluation.statistics", "bootstrap_interval", "bootstrap_interval"),
    "carvana.data.cache_build": ("carvana.data.cache", "build_caches", "build_caches"),
    "carvana.data.rle": ("carvana.data.io.rle", "encode", "encode"),
    "carvana.thresholds": ("carvana.evaluation.thresholds", "levels", "levels"),
    "carvana.inference.photos": ("carvana.inference.inputs", "collect_photos", "collect_images"),
    "carvana.training.stopping": ("carvana.training.signals", "TrainingInterrupted", "TrainingInterrupted"),
}


@pytest.mark.parametrize("old", OLD)
def test_an_old_module_is_the_new_one_and_says_so_where_it_is_imported(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, old, raising=False)
    new, old_name, new_name = OLD[old]
    found: dict[str, object] = {}
    with pytest.warns(DeprecationWarning, match="is now") as told:
        exec(compile(f"from {old} import {old_name}", __file__, "exec"), found)
    assert found[old_name] is getattr(import_module(new), new_name)
    lines = [str(each.message).split(";")[0] for each in told]
    assert lines[0] == f"{old} is now {new}"
    assert set(lines[1:]) == ({f"{new}.{old_name} is now {new}.{new_name}"} if old_name != new_name else set())
    assert told[0].filename == __file__


def test_compare_stays_a_function_behind_an_import_of_its_old_package() -> None:
    import_module("carvana.compare.records")
    with pytest.raises(carvana.CarvanaError, match="no networks to compare"):
        carvana.compare([])


def test_a_name_that_never_was_is_refused() -> None:
    with pytest.raises(ImportError):
        import_module("carvana.compare.nosuch")
    with pytest.raises(AttributeError, match="nosuch"):
        import_module("carvana.compare.records").nosuch  # noqa: B018


def test_old_attributes_and_parameters_work_and_say_so(tiny_data: Path) -> None:
    with pytest.warns(DeprecationWarning, match="Report.photos is now Report.image_count"):
        assert carvana.check_data(tiny_data).photos == 20
    with pytest.warns(DeprecationWarning, match="Header.recipe_name is now Header.config_name"):
        assert HEADER.recipe_name == HEADER.config_name
    predictor = carvana.Predictor(carvana.create_model("unet-ref", encoder_weights="none"))
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.warns(DeprecationWarning, match=r"predict\(photo=...\) is now .*predict\(image=...\)"):
        old = predictor.predict(photo=image)  # type: ignore[call-arg]
    np.testing.assert_array_equal(old.mask, predictor.predict(image=image).mask)


def test_records_are_made_with_old_names_and_not_with_both() -> None:
    header = {"data": "d", "photos": 2, "cars": 1, "train_photos": 4, "train_cars": 2, "split": "", "content": "",
              "recipe": {}, "recipe_name": "default", "budget": "", "seeds": (0,), "version": "", "commit": None,
              "machine": ""}  # fmt: skip
    with pytest.warns(DeprecationWarning, match="photos=...* is now"):
        made = Header(**header)  # type: ignore[arg-type]
    assert (made.images, made.groups, made.train_images, made.config_name) == (2, 1, 4, "default")
    with pytest.raises(TypeError, match="photos and images are one parameter"):
        carvana.Leaderboard(made, (), photos=(), images=())  # type: ignore[call-arg]


def test_all_names_of_an_old_module_can_be_imported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "carvana.compare.records", raising=False)
    found: dict[str, object] = {}
    with pytest.warns(DeprecationWarning, match="carvana.compare.records is now carvana.leaderboard.records"):
        exec("from carvana.compare.records import *", found)
    assert found["Header"] is Header
