"""Learning rate finder: a short training with a rising rate, and the rate at which the loss fell fastest."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from carvana.config import FitConfig
from carvana.data.target import unpack
from carvana.errors import CarvanaError
from carvana.evaluation.plots import rate_curve
from carvana.training.optim import set_learning_rate, train_mode
from carvana.training.setup import build_model, check, check_alone, datasets, new_split, with_data, with_images
from carvana.training.trainer import Trainer
from carvana.utils.progress import Reporter, default_reporter

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 100
DIVERGED = 4.0
"""The test ends when the smoothed loss is this many times its best."""

_RISE = 0.1  # of the whole descent: what is more than noise
_FALLEN = 1 / 3  # of the whole descent: before that, where rates are too small to learn, a rise is noise
_WIDTH = 3.0  # steps: the standard deviation of the smoothing


@dataclass(frozen=True, eq=False)
class RateTest:
    """The result of a learning rate test.

    Attributes:
        rates: (N,), rising by equal factors.
        losses: (N,), of the batch that each rate's step was taken on.
        smoothed: (N,), the losses averaged with those of the steps around them.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]

    @classmethod
    def of(cls, rates: NDArray[np.float64], losses: NDArray[np.float64]) -> Self:
        """Make the result from rates and losses.

        Raises:
            CarvanaError: the loss fell at no rate.
        """
        smoothed = smooth(losses)
        if len(losses) < 3 or int(np.argmin(smoothed)) == 0:
            raise CarvanaError(
                "the loss fell at no learning rate: check the masks (`carvana data check`) and train.loss, or set "
                "train.precision=fp32"
            )
        return cls(rates, losses, smoothed)

    @property
    def suggestion(self) -> float:
        """The rate at which the smoothed loss falls most steeply over the rate's logarithm, to two digits."""
        return _two_digits(self.rates[int(np.argmin(np.gradient(self.smoothed)[: self._lowest + 1]))])

    @property
    def tenth_of_lowest(self) -> float:
        """A tenth of the rate at which the smoothed loss is lowest, another usual choice, to two digits."""
        return _two_digits(self.rates[self._lowest] / 10)

    @property
    def _lowest(self) -> int:
        """The place of the lowest loss before its first real rise: with BatchNorm the loss can fall again later."""
        best = np.minimum.accumulate(self.smoothed)
        descent = self.smoothed[0] - best[-1]
        risen = (self.smoothed > best + _RISE * descent) & (best < self.smoothed[0] - _FALLEN * descent)
        end = int(np.argmax(risen)) if risen.any() else len(self.smoothed)
        return int(np.argmin(self.smoothed[:end]))

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw losses over rates, with both suggestions, as a PNG."""
        marks = {"steepest descent": self.suggestion, "a tenth of the lowest": self.tenth_of_lowest}
        rate_curve(self.rates, self.losses, self.smoothed, marks, path)


def find_lr(
    config: FitConfig,
    *,
    init: str | os.PathLike[str] | None = None,
    device: str = "auto",
    steps: int = STEPS,
    reporter: Reporter | None = None,
) -> RateTest:
    """Find a learning rate for a config: train some steps while the rate rises from 1e-6 to 1.

    The range test of Smith 2017 (Cyclical Learning Rates for Training Neural Networks, WACV,
    https://doi.org/10.1109/WACV.2017.58), with rates that rise exponentially. Images, augmentation, batch size,
    optimizer and first weights are the config's; the test ends early when the loss diverges. Nothing is written.

    Args:
        config: The config; of ``train.lr`` and ``train.encoder_lr`` only the ratio matters.
        init: A run or model folder to take all weights from.
        device: auto, cpu or cuda.
        steps: Steps of the optimizer.
        reporter: Shows progress.

    Raises:
        ConfigError, DataError, ModelError: as for :func:`carvana.fit`.
        CarvanaError: the loss fell at no rate.

    Example:
        >>> find_lr(FitConfig(data={"root": "images"})).suggestion  # doctest: +SKIP
        0.0021
    """
    reporter = reporter or default_reporter()
    check_alone("learning rates are tried")
    config = check(config, device=device, reporter=reporter)
    model = build_model(config, init=init, reporter=reporter)
    config = with_data(config, reporter=reporter)
    config, model, split = with_images(config, model, new_split(config, reporter=reporter), reporter=reporter)
    train, _ = datasets(config, split, reporter=reporter)
    trainer = Trainer(
        model, train=train, settings=config.train, device=device, workers=config.data.workers, reporter=reporter
    )
    rates = np.geomspace(LOWEST, HIGHEST, steps)
    with closing(trainer):
        losses = _losses(trainer, rates, reporter)
    return RateTest.of(rates[: len(losses)], np.array(losses))


def smooth(values: NDArray[np.float64], width: float = _WIDTH) -> NDArray[np.float64]:
    """Average values (N,) with their neighbours, Gaussian weights with a standard deviation of ``width`` places.

    >>> smooth(np.array([1.0, 1.0, 1.0])).round(6).tolist()
    [1.0, 1.0, 1.0]
    """
    places = np.arange(len(values))
    weights = np.exp(-0.5 * ((places[:, None] - places) / width) ** 2)
    averaged: NDArray[np.float64] = weights @ values / weights.sum(axis=1)
    return averaged


def _losses(trainer: Trainer, rates: NDArray[np.float64], reporter: Reporter) -> list[float]:
    """The loss at each rate, the mean over ``train.accumulate`` batches, until it diverges."""
    task, losses = "finding a learning rate", list[float]()
    batches, count = _batches(trainer), trainer.settings.accumulate
    train_mode(trainer.model)
    reporter.start(task, len(rates))
    try:
        for rate in rates.tolist():
            set_learning_rate(trainer.optimizer, rate / trainer.settings.lr)
            parts = [
                float(trainer.train_step(*next(batches), weight=1 / count, complete=number == count))
                for number in range(1, count + 1)
            ]
            if not math.isfinite(sum(parts)):
                break
            losses.append(sum(parts) / count)
            smoothed = smooth(np.array(losses))
            reporter.advance(task, lr=rate, loss=float(smoothed[-1]))
            if smoothed[-1] > DIVERGED * smoothed.min():
                break
    finally:
        reporter.finish(task)
    return losses


def _batches(trainer: Trainer) -> Iterator[tuple[Tensor, ...]]:
    """Training batches on the trainer's device, epoch after epoch, without end."""
    for epoch in itertools.count():
        trainer.train_loader.batches.set_place(epoch)
        for (images, packed), _ in trainer.train_loader:
            yield images.to(trainer.device), *unpack(packed.to(trainer.device), trainer.task)


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")
