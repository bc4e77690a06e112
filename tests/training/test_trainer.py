from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carvana.data.dataset import SegmentationDataset
from carvana.data.samples import find_samples
from carvana.data.splits import split_samples
from carvana.errors import CarvanaError, ConfigError, RunError
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec
from carvana.training.optim import Duration
from carvana.training.trackers import Tracker
from carvana.training.trainer import Trainer
from tests.scenes import OVERLAPPING, of_colours, write_overlapping

pytestmark = pytest.mark.usefixtures("quick_fits")


@pytest.fixture(scope="module")
def sides(tiny_data: Path) -> tuple[SegmentationDataset, SegmentationDataset]:
    split = split_samples(find_samples(tiny_data), val=1)
    train = SegmentationDataset(split.train, (32, 48), augment="seed")
    return train, SegmentationDataset(split.val, (32, 48))


def small(seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    return create_model("one-conv", width=8)


class Listener:
    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.ended = False

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)

    def on_fit_end(self) -> None:
        self.ended = True


def test_a_training_learns_and_leaves_its_best_network(tmp_path: Path, sides: Any) -> None:
    listener = Listener()
    torch.manual_seed(0)
    model = create_model("unet-ref", width=8)  # which can learn
    trainer = Trainer(
        model, train=sides[0], val=sides[1], out=tmp_path / "run", epochs=12, batch_size=4, lr=3e-3,
        precision="fp32", workers=0, callbacks=[listener],
    )  # fmt: skip
    best = trainer.fit()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, 13))
    assert [
        {name: told[name] for name in written} for told, written in zip(listener.records, records, strict=True)
    ] == records
    assert all(told["images_per_s"] > 0 for told in listener.records)
    assert listener.ended
    assert records[-1]["train_loss"] < records[0]["train_loss"] / 1.5
    assert max(record["val_dice"] for record in records) > 0.7  # everything foreground gives about 0.35

    saved = Segmenter.from_pretrained(tmp_path / "run" / "model")
    assert saved.spec.trained_size == (32, 48)
    best_record = max(records, key=lambda record: record["val_dice"])
    assert trainer.measure(saved).score == pytest.approx(best_record["val_dice"], abs=1e-6)
    assert all(torch.equal(value, best.state_dict()[name]) for name, value in saved.state_dict().items())


def test_the_first_epochs_number_means_something_despite_keras_momentum(sides: Any) -> None:
    """With running averages of momentum 0.99, five steps would leave evaluation at its first statistics."""
    trainer = Trainer(small(), train=sides[0], val=sides[1], epochs=1, batch_size=4, workers=0, precision="fp32")
    trainer.train_epoch(0)
    lagging = trainer.measure(trainer.model)
    refreshed = trainer.validate()
    assert refreshed is not None
    assert refreshed.loss < lagging.loss


def test_the_same_seed_gives_the_same_weights_whatever_reads(sides: Any) -> None:
    states = []
    for workers in (0, 2):
        trainer = Trainer(small(), train=sides[0], val=sides[1], epochs=2, batch_size=4, workers=workers, ema=0.9)
        states.append(trainer.fit().state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_accumulated_batches_give_the_gradients_of_a_large_one(sides: Any) -> None:
    """BatchNorm sees batches, so the network of this test has none."""
    plain = SegmentationDataset(sides[0].samples, (32, 48))

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layers(images)

    weights = []
    for batch_size, accumulate in ((8, 1), (4, 2)):
        trainer = Trainer(
            Plain(), train=plain, epochs=2, batch_size=batch_size, accumulate=accumulate, loss="bce",
            optimizer="sgd", precision="fp32", workers=0, clip=None,
        )  # fmt: skip
        weights.append(trainer.fit().state_dict())
        assert trainer.duration.step == 2 * (len(plain) // 8)
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-6, rtol=1e-4)


def test_a_data_set_of_ones_own_is_what_is_read(sides: Any) -> None:
    seen = []

    class Dark(SegmentationDataset):
        def __getitem__(self, key: Any) -> tuple[torch.Tensor, ...]:
            image, *targets = super().__getitem__(key)
            seen.append(key)
            return torch.zeros_like(image), *targets

    train = Dark(sides[0].samples, (32, 48))
    trainer = Trainer(small(), train=train, val=sides[1], epochs=2, batch_size=4, workers=0)
    (images, packed), _ = next(iter(trainer.train_loader))
    assert not images.any()
    assert torch.equal(packed[0], train.packed(seen[0])[1])
    trainer.fit()
    assert {key[0] for key in seen} == {0, 1}


def test_with_an_average_the_network_itself_is_left_in_its_best_state(sides: Any) -> None:
    model = small()
    best = Trainer(model, train=sides[0], val=sides[1], epochs=2, batch_size=4, workers=0, ema=0.9).fit()
    assert not model.training
    assert all(torch.equal(value, best.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_moving_average_is_what_is_kept(sides: Any) -> None:
    trainer = Trainer(small(), train=sides[0], epochs=4, batch_size=4, workers=0, ema=0.6, precision="fp32")
    expected: dict[str, torch.Tensor] = {}
    step = trainer.train_step

    def recording(images: torch.Tensor, targets: torch.Tensor, **place: Any) -> torch.Tensor:
        loss = step(images, targets, **place)
        done = trainer.duration.step - 1
        decay = min(0.6, (1 + done) / (10 + done))
        for name, value in trainer.model.named_parameters():
            last = expected.get(name)
            expected[name] = value.detach().clone() if last is None else last * decay + value.detach() * (1 - decay)
        return loss

    trainer.train_step = recording  # type: ignore[method-assign]
    kept = trainer.fit()
    for name, value in kept.named_parameters():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)


def test_a_network_of_ones_own_trains_and_reads_back(tmp_path: Path, sides: Any) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 1, 3, padding=1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer(images)

    trained = Trainer(Mine(), train=sides[0], val=sides[1], out=tmp_path / "run", epochs=1, workers=0).fit()
    again = Segmenter.from_pretrained(tmp_path / "run", network=Mine())
    assert torch.equal(again.network.layer.weight, trained.network.layer.weight)


def test_a_network_trained_twice_gets_the_precision_of_each(sides: Any) -> None:
    model, seen = small(), []
    model.network.register_forward_hook(lambda module, inputs, logits: seen.append(logits.dtype))
    for precision in ("bf16", "fp32", "bf16"):
        seen.clear()
        Trainer(model, train=sides[0], epochs=1, batch_size=8, workers=0, precision=precision).train_epoch(0)
        assert set(seen) == {torch.float32 if precision == "fp32" else torch.bfloat16}
        seen.clear()
        Trainer(model, train=sides[0], epochs=1, batch_size=8, workers=0, precision=precision).fit()
        assert set(seen) == {torch.float32 if precision == "fp32" else torch.bfloat16}


def test_clipping_bounds_a_step(sides: Any) -> None:
    moved = []
    for clip in (None, 1e-4):
        model = small()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        Trainer(
            model, train=sides[0], epochs=1, batch_size=16, workers=0, precision="fp32", optimizer="sgd",
            lr=1.0, weight_decay=0.0, clip=clip, schedule="constant", warmup=0.0,
        ).fit()  # fmt: skip
        pairs = zip(before, model.parameters(), strict=True)
        moved.append(math.sqrt(sum((old - new).square().sum().item() for old, new in pairs)))
    assert moved[1] < 3e-4 < moved[0]  # one step of rate 1; Nesterov's momentum adds 0.9


def test_a_single_step_moves_the_weights(sides: Any) -> None:
    model = small()
    first = next(model.parameters()).detach().clone()
    Trainer(model, train=sides[0], epochs=1, batch_size=16, workers=0, precision="fp32").fit()
    assert not torch.equal(first, next(model.parameters()))


def test_validation_sees_the_same_crops_each_time(tiny_data: Path) -> None:
    samples = find_samples(tiny_data)
    crops = SegmentationDataset(samples, (32, 32), mode="crop")
    trainer = Trainer(small(), train=crops, val=crops, epochs=1, workers=0, precision="fp32")
    assert trainer.measure(trainer.model) == trainer.measure(trainer.model)


class AllCar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.level + 0 * images[:, :1]


@pytest.mark.parametrize("mode", ["resize", "crop"])
def test_dice_is_that_of_a_photo_or_of_all_pixels_of_crops(mode: Any, tiny_data: Path) -> None:
    data = SegmentationDataset(find_samples(tiny_data), (32, 32), mode=mode)
    model = Segmenter(AllCar(), ModelSpec(arch="all-car", mean=(0, 0, 0), std=(1, 1, 1)))
    found = Trainer(model, train=data, val=data, epochs=1, workers=0, precision="fp32", batch_size=3).measure(model)
    car = torch.stack([(data[0, index][1] > 0.5).sum() for index in range(len(data))]).double()
    singly, together = (2 * car / (32 * 32 + car)).mean(), 2 * car.sum() / (32 * 32 * len(data) + car.sum())
    assert found.score == pytest.approx(float(together if mode == "crop" else singly))
    assert abs(singly - together) > 1e-3


def test_the_rate_falls_along_its_schedule(sides: Any) -> None:
    listener = Listener()
    Trainer(
        small(), train=sides[0], epochs=3, batch_size=4, workers=0, lr=0.01, schedule="constant", callbacks=[listener]
    ).fit()
    assert [record["lr"] for record in listener.records] == [0.01, 0.01, 0.01]


def test_two_trainings_of_different_precision_in_one_process(sides: Any) -> None:
    for precision in ("bf16", "fp32"):
        trainer = Trainer(small(), train=sides[0], epochs=1, batch_size=8, workers=0, precision=precision)
        trainer.fit()
        assert trainer.accelerator.mixed_precision == {"fp32": "no", "bf16": "bf16"}[precision]


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_returned_network_computes_in_full_precision_again(tmp_path: Path, sides: Any, ema: float | None) -> None:
    best = Trainer(
        small(), train=sides[0], val=sides[1], out=tmp_path / "run", epochs=1, workers=0, precision="bf16", ema=ema
    ).fit()
    images = torch.stack([sides[1][index][0] for index in range(4)])
    with torch.no_grad():
        logits = best(images)
        again = Segmenter.from_pretrained(tmp_path / "run").to(memory_format=torch.channels_last)(images)
    assert torch.equal(logits, again)


@pytest.mark.slow
def test_a_compiled_training_gives_the_same_numbers(sides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dynamo's own backend: inductor needs a C++ compiler, which a machine may lack."""
    monkeypatch.setattr(Trainer, "compile_backend", "eager")
    states = []
    for compiled in (False, True):
        trainer = Trainer(
            small(), train=sides[0], epochs=1, batch_size=8, workers=0, precision="fp32", compile=compiled
        )
        states.append(trainer.fit().state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-5, rtol=1e-4)


def test_minutes_end_a_training_in_the_middle_of_an_epoch(sides: Any) -> None:
    listener = Listener()
    trainer = Trainer(small(), train=sides[0], val=sides[1], minutes=1.0, batch_size=4, workers=0, callbacks=[listener])
    ticks = iter(range(10**6))
    trainer.duration = Duration(trainer.settings, len(trainer.train_batches.sizes), clock=lambda: float(next(ticks)))
    trainer.fit()
    assert 60 <= trainer.duration.seconds < 90  # every look at this clock costs a second, a step has several
    assert trainer.duration.step % len(trainer.train_batches.sizes) != 0
    assert listener.records[-1]["lr"] < 1e-4


def test_patience_ends_a_training_that_gets_no_better(sides: Any) -> None:
    listener = Listener()
    trainer = Trainer(
        small(),
        train=sides[0],
        val=sides[1],
        epochs=50,
        lr=1e-12,
        warmup=0,
        patience=2,
        workers=0,
        callbacks=[listener],
    )
    trainer.fit()
    assert len(listener.records) < 10


def test_a_diverging_training_says_so_and_keeps_the_best(tmp_path: Path, sides: Any) -> None:
    trainer = Trainer(
        small(), train=sides[0], val=sides[1], out=tmp_path / "run", epochs=9, loss="bce", workers=0, precision="fp32"
    )
    calls = iter(range(10**6))
    loss = trainer.loss
    trainer.loss = lambda logits, targets: loss(logits, targets) * (float("nan") if next(calls) > 12 else 1.0)
    with pytest.raises(CarvanaError, match=r"nan.*train\.lr.*model"):
        trainer.fit()
    Segmenter.from_pretrained(tmp_path / "run")


def test_an_existing_run_is_never_overwritten(tmp_path: Path, sides: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="--out"):
        Trainer(small(), train=sides[0], out=tmp_path, workers=0)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"workers": -1}, "workers"),
        ({"workers": "many"}, "workers"),
        ({"epoch": 3}, "epochs"),
        ({"lr": 0}, "lr"),
        ({"device": "gpu"}, "device"),
    ],
)
def test_settings_that_cannot_be_are_told_and_leave_no_folder(
    tmp_path: Path, sides: Any, changes: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        Trainer(small(), train=sides[0], out=tmp_path / "run", **{"workers": 0, **changes})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"encoder_lr": 0.1}, {"freeze_encoder": True}])
def test_settings_about_an_encoder_need_one(sides: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no encoder of its own"):
        Trainer(nn.Conv2d(3, 1, 1), train=sides[0], workers=0, **changes)


def test_tensorboard_gets_every_number(tmp_path: Path, sides: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(
        small(),
        train=sides[0],
        val=sides[1],
        epochs=2,
        workers=0,
        callbacks=[Tracker("tensorboard", folder=tmp_path / "tb")],
    ).fit()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert len(events.Scalars("val_dice")) == 2


def test_of_classes_that_overlap_an_epoch_counts_by_the_images_that_hold_each(tmp_path: Path) -> None:
    """Over all images, a network that predicts nothing of a rare class would be better than one that finds it."""
    samples = find_samples(write_overlapping(tmp_path, 6, groups=3))
    data = SegmentationDataset(samples, (48, 64), task=OVERLAPPING)
    trainer = Trainer(of_colours(), train=data, val=data, epochs=1, batch_size=4, workers=0, precision="fp32")
    model = of_colours().eval()
    expected = []
    with torch.no_grad():
        found = torch.cat([model(data[index][0][None]) for index in range(len(data))]) > 0
    true = torch.stack([data[index][1] for index in range(len(data))]) > 0.5
    for own, truth in zip(found.unbind(1), true.unbind(1), strict=True):
        held = [index for index in range(len(data)) if truth[index].any()]
        dices = [2 * (own[i] & truth[i]).sum() / (own[i].sum() + truth[i].sum()) for i in held]
        expected.append(float(torch.stack(dices).mean()))
    assert not true[:, 2].flatten(1).any(1).all()  # the dot is in some images alone
    assert trainer.measure(model).score == pytest.approx(sum(expected) / 3, abs=1e-6)
