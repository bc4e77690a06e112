"""Progress: steps that are reported, what a notebook shows, and a real notebook that shows it."""

from __future__ import annotations

import html.parser
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carvana.utils.progress import LogReporter, NotebookReporter, default_reporter, track


class Calls(LogReporter):
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[object, ...]] = []

    def start(self, task: str, total: int | None) -> None:
        self.told.append(("start", task, total))

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        self.told.append(("advance", task))

    def finish(self, task: str, **values: float) -> None:
        self.told.append(("finish", task))


def test_each_item_is_a_step_once_it_is_dealt_with() -> None:
    calls = Calls()
    seen = [(item, len(calls.told)) for item in track("ab", calls, "work")]
    assert seen == [("a", 1), ("b", 2)]
    assert calls.told == [("start", "work", 2), ("advance", "work"), ("advance", "work"), ("finish", "work")]


def test_a_task_that_fails_is_finished_all_the_same() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    calls = Calls()
    with pytest.raises(KeyboardInterrupt):
        list(track(broken(), calls, "work"))
    assert calls.told == [("start", "work", None), ("advance", "work"), ("finish", "work")]


def test_a_task_that_is_left_is_finished() -> None:
    calls = Calls()
    steps = track(range(3), calls, "work")
    next(steps)
    steps.close()
    assert calls.told == [("start", "work", 3), ("finish", "work")]


EPOCHS = [
    {
        "epoch": 1,
        "step": 5,
        "train_loss": 0.7512345,
        "lr": 0.1,
        "val_dice": 0.5,
        "val_accuracy": 0.75,
        "images_per_s": 12.345,
        "data_wait": 0.0,
        "seconds": 1.0,
    },
    {
        "epoch": 2,
        "step": 10,
        "train_loss": 0.5,
        "lr": 0.1,
        "val_dice": 0.9,
        "val_accuracy": 0.875,
        "images_per_s": 13.0,
        "data_wait": 0.25,
        "seconds": 2.0,
    },
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


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> NotebookReporter:
    reporter = NotebookReporter()
    monkeypatch.setattr(reporter, "_draw", lambda: None)
    return reporter


def test_bars_messages_and_the_table_of_epochs_are_shown(reporter: NotebookReporter) -> None:
    reporter.warn("few images")
    reporter.info("<unet> on 4 images")
    for record in EPOCHS:
        reporter.epoch(record)
    reporter.start("training", 40)
    reporter.start("reading", None)
    reporter.advance("training", 12, epoch=2, loss=0.5)
    reporter.advance("reading", 3)
    shown = reporter.shown()
    page = Page(shown["text/html"])
    assert page.bars == [{"value": "12", "max": "40"}, {"value": "0", "max": "1"}]
    assert page.texts["div"] == [
        "warning: few images", "<unet> on 4 images", " training 12/40 epoch 2 · loss 0.5000", " reading 3",
    ]  # fmt: skip
    assert page.texts["th"] == ["epoch", "train loss", "val Dice", "val accuracy", "images/s"]
    assert page.texts["td"] == [
        "1", "0.75123", "0.50000", "0.75000", "12.3", "2", "0.50000", "0.90000", "0.87500", "13.0",
    ]  # fmt: skip
    assert shown["text/plain"].splitlines() == [  # for viewers without HTML
        "warning: few images",
        "<unet> on 4 images",
        "epoch 1, loss 0.7512, val Dice 0.50000, accuracy 0.75000, 12.3 images/s, 0% waiting for data",
        "epoch 2, loss 0.5000, val Dice 0.90000, accuracy 0.87500, 13.0 images/s, 25% waiting for data",
        "training 12/40 epoch 2 · loss 0.5000",
        "reading 3",
    ]


def test_outside_of_a_notebook_the_log_is_told() -> None:
    assert isinstance(default_reporter(), LogReporter)


def test_a_finished_bar_goes_when_another_begins(reporter: NotebookReporter) -> None:
    for task in ("reading", "training"):
        reporter.start(task, 2)
        reporter.advance(task, loss=0.5)
        reporter.advance(task)
        reporter.finish(task)
    reporter.advance("nothing that began")
    page = Page(reporter.shown()["text/html"])
    assert page.texts["div"] == [" training 2/2 loss 0.5000"]
    assert page.bars == [{"value": "2", "max": "2"}]


def test_each_cell_has_an_output_of_its_own(reporter: NotebookReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(execution_count=1)
    monkeypatch.setattr("carvana.utils.progress._shell", lambda: shell)
    reporter.warn("from the first cell")
    reporter.start("reading", 2)
    assert reporter.shown()["text/plain"] == "warning: from the first cell\nreading 0/2"
    shell.execution_count = 2
    reporter.warn("from the second cell")
    assert reporter.shown()["text/plain"] == "warning: from the second cell"


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
