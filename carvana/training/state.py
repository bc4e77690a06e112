"""The state of a training on disk, ``state/`` in a run, from which it resumes as if uninterrupted.

``state.json`` is the record and names its file of tensors. The tensors are written first, under a new name, and the
record is replaced last: whenever the writer is killed, the record and the tensors that it names are whole and of one
step. No pickle: safetensors and JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from carvana.errors import RunError, check_format_version
from carvana.models.serialization import write_tensors
from carvana.utils.files import file_digest, read_json, write_json

FORMAT_VERSION = 1
RECORD = "state.json"

_KEYS = {"images": "photos"}
"""Fields of Progress with another key in the record, that of format 1."""


@dataclass
class Progress:
    """The progress of a training: all of its state that is not a tensor.

    Attributes:
        epoch: Epochs done.
        batch: Batches of the present epoch done.
        step: Steps of the optimizer.
        seconds: Training time.
        loss: The sum of the losses of the present epoch's images so far.
        images: The number of these images, of all processes together.
        waited: Seconds of the present epoch that were spent waiting for data.
        rate: The learning rate of the last step.
        began: Training time at which the present epoch began.
        best_dice: The best validation so far; None before the first.
        epochs_since_best: Epochs since then.
        finished: Whether the training has ended.
        metrics: The lines of metrics.jsonl.
        times: The lines of times.jsonl.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    images: int = 0
    waited: float = 0.0
    rate: float = 0.0
    began: float = 0.0
    best_dice: float | None = None
    epochs_since_best: int = 0
    finished: bool = False
    metrics: list[dict[str, Any]] = field(default_factory=list)
    times: list[dict[str, Any]] = field(default_factory=list)

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
        "progress": {_KEYS.get(name, name): value for name, value in asdict(state.progress).items()},
        "scaler": state.scaler,
        "generators": state.generators,
        "origin": state.origin,
    }
    write_json(folder / RECORD, record)
    _remove_others(folder, name)


def remove_leftovers(folder: Path) -> None:
    """Remove files of tensors that a killed writer left."""
    _remove_others(folder, Path(_read_record(folder)["tensors"]).name)


def has_state(folder: Path) -> bool:
    """Whether a folder holds a state."""
    return (folder / RECORD).is_file()


def read_state(folder: Path) -> TrainingState:
    """Read what :func:`write_state` of this or an earlier version wrote.

    Raises:
        RunError: the files are missing, damaged or of a later version.
    """
    path = folder / RECORD
    try:
        record = read_json(path)
        check_format_version(record["format_version"], FORMAT_VERSION, where=path)
        path = folder / Path(record["tensors"]).name
        if file_digest(path) != record["digest"]:
            raise ValueError(f"{path.name} is damaged")
        tensors = load_file(path)
        return TrainingState(_progress_of(record), tensors, record["scaler"], record["generators"], record["origin"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise unreadable(folder, error) from error


def peek_state(folder: Path) -> tuple[Progress, dict[str, Any]]:
    """The progress and the origin of a state, without its tensors.

    Raises:
        RunError: as for :func:`read_state`.
    """
    record = _read_record(folder)
    try:
        return _progress_of(record), record["origin"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unreadable(folder, error) from error


def unreadable(folder: Path, error: Exception) -> RunError:
    """The error for a state that cannot be used."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return RunError(
        f"{folder / RECORD}: no readable state ({reason}); begin another training with --init {folder.parent}"
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


def _remove_others(folder: Path, own: str) -> None:
    for other in folder.glob("*.safetensors"):
        if other.name != own:
            other.unlink(missing_ok=True)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        record: dict[str, Any] = read_json(path)
        version = record["format_version"]
        if any(key not in record["origin"] for key in ("settings", "processes", "spec")):
            raise KeyError("origin")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable(folder, error) from error
    check_format_version(version, FORMAT_VERSION, where=path)
    return record


def _progress_of(record: dict[str, Any]) -> Progress:
    keys = {_KEYS.get(entry.name, entry.name): entry.name for entry in fields(Progress)}
    values = {keys[key]: value for key, value in record["progress"].items() if key in keys}
    return TypeAdapter(Progress).validate_python(values)
