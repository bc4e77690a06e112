"""Runs an exported network with OpenVINO, on CPUs: in bf16 where the processor computes in it."""

from __future__ import annotations

import io
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from numpy.typing import NDArray

from carvana.errors import ConfigError, ModelError
from carvana.inference.engines.exported import OPENVINO_FILE, ExportedEngine, described, needed, source_digest
from carvana.inference.engines.onnx import checked_source
from carvana.models.weight_files import first_line
from carvana.utils.devices import is_out_of_memory, resolve_precision
from carvana.utils.files import digest as digest_of

_HINTS = {"fp32": "f32", "bf16": "bf16"}

_PLACE = ["framework"]
"""Where OpenVINO keeps the metadata of an ONNX file, also in the folder that it writes."""


class OpenVinoEngine(ExportedEngine):
    """Keeps :class:`carvana.inference.tiling.Engine` with OpenVINO.

    It takes networks at any size, and compiles them in about 0.15 s, so nothing of that is kept.
    """

    name = "openvino"
    program = "OpenVINO"
    _request: Any
    _alone: threading.Lock

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | bytes,
        *,
        device: torch.device | None = None,
        precision: str = "auto",
        digest: str | None = None,
    ) -> Self:
        """Read and compile a network; it takes as many threads as torch is set to at this moment.

        Args:
            source: a file or folder that ``carvana export`` wrote, or the bytes of an ONNX file.
            device: the CPU.
            precision: auto, fp32 or bf16; where the processor has no bf16, all are fp32.
            digest: of the weights; by default that of the file, or of the files.

        Raises:
            ModelError: there is no such file, it is damaged, of a newer carvana or of another program, it names other
                files, or OpenVINO is not installed.
            ConfigError: another device or precision.
        """
        device = device or torch.device("cpu")
        if device.type != "cpu":
            raise ConfigError(
                f"device '{device}': the engine openvino runs on CPUs; take --device cpu, or --engine torch"
            )
        wanted = resolve_precision(precision, device)
        model, named, own = _read(source)
        spec, output, tiling = described(
            named,
            _metadata(model),
            inputs := [(end.get_any_name(), str(end.get_element_type().to_dtype())) for end in model.inputs],
            [end.get_any_name() for end in model.outputs],
        )
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[wanted],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        try:
            compiled = _core().compile_model(model, "CPU", settings)
        except Exception as error:  # as in _read
            raise ModelError(f"{named} cannot be compiled by OpenVINO: {_reason(error)}") from error
        computes = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        made = cls(
            named, spec, takes=inputs[0][1], output=output, tiling=tiling, digest=digest or own, device=device,
            precision="bf16" if computes == "bf16" else "fp32",
        )  # fmt: skip
        made._request, made._alone = compiled.create_infer_request(), threading.Lock()
        return made

    def _compute(self, images: NDArray[Any]) -> NDArray[Any]:
        try:
            with self._alone:  # another thread would overwrite the answer before it is copied
                (found,) = self._request.infer({0: images}, share_inputs=True).values()
        except RuntimeError as error:
            raise error if is_out_of_memory(error) else RuntimeError(_reason(error)) from error
        answer: NDArray[Any] = found
        return answer


def openvino_package() -> Any:
    """OpenVINO, without its telemetry.

    Its import reports itself to Intel by the package openvino_telemetry, if that is there; so that is hidden meanwhile.
    Where a program has imported OpenVINO before, that is its own affair.

    Raises:
        ModelError: OpenVINO is not installed.
    """
    if sys.modules.get("openvino") is not None:
        return sys.modules["openvino"]
    modules: dict[str, Any] = sys.modules
    hidden = {name: modules.pop(name) for name in list(modules) if name.split(".")[0] == _TELEMETRY}
    modules[_TELEMETRY] = None  # an import of it fails, and OpenVINO takes its own stand-in
    try:
        return needed("openvino", "openvino")
    finally:
        del modules[_TELEMETRY]
        modules.update(hidden)


_TELEMETRY = "openvino_telemetry"


@cache
def _core() -> Any:
    """OpenVINO's plugins, kept for the life of the process.

    Its CPU plugin gives the thread that loads it another stack for signals, and unmaps that when it is unloaded, with
    the last compiled network. If another thread drops that network, the next signal kills the process (2026.4).
    """
    return openvino_package().Core()


def read_network(source: str | bytes) -> Any:
    """OpenVINO's model of the bytes of an ONNX file, or of the path of a file.

    Raises:
        Exception: they cannot be read.
    """
    openvino_package()
    # OpenVINO's read_model would try every format that there is.
    is_onnx = isinstance(source, bytes) or source.lower().endswith(".onnx")
    reader = needed("openvino.frontend", "openvino").FrontEndManager().load_by_framework("onnx" if is_onnx else "ir")
    return reader.convert(reader.load(io.BytesIO(source) if isinstance(source, bytes) else source))


def _reason(error: Exception) -> str:
    """What OpenVINO says, without the place in its source, which comes first."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return said[0] if said else first_line(error)


def _read(source: str | os.PathLike[str] | bytes) -> tuple[Any, str, str]:
    """OpenVINO's model of a file, what to call it in messages, and its digest."""
    stored: Any
    if not isinstance(source, bytes) and Path(source).suffix.lower() != ".onnx":
        path = Path(source)
        path = path / OPENVINO_FILE if path.is_dir() or path.suffix.lower() != ".xml" else path
        parts = [path, path.with_suffix(".bin")]
        for part in parts:
            if not part.is_file():
                raise ModelError(f"there is no file '{part}', which belongs to a network that was exported to openvino")
        stored, named, own = os.fspath(path), f"'{source}'", digest_of([source_digest(part) for part in parts])
    else:
        checked, named = checked_source(source)
        stored, own = checked if isinstance(checked, bytes) else os.fspath(checked), source_digest(checked)
    try:
        return read_network(stored), named, own
    except Exception as error:  # its errors share no base but this one
        raise ModelError(
            f"{named} cannot be read by OpenVINO, it is damaged or of another kind: {_reason(error)}"
        ) from error


def _metadata(model: Any) -> dict[str, str]:
    if not model.has_rt_info(_PLACE):
        return {}
    return {key: str(text.value) for key, text in model.get_rt_info(_PLACE).astype(dict).items()}
