from __future__ import annotations

from pathlib import Path

import albumentations as A
import one_conv
import pytest
from reference import Lines

import carvana
from carvana.errors import ConfigError, RunError, UnknownNameError
from carvana.registry import registry
from carvana.training.setup import PLUGINS, build_model, check, check_new, check_packages, packages_of


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for catalog in registry.catalogs.values():
        monkeypatch.setattr(catalog, "_entries", {entry.name: entry for entry in catalog.registered()})


@pytest.fixture
def config() -> carvana.FitConfig:
    return carvana.FitConfig(arch="mine", train={"loss": "bce + 0.5*focal"}, data={"augment": "seed"})


def test_names_of_other_packages_are_noted_with_them(config: carvana.FitConfig) -> None:
    with registry.registering("carvana-mine", "1.0"):
        registry.archs.register("mine", "mine:build")
        registry.losses.register("focal", "mine:focal", replace=True)
    assert packages_of(config) == {"mine": "carvana-mine", "focal": "carvana-mine"}
    carvana.register_augment("own", "own:build")  # a script's: no package to name
    assert packages_of(config.replace({"data.augment": "own"})) == packages_of(config)


def test_first_epochs_that_leave_none_to_the_others_are_refused(config: carvana.FitConfig) -> None:
    changes = {"data.start_size": (16, 16), "data.start_epochs": 4}
    with pytest.raises(ConfigError, match=r"^train\.epochs = 4 with data\.start_epochs = 4: no epoch would see"):
        check_new(config.replace({**changes, "train.epochs": 4}))
    check_new(config.replace({**changes, "train.epochs": 5}))
    check_new(config.replace({**changes, "train.epochs": 4, "train.minutes": 5}))


def test_settings_about_an_encoder_are_checked_before_any_image_is_read(config: carvana.FitConfig) -> None:
    with pytest.raises(ConfigError, match=r"^train\.encoder_lr = 0\.001 with train\.freeze_encoder: "):
        check(config.replace({"train.encoder_lr": 1e-3, "train.freeze_encoder": True}))
    one_conv.register()
    for changes in ({"train.encoder_lr": 1e-3}, {"train.freeze_encoder": True}):
        with pytest.raises(ConfigError, match="'one-conv' has no encoder of its own"):
            build_model(config.replace({"arch": "one-conv", **changes}))


def test_an_augmentation_that_destroys_coverage_is_refused_before_any_image_is_read(config: carvana.FitConfig) -> None:
    carvana.register_augment("own", lambda: A.Compose([A.Rotate()]))
    with pytest.raises(ConfigError, match="Rotate moves masks by nearest neighbour"):
        check(config.replace({"data.augment": "own"}))
    check(config.replace({"data.augment": "own", "data.target": "nearest"}))


def test_the_number_0_beside_colours_is_refused(config: carvana.FitConfig) -> None:
    colours = config.replace({"task.classes": {"road": "#804080"}, "task.ignore": [0]})
    with pytest.raises(ConfigError, match=r"^task: 0 stands beside colours, and is none; write black as '#000000'$"):
        check_new(colours)


def test_what_pieces_alone_use_is_told_of_whole_images(config: carvana.FitConfig) -> None:
    lines = Lines()
    check(config.replace({"data.crops": "any"}), reporter=lines)
    assert lines.warnings == ["data.whole and data.crops count with data.mode=crop alone"]


def test_another_machine_may_have_the_gpu_that_this_one_lacks(config: carvana.FitConfig) -> None:
    config = config.replace({"train.precision": "fp16"})
    with pytest.raises(ConfigError, match="fp16"):
        check(config, device="cpu")
    check(config, device=None)


def test_the_layout_that_a_config_names_is_noted_and_looked_up_first(config: carvana.FitConfig) -> None:
    with registry.registering("carvana-mine", "1.0"):
        registry.archs.register("mine", "mine:build")
        registry.layouts.register("album", "mine:album")
    assert packages_of(config.replace({"data.layout": "album"})) == {"mine": "carvana-mine", "album": "carvana-mine"}
    with pytest.raises(UnknownNameError, match="no data layout is named 'albun'; did you mean 'album'"):
        check(config.replace({"data.layout": "albun"}))


def test_a_name_that_is_missing_or_somebody_elses_is_told_with_its_package(
    config: carvana.FitConfig, tmp_path: Path
) -> None:
    run = carvana.Run(tmp_path)
    with pytest.raises(UnknownNameError, match="mine"):
        check_packages(run, config)
    run.write_record({PLUGINS: {"mine": "carvana-mine", "focal": "carvana-mine"}})
    with pytest.raises(RunError, match=r"'mine' is not registered here.*pip install carvana-mine"):
        check_packages(run, config)
    registry.archs.register("mine", "mine:build", replace=True)
    with pytest.raises(RunError, match="'mine' is that of the package carvana-mine"):
        check_packages(run, config)
    with registry.registering("carvana-mine", "1.0"):
        registry.archs.register("mine", "mine:build", replace=True)
    with pytest.raises(RunError, match=r"loss 'focal' is that of the package carvana-mine.*not that of carvana"):
        check_packages(run, config)
    with registry.registering("carvana-mine", "1.0"):
        registry.losses.register("focal", "mine:focal", replace=True)
    check_packages(run, config)
