"""Runs an ONNX file of ``carvana export`` with ONNX Runtime: images to logits, as a Segmenter does."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path
from typing import Any, Self

import torch
from numpy.typing import NDArray

from carvana.errors import ConfigError, ModelError
from carvana.inference.engines.exported import INPUT, ExportedEngine, described, needed, source_digest
from carvana.models.weight_files import first_line
from carvana.utils.devices import resolve_device

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_FATAL = 4  # its errors come as exceptions, too

# The beginning of a tensor's reference to another file: field 1, "location", 8 bytes long, in each way in which
# protobuf encodes these two numbers.
_ELSEWHERE = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")


class OnnxEngine(ExportedEngine):
    """Keeps :class:`carvana.inference.tiling.Engine` with ONNX Runtime, in fp32."""

    name = "onnx"
    program = "ONNX Runtime"
    _session: Any
    _quietly: Any

    @classmethod
    def load(
        cls, source: str | os.PathLike[str] | bytes, *, device: torch.device | None = None, digest: str | None = None
    ) -> Self:
        """Read a file; ONNX Runtime takes as many threads as torch is set to at this moment.

        Args:
            source: an ONNX file that ``carvana export`` wrote, or its bytes.
            device: where to run it; the CPU by default.
            digest: of the weights; by default that of the file.

        Raises:
            ModelError: there is no such file, it is damaged, of a newer carvana or of another program, it names other
                files, or ONNX Runtime is not installed.
            ConfigError: the installed ONNX Runtime does not know the device.
        """
        device = device or torch.device("cpu")
        checked, named = checked_source(source)
        session = _open(checked, named, device)
        spec, output, tiling = described(
            named,
            session.get_modelmeta().custom_metadata_map,
            inputs := [(end.name, _type_of(end.type)) for end in session.get_inputs()],
            [end.name for end in session.get_outputs() if end.type in _ANSWERS],
        )
        made = cls(
            named, spec, takes=inputs[0][1], output=output, tiling=tiling, device=device, precision="fp32",
            digest=digest or source_digest(checked),
        )  # fmt: skip
        made._session = session
        made._quietly = needed("onnxruntime").RunOptions()
        made._quietly.log_severity_level = _FATAL
        return made

    def _compute(self, images: NDArray[Any]) -> NDArray[Any]:
        (found,) = self._session.run([self.output], {INPUT: images}, self._quietly)
        answer: NDArray[Any] = found
        return answer


_ANSWERS = ("tensor(float)", "tensor(uint8)", "tensor(int32)")


def _type_of(name: str) -> str:
    """NumPy's name of a type such as tensor(float)."""
    name = name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def onnx_device(name: str) -> torch.device:
    """The device of an exported file: "auto" is the CPU where the installed ONNX Runtime does not support the GPU.

    Raises:
        ConfigError: there is no such device here.
        ModelError: ONNX Runtime is not installed.
    """
    device = resolve_device(name)
    is_supported = _PROVIDERS.get(device.type) in needed("onnxruntime").get_available_providers()
    return torch.device("cpu") if name == "auto" and not is_supported else device


def checked_source(source: str | os.PathLike[str] | bytes) -> tuple[Path | bytes, str]:
    """A file of ONNX, or its bytes, and what to call it in messages.

    Weights in other files are refused: a model could name any file of the machine, and the digest would not cover it.

    Raises:
        ModelError: there is no such file, or it names other files.
    """
    if isinstance(source, bytes):
        return source, "the exported network"
    path, named = Path(source), f"'{source}'"
    if not path.is_file():
        raise ModelError(f"there is no file {named}")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if _ELSEWHERE.search(content):
                    raise ModelError(
                        f"{named} is refused: it names another file for its weights, which carvana export never does; "
                        "export the run anew"
                    )
    return path, named


def _open(source: Path | bytes, named: str, device: torch.device) -> Any:
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
        stored = source if isinstance(source, bytes) else os.fspath(source)
        return onnxruntime.InferenceSession(stored, options, providers=[(provider, settings)], enable_fallback=0)
    except Exception as error:  # its errors share no base but this one
        raise ModelError(
            f"{named} cannot be read by ONNX Runtime, it is damaged or of another kind: {first_line(error)}"
        ) from error
