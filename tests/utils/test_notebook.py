"""Progress in a notebook: what is drawn, and a real notebook in which it is."""

from __future__ import annotations

import html.parser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carvana.utils.notebook import Bar, NotebookReporter, as_html, as_text, default_reporter
from carvana.utils.progress import LogReporter

EPOCHS = [
    {
        "epoch": 1,
        "step": 5,
        "train_loss": 0.7512345,
        "lr": 0.1,
        "val_dice": 0.5,
        "images_per_s": 12.345,
        "seconds": 1.0,
    },
    {"epoch": 2, "step": 10, "train_loss": 0.5, "lr": 0.1, "val_dice": 0.9, "images_per_s": 13.0, "seconds": 2.0},
]


class Page(html.parser.HTMLParser):
    """The texts of a page by the tag they stand in, and that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.bars: list[dict[str, str | None]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        if tag == "progress":
            self.bars.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1], []).append(data)


def test_bars_messages_and_the_table_of_epochs_are_shown() -> None:
    bars = [Bar("training", 40, done=12, numbers="epoch 2 · loss 0.5"), Bar("reading", None, done=3)]
    page = Page(as_html(bars, ["few images"], ["<unet> on 4 images"], EPOCHS))
    assert page.bars == [{"value": "12", "max": "40"}, {"value": "0", "max": "1"}]
    assert page.texts["div"] == [
        "warning: few images", "<unet> on 4 images", " training 12/40 epoch 2 · loss 0.5", " reading 3",
    ]  # fmt: skip
    assert page.texts["th"] == ["epoch", "train loss", "val dice", "images/s"]
    assert page.texts["td"] == ["1", "0.75123", "0.50000", "12.3", "2", "0.50000", "0.90000", "13.0"]


def test_without_html_the_same_stands_there_as_text() -> None:
    lines = as_text([Bar("training", 40, done=12)], ["few images"], ["on 4 images"], EPOCHS).splitlines()
    assert lines[:2] == ["warning: few images", "on 4 images"]
    assert lines[2].split() == ["epoch", "train", "loss", "val", "dice", "images/s"]
    assert lines[3].split() == ["1", "0.75123", "0.50000", "12.3"]
    assert lines[-1] == "training 12/40"


def test_outside_of_a_notebook_the_log_is_told() -> None:
    assert isinstance(default_reporter(), LogReporter)


def test_a_finished_bar_goes_when_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = NotebookReporter()
    monkeypatch.setattr(reporter, "_draw", lambda: None)
    for task in ("reading", "training"):
        reporter.start(task, 2)
        reporter.advance(task, loss=0.5)
        reporter.advance(task)
        reporter.finish(task)
    reporter.advance("nothing that began")
    assert list(reporter._bars.values()) == [Bar("training", 2, done=2, numbers="loss 0.5000", finished=True)]


def test_each_cell_has_an_output_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(execution_count=1)
    monkeypatch.setattr("carvana.utils.notebook._shell", lambda: shell)
    reporter = NotebookReporter()
    monkeypatch.setattr(reporter, "_draw", lambda: None)
    reporter.warn("from the first cell")
    reporter.start("reading", 2)
    assert reporter._warnings
    shell.execution_count = 2
    reporter.warn("from the second cell")
    assert (reporter._warnings, reporter._bars) == (["from the second cell"], {})


CELL = """
import carvana
from carvana.inference.predict_folder import predict_folder
config = carvana.FitConfig(model={{"options": {{"width": 2}}}}, train={{"epochs": 2}},
                           data={{"root": {data!r}, "size": (32, 48), "workers": 0}})
run = carvana.fit(config, out={out!r}, device="cpu")
"""


@pytest.mark.slow
def test_a_fit_in_a_notebook_shows_a_bar_and_its_table(tiny_data: Path, tmp_path: Path) -> None:
    import nbclient
    import nbformat

    out = str(tmp_path / "run")
    cells = [
        CELL.format(data=str(tiny_data), out=out),
        f"images = [sample.image for sample in carvana.find_samples({str(tiny_data)!r})]\n"
        f"done = predict_folder(carvana.Predictor.from_pretrained({out!r}), images, out={str(tmp_path / 'masks')!r})",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    fitted, predicted = ([o for o in cell.outputs if o.output_type == "display_data"] for cell in notebook.cells)
    assert len(fitted) == 1  # one output, updated
    page = Page(fitted[0].data["text/html"])
    assert page.texts["th"][:2] == ["epoch", "train loss"]
    assert [row for row in page.texts["td"] if row in ("1", "2")] == ["1", "2"]
    assert any("training unet-ref" in line for line in page.texts["div"])
    assert page.bars == [{"value": "4", "max": "4"}]  # the last task: writing the masks
    assert "epoch" in fitted[0].data["text/plain"]
    assert "predicting 20/20" in Page(predicted[0].data["text/html"]).texts["div"][-1]
