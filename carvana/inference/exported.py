"""A network out of an ONNX file of ``carvana export``, run by ONNX Runtime: photos in, logits out, as a Segmenter."""

from __future__ import annotations

import importlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from carvana.archs.spec import ModelSpec
from carvana.archs.weight_files import first_line
from carvana.errors import ConfigError, ModelError
from carvana.files import file_digest

METADATA = "carvana"
"""The key of the ModelSpec, as JSON, in a file's metadata."""

TILING = "carvana.tiling"
"""Likewise that of what tiles must know: bytes_per_pixel, and halo or no_halo, the reason why there is none."""

INPUT, OUTPUT = "images", "logits"

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# ONNX Runtime's own allocator, C++, and CUDA's libraries; it has no error of its own for a lack of memory.
_NO_MEMORY = ("Failed to allocate memory", "std::bad_alloc", "bad allocation", "out of memory", "ALLOC_FAILED")


class ExportedModel:
    """A network that ONNX Runtime runs.

    Args:
        session: ONNX Runtime's, of the file.
        spec: the record out of its metadata.
        path: the file.
        device: where the session runs.

    Attributes:
        spec: what a :class:`carvana.Segmenter` has under this name.
        path: the file.
        device: where it runs.
    """

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
            ModelError: there is no such file, it is damaged, of a newer carvana or of another program, or ONNX Runtime
                is not installed.
            ConfigError: the installed ONNX Runtime does not know the device.
        """
        path, device = Path(path), device or torch.device("cpu")
        if not path.is_file():
            raise ModelError(f"there is no file '{path}'")
        session = _open(path, device)
        inputs, outputs = (
            [(end.name, end.type) for end in ends] for ends in (session.get_inputs(), session.get_outputs())
        )
        metadata = session.get_modelmeta().custom_metadata_map
        if METADATA not in metadata or inputs != [(INPUT, "tensor(uint8)")] or outputs != [(OUTPUT, "tensor(float)")]:
            raise ModelError(
                f"'{path}' was not written by carvana export, so nothing tells how to prepare photos for it; "
                "export the run: carvana export RUN --to onnx --out FILE"
            )
        return cls(session, _spec(path, metadata[METADATA]), path=path, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """Map photos to logits.

        Args:
            images: uint8 (N, 3, H, W), RGB, any H and W, in any memory format.

        Returns:
            Logits, float32 (N, classes, H, W), on the device of ``images``.

        Raises:
            ModelError: the tensor is not of that form, or ONNX Runtime fails.
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
        return torch.from_numpy(logits).to(images.device)

    @property
    def halo(self) -> int:
        """The halo with which tiles give what the whole picture gives, in pixels.

        Raises:
            ModelError: there is none, or the file does not tell.
        """
        told = self._tiling
        if "halo" not in told:
            raise ModelError(told.get("no_halo", f"'{self.path}' does not tell how far the network looks"))
        return int(told["halo"])

    @property
    def bytes_per_pixel(self) -> float:
        """What the network takes at once for each pixel that it sees, as it was measured at the export.

        Raises:
            ModelError: the file does not tell.
        """
        if "bytes_per_pixel" not in self._tiling:
            raise ModelError(
                f"'{self.path}' does not tell what memory its network takes; take --mode whole, or export it anew"
            )
        return float(self._tiling["bytes_per_pixel"])

    @cached_property
    def _tiling(self) -> dict[str, Any]:
        told = json.loads(self._session.get_modelmeta().custom_metadata_map.get(TILING, "{}"))
        return told if isinstance(told, dict) else {}

    @cached_property
    def weights_digest(self) -> str:
        """What the weights are known by in manifests: the digest of the file."""
        return file_digest(self.path)

    def _explained(self, error: Exception, images: Tensor) -> Exception:
        if any(words in str(error) for words in _NO_MEMORY):
            kind = torch.OutOfMemoryError if self.device.type == "cuda" else MemoryError
            return kind(first_line(error))
        count, _, height, width = images.shape
        return ModelError(
            f"'{self.path}' fails on {count} x {height}x{width} pixels in ONNX Runtime: {first_line(error)}"
        )


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a path names an exported file, by its suffix.

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
    # It keeps the most that was ever taken and a third more, for a twentieth of the time: photos are large.
    options.enable_cpu_mem_arena = False
    settings = {"device_id": device.index or 0} if device.type == "cuda" else {}
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=[(provider, settings)])
    except Exception as error:  # see ExportedModel.__call__
        raise ModelError(
            f"'{path}' cannot be read by ONNX Runtime, it is damaged or of another kind: {first_line(error)}"
        ) from error


def _spec(path: Path, text: str) -> ModelSpec:
    try:
        return ModelSpec.from_json(json.loads(text))
    except json.JSONDecodeError as error:
        raise ModelError(f"'{path}' is damaged: its metadata '{METADATA}' is not JSON: {error}") from None
    except ModelError as error:
        raise ModelError(f"'{path}': {error}") from None
