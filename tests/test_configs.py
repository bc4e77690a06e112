"""The shipped recipes: each is read, explained and trained with."""

from __future__ import annotations

from pathlib import Path

import pytest

import carvana
from carvana.config import FitConfig, configs, describe, load_config
from tests import bands, scenes

# What a recipe is about, which nobody shall change by accident.
PROMISED = {
    "default": {"arch": "unet-ref", "data.size": (128, 128), "data.target": "coverage", "split.by": "group"},
    "seed-128": {"arch": "unet-ref", "data.size": (128, 128), "data.target": "nearest", "split.by": "image"},
    "unet-ref-128": {"arch": "unet-ref", "data.size": (128, 128), "data.target": "coverage", "split.by": "group"},
    "unet-resnet34-512": {"arch": "unet/resnet34", "data.size": (512, 768), "data.mode": "resize"},
    "native-crops": {"arch": "unet/resnet34", "data.size": (512, 512), "data.mode": "crop"},
    "tiny-cpu": {"model.encoder_weights": "none", "train.minutes": 1},
    "best-small": {"data.size": (384, 384), "data.scale": (768, 1152), "data.mode": "crop", "train.epochs": 32},
    "best-gpu": {"data.size": (640, 960), "data.mode": "crop", "data.start_size": (640, 960), "train.ema": 0.998},
    "camvid-small": {"arch": "fpn/tu-tf_efficientnet_lite0", "data.mode": "crop", "data.size": (240, 320)},
    "few-images": {"model.encoder_weights": "imagenet", "data.augment": "scene", "train.batch_size": 4},
    "bands": {"data.channels": 12, "model.encoder_weights": "imagenet", "data.augment": "flip"},
    "compare-quick": {"model.encoder_weights": "none", "train.minutes": 0.5},
    "compare-full": {"split.by": "group", "train.minutes": 30},
}
SMALL = {"data.size": [32, 48], "train.minutes": None, "train.epochs": 1, "train.batch_size": 4, "data.workers": 0}


def value(recipe: FitConfig, key: str) -> object:
    found: object = recipe
    for part in key.split("."):
        found = getattr(found, part)
    return found


def test_every_recipe_is_promised_here_and_the_other_way_round() -> None:
    assert configs().keys() == PROMISED.keys()


@pytest.mark.parametrize("name", configs())
def test_a_recipe_keeps_its_promise_and_its_line_fits_a_terminal(name: str) -> None:
    recipe = load_config(name)
    assert {key: value(recipe, key) for key in PROMISED[name]} == PROMISED[name]
    assert configs()[name].read_text().startswith(f"# {name}: ")
    assert 20 < len(describe(configs()[name])) < 110


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", configs())
def test_a_network_is_trained_with_each_recipe(name: str, tiny_data: Path, tmp_path: Path) -> None:
    recipe = load_config(name, {**SMALL, "data.root": str(tiny_data), "model.encoder_weights": "none", "split.val": 1})
    if recipe.task.classes is not None:
        streets = scenes.write_scenes(tmp_path / "scenes", 16, groups=4)
        drawn = {"task.classes": scenes.VALUES, "task.ignore": [scenes.VOID], "data.group": r"(g\d)_"}
        recipe = recipe.replace({"data.root": str(streets), **drawn})
    if recipe.data.channels == 12:
        tiles = bands.write_bands(tmp_path / "tiles", 4, bands=12)
        recipe = recipe.replace({"data.root": str(tiles), "split.by": "image"})
    if recipe.data.start_size is not None:
        recipe = recipe.replace({"data.start_size": [32, 32], "data.start_epochs": 1, "train.epochs": 2})
    if recipe.data.mode == "crop":
        recipe = recipe.replace({"data.size": [64, 64], "data.scale": recipe.data.scale and [96, 144]})
    # Networks of the same kinds that are quickly trained and saved.
    decoder = recipe.arch.partition("/")[0]
    options = {
        "unet": {"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
        "fpn": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
        "linknet": {"encoder_depth": 3},
    }
    recipe = recipe.replace({"model.options": options.get(decoder, {"width": 4})})
    if recipe.arch == "unet/resnet34":
        recipe = recipe.replace({"arch": "unet/resnet18"})
    run = carvana.fit(recipe, out=tmp_path / "run")
    assert run.read_evaluation()["images"] == (1 if recipe.split.by == "image" else 4)
    assert (run.model_path / "model.safetensors").is_file()
    trained = carvana.Segmenter.from_pretrained(run.path).spec
    assert trained.arch == recipe.arch
    assert trained.trained_size == (recipe.data.scale if recipe.data.mode == "crop" else (32, 48))
