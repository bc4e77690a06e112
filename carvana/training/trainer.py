"""The training loop: epochs of steps, a validation after each epoch, the best network kept, the state saved.

One loop for every architecture. Accelerate handles devices, processes, mixed precision and the scaling of fp16 losses.
Each step of the loop is a method, which a subclass can override.
"""

from __future__ import annotations

import math
import os
import signal
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from carvana.config import FitConfig, TrainConfig
from carvana.data.dataset import SegmentationDataset
from carvana.data.reader_processes import end_readers
from carvana.errors import ConfigError, RunError
from carvana.evaluation.evaluate import Evaluation, evaluate
from carvana.evaluation.report import evaluate_run
from carvana.inference.predictor import Predictor
from carvana.losses import Loss, make_loss
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.run import Run
from carvana.training.batch_size import choose_batch_size
from carvana.training.callbacks import Callback, TrainingLog, notify
from carvana.training.checkpoint import BestCheckpoint, Checkpoint
from carvana.training.depthwise import QuickDepthwise
from carvana.training.distributed import StepFlags, StepSync, all_of, average_buffers, make_accelerator
from carvana.training.loader import EpochBatches, make_loader, timed, worker_count
from carvana.training.optim import (
    Duration,
    freeze_encoder,
    is_finite,
    make_average,
    make_optimizer,
    refresh_statistics,
    set_learning_rate,
    train_mode,
)
from carvana.training.signals import NonFiniteLossError, StopSignals, TrainingInterrupted, translate_errors
from carvana.training.state import Progress, has_state, peek_state
from carvana.training.validation import Validation, validate
from carvana.utils.cpu_allocator import freed_memory_kept
from carvana.utils.devices import process_number, resolve_device, resolve_precision
from carvana.utils.progress import Reporter, SilentReporter, default_reporter

STATISTICS_IMAGES = 64
"""Images that BatchNorm's statistics are computed over before each validation."""


class Trainer:
    """Trains a network on a data set and keeps the best state of it.

    Under torchrun or accelerate launch each process makes a Trainer with the same arguments; each takes its share of
    every batch, and the first process writes.

    Args:
        model: A Segmenter, or any nn.Module that turns normalised images (N, 3, H, W) into logits (N, 1, H, W), with H
            and W multiples of 32.
        train: Training images.
        val: Validation images, by which the best epoch is chosen; without them the last epoch is kept.
        settings: ``train`` of a config; keyword arguments (``loss="dice"``, ``epochs=10``) change single settings.
        out: A new run folder; without one, nothing is written and the network is left in its best state.
        resume: Resume from the state in ``out``, an existing run, with the same settings. Only more epochs (or minutes)
            may be asked for.
        device: auto, cpu, cuda, cuda:N or mps.
        workers: Processes that read images, or "auto".
        callbacks: Called during the training.
        reporter: Where progress goes.

    Raises:
        ConfigError: settings do not fit each other, the network, this machine or the state.
        RunError: ``out`` exists already, or with ``resume`` does not.

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
        resume: bool = False,
        device: str = "auto",
        workers: int | str = "auto",
        callbacks: Sequence[Callback] = (),
        reporter: Reporter | None = None,
        **changes: Any,
    ) -> None:
        self.settings = settings or TrainConfig()
        if changes:
            self.settings = FitConfig(train={**self.settings.model_dump(), **changes}).train
        self.model = _as_segmenter(model, train)
        self.train_data, self.val_data = train, val
        self.loss: Loss = make_loss(self.settings.loss)
        self.device = resolve_device(device)
        self.precision = resolve_precision(self.settings.precision, self.device)
        self.main = process_number() == 0
        self.reporter = (reporter or default_reporter()) if self.main else SilentReporter()
        run = self._choose_run(out, resume=resume) if self.main else None
        self.accelerator = make_accelerator(self.device, self.precision)
        self.run: Run | None = all_of(self.accelerator, run)[0]
        if self.settings.freeze_encoder:
            freeze_encoder(self.model)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch_size = choose_batch_size(
            self.model, train, self.settings, loss=self.loss, accelerator=self.accelerator, precision=self.precision
        )
        if self.settings.batch_size == "auto":
            self.reporter.info(f"train.batch_size auto: {self.batch_size} images a step")
            self.settings = self.settings.model_copy(update={"batch_size": self.batch_size})
        loading: dict[str, Any] = {"seed": self.settings.seed, "workers": worker_count(workers)}
        batches = make_loader(train, self.batch_size, self.accelerator, shuffle=True, **loading)
        self.train_batches, self.train_loader = batches
        self.val_batches: EpochBatches | None = None
        self.val_loader: Any = None
        if val is not None:
            batches = make_loader(val, self.batch_size, self.accelerator, shuffle=False, **loading)
            self.val_batches, self.val_loader = batches
        self.average = None if self.settings.ema is None else make_average(self.model, self.settings.ema)
        self.optimizer = self.accelerator.prepare(make_optimizer(self.model, self.settings))
        if self.settings.compile:
            self.model.compile(backend=self.compile_backend)  # in place: torch.compile would rename the weights
        with translate_errors():
            self.wrapped = self.accelerator.prepare(self.model)
        self.progress = Progress()
        self.duration = Duration(self.settings, len(self.train_batches.sizes))
        self.callbacks = list(callbacks) if self.main else []
        self.log = TrainingLog(self.run if self.main else None, self.duration, self.callbacks, self.reporter)
        self.sync = StepSync(self.accelerator)
        self.signals = StopSignals(self.reporter)
        self.checkpoint = Checkpoint(
            self.run, model=self.model, average=self.average, optimizer=self.optimizer,
            accelerator=self.accelerator, settings=self.settings, precision=self.precision,
        )  # fmt: skip
        self.best_checkpoint = BestCheckpoint(self.run, writes=self.main)
        self._recent_images: deque[Tensor] = deque(maxlen=-(-STATISTICS_IMAGES // max(self.train_batches.sizes)))
        self._stop_wanted = self._save_wanted = False
        self._was_fitted = False
        self._steps_before = 0  # of the present epoch
        with ExitStack() as held:
            if self.run is not None and self.main:  # last, so that no error above leaves an empty folder
                self.run.make()
                held.enter_context(self.run.held())
                if not resume:  # another process may have trained in it since it was found free
                    self._choose_run(self.run, resume=False)
            if resume:
                self._resume()
            self._held = held.pop_all()

    def close(self) -> None:
        """End the reading processes and the connection to other processes, and release the run folder."""
        self._held.close()
        self._end_readers()
        self.accelerator.free_memory()
        self.accelerator.end_training()

    @property
    def kept(self) -> Segmenter:
        """The network that is evaluated and saved: the moving average where there is one."""
        return cast("Segmenter", self.average.module) if self.average is not None else self.model

    @property
    def best_dice(self) -> float:
        """The best Dice of a validation so far, minus infinity before the first."""
        return -math.inf if self.progress.best_dice is None else self.progress.best_dice

    def fit(self) -> Segmenter:
        """Train to the end; returns the best network, in evaluation mode (in the first process).

        After the first Ctrl-C or SIGTERM the step is finished and the state saved; the second one ends at once.

        Raises:
            NonFiniteLossError: the training diverged.
            TrainingInterrupted: Ctrl-C or SIGTERM.
            LostProcessError: another process of the training died.
        """
        if self._was_fitted and not self.progress.finished:
            raise RunError("this trainer was interrupted: make a new one, with resume=True if it has a run")
        self._was_fitted = True
        self.log.begin(self.progress)
        try:
            with self.signals, translate_errors(), freed_memory_kept(self.device):
                while not self.progress.finished:
                    self.end_epoch(self.train_epoch(self.progress.epoch), self.validate())
        finally:
            self._end_readers()
            _unwrap(self.model)
            self._held.close()
            self.log.end()
        return self.best_checkpoint.restore(self.kept)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train on the batches of an epoch that are left; returns the epoch's numbers."""
        train_mode(self.model)
        progress = self.progress
        if progress.epoch != epoch:
            progress.begin_epoch(epoch, self.duration.seconds)
        self.train_batches.set_place(epoch, progress.batch)
        self._steps_before = self.duration.step - -(-progress.batch // self.settings.accumulate)
        self.duration.start()
        for (images, targets), wait in timed(self.train_loader):
            progress.rate = set_learning_rate(self.optimizer, self.duration.rate_factor)
            self._recent_images.append(images)
            count, weight, complete = self.train_batches.in_step(progress.batch, self.settings.accumulate)
            loss = self.train_step(*self._to_device(images, targets), weight=weight, complete=complete)
            sums = self.sync.send(
                progress.batch, loss * count, stop=self.signals.received is not None,
                save=self.checkpoint.due, seconds=self.duration.seconds,
            )  # fmt: skip
            self._add_losses(sums)
            progress.batch, progress.waited = progress.batch + 1, progress.waited + wait
            self.log.batch(progress)
            if complete:
                if self._stop_wanted or self._save_wanted:
                    self._save()
                if self.duration.spent:
                    break
        self._add_losses(self.sync.flush())
        self.duration.stop()
        return self.log.train_numbers(progress)

    def train_step(self, images: Tensor, targets: Tensor, *, weight: float = 1.0, complete: bool = True) -> Tensor:
        """Forward and backward pass, and a step of the optimizer.

        Args:
            images: uint8 (N, 3, h, w).
            targets: Coverage, float (N, 1, h, w) in [0, 1].
            weight: The batch's share of its step, times the number of processes.
            complete: Whether this batch is the last of its step; until then gradients are added up.

        Returns:
            The loss, a scalar: the mean over these images.
        """
        adding_up = nullcontext() if complete else self.accelerator.no_sync(self.wrapped)
        with adding_up, translate_errors():
            logits = self.wrapped(images.contiguous(memory_format=torch.channels_last))
            loss = self.loss(logits.float(), targets)
            quick = self.device.type == "cpu" and self.precision == "bf16" and not self.settings.compile
            with QuickDepthwise() if quick else nullcontext():
                self.accelerator.backward(loss * weight)
            if complete:
                if self.settings.clip is not None:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.duration.step += 1
                if self.average is not None:
                    self.average.update_parameters(self.model)
        return loss.detach()

    @torch.no_grad()
    def validate(self) -> Validation | None:
        """Refresh BatchNorm's statistics, then measure the kept network on the validation images."""
        batches = [batch.to(self.device) for batch in self._recent_images]
        refresh_statistics(self.kept, batches, self.accelerator.autocast)
        average_buffers(self.accelerator, self.kept)
        return self.measure(self.kept) if self.val_loader is not None else None

    def measure(self, model: nn.Module) -> Validation:
        """Loss, Dice and accuracy of a network on the validation images, at the training size."""
        assert self.val_batches is not None
        assert self.val_data is not None
        return validate(
            model, self.val_loader, self.val_batches,
            loss=self.loss, accelerator=self.accelerator, crops=self.val_data.mode == "crop",
        )  # fmt: skip

    def end_epoch(self, numbers: dict[str, float], validation: Validation | None) -> None:
        """Keep the network if it is the best so far, log the epoch's numbers, and save the state.

        Raises:
            NonFiniteLossError: the validation loss, or a weight, is NaN or infinite.
            TrainingInterrupted: the process was asked to stop, and the state is saved.
        """
        progress = self.progress
        progress.step, progress.seconds = self.duration.step, self.duration.seconds
        self._check_finite(validation)
        better = validation is None or validation.dice > self.best_dice
        progress.epochs_since_best = 0 if better else progress.epochs_since_best + 1
        no_patience = progress.epochs_since_best == self.settings.patience
        progress.finished = self.duration.ends_with(progress.epoch + 1) or no_patience
        if better:
            progress.best_dice = None if validation is None else validation.dice
            self.best_checkpoint.keep(self.kept)
        self.log.epoch(progress, numbers, validation)
        progress.begin_epoch(progress.epoch + 1, progress.seconds)
        asked = all_of(self.accelerator, (self.signals.received is not None, self.checkpoint.due))
        stop = any(stopped for stopped, _ in asked)
        if stop or asked[0][1] or progress.finished:
            self.checkpoint.save(progress)
        if stop:
            raise self._interrupted()

    def evaluate(self) -> Evaluation:
        """Evaluate the kept network on the validation images at full size; a run keeps numbers, masks and pictures.

        To be called after :meth:`fit`, in the first process.

        Raises:
            ConfigError: there are no validation images.
        """
        if self.val_data is None:
            raise ConfigError("there are no validation images to evaluate on; give the trainer some as val")
        device = str(self.device)
        if self.run is not None:
            evaluation = evaluate_run(
                self.run, self.kept, self.val_data.samples,
                device=device, precision=self.precision, reporter=self.reporter,
            )  # fmt: skip
        else:
            evaluation = evaluate(Predictor(self.kept, device=device, precision=self.precision), self.val_data.samples)
        notify(self.callbacks, "on_evaluation", evaluation.to_json())
        return evaluation

    def _choose_run(self, out: str | os.PathLike[str] | Run | None, *, resume: bool) -> Run | None:
        """The run that this training writes: a new one, or with ``resume`` an existing one."""
        path = out.path if isinstance(out, Run) else out
        if not resume:
            return None if path is None else Run.choose(path, arch=self.model.spec.arch)
        run = Run(path or "")
        if path is None or not run.path.is_dir():
            raise RunError(f"{run.path}: no such run to resume; expected the folder of a training")
        return run

    def _resume(self) -> None:
        progress = self.progress = self.checkpoint.restore(self.reporter)
        if self.run is not None and self.main:
            self.run.write_epochs(progress.metrics, progress.times)
        self.duration.resume(step=progress.step, seconds=progress.seconds)
        count = self._recent_images.maxlen or 0
        for keys in self.train_batches.keys_before(progress.epoch, progress.batch, count):
            self._recent_images.append(default_collate([self.train_data[key][0] for key in keys]))

    def _to_device(self, *tensors: Tensor) -> list[Tensor]:
        # For an NVIDIA GPU they are in pinned memory: the copy runs while the GPU still computes the step before.
        return [tensor.to(self.device, non_blocking=self.device.type == "cuda") for tensor in tensors]

    def _add_losses(self, batches: Sequence[StepFlags]) -> None:
        """Add up the losses of batches, and note what the processes want."""
        for batch in batches:
            size = self.train_batches.sizes[batch.batch]
            if not math.isfinite(batch.loss):
                step = self._steps_before + batch.batch // self.settings.accumulate + 1
                images = _names(self.train_data, self.train_batches.indices(batch.batch).tolist())
                raise self._not_finite(batch.loss / size, f"at the images {images}", step=step)
            self.progress.loss += batch.loss
            self.progress.images += size
            self.duration.seen = batch.seconds
            self._stop_wanted |= batch.stop > 0
            self._save_wanted |= batch.save > 0

    def _check_finite(self, validation: Validation | None) -> None:
        if validation is not None and not math.isfinite(validation.loss):
            assert self.val_data is not None
            wrong = validation.not_finite
            where = f"on {len(wrong)} validation images ({_names(self.val_data, wrong)})"
            raise self._not_finite(validation.loss, where, step=self.duration.step)
        if not is_finite(self.kept):
            where = "where a weight or a statistic of BatchNorm is not finite"
            raise self._not_finite(math.nan, where, step=self.duration.step)

    def _not_finite(self, loss: float, where: str, *, step: int) -> NonFiniteLossError:
        """The error for a loss that is not finite: where it arose, what to try, and what is kept."""
        progress, run = self.progress, self.run
        or_precision = "" if self.settings.precision == "fp32" else " or take train.precision fp32"
        message = (
            f"the loss became {loss} in epoch {progress.epoch + 1}, step {step} (learning rate {progress.rate:.3g}), "
            f"{where}, or the weights in the step before: look at the images, lower train.lr (now "
            f"{self.settings.lr:g}){or_precision}"
        )
        if run is not None and has_state(run.state_path):
            step = peek_state(run.state_path)[0].step
            message += f"; the last good state, of step {step}, is in {run.state_path}"
        if run is not None and progress.metrics:
            message += (
                f"; the best network so far is in {run.model_path}, and --init {run.path} begins another training "
                "with it"
            )
        return NonFiniteLossError(message)

    def _save(self) -> None:
        """Save the state between two steps; ends the training if that was asked for."""
        self._add_losses(self.sync.flush())  # raises if a loss is not finite: such a state must not be saved
        self._save_wanted = False
        self.duration.stop()
        self.progress.step, self.progress.seconds = self.duration.step, self.duration.seconds
        self.checkpoint.save(self.progress)
        self.duration.start()
        if self._stop_wanted:
            raise self._interrupted()

    def _interrupted(self) -> TrainingInterrupted:
        kept = f"; continue with carvana fit --resume {self.run.path}" if self.run is not None else ""
        number = self.signals.received or signal.SIGINT
        return TrainingInterrupted(f"stopped after step {self.duration.step}{kept}", signal_number=number)

    def _end_readers(self) -> None:
        for loader in (self.train_loader, self.val_loader):
            end_readers(loader)


def _as_segmenter(model: nn.Module, train: SegmentationDataset) -> Segmenter:
    """A network as a Segmenter with its training size in the spec."""
    if not isinstance(model, Segmenter):
        # Most encoders halve five times, so 32 fits nearly every network that was not written for this library.
        spec = ModelSpec(arch=f"custom:{type(model).__name__}", stride=32, min_size=32, package="script")
        model = Segmenter(model, spec)
    return model.with_spec(trained_size=train.size if train.mode == "resize" else None)


def _unwrap(model: Segmenter) -> None:
    """Remove what Accelerate and the compiler put around the network, so that it can be used or trained again."""
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(name, None)
    model._compiled_call_impl = None


def _names(data: SegmentationDataset, places: Sequence[int], count: int = 16) -> str:
    """The names of the first of some images."""
    names = ", ".join(data.samples[place].name for place in places[:count])
    return names + (f" and {len(places) - count} more" if len(places) > count else "")
