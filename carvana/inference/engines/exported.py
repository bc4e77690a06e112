"""What engines of exported networks have in common: the ModelSpec in the metadata, checks, and what tiling needs."""

from __future__ import annotations

import importlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana.errors import ModelError
from carvana.models.spec import ModelSpec
from carvana.models.weight_files import first_line
from carvana.utils.devices import Precision, is_out_of_memory
from carvana.utils.files import bytes_digest, file_digest, parse_json

METADATA = "carvana"
"""The key of the ModelSpec, as JSON, in a file's metadata."""

NAMES = "names"
"""The key of the names of classes, a JSON list in the order of the logits, which other programs read."""

TILING = "carvana.tiling"
"""The key of what tiling needs, as JSON: bytes_per_pixel, and halo, or no_halo with the reason why there is none."""

INPUT = "images"

Output = Literal["logits", "probabilities", "labels"]
"""What a file gives, which is also the name of its output."""

OPENVINO_FILE = "model.xml"
"""The file in a folder of ``carvana export --to openvino`` that names its weights, in model.bin."""


class ExportedEngine(ABC):
    """Keeps :class:`carvana.inference.tiling.Engine` with a network that was exported: see ``load`` of its subclasses.

    Args:
        named: the file, or the network, in messages.
        spec: how to feed the network.
        takes: the type of the images that it takes: uint8, or that of files.
        output: what the file gives.
        tiling: the JSON under the key :data:`TILING`.
        digest: of the weights.
        device: where it runs.
        precision: of its arithmetic.

    Attributes:
        name: of the engine.
        program: that runs it, in messages.
    """

    name: str
    program: str

    def __init__(
        self,
        named: str,
        spec: ModelSpec,
        *,
        takes: str,
        output: Output,
        tiling: str,
        digest: str,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.spec = spec
        self.takes = takes
        self.output = output
        self.device = device
        self.precision: Precision = precision
        self._named = named
        self._tiling_text = tiling
        self._digest = digest

    @abstractmethod
    def _compute(self, images: NDArray[Any]) -> NDArray[Any]:
        """What the file gives for images (N, 3, H, W), in memory that later calls leave alone."""

    def answer(self, images: Tensor) -> Tensor:
        """What the file gives for images.

        Args:
            images: uint8 (N, channels, H, W), any H and W, in any memory format.

        Returns:
            Logits or probabilities, float32 (N, classes, H, W), or labels (N, H, W), on the device of ``images``.

        Raises:
            ModelError: the tensor is not of that form, the program fails, or the answer is not of this form.
            MemoryError: the CPU's memory is too small.
            torch.OutOfMemoryError: the GPU's is.
        """
        channels = len(self.spec.channels)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != channels or 0 in images.shape:
            raise ModelError(
                f"images must be uint8 (N, {channels}, H, W) and not empty, got {images.dtype} {tuple(images.shape)}"
            )
        try:
            given = images if self.takes == "uint8" else file_values(images, self.spec)
            found = self._compute(given.contiguous().cpu().numpy())
        except Exception as error:  # the errors of these programs share no base but this one
            raise self._explained(error, images) from error
        planes = () if self.output == "labels" and not self._overlapping else (self.spec.classes,)
        expected = (len(images), *planes, *images.shape[2:])
        if found.shape != expected:
            raise ModelError(
                f"{self._named} gives {self.output} of {found.shape} where {expected} belongs: export it anew"
            )
        return torch.from_numpy(found).to(images.device)

    def __call__(self, images: Tensor) -> Tensor:
        """Map images to logits, float32 (N, classes, H, W): see :meth:`answer`.

        Raises:
            ModelError: the file gives labels.
        """
        found = self.answer(images)
        if self.output == "logits":
            return found
        if self.output == "labels":
            raise ModelError(self.why_no_logits)
        task = self.spec.task
        if task is not None and task.kind == "multiclass":
            return found.clamp_(min=torch.finfo(found.dtype).tiny).log_()
        return found.logit_(eps=1e-7)

    @property
    def why_no_logits(self) -> str:
        """Why an engine of labels makes no predictions."""
        return (
            f"{self._named} gives labels, which can be neither resized nor joined: run it with {self.program} itself, "
            "or export the run with --output logits"
        )

    @property
    def _overlapping(self) -> bool:
        return self.spec.task is not None and self.spec.task.kind == "multilabel"

    def receptive_field(self) -> int:
        """How many pixels on each side an output depends on, as it was measured at the export.

        Raises:
            ModelError: every output depends on the whole image, or the file does not say.
        """
        if "halo" not in self._tiling:
            unknown = f"{self._named} does not name the receptive field of its network"
            raise ModelError(str(self._tiling.get("no_halo", unknown)))
        return int(self._measured("halo"))

    def bytes_per_pixel(self) -> float:
        """The memory that the network takes at once for each pixel, as it was measured at the export.

        Raises:
            ModelError: the file does not say.
        """
        if "bytes_per_pixel" not in self._tiling:
            raise ModelError(
                f"{self._named} does not say what memory its network takes; take --mode whole, or export it anew"
            )
        return self._measured("bytes_per_pixel")

    @cached_property
    def _tiling(self) -> dict[str, Any]:
        found = _json(self._named, TILING, self._tiling_text)
        return found if isinstance(found, dict) else {}

    def _measured(self, name: str) -> float:
        value = self._tiling[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
            raise ModelError(f"{self._named} is damaged: {name} in its metadata is {value!r:.60}; export it anew")
        return value

    def digest(self) -> str:
        """The digest of the weights: of a file that of its bytes."""
        return self._digest

    def _explained(self, error: Exception, images: Tensor) -> Exception:
        if is_out_of_memory(error):
            kind = torch.OutOfMemoryError if self.device.type == "cuda" else MemoryError
            return kind(first_line(error))
        count, _, height, width = images.shape
        return ModelError(
            f"{self._named} fails on {count} x {height}x{width} pixels in {self.program}: {first_line(error)}"
        )


def file_values(images: Tensor, spec: ModelSpec) -> Tensor:
    """Images of 8 bits, uint8 (N, C, H, W), as values of files that become these 8 bits again.

    Whole values do so where a range has at least as many of them as 8 bits; in smaller ranges some come out one level
    off. What would stand for no value is one more.
    """
    limits = torch.tensor(spec.range or ((0.0, 255.0),) * len(spec.channels), dtype=torch.float32, device=images.device)
    low, high = limits[:, 0].reshape(1, -1, 1, 1), limits[:, 1].reshape(1, -1, 1, 1)
    values = low + images.to(torch.float32) * ((high - low) / 255)
    kind = getattr(torch, spec.file_dtype)
    whole = not kind.is_floating_point
    values = values.round() if whole else values
    for value in spec.nodata:
        values = torch.where(values == value, values + (1 if whole else 1e-6 * (high - low)), values)
    return values.to(kind)


def described(
    named: str, metadata: Mapping[str, str], inputs: list[tuple[str, str]], outputs: list[str]
) -> tuple[ModelSpec, Output, str]:
    """The ModelSpec, the output and the text for tiling of an exported file.

    Args:
        named: the file in messages.
        metadata: its texts by key.
        inputs: of each input its name, and the type that it takes, by NumPy's name.
        outputs: the names of its outputs.

    Raises:
        ModelError: the file is damaged, of a newer carvana or of another program.
    """
    foreign = ModelError(
        f"{named} was not written by carvana export, so it does not say how to prepare images for it; export the run: "
        "carvana export RUN --to onnx --out FILE"
    )
    ends = [name for name, _ in inputs], len(outputs) == 1 and outputs[0] in get_args(Output)
    if METADATA not in metadata or ends != ([INPUT], True):
        raise foreign
    values = _json(named, METADATA, metadata[METADATA])
    output: Any = outputs[0]
    try:
        spec = ModelSpec.from_json(values)
    except ModelError as error:
        raise ModelError(f"{named}: {error}") from None
    if inputs[0][1] not in ("uint8", spec.file_dtype):
        raise foreign
    return spec, output, metadata.get(TILING, "{}")


def source_digest(source: Path | bytes) -> str:
    """The digest of a file or of its bytes, which is the same."""
    return bytes_digest(source) if isinstance(source, bytes) else file_digest(source)


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of an exported network: a file ``.onnx``, or a folder with a file ``model.xml``.

    >>> is_exported("car.onnx"), is_exported("runs/unet-ref")
    (True, False)
    """
    path = Path(path)
    return path.suffix.lower() in (".onnx", ".xml") or ((path / OPENVINO_FILE).is_file() and not holds_model(path))


def holds_model(folder: Path) -> bool:
    """Whether a folder is a run or a model folder, which no exported network belongs into."""
    return any((folder / name).exists() for name in ("config.yaml", "config.json", "model", "folds.json"))


def needed(package: str, extra: str = "onnx") -> Any:
    """Import a package of an extra.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        what = "ONNX files need" if extra == "onnx" else "the engine openvino needs"
        raise ModelError(
            f"{what} the package {package}, which cannot be imported ({first_line(error)}): "
            f"pip install 'carvana[{extra}]'"
        ) from error


def _json(named: str, key: str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ModelError(f"{named} is damaged: its metadata '{key}' is not JSON: {error}") from None
