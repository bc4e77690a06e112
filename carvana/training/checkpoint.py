"""Checkpoints of a training: the state that it resumes from, and the best network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from carvana.config import TrainConfig
from carvana.errors import ConfigError, RunError
from carvana.models.segmenter import Segmenter
from carvana.run import Run
from carvana.training.distributed import all_of
from carvana.training.optim import is_finite
from carvana.training.state import (
    Progress,
    TrainingState,
    generator_states,
    has_state,
    read_state,
    reading,
    remove_leftovers,
    restore_generators,
    write_state,
)
from carvana.utils.devices import describe
from carvana.utils.progress import Reporter

STATE_SHARE = 0.01
"""The share of the time that writing states may take: a large network is saved less often than a small one."""

LONGER = ("epochs", "minutes")
"""The settings that may grow when a training goes on."""


class Checkpoint:
    """Saves and restores the state of a training in ``state/`` of its run.

    Args:
        run: The run; None keeps no state.
        model: The network in training.
        average: The moving average of its weights, if there is one.
        optimizer: The optimizer, prepared by Accelerate.
        accelerator: Holds the loss scaling and the connection to the other processes.
        settings: ``train`` of the config.
    """

    def __init__(
        self,
        run: Run | None,
        *,
        model: Segmenter,
        average: AveragedModel | None,
        optimizer: Any,
        accelerator: Accelerator,
        settings: TrainConfig,
    ) -> None:
        self._run = run
        self._model = model
        self._average = average
        self._optimizer = optimizer
        self._accelerator = accelerator
        self._settings = settings
        self._cost = 0.0
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether to save again: writing may take :data:`STATE_SHARE` of the time. The first state is due at once."""
        return self._run is not None and (time.monotonic() - self._saved_at) * STATE_SHARE >= self._cost

    def save(self, progress: Progress) -> None:
        """Write the state; all processes must call it at the same place, and the first one writes.

        Weights that are not finite any more are not written: the last good state stays.
        """
        began = time.monotonic()
        if not is_finite(self._model):
            return
        generators = all_of(self._accelerator, generator_states(self._accelerator.device))
        if self._run is not None and self._accelerator.is_main_process:
            scaler = {} if self._accelerator.scaler is None else self._accelerator.scaler.state_dict()
            state = TrainingState(progress, self._tensors(), scaler, generators, self._origin())
            write_state(self._run.state_path, state)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began

    def restore(self, reporter: Reporter) -> Progress:
        """Load the state into network, average, optimizer and generators; returns how far the training was.

        Raises:
            ConfigError: this training's settings are not those of the state.
            RunError: the state is gone or cannot be read.
        """
        assert self._run is not None
        folder = self._run.state_path
        if not has_state(folder):
            if self._run.metrics_path.exists():
                raise RunError(
                    f"{self._run.path}: its state is gone ({folder}), so it cannot be resumed; begin another "
                    f"training with --init {self._run.path}"
                )
            reporter.info("no state was saved yet: the training starts from the beginning")
            return Progress()
        state = read_state(folder)
        with reading(folder):
            self._check(state.origin, reporter)
            self._apply(state)
        if self._accelerator.is_main_process:
            with suppress(OSError):  # they do no harm
                remove_leftovers(folder)  # here, since a finished training writes no further state
        now = self._settings.model_dump(mode="json")
        if any(now[key] != state.origin["settings"][key] for key in LONGER):
            state.progress.finished, state.progress.epochs_since_best = False, 0  # patience begins anew
        return state.progress

    def _apply(self, state: TrainingState) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, tensor in state.tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self._model.load_state_dict(parts["model"])
        if self._average is not None:
            self._average.load_state_dict(parts["average"])
        restore_optimizer(self._model, self._optimizer.optimizer, parts["optimizer"])
        if self._accelerator.scaler is not None and state.scaler:
            self._accelerator.scaler.load_state_dict(state.scaler)
        restore_generators(state.generators[self._accelerator.process_index], self._accelerator.device)

    def _tensors(self) -> dict[str, Tensor]:
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self._model.state_dict(),
            "average": {} if self._average is None else self._average.state_dict(),
            "optimizer": optimizer_tensors(self._model, self._optimizer.optimizer),
        }
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def _origin(self) -> dict[str, Any]:
        from carvana.utils.version import __version__

        precision = self._accelerator.mixed_precision
        return {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "precision": {"no": "fp32"}.get(precision, precision),
            "machine": describe(self._accelerator.device),
            "carvana": __version__,
            "processes": self._accelerator.num_processes,
            "settings": self._settings.model_dump(mode="json"),
            "spec": self._model.spec.to_json(),
        }

    def _check(self, before: Mapping[str, Any], reporter: Reporter) -> None:
        now = self._origin()
        if before["processes"] != now["processes"]:
            raise ConfigError(
                f"--resume: the training was begun with {before['processes']} processes and has "
                f"{now['processes']} now; start as many as then, or begin another one with --init"
            )
        for key, value in now["settings"].items():
            old = before["settings"].get(key, value)
            longer = key in LONGER and old is not None and value is not None and value >= old
            if value != old and not longer:
                raise ConfigError(
                    f"--resume: train.{key} = {value!r}, but the training was begun with {old!r}; "
                    "only more epochs (or minutes) can be asked for, else begin another one with --init"
                )
        for key in ("torch", "threads", "precision", "machine"):
            if before[key] != now[key]:
                reporter.warn(
                    f"the training was begun with {key} {before[key]} and goes on with {now[key]}: "
                    "it will not be the same bit for bit"
                )


class BestCheckpoint:
    """Keeps the best network: in ``model/`` of the run, or in memory where there is no run.

    Args:
        run: The run, or None.
        writes: Whether this process writes. In other processes :meth:`restore` leaves the last weights.
    """

    def __init__(self, run: Run | None, *, writes: bool) -> None:
        self._run = run
        self._writes = writes
        self._state: dict[str, Tensor] = {}

    def keep(self, model: Segmenter) -> None:
        """Keep the present weights in place of those kept before."""
        if self._run is None:
            self._state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        elif self._writes:
            model.save_pretrained(self._run.model_path)

    def restore(self, model: Segmenter) -> Segmenter:
        """Load the kept weights; the network is left in evaluation mode."""
        if self._run is None:
            model.load_state_dict(self._state)
        elif self._writes:
            Segmenter.from_pretrained(self._run.model_path, network=model.network)
        return model.eval()


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors of each parameter, by the parameter's name."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, kept in optimizer.state.items()
        for key, value in kept.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo :func:`optimizer_tensors`."""
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        parameter = parameters[name.rpartition("/")[0]]
        # In the parameter's memory format: fused optimizers iterate over both in step.
        kept = torch.empty_like(parameter) if value.shape == parameter.shape else value.new_empty(value.shape)
        kept = kept.to(parameter.device, value.dtype)
        optimizer.state[parameter][name.rpartition("/")[2]] = kept.copy_(value)
