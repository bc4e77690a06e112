"""``carvana data check | show | split``, as a user types them."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.cli.data_tables import LISTED
from carvana.config import load_config, parse_settings
from carvana.data.samples import find_samples
from carvana.data.splits import read_split
from tests.scenes import VALUES, VOID, write_parts, write_scenes


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)], catch_exceptions=False)


@pytest.fixture
def folder(tiny_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path / "[data]"))


def test_check_ends_with_0_and_shows_what_is_there(folder: Path) -> None:
    result = call("check", folder)
    assert result.exit_code == 0
    assert "Nothing is wrong" in result.stdout
    assert str(folder) in result.stdout
    for words in (("groups", "5"), ("images", "20"), ("160 x 240",), ("128 x 128", "0.9"), ("640 x 960",)):
        assert any(all(word in line for word in words) for line in result.stdout.splitlines()), words
    assert result.stderr == ""


def test_check_shows_everything_that_is_wrong_and_ends_with_1(folder: Path) -> None:
    samples = find_samples(folder)
    samples[0].image.write_bytes(b"")
    samples[1].image.write_bytes(samples[1].image.read_bytes()[:500])
    assert samples[2].mask is not None
    samples[2].mask.unlink()
    result = call("check", folder)
    assert result.exit_code == 1
    for name in (samples[0].name, samples[1].name, samples[2].name):
        assert f"train/{name}" in result.stdout
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "3 problems in 3 files" in lines[0]
    assert "Nothing is wrong" not in result.stdout


def test_long_lists_are_cut_and_counted(folder: Path) -> None:
    shutil.rmtree(folder / "train_masks")
    (folder / "train_masks").mkdir()
    result = call("check", folder)
    assert result.stdout.count("has no mask") == LISTED
    assert f"and {20 - LISTED} more" in result.stdout


def test_json_to_stdout_is_json_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    find_samples(folder)[0].image.write_text("text")
    result = call("check", folder, "--json", "-")
    assert result.exit_code == 1
    record = json.loads(result.stdout)
    assert record["counts"] == {"unreadable": 1}
    table = call("check", folder, "--json", tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == record
    assert "unreadable" in table.stdout
    refused = call("check", folder, "--json", tmp_path)
    assert refused.exit_code == 1
    assert "is a folder" in refused.stderr


def test_folders_and_cars_are_named_as_in_a_recipe(folder: Path) -> None:
    (folder / "train").rename(folder / "photos")
    where = ["--images", "photos", "--masks", "train_masks"]
    assert call("check", folder).exit_code == 1
    by_view = [*where, "--group", r"\w+_(\d\d)"]
    record = json.loads(call("check", folder, *by_view, "--json", "-").stdout)
    assert (record["cars"], record["photos_per_car"]) == (len({s.view for s in samples_of(folder)}), [5, 5])
    assert call("split", folder, *where).exit_code == 0
    assert call("show", folder, *where, "--out", folder / "s.png", "--count", 1, "--augment", "none").exit_code == 0


def samples_of(folder: Path) -> list:  # type: ignore[type-arg]
    return find_samples(folder, images="photos", masks="train_masks")


def test_show_writes_a_picture_and_says_where(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = call("show", folder, "--out", out, "--size", "32x48", "--count", 2, "--augment", "seed", "--seed", 4)
    assert result.exit_code == 0
    assert result.stdout.strip() == str(out)
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.size[0] > 1000


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--out", "sheet.jpg"], ".png"),
        (["--out", "sheet.png", "--size", "12y"], "--size 12y"),
        (["--out", "sheet.png", "--size", "4"], "8 to 16384"),
        (["--out", "sheet.png", "--size", "64x64x3"], "HEIGHTxWIDTH"),
        (["--out", "sheet.png", "--augment", "studo"], "studio"),
    ],
)
def test_what_show_cannot_do_is_one_line(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("show", tiny_data, *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_split_explains_and_writes_what_fit_reads(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.csv"
    result = call("split", tiny_data, "--val", 2, "--seed", 3, "--out", out)
    assert result.exit_code == 0
    assert "none on both sides" in result.stdout
    assert f"--set split.file={out}" in result.stdout
    split = read_split(out, find_samples(tiny_data))
    assert (len(split.train), len(split.val)) == (12, 8)
    with open(out, newline="") as file:
        assert next(csv.reader(file)) == ["image", "group", "subset"]


def test_a_split_by_photo_is_told_to_leak(tiny_data: Path) -> None:
    result = call("split", tiny_data, "--by", "image")
    assert result.exit_code == 0
    assert "too high" in result.stdout
    assert "on both sides" in result.stdout
    assert "--set split.by=image --set split.val=0.2 --set split.seed=0" in result.stdout


def test_parts_that_the_folders_have_are_counted_shown_and_taken_as_they_are(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", train=4, val=2, test=2)
    classes = ("--set", f"task.classes={VALUES}", "--set", f"task.ignore=[{VOID}]")
    checked = call("check", data, *classes)
    assert all(re.search(rf" {n} +{part}", checked.stdout) for n, part in ((4, "train"), (2, "val"), (2, "test")))
    for path in (data / "test").iterdir():
        path.write_bytes(b"nobody reads this")
    assert call("show", data, "--out", tmp_path / "sheet.png", "--count", 8, *classes).exit_code == 0
    result = call("split", data, "--val", 1, "--out", tmp_path / "split.csv", *classes)
    assert result.exit_code == 0
    assert "4 images train, 2 validate; split.val, split.by and split.seed do not apply" in result.stderr
    assert "as its parts" in result.stdout
    assert "All images of a group" not in result.stdout
    split = read_split(tmp_path / "split.csv", find_samples(data))
    assert ([s.subset for s in split.train], [s.subset for s in split.val]) == (["train"] * 4, ["val"] * 2)


def test_a_split_is_not_overwritten(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("mine")
    result = call("split", tiny_data, "--out", tmp_path / "split.csv")
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert (tmp_path / "split.csv").read_text() == "mine"


@pytest.mark.parametrize(("val", "word"), [("0", "greater than 0"), ("99", "leaves none"), ("1.5", "whole number")])
def test_what_cannot_be_held_out_is_told(tiny_data: Path, val: str, word: str) -> None:
    result = call("split", tiny_data, "--val", val)
    assert (result.exit_code, result.stdout) == (1, "")
    assert word in result.stderr


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "scenes", 12)


GROUPED = "--group", r"(g\d)_"
NAMED = *GROUPED, "--set", "task.classes={sky: 10, road: 20, car: [30, 31], pole: 250}", "--set", "task.ignore=[77]"


def test_check_lists_the_values_of_label_files_and_prints_a_task_to_paste(scenes: Path, tmp_path: Path) -> None:
    result = call("check", scenes, *GROUPED)
    assert (result.exit_code, "Nothing is wrong" in result.stdout) == (0, True)
    assert [line.split()[0] for line in result.stdout.splitlines() if line.strip().endswith("12")][-6:] == [
        "10", "20", "30", "31", "77", "250",
    ]  # fmt: skip
    assert "foreground" not in result.stdout
    block = result.stdout[result.stdout.index("\ntask:\n") :]
    (tmp_path / "mine.yaml").write_text("arch: unet-ref\n" + block)
    task = load_config(tmp_path / "mine.yaml").task.task()
    assert [each.value for each in task.classes] == [(value,) for value in (10, 20, 30, 31, 77, 250)]
    again = call("check", scenes, "--config", tmp_path / "mine.yaml")
    assert "class_250" in again.stdout
    assert "task:" not in again.stdout
    record = json.loads(call("check", scenes, *NAMED, "--json", "-").stdout)
    assert [each["name"] for each in record["values"]] == ["sky", "road", "car", "car", "(ignored)", "pole"]
    assert record["task"]["ignore"] == [77]


def test_show_takes_size_and_classes_from_a_config(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "data: {size: [48, 64], augment: none}\n"
        "task: {classes: {sky: 10, road: 20, car: [30, 31], pole: 250}, ignore: [77]}\n"
    )
    named = call("show", scenes, "--config", tmp_path / "mine.yaml", "--out", tmp_path / "a.png", "--count", 1)
    assert (named.exit_code, named.stdout.strip()) == (0, str(tmp_path / "a.png"))
    words = "--size", "48x64", "--augment", "none", "--count", 1
    assert call("show", scenes, *NAMED, "--out", tmp_path / "b.png", *words).exit_code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    refused = call("show", scenes, "--out", tmp_path / "c.png")
    assert refused.exit_code == 1
    assert "in the config: task: {classes: {class_10: 10, " in refused.stderr


def test_show_draws_what_is_set_without_a_config(folder: Path, tmp_path: Path) -> None:
    words = "--size", "32x48", "--count", 1
    sheets = []
    for number, more in enumerate(
        [("--augment", "none"), ("--set", "data.augment=none"), ("--augment", "none", "--set", "data.target=nearest")]
    ):
        assert call("show", folder, "--out", tmp_path / f"{number}.png", *words, *more).exit_code == 0
        sheets.append((tmp_path / f"{number}.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_split_shows_the_classes_of_both_sides_and_writes_what_fit_reads(scenes: Path, tmp_path: Path) -> None:
    values = np.array(Image.open(scenes / "masks" / "g0_000.png"))
    values[20:24, 20:30] = 99
    Image.fromarray(values).save(scenes / "masks" / "g0_000.png")
    named = *NAMED[:3], NAMED[3].replace("}", ", bird: 99, none: 98}"), *NAMED[4:]
    result = call("split", scenes, *named, "--val", 2, "--out", tmp_path / "split.csv")
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert all(rows[name].count("%") == 2 for name in ("sky", "road", "car", "pole"))
    assert rows["bird"].strip().endswith("alone")
    assert rows["none"].strip().endswith("nowhere")
    assert "foreground" not in rows
    command = shlex.split(result.stdout.splitlines()[-1].removeprefix("to train with it: "))
    assert command[:4] == ["carvana", "fit", "--data", str(scenes)]
    changes = [word for before, word in itertools.pairwise(command) if before == "--set"]
    config = load_config(None, parse_settings(changes))
    assert config.task.task().names == ["sky", "road", "car", "pole", "bird", "none"]
    assert config.data.group == r"(g\d)_"
    assert config.split.file == tmp_path / "split.csv"


def test_split_prints_a_command_that_can_be_typed(tiny_data: Path) -> None:
    result = call("split", tiny_data, "--group", "[^_]+_(.*)", "--val", 2)
    command = shlex.split(result.stdout.splitlines()[-1].removeprefix("to train with it: "))
    changes = [word for before, word in itertools.pairwise(command) if before == "--set"]
    config = load_config(None, parse_settings(changes))
    assert (config.data.group, config.split.val) == ("[^_]+_(.*)", 2)


def test_split_takes_what_a_config_says_and_options_win(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("split: {by: image, val: 5, seed: 7}")
    result = call("split", tiny_data, "--config", tmp_path / "mine.yaml", "--val", 3)
    assert "by image, seed 7" in result.stdout
    assert (
        f"--config {tmp_path / 'mine.yaml'} --set split.by=image --set split.val=3 --set split.seed=7" in result.stdout
    )


def test_a_split_that_is_given_is_shown_as_it_is(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.csv"
    call("split", tiny_data, "--val", 2, "--out", out)
    result = call("split", tiny_data, "--set", f"split.file={out}")
    assert f"as {out} has it" in " ".join(result.stdout.split())
    assert "were sorted" not in result.stdout
    assert "split.val" not in result.stdout
    for words, error in (
        (["--set", f"split.file={out}", "--val", 3], "leave out --by, --val and --seed"),
        (["--set", f"split.file={tiny_data}", "--out", tmp_path / "b.csv"], "leave out --out"),
    ):
        result = call("split", tiny_data, *words)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert error in result.stderr


@pytest.mark.parametrize("words", [["check"], ["show"], ["split"], ["split", "x", "--by", "car"]])
def test_wrong_usage_is_2(words: list[str]) -> None:
    assert call(*words).exit_code == 2


def test_check_and_split_import_no_network_library() -> None:
    program = (
        "import sys; import carvana.data.check.report, carvana.data.splits\n"
        "import carvana.data.check.preview, carvana.cli.data_tables\n"
        "heavy = {'torch', 'timm', 'albumentations'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
