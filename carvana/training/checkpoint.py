"""Checkpoints of a training: the best network, and the state on disk from which it resumes as if uninterrupted.

The state is ``state/`` in a run. ``state.json`` is the record and names its file of tensors. The tensors are written
first, under a new name, and the record is replaced last: whenever the writer is killed, the record and the tensors that
it names are whole and of one step. No pickle: safetensors and JSON.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from carvana.config import TrainConfig
from carvana.errors import CarvanaError, ConfigError, RunError, check_format_version
from carvana.models.segmenter import Segmenter
from carvana.models.serialization import write_tensors
from carvana.run import Run
from carvana.training.accelerator import all_of
from carvana.training.optim import is_finite
from carvana.training.signals import NonFiniteLossError
from carvana.utils import __version__
from carvana.utils.devices import describe
from carvana.utils.files import file_digest, read_json, write_json
from carvana.utils.progress import Reporter

FORMAT_VERSION = 1
RECORD = "state.json"

STATE_SHARE = 0.01
"""The share of the time that writing states may take: a large network is saved less often than a small one."""

LONGER = ("epochs", "minutes")
"""The settings that may grow when a training goes on."""


class Progress(BaseModel):
    """The progress of a training: all of its state that is not a tensor.

    Attributes:
        epoch: Epochs done.
        batch: Batches of the present epoch done.
        step: Steps of the optimizer.
        seconds: Training time.
        loss: The sum of the losses of the present epoch's images so far.
        images: The number of these images, of all processes together; ``photos`` in the record, as in format 1.
        waited: Seconds of the present epoch that were spent waiting for data.
        rate: The learning rate of the last step.
        began: Training time at which the present epoch began.
        best_score: The best validation so far, None before the first; ``best_dice`` in the record.
        epochs_since_best: Epochs since then.
        finished: Whether the training has ended.
        metrics: The lines of metrics.jsonl.
        times: The lines of times.jsonl.
    """

    model_config = ConfigDict(populate_by_name=True)

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    images: int = Field(0, alias="photos")
    waited: float = 0.0
    rate: float = 0.0
    began: float = 0.0
    best_score: float | None = Field(None, alias="best_dice")
    epochs_since_best: int = 0
    finished: bool = False
    metrics: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []

    def begin_epoch(self, epoch: int, seconds: float) -> None:
        """Start an epoch, after ``seconds`` of training time."""
        self.epoch, self.batch, self.loss, self.images, self.waited, self.began = epoch, 0, 0.0, 0, 0.0, seconds


@dataclass(frozen=True)
class TrainingState:
    """The content of ``state/``.

    Attributes:
        progress: The progress.
        tensors: ``model/...``, ``average/...`` and ``optimizer/...``.
        scaler: The state of fp16's loss scaling; empty without it.
        generators: The random generators of each process.
        origin: What else the bits depend on: torch, threads, device, precision, settings, ModelSpec.
    """

    progress: Progress
    tensors: dict[str, Tensor]
    scaler: dict[str, Any]
    generators: list[dict[str, Any]]
    origin: dict[str, Any]


def write_state(folder: Path, state: TrainingState) -> None:
    """Replace the state in a folder; the old one stays valid until the new one is complete."""
    name = f"tensors-{state.progress.step:08d}-{state.progress.epoch}.safetensors"
    write_tensors(folder / name, state.tensors)
    record = {
        "format_version": FORMAT_VERSION,
        "tensors": name,
        "digest": file_digest(folder / name),
        "progress": state.progress.model_dump(by_alias=True),
        "scaler": state.scaler,
        "generators": state.generators,
        "origin": state.origin,
    }
    write_json(folder / RECORD, record)
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove files of tensors that a killed writer left, or that an older record named."""
    own = Path(_read_record(folder)["tensors"]).name
    for other in folder.glob("*.safetensors"):
        if other.name != own:
            other.unlink(missing_ok=True)


def has_state(folder: Path) -> bool:
    """Whether a folder holds a state."""
    return (folder / RECORD).is_file()


def read_state(folder: Path, *, tensors: bool = True) -> TrainingState:
    """Read what :func:`write_state` of this or an earlier version wrote; on request without its tensors.

    Raises:
        RunError: the files are missing, damaged or of a later version.
    """
    with reading(folder):
        record = _read_record(folder)
        if any(key not in record["origin"] for key in ("settings", "processes", "spec")):
            raise ValueError("its origin is incomplete")
        path = folder / Path(record["tensors"]).name
        if tensors and file_digest(path) != record["digest"]:
            raise ValueError(f"{path.name} is damaged")
        progress = Progress.model_validate(record["progress"])
        found = load_file(path) if tensors else {}
        return TrainingState(progress, found, record["scaler"], record["generators"], record["origin"])


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn what damaged files raise into a RunError that says what to do."""
    try:
        yield
    except CarvanaError:
        raise
    except (LookupError, AttributeError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise RunError(
            f"{folder / RECORD}: no readable state ({reason}); begin another training with --init {folder.parent}"
        ) from error


def _read_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = read_json(folder / RECORD)
    check_format_version(record["format_version"], FORMAT_VERSION, where=folder / RECORD)
    return record


@dataclass(eq=False)
class Checkpoint:
    """Keeps the best network of a training and its state, in ``model/`` and ``state/`` of its run.

    Attributes:
        run: The run; without one there is no state, and the best network stays in memory.
        model: The network in training.
        average: The moving average of its weights, if there is one.
        optimizer: The optimizer, prepared by Accelerate.
        accelerator: Holds the loss scaling and the connection to the other processes.
        settings: ``train`` of the config.
    """

    run: Run | None
    model: Segmenter
    average: AveragedModel | None
    optimizer: Any
    accelerator: Accelerator
    settings: TrainConfig
    _cost: float = field(default=0.0, init=False)
    _saved_at: float = field(default_factory=time.monotonic, init=False)
    _best: dict[str, Tensor] = field(default_factory=dict, init=False)

    @property
    def due(self) -> bool:
        """Whether to save again: writing may take :data:`STATE_SHARE` of the time. The first state is due at once."""
        return self.run is not None and (time.monotonic() - self._saved_at) * STATE_SHARE >= self._cost

    def save(self, progress: Progress) -> None:
        """Write the state; all processes must call it at the same place, and the first one writes.

        Weights that are not finite any more are not written: the last good state stays.
        """
        began = time.monotonic()
        if not is_finite(self.model):
            return
        generators = all_of(self.accelerator, generator_states(self.accelerator.device))
        if self.run is not None and self.accelerator.is_main_process:
            scaler = {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
            state = TrainingState(progress, self._tensors(), scaler, generators, self._origin())
            write_state(self.run.state_path, state)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began

    def restore(self, reporter: Reporter) -> Progress:
        """Load the state into network, average, optimizer and generators; returns how far the training was.

        Raises:
            ConfigError: this training's settings are not those of the state.
            RunError: the state is gone or cannot be read.
        """
        assert self.run is not None
        folder = self.run.state_path
        if not has_state(folder):
            if self.run.metrics_path.exists():
                raise RunError(
                    f"{self.run.path}: its state is gone ({folder}), so it cannot be resumed; begin another "
                    f"training with --init {self.run.path}"
                )
            reporter.info("no state was saved yet: the training starts from the beginning")
            return Progress()
        state = read_state(folder)
        with reading(folder):
            self._check(state.origin, reporter)
            self._apply(state)
        if self.accelerator.is_main_process:
            with suppress(OSError):  # they do no harm
                remove_leftovers(folder)  # here, since a finished training writes no further state
        now = self.settings.model_dump(mode="json")
        if any(now[key] != state.origin["settings"][key] for key in LONGER):
            state.progress.finished, state.progress.epochs_since_best = False, 0  # patience begins anew
        return state.progress

    def keep_best(self, network: Segmenter) -> None:
        """Keep the present weights of a network in place of those kept before; the first process writes."""
        if self.run is None:
            self._best = {name: value.detach().clone() for name, value in network.state_dict().items()}
        elif self.accelerator.is_main_process:
            network.save_pretrained(self.run.model_path)

    def restore_best(self, network: Segmenter) -> Segmenter:
        """Load the kept weights, in the first process; the network is left in evaluation mode."""
        if self.run is None:
            network.load_state_dict(self._best)
        elif self.accelerator.is_main_process:
            Segmenter.from_pretrained(self.run.model_path, network=network.network)
        return network.eval()

    def not_finite(self, loss: float, where: str, at: Progress, *, step: int) -> NonFiniteLossError:
        """The error for a loss that is not finite: where it arose, what to try, and what is kept."""
        or_precision = "" if self.settings.precision == "fp32" else " or take train.precision fp32"
        message = (
            f"the loss became {loss} in epoch {at.epoch + 1}, step {step} (learning rate {at.rate:.3g}), {where}, or "
            "the weights in the step before: look at the images, lower train.lr (now "
            f"{self.settings.lr:g}){or_precision}"
        )
        if self.run is not None and has_state(self.run.state_path):
            good = read_state(self.run.state_path, tensors=False).progress.step
            message += f"; the last good state, of step {good}, is in {self.run.state_path}"
        if self.run is not None and at.metrics:
            kept = f"the best network so far is in {self.run.model_path}"
            message += f"; {kept}, and --init {self.run.path} begins another training with it"
        return NonFiniteLossError(message)

    def _apply(self, state: TrainingState) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, tensor in state.tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        restore_optimizer(self.model, self.optimizer.optimizer, parts["optimizer"])
        if self.accelerator.scaler is not None and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        restore_generators(state.generators[self.accelerator.process_index], self.accelerator.device)

    def _tensors(self) -> dict[str, Tensor]:
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "average": {} if self.average is None else self.average.state_dict(),
            "optimizer": optimizer_tensors(self.model, self.optimizer.optimizer),
        }
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def _origin(self) -> dict[str, Any]:
        precision = self.accelerator.mixed_precision
        return {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "precision": {"no": "fp32"}.get(precision, precision),
            "machine": describe(self.accelerator.device),
            "carvana": __version__,
            "processes": self.accelerator.num_processes,
            "settings": self.settings.model_dump(mode="json"),
            "spec": self.model.spec.to_json(),
        }

    def _check(self, before: Mapping[str, Any], reporter: Reporter) -> None:
        now = self._origin()
        if before["processes"] != now["processes"]:
            raise ConfigError(
                f"--resume: the training was begun with {before['processes']} processes and has "
                f"{now['processes']} now; start as many as then, or begin another one with --init"
            )
        counted = "epochs" if before["settings"].get("minutes") is None else "minutes"
        for key, value in now["settings"].items():
            if key == "log_to":  # changes no result
                continue
            old = before["settings"].get(key, value)
            longer = key == counted and value is not None and value >= old
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


def generator_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, and of the GPU's, as JSON-able values."""
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)  # noqa: NPY002 - a user's augmentations may draw from it
    kind, keys, place, has_gauss, cached = legacy
    states: dict[str, Any] = {
        "python": [version, _hex(np.array(words, np.uint32)), gauss],
        "numpy": [kind, _hex(keys), place, has_gauss, cached],
        "torch": _hex(torch.get_rng_state().numpy()),
    }
    if device.type != "cpu":
        states[device.type] = _hex(torch.get_device_module(device).get_rng_state(device).numpy())
    return states


def restore_generators(states: dict[str, Any], device: torch.device) -> None:
    """Undo :func:`generator_states`; the GPU's generator is left as it is if there is no state of it."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(_array(words, np.uint32).tolist()), gauss))
    kind, keys, place, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, _array(keys, np.uint32), place, has_gauss, cached))  # noqa: NPY002 - see above
    torch.set_rng_state(torch.from_numpy(_array(states["torch"], np.uint8)))
    if device.type != "cpu" and device.type in states:
        state = torch.from_numpy(_array(states[device.type], np.uint8))
        torch.get_device_module(device).set_rng_state(state, device)


def _hex(values: Any) -> str:
    return values.astype(values.dtype.newbyteorder("<")).tobytes().hex()  # type: ignore[no-any-return]


def _array(text: str, dtype: Any) -> Any:
    little = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(bytes.fromhex(text), little).astype(dtype)  # a copy, since torch wants to write
