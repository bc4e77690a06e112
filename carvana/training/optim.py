"""What a step does to the weights: gradients, the optimizer, its learning rate, averages, BatchNorm's statistics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from carvana.config import TrainConfig
from carvana.errors import ConfigError
from carvana.models.segmenter import Segmenter


def make_optimizer(model: Segmenter, settings: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, over up to four groups: encoder or rest, decayed or not.

    Biases and normalisation weights (one dimension) are not decayed. Each group keeps its highest learning rate under
    ``base_lr``, from which :func:`set_learning_rate` starts.
    """
    if settings.encoder_lr is not None:
        check_encoder(model, "encoder_lr")
        check_encoder_rate(settings)
    groups = _groups(model, settings)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)


def freeze_encoder(model: Segmenter) -> list[nn.Parameter]:
    """Leave the encoder's parameters, and with them its BatchNorm statistics, as they are; returns what is frozen now.

    Raises:
        ConfigError: the architecture names no encoder.
    """
    check_encoder(model, "freeze_encoder")
    frozen = [parameter for parameter in model.encoder_parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def check_encoder(model: Segmenter, key: str) -> None:
    """Refuse a setting about the encoder for a network without one."""
    if not model.encoder_parameters():
        raise ConfigError(f"train.{key}: {model.spec.arch!r} has no encoder of its own; leave the key out")


def check_encoder_rate(settings: TrainConfig) -> None:
    """Refuse a learning rate for an encoder that is frozen."""
    if settings.encoder_lr is not None and settings.freeze_encoder:
        raise ConfigError(
            f"train.encoder_lr = {settings.encoder_lr:g} with train.freeze_encoder: a frozen encoder has no rate; "
            "leave one of them out"
        )


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights, in which the first steps soon count little.

    The decay of step n is at most (1 + n) / (10 + n): with 0.999 from the start, the average of a few hundred steps
    would consist mostly of the random first weights.
    """

    @torch.no_grad()
    def update(averaged: Any, current: Any, count: Any) -> None:
        steps = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + steps) / (10 + steps)))

    return AveragedModel(model, multi_avg_fn=update)


def set_learning_rate(optimizer: Any, factor: float) -> float:
    """Set every group to ``factor`` times its highest rate; returns that of the last group, the decoder's."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return float(optimizer.param_groups[-1]["lr"])


def rate_factor(progress: float, *, warmup: float, schedule: str) -> float:
    """The learning rate, as a share of the highest, when the share ``progress`` of the training (0 to 1) is done.

    It rises linearly during the share ``warmup``; "cosine" then falls to zero (Loshchilov, Hutter: SGDR, ICLR 2017).

    >>> [round(rate_factor(p, warmup=0.1, schedule="cosine"), 3) for p in (0.05, 0.1, 0.55, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return progress / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


class Duration:
    """Counts steps and training time, which is the time between :meth:`start` and :meth:`stop`.

    Args:
        settings: ``minutes``, or else ``epochs``; and the schedule of the learning rate.
        batches: Batches of an epoch.
        clock: A clock in seconds.

    Attributes:
        step: Steps of the optimizer so far.
        seen: Training seconds as of the last batch, equal in all processes: they decide by it when to end.
    """

    def __init__(self, settings: TrainConfig, batches: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.step = 0
        self.seen = 0.0
        self._settings = settings
        self._batches = batches
        self._clock = clock
        self._before = 0.0
        self._started: float | None = None

    def ends_with(self, epochs: int) -> bool:
        """Whether the training ends after this many epochs."""
        return self.spent if self._settings.minutes is not None else epochs >= self._settings.epochs

    def resume(self, *, step: int, seconds: float) -> None:
        """Continue the count of an earlier process."""
        self.step, self._before, self.seen = step, seconds, seconds

    def start(self) -> None:
        """Let the clock run."""
        self._started = self._clock()

    def stop(self) -> None:
        """Stop the clock."""
        self._before, self._started = self.seconds, None

    @property
    def seconds(self) -> float:
        """The training time so far."""
        return self._before + (0.0 if self._started is None else self._clock() - self._started)

    @property
    def spent(self) -> bool:
        """Whether the minutes are over."""
        return self._settings.minutes is not None and self.seen >= 60 * self._settings.minutes

    @property
    def rate_factor(self) -> float:
        """The learning rate of the next step, as a share of the highest."""
        if self._settings.minutes is not None:
            # Nor 0 here, where no second has passed: the first step is taken at a hundredth of the highest rate.
            progress = max(self.seen / (60 * self._settings.minutes), self._settings.warmup / 100)
        else:
            steps = math.ceil(self._batches / self._settings.accumulate) * self._settings.epochs
            # Neither 0 nor 1: a step at learning rate zero would have no effect.
            progress = (self.step + 1) / (steps + 1)
        return rate_factor(progress, warmup=self._settings.warmup, schedule=self._settings.schedule)

    @property
    def length(self) -> int:
        """The length of the progress bar, in :attr:`unit`."""
        minutes = self._settings.minutes
        return self._batches * self._settings.epochs if minutes is None else math.ceil(60 * minutes)

    @property
    def unit(self) -> str:
        """What the progress bar counts."""
        return "batches" if self._settings.minutes is None else "seconds"

    def done(self, epoch: int, batch: int) -> int:
        """How much of the progress bar is done; not beyond its length, which the last batch may exceed."""
        return epoch * self._batches + batch if self._settings.minutes is None else min(int(self.seen), self.length)


def is_finite(model: nn.Module) -> bool:
    """Whether all weights and all statistics of BatchNorm are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


def train_mode(model: nn.Module) -> None:
    """Switch to training, but leave BatchNorm layers with frozen weights as they are in evaluation."""
    model.train()
    for module in _batch_norms(model):
        if _is_frozen(module):
            module.eval()


@torch.no_grad()
def refresh_statistics(model: nn.Module, batches: Iterable[Tensor], context: Any) -> None:
    """Compute BatchNorm's means and variances anew, as the plain average over some batches.

    Running averages lag behind weights that move fast: with Keras's momentum of 0.99, 200 steps into a training they
    still give a Dice of 0 (Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, call the remedy precise BN).

    Args:
        model: The network; it is left in evaluation mode.
        batches: Training images, as augmented.
        context: Returns the context of the arithmetic (autocast); called for each batch.
    """
    model.eval()
    layers = [layer for layer in _batch_norms(model) if layer.track_running_stats and not _is_frozen(layer)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    for batch in batches if layers else ():
        with context():
            model(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


class QuickDepthwise(TorchDispatchMode):
    """A context for a backward pass on a CPU, in which bf16 gradients of depthwise convolutions are computed in fp32.

    oneDNN's bf16 kernels for the backward pass of depthwise convolutions are mostly 5 to 10 times slower than its fp32
    ones, at worst 190 times: for the input's gradient where the stride is above 1, for the kernel's always, though less
    for 3 x 3 (tests/benchmarks/bench_depthwise.py measures both). They take half of the time of a training step of an
    EfficientNet.

    In fp32 they are rounded less than torch's own. Everything else is left as it is.

    >>> with QuickDepthwise():  # doctest: +SKIP
    ...     loss.backward()
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        backward = torch.ops.aten.convolution_backward.default
        if func is not backward or not _is_slow(*args[:3], groups=args[-2]):
            return func(*args, **(kwargs or {}))
        gradient, images, kernel, sizes, stride, *geometry, wanted = args
        wide = gradient.float(), images.float(), kernel.float()
        found: list[Tensor | None] = [None, None, None]
        if wanted[0]:
            operands = wide if max(stride) > 1 else (gradient, images, kernel)
            found[0] = func(*operands, sizes, stride, *geometry, (True, False, False))[0].to(images.dtype)
        if wanted[1]:
            found[1] = func(*wide, sizes, stride, *geometry, (False, True, False))[1].to(kernel.dtype)
        if wanted[2]:
            found[2] = wide[0].sum((0, 2, 3)).to(gradient.dtype)
        return tuple(found)


def _groups(model: Segmenter, settings: TrainConfig) -> list[dict[str, Any]]:
    encoder = {id(parameter) for parameter in model.encoder_parameters()}
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        in_encoder = id(parameter) in encoder
        decayed = parameter.ndim > 1
        rate = settings.encoder_lr if in_encoder and settings.encoder_lr is not None else settings.lr
        decay = settings.weight_decay if decayed else 0.0
        fresh = {"params": [], "lr": rate, "base_lr": rate, "weight_decay": decay}
        groups.setdefault((in_encoder, decayed), fresh)["params"].append(parameter)
    if not groups:
        raise ConfigError(f"{model.spec.arch!r}: no parameter is left to train")
    return [groups[key] for key in sorted(groups, reverse=True)]


def _is_frozen(layer: _BatchNorm) -> bool:
    return layer.weight is not None and not layer.weight.requires_grad


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _is_slow(gradient: Tensor, images: Tensor, kernel: Tensor, *, groups: int) -> bool:
    depthwise = 1 < groups == kernel.shape[0] == images.shape[1]
    return depthwise and images.ndim == 4 and gradient.device.type == "cpu" and images.dtype == torch.bfloat16
