"""The state of a training on disk, ``state/`` in a run, from which it resumes as if uninterrupted.

``state.json`` is the record and names its file of tensors. The tensors are written first, under a new name, and the
record is replaced last: whenever the writer is killed, the record and the tensors that it names are whole and of one
step. No pickle: safetensors and JSON.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from carvana.errors import CarvanaError, RunError, check_format_version
from carvana.models.serialization import write_tensors
from carvana.utils.files import file_digest, read_json, write_json

FORMAT_VERSION = 1
RECORD = "state.json"


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
    with reading(folder):
        record = _read_record(folder)
        path = folder / Path(record["tensors"]).name
        if file_digest(path) != record["digest"]:
            raise ValueError(f"{path.name} is damaged")
        progress = Progress.model_validate(record["progress"])
        return TrainingState(progress, load_file(path), record["scaler"], record["generators"], record["origin"])


def peek_state(folder: Path) -> tuple[Progress, dict[str, Any]]:
    """The progress and the origin of a state, without its tensors.

    Raises:
        RunError: as for :func:`read_state`.
    """
    with reading(folder):
        record = _read_record(folder)
        if any(key not in record["origin"] for key in ("settings", "processes", "spec")):
            raise ValueError("its origin is incomplete")
        return Progress.model_validate(record["progress"]), record["origin"]


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


def _remove_others(folder: Path, own: str) -> None:
    for other in folder.glob("*.safetensors"):
        if other.name != own:
            other.unlink(missing_ok=True)


def _read_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = read_json(folder / RECORD)
    check_format_version(record["format_version"], FORMAT_VERSION, where=folder / RECORD)
    return record


def _hex(values: Any) -> str:
    return values.astype(values.dtype.newbyteorder("<")).tobytes().hex()  # type: ignore[no-any-return]


def _array(text: str, dtype: Any) -> Any:
    little = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(bytes.fromhex(text), little).astype(dtype)  # a copy, since torch wants to write
