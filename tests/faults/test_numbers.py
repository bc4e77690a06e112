"""Numbers that are none, and data from which little can be learnt."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import broken_networks
import comparing
import numpy as np
import pytest
import torch
from faults.commands import carvana as command_line
from faults.spoilt import EMPTY, FULL, LOSS, NETWORK, Spoilt, command, mask, noise, registered, write_pairs
from torch import nn

import carvana
from carvana.archs.spec import ModelSpec
from carvana.config import FitConfig
from carvana.errors import CarvanaError, DataError, ModelError
from carvana.inference.writing import predict_folder
from carvana.progress import SilentReporter
from carvana.run import Run
from carvana.training.explain import NonFiniteLossError
from carvana.training.find_lr import find_lr
from carvana.training.state import read_state

SETTINGS: dict[str, Any] = {
    "model": {"options": {"width": 4}, "encoder_weights": "none"},
    "data": {"size": [32, 48], "workers": 0},
    "split": {"val": 1},
    "train": {"epochs": 3, "batch_size": 4, "lr": 1e-2, "precision": "fp32"},
}
"""On the tiny cars: 16 photos to train on, 4 batches an epoch."""


def recipe(data: Path, **changes: Any) -> FitConfig:
    """SETTINGS on a data folder; ``train__epochs=1`` changes a key."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return FitConfig(**SETTINGS).replace({"data.root": str(data), **dotted})


def words(config: FitConfig, out: Path) -> list[object]:
    """The same for the command line."""
    values = config.model_dump(mode="json")
    kept = ["model.options", "data.root", "data.size", "data.workers", "split.val"]
    kept += [f"train.{key}" for key in ("epochs", "batch_size", "lr", "precision", "loss", "ema", "clip")]
    pairs = [(key, values[key.split(".")[0]][key.split(".")[1]]) for key in kept]
    told = [f"--set={key}={'null' if value is None else value}" for key, value in pairs]
    return ["fit", "--arch", config.arch, "--out", out, "--device", "cpu", *told]


def fit(config: FitConfig, out: Path) -> Run:
    return carvana.fit(config, out=out, device="cpu", reporter=SilentReporter())


def fit_or_fail(config: FitConfig, out: Path, error: type[CarvanaError]) -> str:
    """The message of a fit that fails; nothing of one that does not."""
    try:
        fit(config, out)
    except error as failure:
        return str(failure)
    return ""


def model_bytes(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "model").iterdir())}


def check_sound(run: Run) -> dict[str, Any]:
    """A finished run whose numbers are all finite, or null; returns its evaluation."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    for line in run.metrics_path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    evaluation: dict[str, Any] = json.loads(run.evaluation_path.read_text(), parse_constant=refuse)
    model = carvana.Segmenter.from_pretrained(run.path)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    return evaluation


def check_good_state(run: Run) -> None:
    """What is written of a training that failed is sound: the state, if there is one, and the best network."""
    if (run.state_path / "state.json").exists():
        assert all(bool(torch.isfinite(value).all()) for value in read_state(run.state_path).tensors.values())
    if run.model_path.exists():
        model = carvana.Segmenter.from_pretrained(run.path)
        assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    for line in run.metrics_path.read_text().splitlines() if run.metrics_path.exists() else ():
        assert math.isfinite(json.loads(line)["train_loss"])


@pytest.fixture
def loss() -> Iterator[Spoilt]:
    """A loss under the name ``spoilt`` that does as it is told."""
    spoilt = Spoilt()
    with registered(spoilt):
        yield spoilt


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
    reaches="training/trainer.py: _hear; training/explain.py: not_finite",
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
    promised="a line in the next step, or behind the last; no state and no network with NaN; then as undisturbed",
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
    done="a listener that makes a weight NaN behind an epoch",
    promised="a line in the next epoch; behind the last one the best network is brought back, and is what is kept",
    reaches="training/best.py: restore",
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
    done="batches of one photo of 32x32 through networks with BatchNorm, whose deepest map is 1x1",
    promised="a run whose numbers are all finite, or one line that asks for batches of two",
    reaches="archs/segmenter.py: _train_on_one",
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
        assert message.startswith(f"'{arch}' cannot train on one photo at a time")
        assert message.endswith("take batches of at least 2")
    else:
        check_sound(Run(tmp_path / "run"))
    came_out(f"{arch}: {'one line' if message else 'a sound run'}")


class Flat(nn.Module):
    """BatchNorm over one value a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).expand(-1, -1, *images.shape[2:])


@pytest.mark.fault(
    done="a network of one's own with BatchNorm over one value a channel: batches of 2 of 3 photos, so that one trails",
    promised="one line that asks for larger batches",
    reaches="training/batches.py: a last batch of one",
)
def test_a_trailing_photo(tiny_data: Path) -> None:
    data = carvana.SegmentationDataset(carvana.find_samples(tiny_data)[:3], (32, 32))
    trainer = carvana.Trainer(Flat(), train=data, epochs=1, batch_size=2, workers=0, device="cpu")
    with pytest.raises(ModelError, match=r"cannot train on one photo at a time.*batches of at least 2"):
        trainer.fit()


def photos(count: int) -> list[np.ndarray]:
    return [noise(number) for number in range(count)]


SMALL = {
    "all masks empty": lambda: (photos(8), [EMPTY] * 8),
    "fewer photos than a batch": lambda: (photos(4), [mask()] * 4),
    "all masks full": lambda: (photos(8), [FULL] * 8),
    "one pixel of car": lambda: (photos(8), [mask(height=1, width=1)] * 8),
    "all photos black": lambda: ([0 * noise(0)] * 8, [mask()] * 8),
    "all photos equal": lambda: ([noise(0)] * 8, [mask()] * 8),
    "two photos of two cars": lambda: (photos(2), [mask()] * 2),
}


@pytest.mark.fault(
    done="data without a car, of car alone, of one pixel of it; black and equal photos; fewer photos than a batch",
    promised="a run whose numbers are all finite, with a threshold inside of 0 to 1",
    reaches="losses.py: SMOOTH; thresholds.py: a curve that is flat",
    quick=2,
)
@pytest.mark.parametrize("what", SMALL)
def test_data_that_teach_little(what: str, tmp_path: Path) -> None:
    images, masks = SMALL[what]()
    data = write_pairs(tmp_path / "data", images, masks, views=1 if len(images) == 2 else 2)
    run = fit(recipe(data, train__batch_size=8, train__epochs=2), tmp_path / "run")
    evaluation = check_sound(run)
    assert 0 < evaluation["threshold"] < 1
    assert evaluation["images"] == (1 if len(images) == 2 else 2)
    assert evaluation["dice_ci95"] == [None, None]  # of one car


@pytest.mark.fault(
    done="each loss, and their sum, on a black photo and a white one, an empty mask and a full one, logits of 0, 80 "
    "and -80, alone in its batch",
    promised="a finite loss, and finite gradients",
    reaches="losses.py: each loss",
)
def test_losses_at_their_ends(came_out: Callable[..., None]) -> None:
    names = [entry.name for entry in registry_losses()]
    count = 0
    for name, value, target, size in itertools.product(
        [*names, " + ".join(names)], (0.0, 80.0, -80.0), (0.0, 1.0), ((1, 1), (1, 7), (16, 16))
    ):
        logits = torch.full((1, 1, *size), value, requires_grad=True)
        loss = carvana.losses.make_loss(name)(logits, torch.full((1, 1, *size), target))
        loss.backward()
        assert math.isfinite(loss.item()), (name, value, target, size)
        assert bool(torch.isfinite(logits.grad).all()), (name, value, target, size)
        count += 1
    came_out(times=count)


def registry_losses() -> list[Any]:
    from carvana.registry import registry

    return [entry for entry in registry.losses.registered() if entry.source == "carvana"]


class Says(nn.Module):
    """The same everywhere."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logit.expand(len(images), 1, *images.shape[2:])


def says(logit: float) -> carvana.Predictor:
    model = carvana.Segmenter(Says(logit), ModelSpec(arch="says", trained_size=(32, 48)))
    return carvana.Predictor(model, device="cpu", precision="fp32")


@pytest.mark.fault(
    done="evaluation of networks that see car everywhere or nowhere, on masks that are all empty, all full, or both",
    promised="Dice 1 where both masks are empty, the numbers of the definition elsewhere, a threshold inside of 0 to 1",
    reaches="metrics.py: _ratio; thresholds.py: _summit",
)
def test_empty_and_full_masks_are_scored_by_definition(tmp_path: Path, came_out: Callable[..., None]) -> None:
    kinds = {"empty": [EMPTY] * 6, "full": [FULL] * 6, "both": [EMPTY] * 4 + [FULL] * 2}
    expected = {
        ("empty", -9.0): 1.0, ("empty", 9.0): 0.0, ("full", -9.0): 0.0, ("full", 9.0): 1.0,
        ("both", -9.0): 4 / 6, ("both", 9.0): 2 / 6,
    }  # fmt: skip
    for kind, masks in kinds.items():
        samples = carvana.find_samples(write_pairs(tmp_path / kind, photos(6), masks))
        for logit in (-9.0, 9.0):
            numbers = carvana.evaluate(says(logit), samples, reporter=SilentReporter())
            assert numbers.dice_at_half == numbers.dice_as_predicted == pytest.approx(expected[kind, logit])
            best = 4 / 6 if kind == "both" and logit == -9.0 else expected[kind, logit]
            assert 0 < numbers.threshold < 1
            assert numbers.dice_ci95 is not None
            assert all(math.isfinite(value) for value in (numbers.dice, numbers.boundary_dice, *numbers.dice_ci95))
            if kind != "both":
                assert numbers.dice == numbers.boundary_dice == pytest.approx(best)
    came_out(times=6)


@pytest.mark.fault(
    done="data of one car, of one photo, and a share of 1 to validate",
    promised="one line that tells how many there are and what to do",
    reaches="data/splits.py: _count",
)
def test_too_few_to_split(tmp_path: Path, came_out: Callable[..., None]) -> None:
    car = write_pairs(tmp_path / "car", photos(4), [mask()] * 4, views=4)
    photo = write_pairs(tmp_path / "photo", photos(1), [mask()])
    cars = write_pairs(tmp_path / "cars", photos(4), [mask()] * 4)
    with pytest.raises(DataError, match=r"one of the cars to split.*split.by=image.*split.file"):
        fit(recipe(car), tmp_path / "run")
    with pytest.raises(DataError, match=r"one of the photos to split.*split.file"):
        fit(recipe(photo, split__by="image"), tmp_path / "run")
    with pytest.raises(DataError, match="holds out 2 of 2 cars and leaves none for training"):
        fit(recipe(cars, split__val=2), tmp_path / "run")
    with pytest.raises(DataError, match="2 folds need as many cars, and there are 1"):
        carvana.data.splits.split_folds(carvana.find_samples(car), folds=2)
    done = command_line(*words(recipe(car), tmp_path / "run"))
    assert "one of the cars to split" in done.error
    assert not (tmp_path / "run").exists()
    check_sound(fit(recipe(car, split__by="image"), tmp_path / "run"))
    came_out(times=6)


@pytest.mark.fault(
    done="validation photos none of which shows a car, and one photo alone to validate",
    promised="a run whose numbers are all finite; no interval where there is one car",
    reaches="training/validation.py: _agreement; metrics.py: bootstrap_interval of one group",
    quick=1,
)
@pytest.mark.parametrize("count", [4, 1])
def test_validation_without_a_car(count: int, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", photos(6), [mask()] * 6)
    val = write_pairs(tmp_path / "val", photos(count), [EMPTY] * count)
    run = fit(recipe(data, split__file=str(val), train__loss="bce + dice + lovasz"), tmp_path / "run")
    evaluation = check_sound(run)
    assert evaluation["images"] == count
    assert (None in evaluation["dice_ci95"]) == (count == 1)
    for photo in evaluation["per_image"]:
        assert photo["dice"] in (0.0, 1.0)


WHITE = np.full((40, 60, 3), 255, np.uint8)


def white_among(root: Path, *, at: int = 2) -> Path:
    images = photos(6)
    images[at] = WHITE
    return write_pairs(root, images, [mask()] * 6)


@pytest.mark.fault(
    done="a network that gives NaN for one photo alone: in training, validation, evaluation and prediction",
    promised="one line that names the photo",
    reaches="inference/stream.py: NotANumberError; training/validation.py: not_finite",
)
def test_a_network_that_fails_on_one_photo(tmp_path: Path, loss: Spoilt, came_out: Callable[..., None]) -> None:
    data = white_among(tmp_path / "white")
    white = "000000000001_01.png"
    others = write_pairs(tmp_path / "others", photos(6), [mask()] * 6)
    common = {"arch": NETWORK, "model__options": {}, "train__batch_size": 1, "train__epochs": 1}
    with pytest.raises(NonFiniteLossError, match=f"at the photos {white}, "):
        fit(recipe(data, split__file=str(others), **common), tmp_path / "train")
    with pytest.raises(NonFiniteLossError, match=rf"on 1 validation photos \({white}\)"):
        fit(recipe(others, split__file=str(data), **common), tmp_path / "val")
    run = fit(recipe(others, **common), tmp_path / "run")
    model = carvana.Segmenter.from_pretrained(run.path)
    predictor = carvana.Predictor(model, device="cpu", precision="fp32")
    with pytest.raises(ModelError, match=f"{white}: {NETWORK} gives NaN in fp32"):
        carvana.evaluate(predictor, carvana.find_samples(data), reporter=SilentReporter())
    with pytest.raises(ModelError, match=f"{white}: {NETWORK} gives NaN in fp32"):
        predict_folder(predictor, sorted((data / "images").iterdir()), out=tmp_path / "masks")
    assert len(list((tmp_path / "masks").glob("*_mask.png"))) < 6
    came_out(times=4)


@pytest.mark.fault(
    done="carvana predict and carvana submit with such a network, then again without the photo",
    promised="exit code 1 and one line that names the photo; what was done is kept, and the rest is done then",
    reaches="inference/writing.py and inference/submission.py: an error of the network",
    quick=0,
)
@pytest.mark.parametrize("work", ["predict", "submit"])
def test_commands_with_such_a_network(work: str, tmp_path: Path, loss: Spoilt) -> None:
    data = white_among(tmp_path / "white", at=5) / "images"
    run = fit(
        recipe(write_pairs(tmp_path / "others", photos(6), [mask()] * 6), arch=NETWORK, model__options={},
               train__epochs=1), tmp_path / "run",
    )  # fmt: skip
    out = tmp_path / ("masks" if work == "predict" else "table.csv.gz")
    asked = (work, run.path, data, "--out", out, "--device", "cpu")
    done = command_line(*asked, program=command())
    assert done.error.startswith(f"{data / '000000000002_02.png'}: {NETWORK} gives NaN in fp32")
    (data / "000000000002_02.png").unlink()
    if work == "submit":
        shutil.rmtree(out.with_name(f"{out.name}.parts"))  # of other photos
    again = command_line(*asked, program=command())
    assert again.code == 0, again
    if work == "predict":
        assert len(list(out.glob("*_mask.png"))) == 5
    else:
        assert "5 rows in" in again.out


@pytest.mark.fault(
    done="the learning rate finder with a loss that is NaN at once, in the second step, and half way up",
    promised="one line that tells what to look at, or a rate from what was seen before",
    reaches="training/find_lr.py: RateTest.of",
)
def test_find_lr_where_the_loss_explodes(loss: Spoilt, tiny_data: Path, came_out: Callable[..., None]) -> None:
    loss.value = "inf"
    for first in (0, 1):
        loss.seen, loss.batches = 0, range(first, 1000)
        with pytest.raises(CarvanaError, match=r"the loss fell at no learning rate: .*train.loss"):
            find_lr(recipe(tiny_data, train__loss=LOSS), device="cpu", reporter=SilentReporter())
    loss.seen, loss.batches = 0, range(70, 1000)
    found = find_lr(recipe(tiny_data, train__loss=LOSS), device="cpu", reporter=SilentReporter())
    assert len(found.losses) == 70
    assert found.rates[0] < found.suggestion < found.rates[-1]
    came_out(times=3)


@pytest.mark.fault(
    done="carvana fit --find-lr with a loss that is NaN at once",
    promised="exit code 1 and one line",
    reaches="cli/find_lr.py",
    quick=0,
)
def test_the_command_finds_no_rate(tiny_data: Path, tmp_path: Path) -> None:
    asked = words(recipe(tiny_data, train__loss=LOSS), tmp_path / "curve.png")
    done = command_line(*asked, "--find-lr", program=command("nan", ",".join(map(str, range(200)))))
    assert done.error.startswith("the loss fell at no learning rate: ")


@pytest.mark.fault(
    done="a comparison of three networks, of which one gives NaN from its second epoch on",
    promised="its row says why; the others are ranked",
    reaches="compare/course.py: a fit that fails by NaN",
    quick=0,
)
def test_a_comparison_with_a_network_that_gives_nan(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_networks.register(monkeypatch)
    broken_networks.registry.archs.register("nan", "faults.spoilt:nan_soon")
    board = carvana.compare(
        ["plain", "nan", "small=unet-ref"], comparing.recipe(tiny_data, model__options={}, train__epochs=2),
        settings=["small:model.options={width: 4}"], out=tmp_path / "board", device="cpu", reporter=SilentReporter(),
    )  # fmt: skip
    rows = {row.name: row for row in board.rows}
    assert rows["nan"].status.startswith("failed: the loss became nan in epoch 2, step ")
    assert rows["nan"].dice is None
    for name in ("plain", "small"):
        assert rows[name].status == "ok"
        assert 0 <= rows[name].dice <= 1
