from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from carvana.errors import ConfigError
from carvana.run import Run
from carvana.training.callbacks import Callback, TensorBoard, Trackio, default_callbacks, notify

EVALUATION = {"dice": 0.75, "images": 4, "dice_ci95": [0.5, 0.9], "per_image": [{"image": "a.jpg", "dice": 0.75}]}


def record(epoch: int, step: int, dice: float) -> dict[str, Any]:
    return {"epoch": epoch, "step": step, "val_dice": dice, "note": "text", "kept": True}


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself would draw of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_a_listener_overrides_what_it_needs_and_no_more() -> None:
    class Listener(Callback):
        def __init__(self) -> None:
            self.epochs: list[Mapping[str, Any]] = []

        def on_epoch_end(self, record: Mapping[str, Any]) -> None:
            self.epochs.append(record)

    class Stranger:
        ended = False

        def on_fit_end(self) -> None:
            self.ended = True

    listener, stranger = Listener(), Stranger()
    for event, *values in (("on_epoch_end", {"step": 3}), ("on_evaluation", EVALUATION), ("on_fit_end",)):
        notify([listener, stranger], event, *values)
    assert listener.epochs == [{"step": 3}]
    assert stranger.ended


def test_what_a_listener_raises_is_not_hidden() -> None:
    class Broken(Callback):
        def on_fit_end(self) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        notify([Broken()], "on_fit_end")


@pytest.mark.parametrize("end_first", [False, True])
def test_tensorboard_gets_epochs_and_the_evaluation_whether_the_training_has_ended_or_not(
    tmp_path: Path, end_first: bool
) -> None:
    board = TensorBoard(tmp_path)
    board.on_epoch_end(record(1, 10, 0.25))
    board.on_epoch_end(record(2, 20, 0.5))
    if end_first:
        board.on_fit_end()
    board.on_evaluation(EVALUATION)
    if not end_first:
        board.on_fit_end()
    assert curves(tmp_path) == {
        "epoch": [(10, 1), (20, 2)],
        "step": [(10, 10), (20, 20)],
        "val_dice": [(10, 0.25), (20, 0.5)],
        "evaluation/dice": [(20, 0.75)],
        "evaluation/images": [(20, 4)],
    }


@pytest.mark.parametrize("files", [0, 8, 9], ids=lambda files: f"after_{files}_files")
def test_a_continued_training_takes_the_place_of_the_steps_it_repeats(
    tmp_path: Path, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorBoard, "_count", itertools.count(files))
    monkeypatch.setattr("carvana.training.callbacks.time.time", lambda: 1.8e9)  # all files of one second
    board = TensorBoard(tmp_path)
    for epoch in range(1, 5):
        board.on_epoch_end(record(epoch, 10 * epoch, 0.1 * epoch))
    board.on_fit_end()
    board = TensorBoard(tmp_path, first_step=21)
    for epoch in range(3, 6):
        board.on_epoch_end(record(epoch, 10 * epoch, 0.15 * epoch))
    board.on_fit_end()
    board.on_evaluation(EVALUATION)
    assert curves(tmp_path)["val_dice"] == [(10, 0.1), (20, 0.2), (30, 0.45), (40, 0.6), (50, 0.75)]
    assert curves(tmp_path)["evaluation/dice"] == [(50, 0.75)]


def test_a_listener_that_hears_nothing_writes_nothing(tmp_path: Path) -> None:
    TensorBoard(tmp_path / "new").on_fit_end()
    assert not (tmp_path / "new").exists()


def test_fit_writes_tensorboard_where_it_is_installed_and_trackio_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
    assert [type(callback) for callback in default_callbacks(Run(tmp_path))] == [TensorBoard]
    monkeypatch.setattr(Trackio, "available", staticmethod(lambda: True))
    monkeypatch.setenv("TRACKIO_PROJECT", "cars")
    assert [type(callback) for callback in default_callbacks(Run(tmp_path))] == [TensorBoard, Trackio]
    monkeypatch.setattr(TensorBoard, "available", staticmethod(lambda: False))
    assert [type(callback) for callback in default_callbacks(Run(tmp_path))] == [Trackio]


def test_trackio_that_is_asked_for_and_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trackio, "available", staticmethod(lambda: False))
    monkeypatch.setenv("TRACKIO_PROJECT", "cars")
    with pytest.raises(ConfigError, match=r"pip install 'carvana\[trackio\]'.*unset TRACKIO_PROJECT") as caught:
        default_callbacks(Run(tmp_path))
    assert "\n" not in str(caught.value)


LOGGED = """
import json, socket, sys
def refuse(*args): raise AssertionError("trackio reached for the network")
socket.socket.connect = socket.create_connection = refuse

from carvana.training.callbacks import Trackio
def record(epoch, dice): return {"epoch": epoch, "step": 10 * epoch, "val_dice": dice}
first = Trackio("groups", name="first", config={"arch": "unet-ref"})
first.on_epoch_end(record(1, 0.25))
first.on_epoch_end(record(2, 0.5))
first.on_fit_end()
first.on_evaluation({"dice": 0.75, "per_image": []})
again = Trackio("groups", name="first", first_step=21)
again.on_epoch_end(record(3, 0.625))
again.on_fit_end()
other = Trackio("groups", name="other")
other.on_epoch_end(record(1, 0.125))
other.on_fit_end()
assert not {"torch", "tensorboard"} & set(sys.modules)
"""
READ = """
import contextlib, io, json, sys
from trackio.cli import main
found = []
for run, metric in (("first", "val_dice"), ("first", "evaluation/dice"), ("other", "val_dice")):
    sys.argv = ["trackio", "get", "metric", "--project", "groups", "--run", run, "--metric", metric, "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as answer:
        main()
    found.append([(value["step"], value["value"]) for value in json.loads(answer.getvalue())["values"]])
print(json.dumps(found))
"""


def test_trackio_keeps_the_numbers_on_this_machine_and_prints_nothing_to_stdout(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    wanted = {name: value for name, value in os.environ.items() if not name.startswith("TRACKIO_")}
    environment = wanted | {"TRACKIO_DIR": str(tmp_path)}

    def call(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert call(LOGGED) == ""
    assert json.loads(call(READ)) == [[[10, 0.25], [20, 0.5], [30, 0.625]], [[20, 0.75]], [[10, 0.125]]]
