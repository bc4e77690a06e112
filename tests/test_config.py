from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from carvana.config import FitConfig, load_config, make_config, parse_settings
from carvana.data.samples import find_samples
from carvana.errors import ConfigError, DataError


def test_numbers_may_have_an_exponent() -> None:
    changes = parse_settings(["data.nodata=-3.4028235e38", "data.range=[0, 1e4]"])
    data = load_config("default", changes).data
    assert (data.nodata, data.range) == ([-3.4028235e38], (0, 1e4))


def test_no_name_is_no_architecture() -> None:
    with pytest.raises(ConfigError, match="arch"):
        load_config("best-small", parse_settings(["arch="]))


def test_the_recipe_default_is_what_fitconfig_is_without_arguments() -> None:
    assert load_config() == load_config("default") == FitConfig()


def test_a_recipe_survives_being_written_and_read(tmp_path: Path) -> None:
    recipe = FitConfig(arch="unet/resnet34", data={"size": (96, 64), "root": "photos"}, train={"minutes": 2.5})
    (tmp_path / "a.yaml").write_text(recipe.to_yaml())
    assert load_config(tmp_path / "a.yaml") == recipe


def test_every_key_has_a_help_text() -> None:
    for section in ("model", "data", "split", "train"):
        for name, field in type(getattr(FitConfig(), section)).model_fields.items():
            assert field.description, f"{section}.{name}"


def test_changes_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("arch: segnet\ntrain: {epochs: 2, lr: 0.1}\n")
    recipe = load_config(tmp_path / "a.yaml", {"train.epochs": 9, "arch": "unet-ref"})
    assert (recipe.arch, recipe.train.epochs, recipe.train.lr) == ("unet-ref", 9, 0.1)


def test_settings_are_yaml_values() -> None:
    words = ["train.ema=0.99", "data.size=[64, 96]", "model.options.decoder_channels=[8, 4]", "data.augment=none"]
    assert parse_settings(words) == {
        "train.ema": 0.99,
        "data.size": [64, 96],
        "model.options.decoder_channels": [8, 4],
        "data.augment": "none",
    }


@pytest.mark.parametrize("word", ["train.epochs", "=3", "a=[1", ""])
def test_settings_that_are_no_key_and_value_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_settings([word])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train": {"epoch": 3}}, ["train.epoch", "'epochs'"]),
        ({"trian": {}}, ["trian", "'train'"]),
        ({"data": {"size": "big"}}, ["data.size", "big"]),
        ({"data": {"size": [0, 400]}}, ["data.size", "0"]),
        ({"train": {"lr": -1}}, ["train.lr", "-1"]),
        ({"train": {"lr": float("nan")}}, ["train.lr", "nan"]),
        ({"split": {"val": 0}}, ["split.val"]),
        ({"model": {"classes": 2}}, ["model.classes", "did you mean 'task.classes'"]),
        ({"task": {"classes": ["a", "a"]}}, ["task", "the class 'a' is there twice"]),
        ({"task": {"ignore": [255]}}, ["task", "classes is missing"]),
        ({"train": 3}, ["train", "3"]),
    ],
)
def test_a_mistake_names_key_and_value_in_one_line(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(values, "mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: ")
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_key_of_two_types_is_explained_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"data": {"workers": "x"}})
    assert str(caught.value).count("data.workers") == 1
    assert "auto" in str(caught.value)


def test_the_library_gets_one_line_too() -> None:
    with pytest.raises(ConfigError, match=r"train\.epoch: unknown key; did you mean 'epochs'"):
        FitConfig(train={"epoch": 3})


def test_a_tilde_is_the_home_folder() -> None:
    assert FitConfig(data={"root": "~/photos"}).data.root == Path.home() / "photos"


def test_the_home_of_a_user_who_is_not_there_is_a_folder_that_is_missing() -> None:
    root = FitConfig(data={"root": "~nobody-here/photos"}).data.root
    with pytest.raises(DataError, match=r"~nobody-here/photos: no such folder"):
        find_samples(root)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("arch: unet-ref\ntrain:\n  epochs: 3\n  epoch: 4\n", "train.epoch: unknown key; did you mean 'epochs'?"),
        ("epochs: 3\n", "epochs: unknown key; did you mean 'train.epochs'?"),
        ("\n# x\ntrain: {size: 64}\n", "train.size: unknown key; did you mean 'data.size'?"),
        ("data:\n  lrr: 1\n", "data.lrr: unknown key; did you mean 'train.lr'?"),
        ("data:\n  zzz: 1\n", "data.zzz: unknown key; expected root, images,"),
        ("data:\n  size: [0, 400]\n", "data.size = 0: input should be greater than"),
        ("train:\n\n  lr: -1\n  epochs: x\n", "; train.lr = -1: "),
        ("train:\n\n  lr: -1\n  epochs: x\n", "train.epochs = 'x': "),
        ("train: 3\n", "train = 3: "),
        ("train.epochs: 3\n", "train.epochs: unknown key: write it as 'epochs' below 'train:'"),
        ("model:\n  width: 3\n", "model.width: unknown key; an option of the network is model.options.width"),
        ("split:\n  <<: {vall: 2}\n", "split.vall: unknown key; did you mean 'val'?"),
        ("split:\n  <<: [{val: 2}, {seeds: 2}]\n  val: 3\n", "split.seeds: unknown key"),
        ("arch: x\non: 2\n", "True: unknown key"),
        ("arch: x\nself: 2\n", "self: unknown key"),
        ("train:\n  lr: 1\n  epochs: 2\n  lr: 2\n", "line 4, column 3: not readable as YAML: the key 'lr' is"),
        ("train:\n  lr: [1\nepochs: 2\n", "line 3, column 7: not readable as YAML"),
    ],
)
def test_a_mistake_in_a_file_names_file_key_and_the_nearest(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "mine.yaml")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'mine.yaml'}: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [("train.lr", -3), ("train.lrr", 1), ("train.loss", 1), ("train", {"lr": "x"}), ("self", 1)],
)
def test_what_a_setting_changed_is_not_blamed_on_the_file(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "mine.yaml").write_text("train:\n  lr: 0.1\n")
    with pytest.raises(ConfigError, match=key) as caught:
        load_config(tmp_path / "mine.yaml", {key: value})
    assert "mine.yaml" not in str(caught.value)


def test_merged_keys_count_and_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: &t {epochs: 2, lr: 0.5}\nsplit: {val: 3}\ntrain2: 1\n")
    with pytest.raises(ConfigError, match="train2: unknown key; did you mean 'train'"):
        load_config(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text("train:\n  <<: {epochs: 2, lr: 0.5}\n  lr: 0.25\n")
    assert (load_config(tmp_path / "mine.yaml").train.epochs, load_config(tmp_path / "mine.yaml").train.lr) == (2, 0.25)


def test_an_anchor_is_repeated_by_its_aliases(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {size: &size [64, 96], start_size: *size, start_epochs: 1}\n")
    assert load_config(tmp_path / "mine.yaml").data.start_size == (64, 96)


@pytest.mark.parametrize("text", ["a: " + "[" * 3000 + "]" * 3000, "a: &a [1]\nb: &b [*a, *a]\n" * 1])
def test_a_file_that_is_deep_or_repeats_itself_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml: "):
        load_config(tmp_path / "bad.yaml")


def test_aliases_within_aliases_are_refused(tmp_path: Path) -> None:
    levels = [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, 40)]
    (tmp_path / "bad.yaml").write_text("\n".join(["a0: &a0 {x: 1}", *levels]) + "\n")
    with pytest.raises(ConfigError, match="its aliases expand to more than"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("\n".join(["a0: &a0 {x: 1}", *levels, "arch: *a39"]) + "\n")
    with pytest.raises(ConfigError, match="its aliases expand to more than"):
        load_config(tmp_path / "bad.yaml")


@pytest.mark.parametrize("text", ["a: [", "- 1", "!!python/object/apply:os.getcwd []"])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(tmp_path / "bad.yaml")


def test_an_unknown_recipe_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'default'"):
        load_config("defualt")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        FitConfig().train.epochs = 9  # type: ignore[misc]


def test_print_config_is_yaml_with_every_section() -> None:
    assert set(yaml.safe_load(FitConfig().to_yaml())) == {"arch", "task", "model", "data", "split", "train"}


def test_what_lies_in_the_data_folder_moves_with_it() -> None:
    places = {"root": "/old/data", "images": "/old/data/photos", "masks": "masks"}
    config = FitConfig(data=places, split={"file": "/old/split.csv"})
    moved = config.moved("/new")
    assert (moved.data.root, moved.data.images, moved.data.masks) == (Path("/new"), Path("/new/photos"), Path("masks"))
    assert moved.split == config.split
    assert moved.replace({"data.root": "/old/data", "data.images": "/old/data/photos"}) == config


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("{scale: 64}", "scale goes with mode crop"),
        ("{mode: crop, size: 80, scale: [64, 96]}", r"scale \[64, 96\] is smaller than the size of pieces, \[80, 80\]"),
    ],
)
def test_pieces_fit_into_what_they_are_cut_from(tmp_path: Path, data: str, told: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"data: {data}\n")
    with pytest.raises(ConfigError, match=told):
        load_config(tmp_path / "mine.yaml")


def test_a_setting_completes_what_the_file_leaves_open(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {start_size: [64, 96]}\n")
    assert load_config(tmp_path / "mine.yaml", {"data.start_epochs": 2}).data.start_epochs == 2
    with pytest.raises(ConfigError, match=r"mine\.yaml: .*start_size and start_epochs go together"):
        load_config(tmp_path / "mine.yaml")
