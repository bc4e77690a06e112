from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import forkserver
import pytest
import torch
from reference import Lines

import carvana
from carvana.config import FitConfig
from carvana.errors import CarvanaError, ConfigError, DataError, RunError
from carvana.evaluation.report import finish_run
from carvana.run import Run
from carvana.training.checkpoint import read_state
from carvana.training.fit import resume
from carvana.training.signals import TrainingInterrupted
from carvana.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_fits")

RECIPE = {
    "arch": "one-conv",
    "model": {"options": {"width": 8}},
    "data": {"size": [48, 64], "workers": 2, "augment": "studio"},
    "split": {"val": 1},
    "train": {"epochs": 4, "batch_size": 3, "accumulate": 2, "ema": 0.9, "lr": 3e-3},
}


def recipe(data: Path, **train: Any) -> FitConfig:
    return FitConfig(**RECIPE).replace({"data.root": str(data), **{f"train.{k}": v for k, v in train.items()}})


def model_files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "model").iterdir())}


def copied(run: Run, folder: Path) -> Path:
    return Path(shutil.copytree(run.path, folder / "copy"))


@pytest.fixture(scope="module")
def undisturbed(quick_fits: None, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return carvana.fit(recipe(tiny_data), out=tmp_path_factory.mktemp("runs") / "run", device="cpu")


def interrupted(config: FitConfig, out: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a step."""
    before, sent = Trainer.train_step, []

    def train_step(self: Trainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.duration.step == step and not sent:
            sent.append(step)
            signal.raise_signal(signal.SIGINT)
        return before(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        with pytest.raises(
            TrainingInterrupted, match=f"after step {step + 1}; continue with carvana fit --resume {out}"
        ):
            carvana.fit(config, out=out, device="cpu")


@pytest.mark.slow
def test_twenty_kills_at_random_times_change_no_byte(tiny_data: Path, tmp_path: Path) -> None:
    slow = {"arch": "unet-ref", "train.epochs": 8}  # long enough to be killed twenty times
    config = recipe(tiny_data).replace(slow)
    undisturbed = carvana.fit(config, out=tmp_path / "undisturbed", device="cpu")
    (tmp_path / "recipe.yaml").write_text(config.to_yaml())
    script = Path(__file__).with_name("kill_often.py")
    out = tmp_path / "run"
    done = forkserver.run(
        [sys.executable, script, tmp_path / "recipe.yaml", out, "20", "0"],
        capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 20
    steps = [step for step, _ in found]
    assert steps == sorted(steps)
    assert len(set(steps)) >= 5  # the training got on between kills ...
    assert sum(batch > 0 for _, batch in found) >= 3  # ... and was caught in the middle of epochs
    assert model_files(out) == model_files(undisturbed.path)
    assert (out / "metrics.jsonl").read_bytes() == undisturbed.metrics_path.read_bytes()
    assert json.loads((out / "evaluation.json").read_text())["dice"] == undisturbed.read_evaluation()["dice"]


@pytest.mark.parametrize("step", [pytest.param(0, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_ctrl_c_finishes_the_step_saves_and_goes_on_to_the_same_end(
    undisturbed: Run, tiny_data: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps in the middle and at the end of epochs: an epoch has three."""
    out = tmp_path / "run"
    interrupted(recipe(tiny_data), out, step, monkeypatch)
    state = read_state(out / "state")
    assert state.progress.step == step + 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resume(out, device="cpu")
    assert model_files(out) == model_files(undisturbed.path)
    assert (out / "metrics.jsonl").read_bytes() == undisturbed.metrics_path.read_bytes()


def test_the_same_command_goes_on_with_other_trackers_and_after_an_evaluation_by_hand(
    undisturbed: Run, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    interrupted(recipe(tiny_data), out, 4, monkeypatch)  # in the second epoch
    finish_run(Run(out), device="cpu")
    again = recipe(tiny_data).replace({"train.log_to": ["tensorboard"], "data.cache_gb": 1})
    carvana.fit(again, out=out, device="cpu")
    assert model_files(out) == model_files(undisturbed.path)
    assert Run(out).read_config() == again.replace({"train.loss": "bce + dice"})
    assert Run(out).is_done


def test_a_training_goes_on_where_its_data_folder_has_moved_to_the_same_end(
    undisturbed: Run, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, now = Path(shutil.copytree(tiny_data, tmp_path / tiny_data.name)), tmp_path / "elsewhere"  # cards name it
    out = tmp_path / "run"
    interrupted(recipe(data), out, 2, monkeypatch)
    data.rename(now)
    config = (out / "config.yaml").read_bytes()
    with pytest.raises(DataError, match=r"the data folder of .*run is missing; .*--root DIR"):
        resume(out, device="cpu")
    shutil.copytree(now, tmp_path / "other")
    masks = sorted((tmp_path / "other" / "train_masks").iterdir())
    shutil.copy(masks[1], masks[0])
    with pytest.raises(DataError, match=f"{masks[0]} has changed since .* was begun .1 of 20 images have"):
        resume(out, root=tmp_path / "other", device="cpu")
    told = Lines()
    resume(out, root=now, device="cpu", reporter=told)
    assert told.warnings == []
    assert model_files(out) == model_files(undisturbed.path)
    assert (out / "metrics.jsonl").read_bytes() == undisturbed.metrics_path.read_bytes()
    assert (out / "split.csv").read_bytes() == undisturbed.split_path.read_bytes()
    assert (out / "config.yaml").read_bytes() == config

    resume(out, root=now, epochs=5, device="cpu")  # what is asked for stands there, and nothing else
    assert Run(out).read_config() == recipe(data, epochs=5).replace({"train.loss": "bce + dice"})


def test_images_that_have_changed_are_refused_where_they_lay(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = Path(shutil.copytree(tiny_data, tmp_path / "data")), tmp_path / "run"
    interrupted(recipe(data), out, 2, monkeypatch)
    masks = sorted((data / "train_masks").iterdir())
    shutil.copy(masks[1], masks[0])
    with pytest.raises(DataError, match=f"{masks[0]} has changed since .* was begun .1 of 20 images have"):
        resume(out, device="cpu")


def test_a_longer_training_that_stopped_is_not_done_when_it_is_evaluated_by_hand(
    undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Run(copied(undisturbed, tmp_path))
    assert out.is_done

    def train_step(*_: Any, **__: Any) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        with pytest.raises(KeyboardInterrupt):
            resume(out.path, epochs=5, device="cpu")
    finish_run(out, device="cpu")
    assert not out.is_done
    assert resume(out.path, device="cpu").is_done
    assert out.read_metrics()[-1]["epoch"] == 5


def test_a_second_ctrl_c_acts_at_once(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_step(*_: Any, **__: Any) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(Trainer, "train_step", train_step)
    with pytest.raises(KeyboardInterrupt) as caught:
        carvana.fit(recipe(tiny_data), out=tmp_path / "run", device="cpu")
    assert not isinstance(caught.value, TrainingInterrupted)


def test_more_epochs_can_be_asked_for_and_less_cannot(undisturbed: Run, tiny_data: Path, tmp_path: Path) -> None:
    out = Run(copied(undisturbed, tmp_path))
    before = out.read_metrics()
    for wrong in ({"epochs": 3}, {"minutes": 3}):
        with pytest.raises(ConfigError, match=r"= 3: the run has 4 epochs; only more of these can be had"):
            resume(out.path, **wrong)
    timed = carvana.fit(recipe(tiny_data, minutes=0.001), out=tmp_path / "timed", device="cpu")
    with pytest.raises(ConfigError, match=r"train\.epochs = 9: the run has 0.001 minutes; only more of these"):
        resume(timed.path, epochs=9)
    assert timed.is_evaluated
    resume(out.path, epochs=6, device="cpu")
    after = out.read_metrics()
    assert after[:4] == before
    assert [record["epoch"] for record in after] == list(range(1, 7))
    assert after[4]["lr"] > before[3]["lr"]  # the longer schedule
    assert out.read_config().train.epochs == 6
    assert out.read_evaluation()["images"] == 4


def test_a_complete_run_is_left_as_it_is(undisturbed: Run, tmp_path: Path) -> None:
    out = copied(undisturbed, tmp_path)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    resume(out, device="cpu")
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before


def test_a_run_that_was_killed_while_it_was_evaluated_is_evaluated(undisturbed: Run, tmp_path: Path) -> None:
    out = Run(copied(undisturbed, tmp_path))
    out.evaluation_path.unlink()
    resume(out.path, device="cpu")
    assert out.read_evaluation()["per_image"] == undisturbed.read_evaluation()["per_image"]
    assert model_files(out.path) == model_files(undisturbed.path)


def test_a_run_that_was_killed_before_its_first_state_begins_anew(
    undisturbed: Run, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise SystemExit

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", killed)
        with pytest.raises(SystemExit):
            carvana.fit(recipe(tiny_data), out=out, device="cpu")
    assert not (out / "state" / "state.json").exists()
    resume(out, device="cpu")
    assert model_files(out) == model_files(undisturbed.path)


@pytest.mark.slow
def test_first_weights_of_another_run_are_remembered(
    undisturbed: Run, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(tiny_data, epochs=2)
    whole = carvana.fit(config, out=tmp_path / "whole", init=undisturbed.path, device="cpu")

    before = Trainer.train_epoch

    def killed(self: Trainer, epoch: int) -> dict[str, float]:
        if epoch:
            raise SystemExit
        return before(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", killed)
        with pytest.raises(SystemExit):
            carvana.fit(config, out=tmp_path / "cut", init=undisturbed.path, device="cpu")
    resume(tmp_path / "cut", device="cpu")
    assert model_files(tmp_path / "cut") == model_files(whole.path)
    assert carvana.Segmenter.from_pretrained(tmp_path / "cut").spec.init == "run:run"


@pytest.mark.slow
def test_a_change_of_threads_is_told(undisturbed: Run, tmp_path: Path) -> None:
    out = copied(undisturbed, tmp_path)
    lines = Lines()
    torch.set_num_threads(2)
    try:
        resume(out, epochs=5, device="cpu", reporter=lines)
    finally:
        torch.set_num_threads(1)
    assert any("threads 1 and goes on with 2" in line for line in lines.warnings)


def test_what_cannot_be_continued_is_told_in_a_line(undisturbed: Run, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run"):
        resume(tmp_path)
    damaged = copied(undisturbed, tmp_path)
    tensors = next((damaged / "state").glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"state\.json: no readable state.*--init"):
        resume(damaged, epochs=5)
    record = json.loads((damaged / "state" / "state.json").read_text())
    (damaged / "state" / "state.json").write_text(json.dumps(record | {"format_version": 2}))
    with pytest.raises(RunError, match=r"format version 2.*upgrade"):
        resume(damaged, epochs=5)
    rows = (damaged / "split.csv").read_text().splitlines()
    (damaged / "split.csv").write_text("\n".join([rows[0], *rows[2:], rows[1].replace("train", "val")]) + "\n")
    (damaged / "split.csv").write_text("\n".join([*rows, "gone.jpg,car,train"]) + "\n")
    with pytest.raises(DataError, match=r"gone\.jpg"):
        resume(damaged, epochs=5)


def test_a_trainer_of_ones_own_goes_on_too(tiny_data: Path, tmp_path: Path) -> None:
    samples = carvana.find_samples(tiny_data)
    train = carvana.SegmentationDataset(samples[:12], (32, 48), augment="studio")
    settings = {"batch_size": 3, "workers": 0, "optimizer": "sgd", "schedule": "constant", "warmup": 0, "device": "cpu"}

    def trainer(epochs: int, out: str, **more: Any) -> Trainer:
        torch.manual_seed(0)
        model = carvana.create_model("one-conv", width=4)
        return Trainer(model, train=train, out=tmp_path / out, epochs=epochs, **settings, **more)

    whole = trainer(3, "whole").fit().state_dict()
    trainer(2, "part").fit()
    with pytest.raises(ConfigError, match=r"train\.clip = 5\.0.*begun with 1\.0"):
        trainer(3, "part", resume=True, clip=5.0)
    with pytest.raises(RunError, match="nowhere"):
        trainer(3, "nowhere", resume=True)
    again = trainer(3, "part", resume=True).fit().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_a_loss_that_is_not_finite_names_the_photos_and_the_last_good_state(tiny_data: Path, tmp_path: Path) -> None:
    samples = carvana.find_samples(tiny_data)
    data = carvana.SegmentationDataset(samples, (32, 48))
    trainer = Trainer(
        carvana.create_model("one-conv", width=4), train=data, val=data, out=tmp_path / "run", epochs=3, batch_size=4,
        workers=0, precision="fp32", device="cpu",
    )  # fmt: skip
    trainer.train_batches.set_place(1)
    loss, bad = trainer.loss, int(trainer.train_batches.parts[2][0])
    trainer.loss = lambda logits, targets: (
        loss(logits, targets)
        * (float("nan") if len(targets) == 4 and trainer.progress.epoch == 1 and trainer.progress.batch == 2 else 1.0)
    )
    with pytest.raises(CarvanaError, match="nan in epoch 2") as caught:
        trainer.fit()
    message = str(caught.value)
    assert samples[bad].name in message
    assert message.count(".jpg") == 4
    assert str(tmp_path / "run" / "model") in message
    carvana.Segmenter.from_pretrained(tmp_path / "run")


def test_a_run_whose_state_was_deleted_keeps_its_network(undisturbed: Run, tmp_path: Path) -> None:
    out = copied(undisturbed, tmp_path)
    shutil.rmtree(out / "state")
    with pytest.raises(RunError, match="its state is gone"):
        resume(out, epochs=5, device="cpu")
    assert model_files(out) == model_files(undisturbed.path)


@pytest.mark.slow
def test_a_longer_training_that_was_killed_in_its_evaluation_is_evaluated(
    undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Run(copied(undisturbed, tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", lambda self: sys.exit(1))
        with pytest.raises(SystemExit):
            resume(out.path, epochs=5, device="cpu")
    assert not out.evaluation_path.exists()
    resume(out.path, device="cpu")
    assert len(out.read_metrics()) == 5
    assert out.read_evaluation()["images"] == 4


def test_a_recipe_that_was_edited_is_refused(undisturbed: Run, tmp_path: Path) -> None:
    out = Run(copied(undisturbed, tmp_path))
    out.write_config(out.read_config().replace({"data.augment": "none"}))
    with pytest.raises(ConfigError, match=r"config\.yaml: was edited"):
        resume(out.path, epochs=5, device="cpu")
    out.write_config(out.read_config().replace({"data.augment": "studio", "data.workers": 0}))
    resume(out.path, device="cpu")


@pytest.mark.slow
def test_an_early_end_by_patience_can_be_extended(tiny_data: Path, tmp_path: Path) -> None:
    config = recipe(tiny_data, epochs=30, patience=1, lr=1e-12, ema=None)
    run = carvana.fit(config, out=tmp_path / "run", device="cpu")
    ended = len(run.read_metrics())
    assert ended < 30
    resume(run.path, epochs=31, device="cpu")
    assert len(run.read_metrics()) > ended


@pytest.mark.parametrize("damage", ["tensors", "generators", "origin", "metrics"])
def test_damage_is_told_in_a_line(undisturbed: Run, tmp_path: Path, damage: str) -> None:
    out = copied(undisturbed, tmp_path)
    path = out / "state" / "state.json"
    record = json.loads(path.read_text())
    if damage == "tensors":
        tensors = out / "state" / record["tensors"]
        data = bytearray(tensors.read_bytes())
        data[-100] ^= 1
        tensors.write_bytes(data)
    else:
        record[damage] = []
        record["progress"] |= {"metrics": None} if damage == "metrics" else {}
        path.write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"state\.json: no readable state") as caught:
        resume(out, epochs=5, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_state_before(tmp_path: Path) -> None:
    script = """
import resource, signal, sys, torch
from pathlib import Path
from carvana.errors import CarvanaError
from carvana.training.checkpoint import Progress, TrainingState, read_state, write_state
folder = Path(sys.argv[1])
origin = {"settings": {}, "processes": 1, "spec": {}}
def state(step):
    return TrainingState(Progress(step=step), {"model/a": torch.full((10000,), float(step))}, {}, [], origin)
write_state(folder, state(1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_state(folder, state(2))
except CarvanaError as error:
    print(error)
assert read_state(folder).progress.step == 1
assert read_state(folder).tensors["model/a"][0] == 1
assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]
"""
    done = forkserver.run(
        [sys.executable, "-c", script, tmp_path / "state"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "is the disk full?" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_trainer_that_was_interrupted_is_not_used_again(tiny_data: Path, tmp_path: Path) -> None:
    data = carvana.SegmentationDataset(carvana.find_samples(tiny_data), (32, 48))
    model = carvana.create_model("one-conv", width=4)
    trainer = Trainer(model, train=data, out=tmp_path / "run", epochs=3, workers=0, device="cpu")
    step, sent = trainer.train_step, []

    def train_step(*args: Any, **place: Any) -> torch.Tensor:
        if not sent:
            sent.append(1)
            signal.raise_signal(signal.SIGTERM)
        return step(*args, **place)

    trainer.train_step = train_step  # type: ignore[method-assign]
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.fit()
    assert caught.value.exit_code == 143
    with pytest.raises(RunError, match="make a new one, with resume=True"):
        trainer.fit()
    with pytest.raises(RunError, match="never overwritten"):
        Trainer(model, train=data, out=Run(tmp_path / "run"), workers=0, device="cpu")


def test_a_reader_that_is_killed_is_told_in_a_line(tiny_data: Path, tmp_path: Path) -> None:
    data = carvana.SegmentationDataset(carvana.find_samples(tiny_data), (32, 48))
    trainer = Trainer(
        carvana.create_model("one-conv", width=4), train=data, out=tmp_path / "run", epochs=50, workers=1, device="cpu"
    )
    step = trainer.train_step

    def train_step(*args: Any, **place: Any) -> torch.Tensor:
        if trainer.duration.step == 4:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
        return step(*args, **place)

    trainer.train_step = train_step  # type: ignore[method-assign]
    with pytest.raises(CarvanaError, match="a reading process was killed"):
        trainer.fit()


def test_two_processes_do_not_train_in_one_run(undisturbed: Run, tmp_path: Path) -> None:
    out = Run(copied(undisturbed, tmp_path))
    with out.held(), pytest.raises(RunError, match="another process is training"):
        resume(out.path, epochs=5, device="cpu")
    resume(out.path, epochs=5, device="cpu")


def test_weights_that_went_wrong_do_not_replace_the_last_good_state(tiny_data: Path, tmp_path: Path) -> None:
    """A gradient may overflow in a step whose loss was still finite."""
    data = carvana.SegmentationDataset(carvana.find_samples(tiny_data), (32, 48))
    model = carvana.create_model("one-conv", width=4)
    trainer = Trainer(model, train=data, out=tmp_path / "run", epochs=3, workers=0, precision="fp32", device="cpu")
    step = trainer.train_step

    def train_step(*args: Any, **place: Any) -> torch.Tensor:
        loss = step(*args, **place)
        if trainer.duration.step == 4:
            next(model.parameters()).data.fill_(float("inf"))
        return loss

    trainer.train_step = train_step  # type: ignore[method-assign]
    with pytest.raises(CarvanaError, match=r"the last good state, of step [123], is in"):
        trainer.fit()
    assert all(bool(torch.isfinite(value).all()) for value in read_state(tmp_path / "run" / "state").tensors.values())
