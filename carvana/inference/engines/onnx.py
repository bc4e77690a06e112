"""Runs an ONNX file of ``carvana export`` with ONNX Runtime: images to logits, as a Segmenter does."""

from __future__ import annotations

import importlib
import math
import mmap
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from carvana.errors import ConfigError, ModelError
from carvana.models.spec import ModelSpec
from carvana.models.weight_files import first_line
from carvana.utils.devices import Precision, is_out_of_memory, resolve_device
from carvana.utils.files import file_digest, parse_json

METADATA = "carvana"
"""The key of the ModelSpec, as JSON, in a file's metadata."""

NAMES = "names"
"""The key of the names of classes, a JSON list in the order of the logits, which other programs read."""

TILING = "carvana.tiling"
"""The key of what tiling needs, as JSON: bytes_per_pixel, and halo, or no_halo with the reason why there is none."""

INPUT, OUTPUT = "images", "logits"

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# The beginning of a tensor's reference to another file: field 1, "location", 8 bytes long, in each way in which
# protobuf encodes these two numbers.
_ELSEWHERE = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")


class OnnxEngine:
    """Keeps :class:`carvana.inference.tiling.Engine` with ONNX Runtime.

    Args:
        session: ONNX Runtime's, of the file.
        spec: the ModelSpec in the file's metadata.
        path: the file.
        device: where the session runs.
    """

    precision: Precision = "fp32"

    def __init__(self, session: Any, spec: ModelSpec, *, path: Path, device: torch.device) -> None:
        self.spec = spec
        self.path = path
        self.device = device
        self._session = session
        self._quietly = needed("onnxruntime").RunOptions()
        self._quietly.log_severity_level = _FATAL

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: torch.device | None = None) -> Self:
        """Read a file; ONNX Runtime takes as many threads as torch is set to at this moment.

        Args:
            path: an ONNX file that ``carvana export`` wrote.
            device: where to run it; the CPU by default.

        Raises:
            ModelError: there is no such file, it is damaged, of a newer carvana or of another program, it names other
                files, or ONNX Runtime is not installed.
            ConfigError: the installed ONNX Runtime does not know the device.
        """
        path, device = Path(path), device or torch.device("cpu")
        if not path.is_file():
            raise ModelError(f"there is no file '{path}'")
        _refuse_other_files(path)
        session = _open(path, device)
        inputs, outputs = (
            [(end.name, end.type) for end in ends] for ends in (session.get_inputs(), session.get_outputs())
        )
        metadata = session.get_modelmeta().custom_metadata_map
        if METADATA not in metadata or inputs != [(INPUT, "tensor(uint8)")] or outputs != [(OUTPUT, "tensor(float)")]:
            raise ModelError(
                f"'{path}' was not written by carvana export, so it does not say how to prepare images for it; "
                "export the run: carvana export RUN --to onnx --out FILE"
            )
        values = _json(path, METADATA, metadata[METADATA])
        try:
            return cls(session, ModelSpec.from_json(values), path=path, device=device)
        except ModelError as error:
            raise ModelError(f"'{path}': {error}") from None

    def __call__(self, images: Tensor) -> Tensor:
        """Map images to logits.

        Args:
            images: uint8 (N, 3, H, W), RGB, any H and W, in any memory format.

        Returns:
            Logits, float32 (N, classes, H, W), on the device of ``images``.

        Raises:
            ModelError: the tensor is not of that form, ONNX Runtime fails, or the logits are not of this form.
            MemoryError: the CPU's memory is too small.
            torch.OutOfMemoryError: the GPU's is.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ModelError(
                f"images must be uint8 (N, 3, H, W) and not empty, got {images.dtype} {tuple(images.shape)}"
            )
        try:
            (logits,) = self._session.run([OUTPUT], {INPUT: images.contiguous().cpu().numpy()}, self._quietly)
        except Exception as error:  # its errors share no base but this one
            raise self._explained(error, images) from error
        expected = (len(images), self.spec.classes, *images.shape[2:])
        if logits.shape != expected:
            raise ModelError(f"'{self.path}' gives logits of {logits.shape} where {expected} belongs: export it anew")
        return torch.from_numpy(logits).to(images.device)

    def receptive_field(self) -> int:
        """How many pixels on each side an output depends on, as it was measured at the export.

        Raises:
            ModelError: every output depends on the whole image, or the file does not say.
        """
        if "halo" not in self._tiling:
            unknown = f"'{self.path}' does not name the receptive field of its network"
            raise ModelError(str(self._tiling.get("no_halo", unknown)))
        return int(self._measured("halo"))

    def bytes_per_pixel(self) -> float:
        """The memory that the network takes at once for each pixel, as it was measured at the export.

        Raises:
            ModelError: the file does not say.
        """
        if "bytes_per_pixel" not in self._tiling:
            raise ModelError(
                f"'{self.path}' does not say what memory its network takes; take --mode whole, or export it anew"
            )
        return self._measured("bytes_per_pixel")

    @cached_property
    def _tiling(self) -> dict[str, Any]:
        found = _json(self.path, TILING, self._session.get_modelmeta().custom_metadata_map.get(TILING, "{}"))
        return found if isinstance(found, dict) else {}

    def _measured(self, name: str) -> float:
        value = self._tiling[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
            raise ModelError(f"'{self.path}' is damaged: {name} in its metadata is {value!r:.60}; export it anew")
        return value

    def digest(self) -> str:
        """The digest of the file."""
        return file_digest(self.path)

    def _explained(self, error: Exception, images: Tensor) -> Exception:
        if is_out_of_memory(error):
            kind = torch.OutOfMemoryError if self.device.type == "cuda" else MemoryError
            return kind(first_line(error))
        count, _, height, width = images.shape
        return ModelError(
            f"'{self.path}' fails on {count} x {height}x{width} pixels in ONNX Runtime: {first_line(error)}"
        )


def onnx_device(name: str) -> torch.device:
    """The device of an exported file: "auto" is never an Apple GPU, which ONNX Runtime does not support.

    Raises:
        ConfigError: there is no such device here.
    """
    device = resolve_device(name)
    return torch.device("cpu") if name == "auto" and device.type not in _PROVIDERS else device


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the suffix of an exported file.

    >>> is_exported("car.onnx"), is_exported("runs/unet-ref")
    (True, False)
    """
    return Path(path).suffix.lower() == ".onnx"


def needed(package: str) -> Any:
    """Import a package of the extra ``onnx``.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"ONNX files need the package {package}, which cannot be imported ({first_line(error)}): "
            "pip install 'carvana[onnx]'"
        ) from error


_FATAL = 4  # its errors come as exceptions, too


def _refuse_other_files(path: Path) -> None:
    """Refuse weights in other files: a model could name any file of the machine, and the digest would not cover it."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if _ELSEWHERE.search(content):
                raise ModelError(
                    f"'{path}' is refused: it names another file for its weights, which carvana export never does;"
                    " export the run anew"
                )


def _open(path: Path, device: torch.device) -> Any:
    onnxruntime = needed("onnxruntime")
    provider = _PROVIDERS.get(device.type, device.type)
    if provider not in onnxruntime.get_available_providers():
        raise ConfigError(
            f"device '{device}': the installed ONNX Runtime has no {provider}; take --device cpu, or on a GPU install "
            "onnxruntime-gpu in its place"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = torch.get_num_threads()
    # The arena would keep a third more than the largest use ever, to save a twentieth of the time.
    options.enable_cpu_mem_arena = False
    settings = {"device_id": device.index or 0} if device.type == "cuda" else {}
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=[(provider, settings)])
    except Exception as error:  # see OnnxEngine.__call__
        raise ModelError(
            f"'{path}' cannot be read by ONNX Runtime, it is damaged or of another kind: {first_line(error)}"
        ) from error


def _json(path: Path, name: str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ModelError(f"'{path}' is damaged: its metadata '{name}' is not JSON: {error}") from None
