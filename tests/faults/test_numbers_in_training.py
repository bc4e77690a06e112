"""Numbers in training: losses, gradients and weights that are not finite."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.commands import carvana as command_line
from faults.fitting import check_good_state, check_sound, fit, fit_or_fail, model_bytes, recipe, words
from faults.spoilt import LOSS, Spoilt, command, registered

import carvana
from carvana.errors import ModelError
from carvana.run import Run
from carvana.training.signals import NonFiniteLossError
from carvana.utils.progress import SilentReporter


@pytest.fixture(scope="module")
def undisturbed(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Runs in which the loss does nothing, one for each way of training."""
    done: dict[str, Run] = {}

    def run(**changes: Any) -> Run:
        key = repr(sorted(changes.items()))
        if key not in done:
            with registered(Spoilt()):
                done[key] = fit(recipe(tiny_data, **changes), tmp_path_factory.mktemp("undisturbed") / "run")
        return done[key]

    return run


BATCHES = {"the first step": 0, "the middle of an epoch": 5, "the last epoch": 11}
STEPS = {(0, 1): 1, (5, 1): 6, (11, 1): 12, (0, 3): 1, (5, 3): 3, (11, 3): 6}
"""By batch and accumulate: the step that a batch belongs to, where three of four batches are a step, and one."""


@pytest.mark.fault(
    done="a registered loss turned NaN, infinite or minus infinite: at the first step, within an epoch, in the last "
    "one; fp32 and bf16, batches accumulated or not",
    promised="one line with the step, its learning rate and what to do; the last good state goes on to the end of an "
    "undisturbed run",
    reaches="training/trainer.py: _read_sums, _not_finite",
    quick=2,
)
@pytest.mark.parametrize(
    ("value", "when", "precision", "accumulate"),
    [
        ("nan", "the middle of an epoch", "bf16", 3),
        ("inf", "the last epoch", "fp32", 1),
        *(
            case
            for case in itertools.product(("nan", "inf", "-inf"), BATCHES, ("fp32", "bf16"), (1, 3))
            if case not in {("nan", "the middle of an epoch", "bf16", 3), ("inf", "the last epoch", "fp32", 1)}
        ),
    ],
)
def test_a_loss_that_is_no_number(
    value: str, when: str, precision: str, accumulate: int, loss: Spoilt, tiny_data: Path, tmp_path: Path,
    undisturbed: Callable[..., Run],
) -> None:  # fmt: skip
    how = {"train__loss": LOSS, "train__precision": precision, "train__accumulate": accumulate}
    loss.value, loss.batches = value, (BATCHES[when],)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(recipe(tiny_data, **how), tmp_path / "run")
    message, step = str(caught.value), STEPS[BATCHES[when], accumulate]
    assert message.startswith(f"the loss became {value} in epoch {BATCHES[when] // 4 + 1}, step {step} (learning rate ")
    assert "lower train.lr (now 0.01)" in message
    assert ("train.precision fp32" in message) == (precision != "fp32")
    assert "\n" not in message
    check_good_state(Run(tmp_path / "run"))
    loss.value = ""
    again = carvana.resume(tmp_path / "run", device="cpu", reporter=SilentReporter())
    assert model_bytes(again.path) == model_bytes(undisturbed(**how).path)
    assert again.metrics_path.read_bytes() == undisturbed(**how).metrics_path.read_bytes()


@pytest.mark.fault(
    done="carvana fit with a loss that is NaN in its seventh batch, then carvana fit --resume with a sound one",
    promised="exit code 1 and one line; then the end of an undisturbed run",
    reaches="cli/app.py: an error behind the progress bar of a training",
)
def test_the_command_tells_of_it_and_goes_on(tiny_data: Path, tmp_path: Path, undisturbed: Callable[..., Run]) -> None:
    config = recipe(tiny_data, train__loss=LOSS)
    done = command_line(*words(config, tmp_path / "run"), program=command("nan", "6"))
    assert done.error.startswith("the loss became nan in epoch 2, step 7 (learning rate ")
    assert f"is in {tmp_path / 'run' / 'state'}" in done.error
    assert f"--init {tmp_path / 'run'}" in done.error
    again = command_line("fit", "--resume", tmp_path / "run", "--device", "cpu", program=command())
    assert again.code == 0, again
    assert model_bytes(tmp_path / "run") == model_bytes(undisturbed(train__loss=LOSS).path)


@pytest.mark.fault(
    done="a gradient turned infinite while the loss is finite, with clipping and without, with a moving average and "
    "without",
    promised=("a line in the next step, or after the last; no checkpoint and no weights with NaN; then as undisturbed"),
    reaches="training/checkpoint.py: save; training/trainer.py: end_epoch",
    quick=1,
)
@pytest.mark.parametrize(("batch", "clip", "ema"), list(itertools.product((5, 0, 3, 11), (1.0, None), (None, 0.9))))
def test_a_gradient_that_is_infinite(
    batch: int, clip: float | None, ema: float | None, loss: Spoilt, tiny_data: Path, tmp_path: Path,
    undisturbed: Callable[..., Run],
) -> None:  # fmt: skip
    how = {"train__loss": LOSS, "train__clip": clip, "train__ema": ema}
    loss.value, loss.batches = "gradient", (batch,)
    with pytest.raises(NonFiniteLossError, match=r"lower train\.lr \(now 0\.01\)"):
        fit(recipe(tiny_data, **how), tmp_path / "run")
    assert loss.seen <= batch + 2
    check_good_state(Run(tmp_path / "run"))
    loss.value = ""
    again = carvana.resume(tmp_path / "run", device="cpu", reporter=SilentReporter())
    assert model_bytes(again.path) == model_bytes(undisturbed(**how).path)


class Poison(carvana.Callback):
    """Makes a weight NaN at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.trainer: Any = None

    def on_epoch_end(self, record: Any) -> None:
        if record["epoch"] == self.epoch:
            next(self.trainer.model.parameters()).data.fill_(float("nan"))


@pytest.mark.fault(
    done="a callback that makes a weight NaN after an epoch",
    promised="a line in the next epoch; after the last epoch the best weights are restored and saved",
    reaches="training/checkpoint.py: restore",
    quick=0,
)
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_listener_that_breaks_the_network(epoch: int, tiny_data: Path, tmp_path: Path) -> None:
    from carvana.data.splits import split_samples

    split = split_samples(carvana.find_samples(tiny_data), val=1)
    sides = [carvana.SegmentationDataset(side, (32, 48)) for side in (split.train, split.val)]
    poison = Poison(epoch)
    trainer = carvana.Trainer(
        carvana.create_model("unet-ref", width=4), train=sides[0], val=sides[1], out=tmp_path / "run", epochs=3,
        batch_size=4, workers=0, precision="fp32", device="cpu", callbacks=[poison], reporter=SilentReporter(),
    )  # fmt: skip
    poison.trainer = trainer
    if epoch < 3:
        with pytest.raises(NonFiniteLossError, match=f"in epoch {epoch + 1}"):
            trainer.fit()
    else:
        model = trainer.fit()
        assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    check_good_state(Run(tmp_path / "run"))


@pytest.mark.fault(
    done="learning rates of 1e6, 1e30 and 1e-40, AdamW and SGD, fp32 and bf16",
    promised="a line that names the rate and what is kept, or a run whose numbers are all finite",
    reaches="training/optim.py: set_learning_rate",
    quick=1,
)
@pytest.mark.parametrize(
    ("rate", "optimizer", "precision"),
    list(itertools.product((1e6, 1e30, 1e-40), ("adamw", "sgd"), ("fp32", "bf16"))),
)
def test_a_learning_rate_that_is_no_good(
    rate: float, optimizer: str, precision: str, tiny_data: Path, tmp_path: Path, came_out: Callable[..., None]
) -> None:
    config = recipe(tiny_data, train__lr=rate, train__optimizer=optimizer, train__precision=precision)
    message = fit_or_fail(config, tmp_path / "run", NonFiniteLossError)
    if message:
        assert f"lower train.lr (now {rate:g})" in message
        check_good_state(Run(tmp_path / "run"))
    else:
        check_sound(Run(tmp_path / "run"))
    came_out(f"{rate:g}: {'one line' if message else 'a sound run'}")


@pytest.mark.fault(
    done="carvana fit with learning rates of 1e6, 0, -1, NaN and infinity, and fp16 without a GPU",
    promised="exit code 1 and one line that names the key",
    reaches="config.py: TrainConfig; devices.py: resolve_precision",
    quick=0,
)
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.lr=1e6", "lower train.lr (now 1e+06)"),
        ("train.lr=0", "train.lr = 0: "),
        ("train.lr=-1", "train.lr = -1: "),
        ("train.lr=.nan", "train.lr = nan: "),
        ("train.lr=.inf", "train.lr = inf: "),
        ("train.precision=fp16", "precision 'fp16' needs a GPU"),
    ],
)
def test_the_command_refuses_such_settings(setting: str, expected: str, tiny_data: Path, tmp_path: Path) -> None:
    done = command_line(*words(recipe(tiny_data), tmp_path / "run"), f"--set={setting}")
    assert expected in done.error


ONE_BY_ONE = ("unet-ref", "unet/resnet18", "deeplabv3plus/resnet18", "pspnet/resnet18", "fpn/resnet18")


@pytest.mark.fault(
    done="batches of one image of 32x32 through networks with BatchNorm, whose deepest map is 1x1",
    promised="a run whose numbers are all finite, or one line that asks for batches of two",
    reaches="models/segmenter.py: _train_on_one",
    quick=1,
)
@pytest.mark.parametrize("arch", ONE_BY_ONE)
def test_batches_of_one(arch: str, tiny_data: Path, tmp_path: Path, came_out: Callable[..., None]) -> None:
    options = {"width": 4} if arch == "unet-ref" else {}
    config = recipe(
        tiny_data, arch=arch, model__options=options, train__batch_size=1, train__epochs=1, data__size=(32, 32)
    )
    message = fit_or_fail(config, tmp_path / "run", ModelError)
    if message:
        assert message.startswith(f"'{arch}' cannot train on one image at a time")
        assert message.endswith("take batches of at least 2")
    else:
        check_sound(Run(tmp_path / "run"))
    came_out(f"{arch}: {'one line' if message else 'a sound run'}")
