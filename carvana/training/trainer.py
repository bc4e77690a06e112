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
from carvana.data.target import balanced_weights, unpack
from carvana.errors import ConfigError, RunError
from carvana.evaluation.evaluate import AnyEvaluation, evaluate
from carvana.evaluation.report import evaluate_run
from carvana.inference.predictor import Predictor
from carvana.losses import Loss, make_loss
from carvana.models.segmenter import Segmenter
from carvana.run import Run, training_run
from carvana.training.accelerator import (
    add_up,
    all_of,
    as_segmenter,
    average_buffers,
    largest_batch,
    make_accelerator,
    unwrap,
)
from carvana.training.callbacks import Callback, TrainingLog, notify
from carvana.training.checkpoint import Checkpoint, Progress
from carvana.training.loader import Loader, worker_count
from carvana.training.optim import (
    Duration,
    QuickDepthwise,
    freeze_encoder,
    is_finite,
    make_average,
    make_optimizer,
    refresh_statistics,
    set_learning_rate,
    train_mode,
)
from carvana.training.signals import StopSignals, TrainingInterrupted, some_names, translate_errors
from carvana.training.validation import Validation, validate
from carvana.utils.deprecated import Attribute
from carvana.utils.devices import float64_device, freed_memory_kept, process_number, resolve_device, resolve_precision
from carvana.utils.progress import Reporter, SilentReporter, default_reporter

STATISTICS_IMAGES = 64
"""Images that BatchNorm's statistics are computed over before each validation."""


class Trainer:
    """Trains a network on a data set and keeps the best state of it.

    Under torchrun or accelerate launch each process makes a Trainer with the same arguments; each takes its share of
    every batch, and the first process writes.

    Args:
        model: A Segmenter, or any nn.Module that turns normalised images (N, 3, H, W) into logits (N, K, H, W), with H
            and W multiples of 32. It gets the task of the training images.
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
        self.model = as_segmenter(model, train)
        self.train_data, self.val_data = train, val
        self.task = train.task
        if val is not None and val.task != self.task:
            raise ConfigError(
                f"val has the classes {', '.join(val.task.names)}, and train {', '.join(self.task.names)}; give both "
                "data sets the same task"
            )
        weights = self.settings.class_weights
        if weights == "balanced":
            weights = balanced_weights(train.samples, self.task, reporter or default_reporter())
        self.device = resolve_device(device)
        self.loss: Loss = make_loss(self.settings.loss, self.task, class_weights=weights, device=self.device)
        self.precision = resolve_precision(self.settings.precision, self.device)
        self.main = process_number() == 0
        self.reporter = (reporter or default_reporter()) if self.main else SilentReporter()
        run = training_run(out, arch=self.model.spec.arch, resume=resume) if self.main else None
        self.accelerator = make_accelerator(self.device, self.precision)
        self.run: Run | None = all_of(self.accelerator, run)[0]
        self._frozen = freeze_encoder(self.model) if self.settings.freeze_encoder else []
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.settings.batch_size == "auto":
            images = len(train) // (self.accelerator.num_processes * self.settings.accumulate)
            fits = largest_batch(
                self.model, train.largest_size, images=images, loss=self.loss, device=self.device,
                precision=self.precision,
            )  # fmt: skip
            least = min(all_of(self.accelerator, fits))
            self.reporter.info(f"train.batch_size auto: {least} images a step")
            self.settings = self.settings.model_copy(update={"batch_size": least})
        self.batch_size = int(self.settings.batch_size)
        readers = worker_count(workers)
        loading: dict[str, Any] = {"accelerator": self.accelerator, "seed": self.settings.seed, "workers": readers}
        self.train_loader = Loader(train, self.batch_size, shuffle=True, **loading)
        self.train_batches = self.train_loader.batches
        self.val_loader = None if val is None else Loader(val, self.batch_size, shuffle=False, **loading)
        self.average = None if self.settings.ema is None else make_average(self.model, self.settings.ema)
        self.optimizer = self.accelerator.prepare(make_optimizer(self.model, self.settings))
        if self.settings.compile:
            self.model.compile(backend=self.compile_backend)  # in place: torch.compile would rename the weights
        with translate_errors():
            self.wrapped = self.accelerator.prepare(self.model)
        self.progress = Progress()
        self.duration = Duration(self.settings, len(self.train_batches.sizes))
        self.callbacks = list(callbacks) if self.main else []
        self.log = TrainingLog(
            self.run if self.main else None, self.duration, self.callbacks, self.reporter, metric=self.task.metric
        )
        self.signals = StopSignals(self.reporter)
        self.checkpoint = Checkpoint(
            self.run, model=self.model, average=self.average, optimizer=self.optimizer,
            accelerator=self.accelerator, settings=self.settings,
        )  # fmt: skip
        self._recent_images: deque[Tensor] = deque(maxlen=-(-STATISTICS_IMAGES // max(self.train_batches.sizes)))
        self._sums: deque[tuple[int, Tensor]] = deque()
        self._stop_wanted = self._save_wanted = False
        self._was_fitted = False
        self._steps_before = 0  # of the present epoch
        with ExitStack() as held:
            if self.run is not None and self.main:  # last, so that no error above leaves an empty folder
                self.run.make()
                held.enter_context(self.run.held())
                if not resume:  # another process may have trained in it since it was found free
                    Run.choose(self.run.path, arch=self.model.spec.arch)
            if resume:
                self._resume()
            self._held = held.pop_all()

    def close(self) -> None:
        """End the reading processes and the connection to other processes, and release the run folder."""
        self._thaw()
        self._held.close()
        self._end_readers()
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def _thaw(self) -> None:
        """Let another training of the network, or of its average, move what this one froze."""
        frozen, self._frozen = self._frozen, []  # once: another training may freeze it again
        for parameter in frozen:
            parameter.requires_grad_(True)
        for own, averaged in zip(self.model.parameters(), self.kept.parameters(), strict=True) if frozen else ():
            averaged.requires_grad_(own.requires_grad)

    @property
    def kept(self) -> Segmenter:
        """The network that is evaluated and saved: the moving average where there is one."""
        return cast("Segmenter", self.average.module) if self.average is not None else self.model

    @property
    def best_score(self) -> float:
        """The best score of a validation so far, Dice or mean IoU; minus infinity before the first."""
        return -math.inf if self.progress.best_score is None else self.progress.best_score

    best_dice = Attribute("best_score")

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
            unwrap(self.model)
            self._thaw()
            self._held.close()
            self.log.end()
        best = self.checkpoint.restore_best(self.kept)
        if self.run is None and best is not self.model:
            self.model.load_state_dict(best.state_dict())
            self.model.eval()
        return best

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train on the batches of an epoch that are left; returns the epoch's numbers."""
        train_mode(self.model)
        progress = self.progress
        if progress.epoch != epoch:
            progress.begin_epoch(epoch, self.duration.seconds)
        self.train_batches.set_place(epoch, progress.batch)
        self._steps_before = self.duration.step - -(-progress.batch // self.settings.accumulate)
        self.duration.start()
        pinned = self.device.type == "cuda"
        for (images, packed), wait in self.train_loader:
            progress.rate = set_learning_rate(self.optimizer, self.duration.rate_factor)
            self._recent_images.append(images)
            count, weight, complete = self.train_batches.in_step(progress.batch, self.settings.accumulate)
            # For an NVIDIA GPU they are in pinned memory: the copy runs while the GPU still computes the step before.
            images, packed = (each.to(self.device, non_blocking=pinned) for each in (images, packed))
            loss = self.train_step(images, *unpack(packed, self.task), weight=weight, complete=complete)
            self._add_up(progress.batch, loss * count)
            progress.batch, progress.waited = progress.batch + 1, progress.waited + wait
            self.log.batch(progress)
            if complete:
                if self._stop_wanted or self._save_wanted:
                    self._save()
                if self.duration.spent:
                    break
        self._read_sums()
        self.duration.stop()
        return self.log.train_numbers(progress)

    def train_step(
        self, images: Tensor, targets: Tensor, *valid: Tensor, weight: float = 1.0, complete: bool = True
    ) -> Tensor:
        """Forward and backward pass, and a step of the optimizer.

        Args:
            images: uint8 (N, 3, h, w).
            targets: The share of each pixel that each class covers, float (N, K, h, w) in [0, 1].
            valid: Where the task ignores values, the share of each pixel that counts, (N, 1, h, w).
            weight: The batch's share of its step, times the number of processes.
            complete: Whether this batch is the last of its step; until then gradients are added up.

        Returns:
            The loss, a scalar: the mean over these images.
        """
        adding_up = nullcontext() if complete else self.accelerator.no_sync(self.wrapped)
        with adding_up, translate_errors():
            logits = self.wrapped(images.contiguous(memory_format=torch.channels_last))
            loss = self.loss(logits.float(), targets, *valid)
            quick = self.device.type == "cpu" and self.precision == "bf16" and not self.settings.compile
            with QuickDepthwise() if quick else nullcontext():  # type: ignore[no-untyped-call]
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
        """Loss, score and accuracy of a network on the validation images, at the training size."""
        assert self.val_loader is not None
        return validate(model, self.val_loader, loss=self.loss, accelerator=self.accelerator)

    def end_epoch(self, numbers: dict[str, float], validation: Validation | None) -> None:
        """Keep the network if it is the best so far, log the epoch's numbers, and save the state.

        Raises:
            NonFiniteLossError: the validation loss, or a weight, is NaN or infinite.
            TrainingInterrupted: the process was asked to stop, and the state is saved.
        """
        progress = self.progress
        progress.step, progress.seconds = self.duration.step, self.duration.seconds
        self._check_finite(validation)
        better = validation is None or validation.score > self.best_score
        progress.epochs_since_best = 0 if better else progress.epochs_since_best + 1
        no_patience = progress.epochs_since_best == self.settings.patience
        progress.finished = self.duration.ends_with(progress.epoch + 1) or no_patience
        if better:
            progress.best_score = None if validation is None else validation.score
            self.checkpoint.keep_best(self.kept)
        self.log.epoch(progress, numbers, validation)
        progress.begin_epoch(progress.epoch + 1, progress.seconds)
        asked = all_of(self.accelerator, (self.signals.received is not None, self.checkpoint.due))
        stop = any(stopped for stopped, _ in asked)
        if stop or asked[0][1] or progress.finished:
            self.checkpoint.save(progress)
        if stop:
            raise self._interrupted()

    def evaluate(self) -> AnyEvaluation:
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

    def _resume(self) -> None:
        progress = self.progress = self.checkpoint.restore(self.reporter)
        if self.run is not None and self.main:
            self.run.write_epochs(progress.metrics, progress.times)
        self.duration.resume(step=progress.step, seconds=progress.seconds)
        count = self._recent_images.maxlen or 0
        for keys in self.train_batches.keys_before(progress.epoch, progress.batch, count):
            self._recent_images.append(default_collate([self.train_data[key][0] for key in keys]))

    def _add_up(self, batch: int, loss: Tensor) -> None:
        """Add up a batch's loss and flags over the processes, so that all decide alike.

        On a GPU the sums are read one batch later: reading them at once would make the GPU wait.
        """
        exact = float64_device(self.device)
        # Clocks differ, and a training of some minutes must end for all at once: the first process's time counts.
        first = [self.checkpoint.due, self.duration.seconds] if self.main else [False, 0.0]
        flags = torch.tensor([self.signals.received is not None, *first], dtype=torch.float64)
        values = torch.cat([loss.to(exact).double().reshape(1), flags.to(exact)])
        self._sums.append((batch, add_up(self.accelerator, values)))
        self._read_sums(left=1 if self.device.type == "cuda" else 0)

    def _read_sums(self, left: int = 0) -> None:
        """Read the sums of batches, except the last ``left``: their losses, and what the processes want."""
        while len(self._sums) > left:
            batch, sums = self._sums.popleft()
            loss, stop, save, self.duration.seen = sums.tolist()
            size = self.train_batches.sizes[batch]
            if not math.isfinite(loss):
                images = some_names(self.train_data, self.train_batches.parts[batch].tolist())
                step = self._steps_before + batch // self.settings.accumulate + 1
                raise self.checkpoint.not_finite(loss / size, f"at the images {images}", self.progress, step=step)
            self.progress.loss += loss
            self.progress.images += size
            self._stop_wanted |= stop > 0
            self._save_wanted |= save > 0

    def _check_finite(self, validation: Validation | None) -> None:
        if validation is not None and not math.isfinite(validation.loss):
            assert self.val_data is not None
            images = some_names(self.val_data, validation.not_finite)
            where = f"on {len(validation.not_finite)} validation images ({images})"
            raise self.checkpoint.not_finite(validation.loss, where, self.progress, step=self.duration.step)
        if not is_finite(self.kept):
            where = "where a weight or a statistic of BatchNorm is not finite"
            raise self.checkpoint.not_finite(math.nan, where, self.progress, step=self.duration.step)

    def _save(self) -> None:
        """Save the state between two steps; ends the training if that was asked for."""
        self._read_sums()  # raises if a loss is not finite: such a state must not be saved
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
            if loader is not None:
                loader.end()
