"""The loop: epochs of steps, a validation after each, the best network kept, and a state to go on from.

One loop for every architecture, on Accelerate, which brings devices, processes, mixed precision and the scaling of
fp16 losses. Each thing that one may want to change is a method of its own.
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

from carvana.config import TrainConfig, make_section
from carvana.data.dataset import SegmentationDataset
from carvana.data.reader_processes import end_readers
from carvana.errors import CarvanaError, ConfigError, RunError
from carvana.evaluation.evaluate import Evaluation, evaluate
from carvana.evaluation.report import evaluate_run
from carvana.inference.predictor import Predictor
from carvana.losses import Loss, make_loss
from carvana.models.segmenter import Segmenter
from carvana.run import Run
from carvana.training.batch_size import largest_batch
from carvana.training.best_checkpoint import BestCheckpoint, choose_run
from carvana.training.callbacks import Callback, notify
from carvana.training.checkpoint import Checkpoint
from carvana.training.depthwise import depthwise_in
from carvana.training.distributed import all_of, average_buffers, make_accelerator
from carvana.training.duration import Duration
from carvana.training.failures import explained, not_finite, some
from carvana.training.loader import make_loader, timed, worker_count
from carvana.training.network import as_segmenter, unwrap
from carvana.training.optim import (
    freeze_encoder,
    is_finite,
    make_average,
    make_optimizer,
    refresh_statistics,
    set_learning_rate,
    train_mode,
)
from carvana.training.sampler import EpochBatches
from carvana.training.signals import StopSignals, TrainingInterrupted
from carvana.training.state import Progress
from carvana.training.step_sync import StepFlags, StepSync, agree
from carvana.training.training_log import TrainingLog
from carvana.training.validation import Validation, validate
from carvana.utils.cpu_allocator import freed_memory_kept
from carvana.utils.devices import process_number, resolve_device, resolve_precision
from carvana.utils.notebook import default_reporter
from carvana.utils.progress import Reporter, SilentReporter

STATISTICS_IMAGES = 64
"""Images that BatchNorm's statistics are computed over before each evaluation."""


class Trainer:
    """Trains a network on a data set and keeps the best state of it.

    Under torchrun or accelerate launch each process makes its own Trainer of the same arguments; they share the images
    of every batch out among them, and the first one writes.

    Args:
        model: A Segmenter, or any nn.Module that turns normalised images (N, 3, H, W) into logits (N, 1, H, W), with H
            and W multiples of 32.
        train: Images to learn from.
        val: Images to choose the best epoch by; without them the last epoch is kept.
        settings: How long and by what rule; keyword arguments (``loss="dice"``, ``epochs=10``) change single ones.
        out: A new run folder; without one, nothing is written and the network is left in its best state.
        resume: Go on from the state in ``out``, an existing run, with the settings that it was begun with. More epochs
            (or minutes) are the one thing that may differ.
        device: auto, cpu, cuda, cuda:N or mps.
        workers: Processes that read, or "auto".
        callbacks: Listeners.
        reporter: Where progress goes.

    Raises:
        ConfigError: settings contradict each other, the network or this machine, or those of the state.
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
        self.settings = make_section(TrainConfig, {**(settings or TrainConfig()).model_dump(), **changes}, "train")
        self.model = as_segmenter(model, train)
        self.train_data, self.val_data = train, val
        self.loss: Loss = make_loss(self.settings.loss)
        self.device = resolve_device(device)
        self.precision = resolve_precision(self.settings.precision, self.device)
        self.main = process_number() == 0
        self.reporter = (reporter or default_reporter()) if self.main else SilentReporter()
        run = choose_run(out, arch=self.model.spec.arch, resume=resume) if self.main else None
        self.accelerator = make_accelerator(self.device, self.precision)
        self.run: Run | None = all_of(self.accelerator, run)[0]
        if self.settings.freeze_encoder:
            freeze_encoder(self.model)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch_size = self._batch_size()
        readers = worker_count(workers)
        self.train_batches, self.train_loader = self._loader(train, readers, shuffle=True)
        self.val_batches: EpochBatches | None = None
        self.val_loader: Any = None
        if val is not None:
            self.val_batches, self.val_loader = self._loader(val, readers, shuffle=False)
        self.average = None if self.settings.ema is None else make_average(self.model, self.settings.ema)
        self.optimizer = self.accelerator.prepare(make_optimizer(self.model, self.settings))
        with explained():
            self.wrapped = self.accelerator.prepare(self._compiled(self.model))
        self.progress = Progress()
        self.budget = Duration(self.settings, len(self.train_batches.sizes))
        self.callbacks = list(callbacks) if self.main else []
        self.journal = TrainingLog(self.run if self.main else None, self.budget, self.callbacks, self.reporter)
        self.pulse = StepSync(self.accelerator)
        self.signals = StopSignals()
        self.checkpoint = Checkpoint(
            self.run.state_path if self.run else None, model=self.model, average=self.average,
            optimizer=self.optimizer, accelerator=self.accelerator, settings=self.settings, precision=self.precision,
        )  # fmt: skip
        self.best = BestCheckpoint(self.run, writes=self.main)
        self._recent: deque[Tensor] = deque(maxlen=-(-STATISTICS_IMAGES // max(self.train_batches.sizes)))
        self._stop_wanted = self._save_wanted = False
        self._ended = False
        self._steps_before = 0  # the present epoch
        self._held = ExitStack()
        if self.run is not None and self.main:
            self.run.make()  # last, so that no mistake above leaves an empty folder
            self._held.enter_context(self.run.held())
            if not resume:
                self._look_again(self.run)
        if resume:
            self._resume()

    def close(self) -> None:
        """End the reading processes and the connection to other processes, and leave the run; the networks stay."""
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
        """The best validation's Dice so far, minus infinity before the first."""
        return -math.inf if self.progress.best_dice is None else self.progress.best_dice

    def fit(self) -> Segmenter:
        """Train to the end of the budget; returns the best network, in evaluation mode (in the first process).

        The first Ctrl-C or SIGTERM lets the step end and saves the state; the second acts at once.

        Raises:
            NonFiniteLossError: the training diverged.
            TrainingInterrupted: Ctrl-C or SIGTERM.
            LostProcessError: another process of the training died.
        """
        if self._ended and not self.progress.finished:
            raise RunError("this trainer was interrupted: make a new one, with resume=True if it has a run")
        self._ended = True
        self.journal.begin(self.progress)
        try:
            with self.signals, explained(), freed_memory_kept(self.device):
                while not self.progress.finished:
                    self.end_epoch(self.train_epoch(self.progress.epoch), self.validate())
        finally:
            self._end_readers()
            unwrap(self.model)
            self._held.close()
            self.journal.end()
        return self.best.restore(self.kept)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """The images of an epoch, from the place where the training stands; returns the epoch's numbers."""
        train_mode(self.model)
        at = self.progress
        if at.epoch != epoch:
            at.begin_epoch(epoch, self.budget.seconds)
        self.train_batches.set_place(epoch, at.batch)
        self._steps_before = self.budget.step - -(-at.batch // self.settings.accumulate)
        self.budget.start()
        for (images, targets), wait in timed(self.train_loader):
            at.rate = set_learning_rate(self.optimizer, self.budget.rate_factor)
            self._recent.append(images)
            count, weight, complete = self.train_batches.in_step(epoch, at.batch, self.settings.accumulate)
            loss = self.train_step(*self._to_device(images, targets), weight=weight, complete=complete)
            self._tell(loss * count)
            at.batch, at.waited = at.batch + 1, at.waited + wait
            self.journal.batch(at)
            if complete:
                self._between_steps()
                if self.budget.spent:
                    break
        self._hear(self.pulse.rest())
        self.budget.stop()
        return self.journal.train_numbers(at)

    def train_step(self, images: Tensor, targets: Tensor, *, weight: float = 1.0, complete: bool = True) -> Tensor:
        """Forward and backward, and a step of the optimizer.

        Args:
            images: uint8 (N, 3, h, w).
            targets: Coverage, float (N, 1, h, w) in [0, 1].
            weight: The share that this batch has in its step, times the number of processes.
            complete: Whether this batch is the last of its step; until then gradients are added up.

        Returns:
            The loss, a scalar: the mean over these images.
        """
        adding_up = nullcontext() if complete else self.accelerator.no_sync(self.wrapped)
        with adding_up, explained():
            with depthwise_in(self.device, self.precision):
                logits = self.wrapped(images.contiguous(memory_format=torch.channels_last))
            loss = self.loss(logits.float(), targets)
            self.accelerator.backward(loss * weight)
            if complete:
                self._before_step()
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.budget.step += 1
                if self.average is not None:
                    self.average.update_parameters(self.model)
        return loss.detach()

    @torch.no_grad()
    def validate(self) -> Validation | None:
        """Refresh BatchNorm's statistics, then measure the kept network on the validation images."""
        refresh_statistics(self.kept, [batch.to(self.device) for batch in self._recent], self.accelerator.autocast)
        average_buffers(self.accelerator, self.kept)
        return self.measure(self.kept) if self.val_loader is not None else None

    def measure(self, model: nn.Module) -> Validation:
        """The numbers of a network as it stands, on the validation images."""
        assert self.val_batches is not None
        assert self.val_data is not None
        return validate(
            model, self.val_loader, self.val_batches,
            loss=self.loss, accelerator=self.accelerator, crops=self.val_data.mode == "crop",
        )  # fmt: skip

    def evaluate(self) -> Evaluation:
        """Measure the kept network on the validation images at full size; a run keeps numbers, masks and pictures.

        To be called after :meth:`fit`, in the first process.

        Raises:
            ConfigError: there are no validation images.
        """
        if self.val_data is None:
            raise ConfigError("there are no validation images to evaluate on; give the trainer some as val")
        how: dict[str, Any] = {"precision": self.precision, "reporter": self.reporter}
        device = str(self.device)
        if self.run is not None:
            evaluation = evaluate_run(self.run, self.kept, self.val_data.samples, device=device, **how)
        else:
            evaluation = evaluate(Predictor(self.kept, device=device, precision=self.precision), self.val_data.samples)
        notify(self.callbacks, "on_evaluation", evaluation.to_json())
        return evaluation

    def end_epoch(self, numbers: dict[str, float], validation: Validation | None) -> None:
        """Keep the network if it is the best so far, note the epoch's numbers, and save the state.

        Raises:
            NonFiniteLossError: the validation loss, or a weight, is NaN or infinite.
            TrainingInterrupted: the process was asked to stop, and the state is saved.
        """
        at = self.progress
        at.step, at.seconds = self.budget.step, self.budget.seconds
        if validation is not None and not math.isfinite(validation.loss):
            assert self.val_data is not None
            images = [self.val_data.samples[place].name for place in validation.not_finite]
            raise self._not_finite(validation.loss, f"on {len(images)} validation images ({some(images)})")
        if not is_finite(self.kept):
            raise self._not_finite(math.nan, "where a weight or a statistic of BatchNorm is not finite")
        better = validation is None or validation.dice > self.best_dice
        at.epochs_since_best = 0 if better else at.epochs_since_best + 1
        at.finished = self.budget.ends_with(at.epoch + 1) or at.epochs_since_best == self.settings.patience
        if better:
            at.best_dice = None if validation is None else validation.dice
            self.best.keep(self.kept)
        self.journal.epoch(at, numbers, validation)
        at.begin_epoch(at.epoch + 1, at.seconds)
        stop, save = agree(self.accelerator, stop=self.signals.received is not None, save=self.checkpoint.due)
        if stop or save or at.finished:
            self.checkpoint.save(at)
        if stop:
            raise self._interrupted()

    def _loader(self, data: SegmentationDataset, readers: int, *, shuffle: bool) -> tuple[EpochBatches, Any]:
        batches = EpochBatches(
            len(data), self.batch_size, seed=self.settings.seed, shuffle=shuffle,
            process=self.accelerator.process_index, processes=self.accelerator.num_processes,
        )  # fmt: skip
        return batches, make_loader(data, batches, workers=readers, pin_memory=self.device.type == "cuda")

    def _batch_size(self) -> int:
        if self.settings.batch_size != "auto":
            return self.settings.batch_size
        together = self.accelerator.num_processes * self.settings.accumulate
        fits = largest_batch(
            self.model, self.train_data.largest_size, images=len(self.train_data) // together,
            loss=self.loss, device=self.device, precision=self.precision,
        )  # fmt: skip
        size: int = min(all_of(self.accelerator, fits))
        self.reporter.info(f"train.batch_size auto: {size} images a step")
        self.settings = self.settings.model_copy(update={"batch_size": size})
        return size

    def _compiled(self, model: Segmenter) -> Segmenter:
        if self.settings.compile:
            model.compile(backend=self.compile_backend)  # in place: torch.compile would rename the weights
        return model

    def _look_again(self, run: Run) -> None:
        """Refuse a run that another process has begun, and ended perhaps, since this one found the folder free."""
        try:
            Run.choose(run.path, arch=self.model.spec.arch)
        except CarvanaError:
            self._held.close()
            raise

    def _resume(self) -> None:
        """Bring everything to where the state has it."""
        try:
            at = self.checkpoint.restore(self.reporter)
        except CarvanaError:
            self._held.close()
            raise
        if at is None:
            if self.run is not None and self.run.metrics_path.exists():
                self._held.close()
                raise RunError(
                    f"{self.run.path}: its state is gone ({self.run.state_path}), so it cannot go on; begin another "
                    f"training with --init {self.run.path}"
                )
            self.reporter.info("no state was saved yet: the training begins anew")
            at = Progress()
        if self.run is not None and self.main:
            self.run.write_epochs(at.metrics, at.times)
        self.progress = at
        self.budget.resume(step=at.step, seconds=at.seconds)
        for keys in self.train_batches.keys_before(at.epoch, at.batch, self._recent.maxlen or 0):
            self._recent.append(default_collate([self.train_data[key][0] for key in keys]))

    def _to_device(self, *tensors: Tensor) -> list[Tensor]:
        # They come in pinned memory for an NVIDIA GPU: the copy need not wait for the step before.
        return [tensor.to(self.device, non_blocking=self.device.type == "cuda") for tensor in tensors]

    def _before_step(self) -> None:
        if self.settings.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)

    def _tell(self, loss: Tensor) -> None:
        """Share the sum of a batch's losses, and hear of the batches that all processes are through with."""
        stop = self.signals.received is not None
        seconds = self.budget.seconds
        self._hear(self.pulse.beat(self.progress.batch, loss, stop=stop, save=self.checkpoint.due, seconds=seconds))

    def _hear(self, beats: Sequence[StepFlags]) -> None:
        at = self.progress
        for beat in beats:
            size = self.train_batches.sizes[beat.batch]
            if not math.isfinite(beat.loss):
                indices = self.train_batches.indices(at.epoch, beat.batch)
                names = some([self.train_data.samples[int(index)].name for index in indices])
                step = self._steps_before + beat.batch // self.settings.accumulate + 1
                raise self._not_finite(beat.loss / size, f"at the images {names}", step=step)
            at.loss += beat.loss
            at.images += size
            self.budget.seen = beat.seconds
            self._stop_wanted |= beat.stop
            self._save_wanted |= beat.save

    def _not_finite(self, loss: float, where: str, *, step: int | None = None) -> CarvanaError:
        step = self.budget.step if step is None else step
        return not_finite(loss, where, self.progress, self.settings, self.run, step=step)

    def _between_steps(self) -> None:
        """Save the state if it is time, and stop if that was asked for."""
        if not (self._stop_wanted or self._save_wanted):
            return
        self._hear(self.pulse.rest())  # nothing that has gone wrong may be saved
        self._save()
        if self._stop_wanted:
            raise self._interrupted()

    def _save(self) -> None:
        self._save_wanted = False
        self.budget.stop()
        self.progress.step, self.progress.seconds = self.budget.step, self.budget.seconds
        self.checkpoint.save(self.progress)
        self.budget.start()

    def _interrupted(self) -> TrainingInterrupted:
        kept = f"; continue with carvana fit --resume {self.run.path}" if self.run is not None else ""
        number = self.signals.received or signal.SIGINT
        return TrainingInterrupted(f"stopped after step {self.budget.step}{kept}", signal_number=number)

    def _end_readers(self) -> None:
        for loader in (self.train_loader, self.val_loader):
            end_readers(loader)
