"""Names of the last release: each still works, and says in one warning what it is called now."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from boards import HEADER

import carvana
from carvana.leaderboard.records import Header

OLD = {
    "carvana.compare.entries.Entry": "carvana.leaderboard.entries.NetworkEntry",
    "carvana.compare.records.Row": "carvana.leaderboard.records.Row",
    "carvana.compare.records.Photo": "carvana.leaderboard.records.ScoredImage",
    "carvana.data.cache_build.build_caches": "carvana.data.cache.build_caches",
    "carvana.data.rle.encode": "carvana.data.io.rle.encode",
    "carvana.thresholds.levels": "carvana.evaluation.thresholds.levels",
    "carvana.inference.photos.collect_photos": "carvana.inference.inputs.collect_images",
    "carvana.training.stopping.TrainingInterrupted": "carvana.training.signals.TrainingInterrupted",
}


def named(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("old", OLD)
def test_an_old_name_is_the_new_thing_and_says_so_where_it_is_used(old: str) -> None:
    with pytest.warns(DeprecationWarning, match="is now") as told:
        found = named(old)
    assert found is named(OLD[old])
    assert [str(each.message).split(";")[0] for each in told] == [f"{old} is now {OLD[old]}"]
    assert told[0].filename == __file__


def test_compare_stays_a_function_behind_an_import_of_its_old_package() -> None:
    import_module("carvana.compare.records")
    with pytest.raises(carvana.CarvanaError, match="no networks to compare"):
        carvana.compare([])


def test_a_name_that_never_was_is_refused() -> None:
    with pytest.raises(ImportError):
        import_module("carvana.compare.nosuch")
    with pytest.raises(AttributeError, match="nosuch"):
        named("carvana.compare.records.nosuch")


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


def test_all_names_of_an_old_module_can_be_imported_at_once() -> None:
    found: dict[str, object] = {}
    with pytest.warns(DeprecationWarning, match="carvana.compare.records.Header is now carvana.leaderboard"):
        exec("from carvana.compare.records import *", found)
    assert found["Header"] is Header
