from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from typer.testing import CliRunner

from carvana.cli.app import app
from carvana.config import FitConfig
from carvana.data.splits import make_split
from carvana.errors import CarvanaError
from carvana.losses import make_loss
from carvana.training.find_lr import DIVERGED, RateTest, find_lr, smooth
from carvana.training.setup import build_model, datasets

pytestmark = pytest.mark.usefixtures("quick_fits")

TINY = {
    "arch": "one-conv",
    "model": {"options": {"width": 4}},
    "data": {"size": [32, 48], "workers": 0},
    "split": {"val": 1},
    "train": {"batch_size": 8, "precision": "fp32"},
}


def recipe(data: Path, **changes: Any) -> FitConfig:
    return FitConfig(**TINY).replace({"data.root": str(data), **{k.replace("__", "."): v for k, v in changes.items()}})


def test_the_rate_rises_exponentially_and_the_suggestion_lies_where_the_loss_falls(tiny_data: Path) -> None:
    test = find_lr(recipe(tiny_data), device="cpu")
    assert (test.rates[0], test.rates[-1]) == (pytest.approx(1e-6), pytest.approx(1.0))
    np.testing.assert_allclose(np.diff(np.log(test.rates)), np.log(1e6) / 99)
    assert 1e-4 < test.suggestion < 0.3  # AdamW, this network and these cars learn between
    at = int(np.searchsorted(test.rates, test.suggestion))
    assert test.smoothed[at - 3] > test.smoothed[at] > test.smoothed[at + 3]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_are_those_of_a_plain_loop_with_rising_rates(tiny_data: Path, accumulate: int) -> None:
    config = recipe(
        tiny_data, train__optimizer="sgd", train__clip=None, train__weight_decay=0.0, train__accumulate=accumulate,
        train__batch_size=6, data__augment="none",
    )  # fmt: skip
    losses = find_lr(config, device="cpu", steps=12).losses

    torch.manual_seed(config.train.seed)
    layout = {"memory_format": torch.channels_last}  # rounds as fit does: such small batches amplify any difference
    model = build_model(config).to(**layout)
    train, _ = datasets(config, make_split(config.data, config.split))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, nesterov=True)
    loss_of, expected, epoch, parts = make_loss(config.train.loss), [], -1, []
    model.train()
    for rate in np.geomspace(1e-6, 1, 12):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        total = 0.0
        for _ in range(accumulate):
            if not parts:
                epoch += 1
                order = np.random.default_rng((config.train.seed, epoch)).permutation(len(train))
                parts = np.array_split(order, 3)
            images, targets = (
                torch.stack(column) for column in zip(*(train[int(i)] for i in parts.pop(0)), strict=True)
            )
            loss = loss_of(model(images.contiguous(**layout)), targets) / accumulate
            loss.backward()
            total += loss.item()
        optimizer.step()
        expected.append(total)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_a_test_changes_and_writes_nothing_and_repeats(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = recipe(tiny_data)
    first, second = (find_lr(config, device="cpu", steps=25) for _ in range(2))
    np.testing.assert_array_equal(first.losses, second.losses)
    assert config == recipe(tiny_data)
    assert not list(tmp_path.iterdir())


def test_a_diverging_test_ends_early(tiny_data: Path) -> None:
    config = recipe(tiny_data, train__optimizer="sgd", train__clip=None, train__loss="500*bce")
    test = find_lr(config, device="cpu")
    assert len(test.rates) < 100
    assert len(test.rates) == len(test.losses)
    assert np.isfinite(test.losses).all()
    for count in range(1, len(test.losses)):  # as it was seen then: what comes later moves the smoothed curve
        seen = smooth(test.losses[:count])
        assert seen[-1] <= DIVERGED * seen.min()


def curve(steepest: float, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A loss that falls from 2 to 1 over two decades, most steeply at a rate, and explodes two decades further on."""
    rates = np.geomspace(1e-6, 1, 100)
    distance = np.log10(rates / steepest)
    losses = 2 - 1 / (1 + np.exp(-4 * distance)) + np.where(distance > 1.5, 10 * (distance - 1.5) ** 2, 0)
    return rates, losses + np.random.default_rng(0).normal(0, noise, 100)


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("steepest", [1e-4, 1e-3, 1e-2])
def test_the_suggestion_is_where_the_loss_falls_most_steeply(steepest: float, noise: float) -> None:
    test = RateTest.of(*curve(steepest, noise))
    assert steepest / 2 < test.suggestion < 2 * steepest
    assert test.tenth_of_lowest < 10 ** (np.log10(steepest) + 1)


def test_what_comes_after_a_rise_is_not_looked_at() -> None:
    rates, losses = curve(1e-4)
    losses[60:] = np.linspace(3, 0.2, 40)  # down again from the peak, further and more steeply
    test = RateTest.of(rates, losses)
    assert 5e-5 < test.suggestion < 2e-4
    assert test.tenth_of_lowest < 1e-3


def test_noise_before_the_loss_falls_is_no_rise() -> None:
    rates, losses = curve(1e-3)
    losses[3:9] -= 0.3
    assert 5e-4 < RateTest.of(rates, losses).suggestion < 2e-3


def test_a_loss_that_never_falls_is_told() -> None:
    with pytest.raises(CarvanaError, match="fell at no learning rate"):
        RateTest.of(np.geomspace(1e-6, 1, 50), np.linspace(1, 2, 50))
    with pytest.raises(CarvanaError, match="fell at no learning rate"):
        RateTest.of(np.empty(0), np.empty(0))


def test_smoothing_is_gaussian_and_holds_at_both_ends() -> None:
    values = np.random.default_rng(0).random(80)
    np.testing.assert_allclose(smooth(values)[20:-20], gaussian_filter1d(values, 3, truncate=20)[20:-20], atol=1e-6)
    np.testing.assert_allclose(smooth(np.full(10, 0.7)), 0.7)


def test_the_command_prints_a_suggestion_and_draws_the_losses(tiny_data: Path, tmp_path: Path) -> None:
    settings = ["model.options.width=4", "data.size=[32, 48]", "data.workers=0", "split.val=1"]
    words = ["fit", "--data", tiny_data, "--find-lr", "--device", "cpu", "--out", tmp_path / "lr"]
    words += [word for setting in settings for word in ("--set", setting)]
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert "--set train.lr=" in result.stdout
    suggestion = float(result.stdout.partition("suggestion")[2].split(",")[0])
    assert 1e-6 <= suggestion <= 1
    assert [path.name for path in tmp_path.rglob("*.*")] == ["lr.png"]
    with Image.open(tmp_path / "lr" / "lr.png") as picture:
        assert picture.size == (800, 480)
