"""Numbers in training on degenerate data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.commands import carvana as command_line
from faults.fitting import check_sound, fit, recipe, words
from faults.spoilt import EMPTY, FULL, mask, noise, noises, write_pairs
from torch import nn

import carvana
from carvana.errors import DataError, ModelError
from carvana.models.spec import ModelSpec
from carvana.utils.progress import SilentReporter


class Flat(nn.Module):
    """BatchNorm over one value a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).expand(-1, -1, *images.shape[2:])


@pytest.mark.fault(
    done=(
        "a user's network with BatchNorm over one value a channel: batches of 2 of 3 images, so that the last has one"
    ),
    promised="one line that asks for larger batches",
    reaches="training/loader.py: a last batch of one",
)
def test_a_trailing_photo(tiny_data: Path) -> None:
    data = carvana.SegmentationDataset(carvana.find_samples(tiny_data)[:3], (32, 32))
    trainer = carvana.Trainer(Flat(), train=data, epochs=1, batch_size=2, workers=0, device="cpu")
    with pytest.raises(ModelError, match=r"cannot train on one image at a time.*batches of at least 2"):
        trainer.fit()


SMALL = {
    "all masks empty": lambda: (noises(8), [EMPTY] * 8),
    "fewer images than a batch": lambda: (noises(4), [mask()] * 4),
    "all masks full": lambda: (noises(8), [FULL] * 8),
    "one pixel of group": lambda: (noises(8), [mask(height=1, width=1)] * 8),
    "all images black": lambda: ([0 * noise(0)] * 8, [mask()] * 8),
    "all images equal": lambda: ([noise(0)] * 8, [mask()] * 8),
    "two images of two groups": lambda: (noises(2), [mask()] * 2),
}


@pytest.mark.fault(
    done="data without a group, of group alone, of one pixel of it; black and equal images; fewer images than a batch",
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
    done="each loss, and their sum, on a black image and a white one, an empty mask and a full one, logits of 0, 80 "
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
    done=(
        "evaluation of networks that predict foreground everywhere or nowhere, on masks that are all "
        "empty, all full, or both"
    ),
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
        samples = carvana.find_samples(write_pairs(tmp_path / kind, noises(6), masks))
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
    done="data of one group, of one image, and a share of 1 to validate",
    promised="one line that gives their number and what to do",
    reaches="data/splits.py: _count",
)
def test_too_few_to_split(tmp_path: Path, came_out: Callable[..., None]) -> None:
    car = write_pairs(tmp_path / "car", noises(4), [mask()] * 4, views=4)
    photo = write_pairs(tmp_path / "photo", noises(1), [mask()])
    cars = write_pairs(tmp_path / "cars", noises(4), [mask()] * 4)
    with pytest.raises(DataError, match=r"there is one group, which cannot be split.*split.by=image.*split.file"):
        fit(recipe(car), tmp_path / "run")
    with pytest.raises(DataError, match=r"there is one image, which cannot be split.*split.file"):
        fit(recipe(photo, split__by="image"), tmp_path / "run")
    with pytest.raises(DataError, match="holds out 2 of 2 groups and leaves none for training"):
        fit(recipe(cars, split__val=2), tmp_path / "run")
    with pytest.raises(DataError, match="2 folds need as many groups, and there are 1"):
        carvana.data.splits.split_folds(carvana.find_samples(car), folds=2)
    done = command_line(*words(recipe(car), tmp_path / "run"))
    assert "there is one group, which cannot be split" in done.error
    assert not (tmp_path / "run").exists()
    check_sound(fit(recipe(car, split__by="image"), tmp_path / "run"))
    came_out(times=6)


@pytest.mark.fault(
    done="validation images none of which shows a group, and one image alone to validate",
    promised="a run whose numbers are all finite; no interval where there is one group",
    reaches="training/validation.py: _agreement; metrics.py: bootstrap_interval of one group",
    quick=1,
)
@pytest.mark.parametrize("count", [4, 1])
def test_validation_without_a_car(count: int, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", noises(6), [mask()] * 6)
    val = write_pairs(tmp_path / "val", noises(count), [EMPTY] * count)
    run = fit(recipe(data, split__file=str(val), train__loss="bce + dice + lovasz"), tmp_path / "run")
    evaluation = check_sound(run)
    assert evaluation["images"] == count
    assert (None in evaluation["dice_ci95"]) == (count == 1)
    for photo in evaluation["per_image"]:
        assert photo["dice"] in (0.0, 1.0)
