from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import carvana
from carvana.errors import ConfigError
from carvana.training import trackers
from carvana.training.trackers import Tracker, tracker_names

EVALUATION = {"dice": 0.75, "images": 4, "dice_ci95": [0.5, 0.9], "per_image": [{"image": "a.jpg", "dice": 0.75}]}


def record(epoch: int, step: int, dice: float) -> dict[str, Any]:
    return {"epoch": epoch, "step": step, "val_dice": dice, "note": "text", "kept": True}


def events(folder: Path) -> Any:
    """What TensorBoard itself would draw of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = events(folder)
    return {
        name: [(event.step, pytest.approx(event.value)) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


@pytest.mark.parametrize("end_first", [False, True])
def test_tensorboard_gets_epochs_and_the_evaluation_whether_the_training_has_ended_or_not(
    tmp_path: Path, end_first: bool
) -> None:
    board = Tracker("tensorboard", folder=tmp_path)
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


def test_a_continued_training_takes_the_place_of_the_steps_it_repeats(tmp_path: Path) -> None:
    board = Tracker("tensorboard", folder=tmp_path)
    for epoch in range(1, 5):
        board.on_epoch_end(record(epoch, 10 * epoch, 0.1 * epoch))
    board.on_fit_end()
    time.sleep(1.1)  # files are read in the order of the seconds in their names
    board = Tracker("tensorboard", folder=tmp_path, first_step=21)
    for epoch in range(3, 6):
        board.on_epoch_end(record(epoch, 10 * epoch, 0.15 * epoch))
    board.on_fit_end()
    board.on_evaluation(EVALUATION)
    assert curves(tmp_path)["val_dice"] == [(10, 0.1), (20, 0.2), (30, 0.45), (40, 0.6), (50, 0.75)]
    assert curves(tmp_path)["evaluation/dice"] == [(50, 0.75)]


def test_one_tracker_follows_several_trainings_one_after_the_other(tmp_path: Path) -> None:
    board = Tracker("tensorboard", folder=tmp_path / "logs")
    for dice in (0.25, 0.5, 0.75):
        board.on_epoch_end(record(1, 10, dice))
        board.on_fit_end()
        board.on_evaluation(EVALUATION)
    for name, dice in (("logs", 0.25), ("logs-2", 0.5), ("logs-3", 0.75)):
        assert curves(tmp_path / name)["val_dice"] == [(10, dice)]
        assert curves(tmp_path / name)["evaluation/dice"] == [(10, 0.75)]


def test_a_tracker_that_joins_a_resumed_training_gets_its_config(tmp_path: Path) -> None:
    config = {"train": {"lr": 0.5}}
    for first_step in (11, 21):
        board = Tracker("tensorboard", folder=tmp_path, config=config, first_step=first_step)
        board.on_epoch_end(record(2, first_step + 9, 0.5))
        board.on_fit_end()
    assert [event.step for event in events(tmp_path).Tensors("config/text_summary")] == [0]


def test_an_evaluation_after_the_last_epoch_has_its_step(tmp_path: Path) -> None:
    board = Tracker("tensorboard", folder=tmp_path, first_step=21)
    board.on_evaluation(EVALUATION)
    assert curves(tmp_path)["evaluation/dice"] == [(20, 0.75)]


def test_a_folder_of_its_name_is_no_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert not trackers.is_installed("wandb")


def test_a_tracker_that_hears_nothing_writes_nothing(tmp_path: Path) -> None:
    Tracker("tensorboard", folder=tmp_path / "new").on_fit_end()
    assert not (tmp_path / "new").exists()


def test_auto_is_tensorboard_where_it_is_installed_and_trackio_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(*log_to: Any) -> list[str]:
        return list(tracker_names(list(log_to) or "auto"))

    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
    assert names() == ["tensorboard"]
    monkeypatch.setattr(trackers, "is_installed", lambda name: True)
    monkeypatch.setenv("TRACKIO_PROJECT", "cars")
    assert names() == ["tensorboard", "trackio"]
    assert names("mlflow", "wandb") == ["mlflow", "wandb"]
    monkeypatch.setattr(trackers, "is_installed", lambda name: name == "trackio")
    assert names() == ["trackio"]
    assert tracker_names([]) == []


def test_a_tracker_that_is_missing_or_unknown_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda name: False)
    monkeypatch.setenv("TRACKIO_PROJECT", "cars")
    with pytest.raises(ConfigError, match=r"pip install 'carvana\[trackio\]'.*unset TRACKIO_PROJECT") as caught:
        tracker_names("auto")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"mlflow is not installed.*leave it out of train\.log_to"):
        tracker_names(["mlflow"])
    with pytest.raises(ConfigError, match="tracker 'wandv': expected tensorboard, wandb, mlflow, trackio"):
        Tracker("wandv")  # type: ignore[arg-type]


def test_what_fails_costs_the_curves_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    board = Tracker("tensorboard", folder=tmp_path / "curves")
    board.on_epoch_end(record(1, 10, 0.25))

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(board._open, "log", broken)
    for epoch in (2, 3):
        board.on_epoch_end(record(epoch, 10 * epoch, 0.5))
    board.on_evaluation(EVALUATION)
    board.on_fit_end()
    [warning] = caplog.messages
    assert (
        warning
        == f"{tmp_path / 'curves'}: the curves cannot be written there: no network; the training continues without them"
    )
    assert curves(tmp_path / "curves")["val_dice"] == [(10, 0.25)]


def test_old_names_work_and_say_what_they_are_called_now(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="carvana.Tracker"):
        board = carvana.TensorBoard(tmp_path, first_step=3)  # type: ignore[attr-defined]
    board.on_epoch_end(record(1, 10, 0.25))
    assert curves(tmp_path)["val_dice"] == [(10, 0.25)]
    pytest.importorskip("trackio")
    with pytest.warns(DeprecationWarning, match="carvana.Tracker"):
        assert carvana.Trackio("cars", name="first").tracker == "trackio"  # type: ignore[attr-defined]


def test_a_run_without_trackers_writes_none(tiny_data: Path, tmp_path: Path) -> None:
    config = fast(tiny_data, log_to=[])
    run = carvana.fit(config, out=tmp_path / "run", device="cpu")
    assert not (run.path / "tensorboard").exists()
    logged = carvana.fit(fast(tiny_data, log_to="tensorboard"), out=tmp_path / "logged", device="cpu")
    assert (run.model_path / "model.safetensors").read_bytes() == (logged.model_path / "model.safetensors").read_bytes()
    found = events(logged.path / "tensorboard")
    assert {"pictures/masks", "pictures/worst"} <= set(found.Tags()["images"])
    assert b"arch: unet-ref" in found.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    assert b"library_name: carvana" in found.Tensors("card/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.slow
def test_a_server_that_does_not_answer_costs_the_curves_alone(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run = carvana.fit(fast(tiny_data, log_to=["mlflow", "tensorboard"], epochs=2), out=tmp_path / "run", device="cpu")
    assert run.is_evaluated
    [warning] = [line for line in caplog.messages if "curves" in line]
    assert warning.startswith("mlflow, project 'carvana': the curves cannot be written there: ")
    assert len(curves(run.path / "tensorboard")["train_loss"]) == 2


def fast(data: Path, *, log_to: Any, epochs: int = 1) -> carvana.FitConfig:
    return carvana.FitConfig(
        arch="unet-ref", model={"options": {"width": 4}}, data={"root": data, "size": [32, 48], "workers": 0},
        split={"val": 1}, train={"epochs": epochs, "batch_size": 4, "precision": "fp32", "log_to": log_to},
    )  # fmt: skip


@pytest.mark.slow
def test_runs_of_a_group_are_marked_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    # The third is resumed, and MLflow had nothing of it yet.
    for name, group, first_step in (("one", "board", None), ("two", "", None), ("three", "board", 5)):
        if group:
            monkeypatch.setenv("MLFLOW_RUN_ID", "another")
        board = Tracker(
            "mlflow", name=name, project="cars", group=group, config={"train": {"lr": 0.5}}, first_step=first_step
        )
        board.on_epoch_end(record(1, 10, 0.25))
        board.on_fit_end()
        board.on_evaluation({"miou": 0.5, "per_class": [{"name": name, "iou": 0.5} for name in ("sky/", "a//b")]})
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("cars").experiment_id])
    assert {run.info.run_name: run.data.tags.get("group") for run in found} == {
        "one": "board",
        "two": None,
        "three": "board",
    }
    assert {run.data.params["train.lr"] for run in found} == {"0.5"}
    assert all({"evaluation/iou/sky", "evaluation/iou/a/b"} < set(run.data.metrics) for run in found)


@pytest.mark.slow
def test_the_networks_of_a_leaderboard_are_runs_of_its_group(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    carvana.compare(["one=unet-ref", "two=unet-ref"], fast(tiny_data, log_to=["mlflow"]), out=tmp_path / "streets")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("carvana").experiment_id])
    assert [run.data.tags["group"] for run in found] == ["streets", "streets"]
    assert all(run.data.metrics["evaluation/images"] == 4 for run in found)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow", "trackio", "wandb"])
def test_a_run_that_is_killed_and_resumed_has_each_point_once(tracker: Any, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip(tracker)
    out, kept = tmp_path / "run", tmp_path / "kept"
    (tmp_path / "mine.yaml").write_text(fast(tiny_data, log_to=[tracker], epochs=24).to_yaml())
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKIO_", "MLFLOW_", "WANDB_"))}
    env |= {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_EXPERIMENT_NAME": "cars",
        "TRACKIO_DIR": str(tmp_path / "trackio"), "TRACKIO_PROJECT": "cars", "WANDB_MODE": "offline",
    }  # fmt: skip
    command = [sys.executable, "-m", "carvana", "fit", "--config", "mine.yaml", "--out", str(out), "--device", "cpu"]
    first = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: epochs_of(out) >= 2 and (out / "state").is_dir(), first)
    shutil.copytree(out / "state", kept)
    wait_for(lambda: epochs_of(out) >= 8, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    shutil.rmtree(out / "state")
    shutil.copytree(kept, out / "state")  # an early one: epochs that were logged come again
    resume = [sys.executable, "-m", "carvana", "fit", "--resume", str(out), "--set", "train.epochs=24"]
    done = subprocess.run([*resume, "--device", "cpu"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" not in done.stderr
    expected = [(line["step"], pytest.approx(line["train_loss"])) for line in metrics(out)]
    assert len(expected) == 24
    read = {"tensorboard": of_tensorboard, "mlflow": of_mlflow, "trackio": of_trackio, "wandb": of_wandb}[tracker]
    found = read(tmp_path, env)
    if tracker == "wandb":  # the killed process may not have handed over its last lines
        assert found == [point for point in expected if point[0] in {step for step, _ in found}]
        assert len(found) >= 16
    else:
        assert found == expected


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.01)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def epochs_of(out: Path) -> int:
    return len((out / "metrics.jsonl").read_text().splitlines()) if (out / "metrics.jsonl").exists() else 0


def of_tensorboard(folder: Path, _: Any) -> list[tuple[int, float]]:
    return curves(folder / "run" / "tensorboard")["train_loss"]


def of_mlflow(_: Path, env: dict[str, str]) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(env["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("cars")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.params["arch"] == "unet-ref"
    assert run.data.metrics["evaluation/images"] == 4
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"README.md", "pictures"}
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "train_loss")]


def of_trackio(_: Path, env: dict[str, str]) -> list[tuple[int, float]]:
    def ask(*words: str) -> Any:
        command = [sys.executable, "-m", "trackio.cli", *words, "--project", "cars", "--json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    [name] = ask("list", "runs")["runs"]
    found = {
        metric: ask("get", "metric", "--run", name, "--metric", metric) for metric in ("train_loss", "evaluation/dice")
    }
    assert len(found["evaluation/dice"]["values"]) == 1
    return [(one["step"], one["value"]) for one in found["train_loss"]["values"]]


def of_wandb(folder: Path, _: Any) -> list[tuple[int, float]]:
    """The points of both offline files, as ``wandb sync`` would send them to one run."""
    from wandb.proto import wandb_internal_pb2

    found: list[tuple[int, float]] = []
    others: set[str] = set()
    for path in sorted((folder / "run" / "wandb").glob("offline-run-*/*.wandb")):
        for data in leveldb_records(path.read_bytes()):
            parsed = wandb_internal_pb2.Record()
            parsed.ParseFromString(data)
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in parsed.history.item}
            others.update(items)
            if "train_loss" in items:
                found.append((items["_step"], items["train_loss"]))
    assert {"evaluation/dice", "pictures/masks"} <= {name.partition(".")[0] for name in others}
    return found


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The whole records of a log of LevelDB's format, behind W&B's own head of 7 bytes; a cut end is left out."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if 2**15 - place % 2**15 < 7:  # a head does not cross the border of a block
            place += 2**15 - place % 2**15
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        if kind == 0 or place + 7 + length > len(data):
            return
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
