"""The loop: epochs of steps, a validation after each, the best network kept.

One loop for every architecture, on Accelerate, which brings devices, processes, mixed precision and the scaling of
fp16 losses. Each thing that one may want to change is a method of its own.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn

from carvana.archs.segmenter import Segmenter
from carvana.archs.spec import ModelSpec
from carvana.config import TrainConfig, make_section
from carvana.data.dataset import SegmentationDataset
from carvana.devices import resolve_device, resolve_precision
from carvana.errors import CarvanaError, ConfigError
from carvana.losses import Loss, make_loss
from carvana.progress import LogReporter, Reporter
from carvana.run import Run
from carvana.training.budget import Budget
from carvana.training.callbacks import Callback
from carvana.training.loader import make_loader, timed, worker_count
from carvana.training.optim import (
    freeze_encoder,
    make_average,
    make_optimizer,
    refresh_statistics,
    set_learning_rate,
    train_mode,
)
from carvana.training.validation import Validation, validate

STATISTICS_IMAGES = 64
"""Photos that BatchNorm's statistics are computed over before each evaluation."""


class NonFiniteLossError(CarvanaError):
    """The loss became infinite or not a number; the best network so far is still in the run."""


class Trainer:
    """Trains a network on a data set and keeps the best state of it.

    Args:
        model: A Segmenter, or any nn.Module that turns normalised images (N, 3, H, W) into logits (N, 1, H, W), with H
            and W multiples of 32.
        train: Photos to learn from.
        val: Photos to choose the best epoch by; without them the last epoch is kept.
        settings: How long and by what rule; keyword arguments (``loss="dice"``, ``epochs=10``) change single ones.
        out: A new run folder; without one, nothing is written and the network is left in its best state.
        device: auto, cpu, cuda or cuda:N.
        workers: Processes that read, or "auto".
        callbacks: Listeners.
        reporter: Where progress goes.

    Raises:
        ConfigError: settings contradict each other, the network or this machine.
        RunError: ``out`` exists already.

    Example:
        >>> trainer = Trainer(model, train=data, val=held_out, loss="bce + dice", out="runs/mine")  # doctest: +SKIP
        >>> trainer.fit()  # doctest: +SKIP
    """

    compile_backend = "inductor"

    def __init__(
        self,
        model: nn.Module,
        *,
        train: SegmentationDataset,
        val: SegmentationDataset | None = None,
        settings: TrainConfig | None = None,
        out: str | os.PathLike[str] | Run | None = None,
        device: str = "auto",
        workers: int | str = "auto",
        callbacks: Sequence[Callback] = (),
        reporter: Reporter | None = None,
        **changes: Any,
    ) -> None:
        self.settings = make_section(TrainConfig, {**(settings or TrainConfig()).model_dump(), **changes}, "train")
        self.reporter = reporter or LogReporter()
        self.callbacks = list(callbacks)
        self.model = _as_segmenter(model, train)
        self.loss: Loss = make_loss(self.settings.loss)
        self.device = resolve_device(device)
        self.precision = resolve_precision(self.settings.precision, self.device)
        self.accelerator = self._make_accelerator()
        self.run = out if isinstance(out, Run) or out is None else Run.choose(out, arch=self.model.spec.arch)
        if self.settings.freeze_encoder:
            freeze_encoder(self.model)
        readers = worker_count(workers)
        self.train_loader = self._loader(train, readers, shuffle=True)
        self.val_loader = self._loader(val, readers, shuffle=False) if val is not None else None
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = None if self.settings.ema is None else make_average(self.model, self.settings.ema)
        self.optimizer = self.accelerator.prepare(make_optimizer(self.model, self.settings))
        self.wrapped = self.accelerator.prepare(self._compiled(self.model))
        self.best_dice = -math.inf
        self.budget = Budget(self.settings, len(self.train_loader))
        self._best_state: dict[str, Tensor] = {}
        self._recent: deque[Tensor] = deque(maxlen=max(1, math.ceil(STATISTICS_IMAGES / self.settings.batch_size)))
        if self.run is not None:
            self.run.make()  # last, so that no mistake above leaves an empty folder

    def close(self) -> None:
        """End the reading processes; the networks stay."""
        self.train_loader = self.val_loader = None
        self.accelerator.free_memory()

    @property
    def kept(self) -> Segmenter:
        """The network that is evaluated and saved: the moving average where there is one."""
        return cast("Segmenter", self.average.module) if self.average is not None else self.model

    def fit(self) -> Segmenter:
        """Train to the end of the budget; returns the best network, in evaluation mode.

        Raises:
            NonFiniteLossError: the training diverged.
        """
        epochs_since_best = 0
        self.reporter.start("training", self.budget.length)
        try:
            for epoch in self.budget.epochs():
                train_record = self.train_epoch(epoch)
                validation = self.validate()
                better = validation is None or validation.dice > self.best_dice
                self._record(epoch, train_record, validation)
                if better:
                    self._keep_best(validation)
                epochs_since_best = 0 if better else epochs_since_best + 1
                if self.budget.spent or epochs_since_best == self.settings.patience:
                    break
        finally:
            self._unwrap()
            self.reporter.finish("training")
            for callback in self.callbacks:
                callback.on_fit_end()
        return self._restore_best()

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training photos; returns the epoch's numbers."""
        train_mode(self.model)
        self.train_loader.set_epoch(epoch)
        pending: Tensor | None = None
        total, rate, batches, images, waited = 0.0, 0.0, 0, 0, 0.0
        before = self.budget.seconds
        self.budget.start()
        for (batch, targets), wait in timed(self.train_loader):
            rate = set_learning_rate(self.optimizer, self.budget.rate_factor)
            # The value of a step is looked at after the next one is under way: asking at once would hold up a GPU.
            previous, pending = pending, self.train_step(batch, targets)
            self._recent.append(batch)
            total += self._finite(previous, epoch) if previous is not None else 0.0
            waited, batches, images = waited + wait, batches + 1, images + len(batch)
            elapsed = self.budget.seconds - before
            speed = {"images_per_s": images / elapsed, "data_wait": waited / elapsed}
            shown = {"loss": total / (batches - 1)} if batches > 1 else {}
            self.reporter.advance("training", self.budget.advance(), epoch=epoch + 1, **shown, **self._best(), **speed)
            if self.budget.spent:
                break
        total += self._finite(pending, epoch) if pending is not None else 0.0
        self.budget.stop()
        elapsed = self.budget.seconds - before
        return {
            "train_loss": total / batches,
            "lr": rate,
            "images_per_s": images / elapsed,
            "data_wait": waited / elapsed,
        }

    def train_step(self, images: Tensor, targets: Tensor) -> Tensor:
        """Forward, backward, and a step of the optimizer where accumulation is complete; returns the loss."""
        with self.accelerator.accumulate(self.wrapped), _explained():
            logits = self.wrapped(images.contiguous(memory_format=torch.channels_last))
            loss = self.loss(logits.float(), targets)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self._before_step()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                self.budget.step += 1
                if self.average is not None:
                    self.average.update_parameters(self.model)
        return loss.detach()

    @torch.no_grad()
    def validate(self) -> Validation | None:
        """Refresh BatchNorm's statistics, then measure the kept network on the validation photos."""
        refresh_statistics(self.kept, list(self._recent), self.accelerator.autocast)
        return self.measure(self.kept) if self.val_loader is not None else None

    def measure(self, model: nn.Module) -> Validation:
        """The numbers of a network as it stands, on the validation photos."""
        return validate(model, self.val_loader, loss=self.loss, accelerator=self.accelerator)

    def _make_accelerator(self) -> Accelerator:
        # Accelerate keeps its settings for the whole process and refuses another precision later; a second training
        # in one process is nothing unusual, so its memory is cleared.
        AcceleratorState._reset_state(reset_partial_state=True)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        accelerator = Accelerator(
            cpu=self.device.type == "cpu",
            mixed_precision={"fp32": "no"}.get(self.precision, self.precision),
            gradient_accumulation_steps=self.settings.accumulate,
            # Batches come in pinned memory: the copy to the GPU need not wait for the step before.
            dataloader_config=DataLoaderConfiguration(non_blocking=self.device.type == "cuda"),
        )
        if accelerator.num_processes > 1:
            raise ConfigError("this version trains in one process: start carvana without torchrun or accelerate launch")
        return accelerator

    def _loader(self, data: SegmentationDataset, workers: int, *, shuffle: bool) -> Any:
        loader = make_loader(
            data,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            shuffle=shuffle,
            workers=workers,
            pin_memory=self.device.type == "cuda",
        )
        return self.accelerator.prepare(loader)

    def _compiled(self, model: Segmenter) -> Segmenter:
        if self.settings.compile:
            model.compile(backend=self.compile_backend)  # in place: torch.compile would rename the weights
        return model

    def _best(self) -> dict[str, float]:
        return {"best_dice": self.best_dice} if self.best_dice > -math.inf else {}

    def _before_step(self) -> None:
        if self.settings.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)

    def _finite(self, loss: Tensor | float, epoch: int) -> float:
        value = float(loss)
        if math.isfinite(value):
            return value
        saved = self.run is not None and self.best_dice > -math.inf
        kept = f"; the best network so far is in {self.run.model_path}" if self.run and saved else ""
        raise NonFiniteLossError(
            f"the loss became {value} in epoch {epoch + 1}, step {self.budget.step}: "
            f"lower train.lr (now {self.settings.lr:g}) or take train.precision fp32{kept}"
        )

    def _record(self, epoch: int, numbers: dict[str, float], validation: Validation | None) -> None:
        record: dict[str, Any] = {"epoch": epoch + 1, "step": self.budget.step, **numbers}
        if validation is not None:
            self._finite(validation.loss, epoch)
            record |= {"val_loss": validation.loss, "val_dice": validation.dice, "val_accuracy": validation.accuracy}
        record["seconds"] = self.budget.seconds
        if self.run is not None:
            self.run.add_metrics(record)
        for callback in self.callbacks:
            callback.on_epoch_end(record)
        words = [f"epoch {epoch + 1}", f"loss {numbers['train_loss']:.4f}"]
        if validation is not None:
            words += [f"val Dice {validation.dice:.5f}", f"accuracy {validation.accuracy:.5f}"]
        speed = f"{numbers['images_per_s']:.1f} images/s, {numbers['data_wait']:.0%} waiting for data"
        self.reporter.info(", ".join([*words, speed]))

    def _keep_best(self, validation: Validation | None) -> None:
        self.best_dice = validation.dice if validation is not None else self.best_dice
        if self.run is not None:
            self.kept.save_pretrained(self.run.model_path)
        else:
            self._best_state = {name: value.detach().clone() for name, value in self.kept.state_dict().items()}

    def _unwrap(self) -> None:
        """Take off what Accelerate and the compiler put around the network, for whoever uses or trains it next."""
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            self.model.__dict__.pop(name, None)
        self.model._compiled_call_impl = None

    def _restore_best(self) -> Segmenter:
        if self.run is not None:
            Segmenter.from_pretrained(self.run.model_path, network=self.kept.network)
        else:
            self.kept.load_state_dict(self._best_state)
        return self.kept.eval()


def _as_segmenter(model: nn.Module, train: SegmentationDataset) -> Segmenter:
    size = train.size if train.mode == "resize" else None
    if not isinstance(model, Segmenter):
        # Most encoders halve five times, so 32 fits nearly every network that was not written for this library.
        spec = ModelSpec(arch=f"custom:{type(model).__name__}", stride=32, min_size=32, package="script")
        model = Segmenter(model, spec)
    return model.with_spec(trained_size=size)


@contextmanager
def _explained() -> Iterator[None]:
    """Say in a line what the user can do about a lack of memory or of a compiler."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error):
            raise CarvanaError(
                "out of memory in a training step: lower train.batch_size (train.accumulate makes up for it), "
                "or data.size"
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = str(error).strip().splitlines()[0]
            raise CarvanaError(
                f"train.compile: the network cannot be compiled here ({reason}); set it to false"
            ) from error
        raise
