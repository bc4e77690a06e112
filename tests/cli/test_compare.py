"""The command ``carvana compare``: what is printed, what is refused. Whole comparisons: tests/compare/."""

from __future__ import annotations

import json
from pathlib import Path

import broken_networks
import pytest
from comparing import recipe, settings
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.errors import ConfigError
from carvana.leaderboard import compare as comparison
from carvana.leaderboard.board import Leaderboard


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def result(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("cli") / "board"
    with pytest.MonkeyPatch.context() as patch:
        broken_networks.register(patch)
        words = settings(recipe(tiny_data, train__epochs=1))
        found = call(
            "compare", "small=unet-ref", "raises", "--data", tiny_data, "--out", out, "--device", "cpu", *words,
            "--set", "raises:model.options={}", "--json", out.parent / "rows.json",
        )  # fmt: skip
    return found, out


def test_the_table_goes_to_stdout_and_progress_to_stderr(result: tuple[Result, Path]) -> None:
    printed, out = result
    assert printed.exit_code == 0
    board = Leaderboard.load(out)
    assert f"{board['small'].dice:.5f}" in printed.stdout
    failed = " ".join(printed.stdout.partition("raises: failed: ")[2].split())
    assert failed.startswith("the network of 'raises' fails on images of shape ")
    assert "IndexError: a mistake" in failed
    assert str(out / "leaderboard.html") in printed.stdout
    assert "epoch 1" in printed.stderr
    assert "epoch 1" not in printed.stdout


def test_json_is_what_the_leaderboard_holds(result: tuple[Result, Path]) -> None:
    _, out = result
    values = json.loads((out.parent / "rows.json").read_text())
    assert values == json.loads((out / "leaderboard.json").read_text())
    assert [row["name"] for row in values["rows"]] == ["small", "raises"]


def test_json_on_stdout_is_nothing_else(result: tuple[Result, Path], tiny_data: Path) -> None:
    _, out = result
    printed = call(
        "compare", "small=unet-ref", "--data", tiny_data, "--out", out, "--device", "cpu", "--json", "-",
        *settings(recipe(tiny_data, train__epochs=1)),
    )  # fmt: skip
    assert [row["name"] for row in json.loads(printed.stdout)["rows"]] == ["small"]


def test_no_names_are_wrong_usage() -> None:
    printed = call("compare")
    assert printed.exit_code == 2
    assert "--quick" in printed.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["unet/resnet43"], "unet/resnet34"),
        (["unet-ref", "--quick", "--config", "default"], "leave one of them out"),
        (["unet-ref", "--set", "arch=unet-ref"], "--set arch"),
        (["unet-ref", "--set", "train.epoch=1"], "train.epoch"),
        (["unet-ref", "--json", "/"], "is a folder"),
        (["nosuch/run"], "nosuch"),
        (["unet-ref", "--columns", "car", "--quick", "--classes", "4", "--data", "."], "classes = 4: is for a quick"),
        (["unet-ref", "--quick", "--classes", "151"], "2 to 150 classes"),
    ],
)
def test_mistakes_end_with_one_line_and_leave_nothing(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = call("compare", *words)
    assert printed.exit_code == 1
    [line] = printed.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert list(tmp_path.iterdir()) == []


def test_quick_has_four_networks_and_a_recipe_of_its_own() -> None:
    from carvana.config import load_config

    quick = load_config(comparison.QUICK_CONFIG)
    assert len(comparison.QUICK) >= 4
    assert "unet-ref" in comparison.QUICK
    assert quick.split.val == 6  # fewer cars could tell nobody apart
    assert quick.train.minutes is not None
    assert quick.model.encoder_weights == "none"


def test_a_comparison_in_which_all_fail_has_failed(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_networks.register(monkeypatch)
    words = settings(recipe(tiny_data, model__options={}))
    printed = call("compare", "raises", "--data", tiny_data, "--out", tmp_path / "b", "--device", "cpu", *words)
    assert printed.exit_code == 1
    assert printed.stderr.splitlines()[-1].startswith("error: none of the networks could be compared; raises failed:")


def test_columns_are_names_between_commas_or_in_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[str]] = []

    def compare(*_: object, columns: list[str], **__: object) -> None:
        found.append(columns)
        raise ConfigError("enough")

    monkeypatch.setattr("carvana.leaderboard.compare.compare", compare)
    for words in ('road, "trees, shrubs" ,car', "", '"road"'):
        call("compare", "unet-ref", "--columns", words)
    assert found == [["road", "trees, shrubs", "car"], [], ["road"]]
