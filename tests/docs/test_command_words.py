"""Every call of carvana on every page has words that carvana takes: commands, options, keys and configs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from blocks import PAGES, ROOT, blocks, commands, lines, name_of
from typer.main import get_command

from carvana.cli.app import app
from carvana.config import find_config, load_config, parse_settings
from carvana.registry import registry

CALLS = [
    (page, words)
    for page in PAGES
    for block in blocks(page, "sh")
    for line in lines(block.text)
    for words in commands(line)
]


def parsed(words: list[str]) -> dict[str, Any]:
    """What a call gives the command's function; an error where an option is unknown or lacks its value."""
    command: Any = get_command(app)
    with command.make_context("carvana", [], resilient_parsing=True) as context:
        while hasattr(command, "commands") and words and (inner := command.get_command(context, words[0])):
            command, words = inner, words[1:]
    if hasattr(command, "commands"):
        assert words in (["--version"], ["--help"], ["--install-completion"]), words
        return {}
    given: dict[str, Any] = command.make_context("carvana", list(words)).params
    return given


def check(words: list[str]) -> None:
    given = parsed(words)
    settings = [
        setting.rpartition(":")[2] if ":model." in setting else setting for setting in given.get("settings") or []
    ]
    load_config(None, parse_settings(settings))
    if given.get("config") and not str(given["config"]).endswith(".yaml"):  # a file of the reader's
        find_config(given["config"])


@pytest.fixture(autouse=True)
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this project's plugins, as if they were installed."""
    monkeypatch.syspath_prepend(str(ROOT / "plugins" / "carvana-keras"))
    entries = {entry.name: entry for entry in registry.commands.registered()}
    monkeypatch.setattr(registry.commands, "_entries", entries)
    import_module("carvana_keras").register(registry)


@pytest.mark.parametrize(("page", "words"), CALLS, ids=[f"{name_of(page)} {' '.join(words)}" for page, words in CALLS])
def test_every_command_on_every_page_is_one_that_carvana_takes(page: Path, words: list[str]) -> None:
    check(words)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["fitt"], "AssertionError"),
        (["fit", "--dat", "photos"], "NoSuchOption"),
        (["predict", "run", "car.jpg"], "MissingParameter"),
        (["fit", "--set", "train.epoch=3"], "ConfigError"),
        (["fit", "--config", "no-config"], "ConfigError"),
    ],
    ids=str,
)
def test_words_that_carvana_does_not_take_are_found(words: list[str], error: str) -> None:
    with pytest.raises(Exception) as caught:
        check(words)
    assert type(caught.value).__name__ == error


def test_the_pages_are_read_for_commands() -> None:
    assert len(CALLS) > 60
    assert ["data", "check", "photos"] in [words for _, words in CALLS]


def test_calls_within_other_programs_are_found() -> None:
    line = "A=1 torchrun --nproc_per_node=2 -m carvana fit --data x && test -e y || RANK=0 carvana configs; ls carvana"
    assert list(commands(line)) == [["fit", "--data", "x"], ["configs"]]
