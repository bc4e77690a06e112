from __future__ import annotations

import io

import pytest
from rich.console import Console

from carvana.cli import display
from carvana.cli.display import LiveReporter, PlainReporter, describe, make_reporter


def test_without_a_terminal_there_are_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = make_reporter()
    assert isinstance(reporter, PlainReporter)
    monkeypatch.setattr(display, "PLAIN_EVERY", 0.0)
    reporter.start("training", 10)
    reporter.advance("training", 3, loss=0.5)
    reporter.finish("training")
    reporter.advance("training")  # after the end: nothing
    reporter.warn("look out")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["training: 3/10 loss 0.5000", "warning: look out"]


def test_in_a_terminal_the_bar_shows_numbers_and_goes_away() -> None:
    reporter = LiveReporter()
    screen = io.StringIO()
    reporter.console = Console(file=screen, force_terminal=True, width=120, highlight=False)
    reporter.start("training", 4)
    reporter.advance("training", 1, loss=0.25, images_per_s=8.0, data_wait=0.5)
    reporter.info("epoch 1 [not markup]")
    reporter.start("reading", None)
    reporter.finish("training")
    reporter.finish("reading")
    text = screen.getvalue()
    assert "1/4" in text
    assert "loss 0.2500" in text
    assert "50% waiting for data" in text
    assert "epoch 1 [not markup]" in text


def test_numbers_of_unknown_names_are_shown_too() -> None:
    assert describe({"lr_scale": 0.5, "epoch": 3}) == "lr scale 0.5000 · epoch 3"
