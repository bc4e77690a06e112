"""Which engine runs a network: the one that is asked for, or on a CPU the quicker one, by a measurement that is kept.

Networks that engines other than torch run are converted once. The user's cache folder keeps, in ``networks``::

    <digest>.onnx   the converted network, as carvana export writes and checks it
    <digest>.json   its digest, and for each processor which engine was quicker there

The digest in the names is that of the weights, the layers, how the network is fed, and the versions that convert it.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from carvana.data.digest import cache_home
from carvana.errors import ConfigError, ModelError, did_you_mean
from carvana.inference.engines.convert import CONVERSION_STEPS, Answer, check_convertible, example_images, onnx_bytes
from carvana.inference.engines.export import check_shapes, checked
from carvana.inference.engines.exported import ExportedEngine, needed
from carvana.inference.engines.onnx import OnnxEngine, onnx_device
from carvana.inference.engines.openvino import OpenVinoEngine, openvino_package
from carvana.inference.engines.torch import TorchEngine
from carvana.inference.tiling import Engine
from carvana.models.segmenter import Segmenter, padded_size
from carvana.utils import version_of
from carvana.utils.devices import (
    describe,
    freed_memory_kept,
    is_out_of_memory,
    process_count,
    processes_here,
    resolve_device,
)
from carvana.utils.files import bytes_digest, digest, lock, read_json, write_bytes, write_json
from carvana.utils.progress import Reporter

EngineName = Literal["auto", "torch", "onnx", "openvino"]

VARIABLE = "CARVANA_ENGINE"
"""Of the environment: what ``auto`` is, where it is not to be the quicker one."""

LIMIT = 2_000_000_000
"""Bytes that all kept networks may take; those that were used longest ago go first."""

PATIENCE = 120
"""Seconds to wait for another process that converts or measures the same network."""

WORTH = 0.95
"""OpenVINO is taken where it needs less than this share of torch's time."""

_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
_MAKERS = ("torch", "onnx", "onnxscript", "timm", "segmentation-models-pytorch", "carvana")
_MEASURED = 2**18  # pixels
_TASK = "converting the network, once"
_FORMAT = 1  # of the kept files


def checked_engine(name: str | None) -> EngineName | None:
    """The name of an engine, None for the usual one; for auto what ``$CARVANA_ENGINE`` says, if it is set.

    Raises:
        ConfigError: there is no such engine.
    """
    known, named = get_args(EngineName), "engine"
    if name == "auto" and os.environ.get(VARIABLE):
        name, named = os.environ[VARIABLE], VARIABLE
    if name is not None and name not in known:
        raise ConfigError(f"{named} {name!r} is unknown; expected {', '.join(known)}{did_you_mean(name, known)}")
    return cast("EngineName | None", name)


def installed(name: str, *, file: bool = False) -> bool:
    """Whether the packages of an engine are installed; for exported files those that run them.

    >>> installed("torch")
    True
    """
    packages = _PACKAGES.get(name, ())[-1 if file else 0 :]
    found = [importlib.util.find_spec(package) for package in packages]
    return all(spec is not None and spec.origin is not None for spec in found)


def engine_of(
    model: Segmenter, name: str | None, *, device: str = "auto", precision: str = "auto", reporter: Reporter
) -> Engine:
    """The engine that runs a network with its weights.

    Args:
        model: moved to the device and set to evaluation mode, in place.
        name: torch, onnx or openvino; ``auto`` is OpenVINO on a CPU where it is installed and quicker, else torch, also
            where processes of several machines work together; None is torch.
        device: auto, cpu, cuda or mps.
        precision: auto, fp32, bf16 or fp16.
        reporter: shows that the network is converted, and what ``auto`` takes.

    Raises:
        ConfigError: there is no such engine, or it does not run on the device, or not in the precision.
        ModelError: the network cannot be converted for it, or a package is missing.
    """
    name = checked_engine(name) or "torch"
    place = resolve_device(device)
    usual = TorchEngine(model, device="cpu" if name in ("onnx", "openvino") else device, precision=precision)
    one_machine = process_count() <= processes_here()  # several would measure for themselves, and mix their masks
    if name == "auto" and place.type == "cpu" and one_machine and installed("openvino"):
        return _quicker(model, usual, reporter)
    if name in ("torch", "auto"):
        return usual
    weights = usual.digest()
    if name == "onnx":
        _refuse_precision(precision)
        needed("onnxruntime")
        data = KeptNetwork(model, weights).data(reporter)
        return _for(model, OnnxEngine.load(data, device=onnx_device(device), digest=weights))
    openvino_package()
    data, on = KeptNetwork(model, weights).data(reporter), torch.device("cpu") if device == "auto" else place
    return _for(model, OpenVinoEngine.load(data, device=on, precision=precision, digest=weights))


def _for(model: Segmenter, engine: ExportedEngine) -> ExportedEngine:
    """An engine with the model's own spec: a kept network serves all models of its weights."""
    engine.spec = model.spec
    return engine


def engine_of_file(
    path: str | os.PathLike[str], name: str | None, *, device: str = "auto", precision: str = "auto"
) -> ExportedEngine:
    """The engine that runs an exported file.

    Args:
        path: a file ``.onnx``, or a folder of OpenVINO.
        name: onnx or openvino, which runs both; ``auto`` and None are what the file is for, since nothing is measured.
        device: auto, cpu or cuda.
        precision: auto, fp32 or bf16.

    Raises:
        ConfigError: there is no such engine, or it does not run the file, or not on the device.
        ModelError: the file cannot be read, or gives labels.
    """
    is_onnx = Path(path).suffix.lower() == ".onnx"
    name = checked_engine(None if name == "auto" else name) or ("onnx" if is_onnx else "openvino")
    if name == "torch" or (name == "onnx" and not is_onnx):
        takes = "onnx or openvino" if is_onnx else "openvino"
        raise ConfigError(f"engine {name} does not run '{os.fspath(path)}', which was exported; take {takes}")
    made: ExportedEngine
    if name == "onnx":
        _refuse_precision(precision)
        made = OnnxEngine.load(path, device=onnx_device(device))
    else:
        place = torch.device("cpu") if device == "auto" else resolve_device(device)
        made = OpenVinoEngine.load(path, device=place, precision=precision)
    if made.output == "labels":
        raise ModelError(made.why_no_logits)
    return made


def _refuse_precision(precision: str) -> None:
    if precision not in ("auto", "fp32"):
        raise ConfigError(
            f"precision {precision!r}: the engine onnx computes in fp32; leave it out, or take another engine"
        )


def _quicker(model: Segmenter, usual: TorchEngine, reporter: Reporter) -> Engine:
    """OpenVINO where it is quicker than torch on this processor, else torch; measured once."""
    kept = KeptNetwork(model, usual.digest())
    processor = digest(describe(usual.device), torch.get_num_threads(), usual.precision, version_of("openvino"))
    with kept.choosing():  # processes that share a folder of masks take the same
        return _measured(model, usual, kept, processor, reporter)


def _measured(model: Segmenter, usual: TorchEngine, kept: KeptNetwork, processor: str, reporter: Reporter) -> Engine:
    known = kept.choices().get(processor)
    if known is not None and not known["openvino"]:
        return usual
    try:
        other = _for(model, OpenVinoEngine.load(kept.data(reporter), precision=usual.precision, digest=kept.weights))
        if known is not None:
            return other
        seconds = _seconds([usual, other], _typical(model))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reporter.info(f"torch runs {model.spec.arch}, since memory is too short to measure OpenVINO")
        return usual
    except ModelError as error:
        reporter.info(f"torch runs {model.spec.arch}, since OpenVINO cannot: {error}")
        if not is_out_of_memory(error.__cause__ or error):  # which need not be so next time
            kept.remember(processor, {"openvino": False, "why": str(error)})
        return usual
    quicker = seconds[1] < WORTH * seconds[0]
    taken, times = ("OpenVINO", reversed(seconds)) if quicker else ("torch", iter(seconds))
    one, two = (f"{1000 * each:.0f} ms" for each in times)
    measured = {"openvino": quicker, "torch_s": seconds[0], "openvino_s": seconds[1]}
    known = "; kept" if kept.remember(processor, measured) else ""
    reporter.info(f"{taken} runs {model.spec.arch}: {one}, and {two} by {'torch' if quicker else 'OpenVINO'}{known}")
    return other if quicker else usual


def _typical(model: Segmenter) -> Tensor:
    """Images as the network sees them, but no larger than some 500 x 500 pixels, which they are together."""
    spec = model.spec
    sides = spec.trained_size or (512, 512)
    shrink = min(1, math.sqrt(_MEASURED / math.prod(sides)))
    height, width = (padded_size(int(side * shrink), spec.stride, spec.min_size) for side in sides)
    return example_images((max(1, _MEASURED // (height * width)), len(spec.channels), height, width))


def _seconds(engines: list[Engine], images: Tensor) -> list[float]:
    """The least time that each engine takes for images, in turns, so that other work on the machine meets all."""
    best = [float("inf")] * len(engines)
    with torch.inference_mode(), freed_memory_kept(images.device):  # as streams of images are predicted
        for engine in engines:
            engine(images)
        began, rounds = time.perf_counter(), 0
        while rounds < 3 or (rounds < 10 and time.perf_counter() - began < 1):
            rounds += 1
            for place, engine in enumerate(engines):
                start = time.perf_counter()
                engine(images)
                best[place] = min(best[place], time.perf_counter() - start)
    return best


class KeptNetwork:
    """A network as ONNX, converted once and kept in the user's cache folder.

    Args:
        model: the network with its weights.
        weights: their digest.
    """

    def __init__(self, model: Segmenter, weights: str) -> None:
        self.weights = weights
        self._model = model
        spec = model.spec
        made_by = [(name, version_of(name)) for name in _MAKERS]
        key = digest(
            _FORMAT, weights, spec.stride, spec.min_size, spec.classes, str(model.network), _source(model), made_by
        )
        self._folder = cache_home() / "networks"
        self._file = self._folder / f"{key}.onnx"
        self._record = self._file.with_suffix(".json")

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """A block that one process of a machine at a time is in, as far as ``_patiently`` holds."""
        with _patiently(self._file.with_suffix(".choice")):
            yield

    def choices(self) -> dict[str, Any]:
        """For each processor what was measured there; empty where nothing is known, or the record is damaged."""
        try:
            found = read_json(self._record)["choices"]
            return {key: value for key, value in found.items() if isinstance(value["openvino"], bool)}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}

    def remember(self, processor: str, choice: dict[str, Any]) -> bool:
        """Keep a measurement; False where nothing can be written, so that it is made again."""
        try:
            write_json(self._record, self._recorded() | {"choices": self.choices() | {processor: choice}})
        except OSError:
            return False
        return True

    def data(self, reporter: Reporter) -> bytes:
        """The network as :func:`carvana.inference.engines.convert.onnx_bytes` makes it.

        Raises:
            ModelError: it cannot be converted, gives something else than torch, or a package is missing.
        """
        if (found := self._read()) is not None:
            return found
        with _patiently(self._file.with_suffix(".lock")):  # of several processes one converts
            if (found := self._read()) is not None:
                return found
            data = self._convert(reporter)
            try:
                write_bytes(self._file, data)
                write_json(self._record, {"digest": bytes_digest(data), "choices": self.choices()})
                self._bound()
            except OSError as error:
                reporter.warn(
                    f"{error.filename or self._folder}: the converted network cannot be kept there "
                    f"({error.strerror or error}), so each start converts it; set CARVANA_CACHE to another folder"
                )
            return data

    def _read(self) -> bytes | None:
        """The kept bytes; None where there are none, or others than were written."""
        try:
            data = self._file.read_bytes()
        except OSError:
            return None
        if bytes_digest(data) != self._recorded().get("digest"):
            return None
        with suppress(OSError):
            os.utime(self._file)  # used now
        return data

    def _recorded(self) -> dict[str, Any]:
        try:
            found = read_json(self._record)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _convert(self, reporter: Reporter) -> bytes:
        check_convertible(self._model)
        spec = self._model.spec
        shapes = check_shapes(spec.stride, spec.min_size, len(spec.channels))
        reporter.start(_TASK, CONVERSION_STEPS + len(shapes))
        try:
            network = copy.deepcopy(self._model).to("cpu", torch.float32).eval().requires_grad_(False)
            answer = Answer(network)
            data = onnx_bytes(answer, step=lambda: reporter.advance(_TASK))
            engine = OpenVinoEngine.load(data, precision="fp32") if installed("openvino") else OnnxEngine.load(data)
            for shape in shapes:
                checked(answer, engine, shape)
                reporter.advance(_TASK)
            return data
        finally:
            reporter.finish(_TASK)

    def _bound(self) -> None:
        """Remove what was used longest ago, beyond the limit."""
        files = sorted(self._folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in files:
            total += path.stat().st_size
            if total > LIMIT and path != self._file:
                for suffix in (".onnx", ".json", ".lock", ".choice"):
                    path.with_suffix(suffix).unlink(missing_ok=True)


def _source(model: Segmenter) -> str:
    """The source of the network's class, which may be edited where it is a user's own."""
    try:
        return inspect.getsource(type(model.network))
    except (OSError, TypeError):
        return ""


@contextmanager
def _patiently(path: Path) -> Iterator[None]:
    """Hold a lock, or go on without it: where it cannot be made, or another process holds it for too long."""
    until = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(path, wait=False))
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.1)
                    continue
            except OSError:
                pass
            break
        yield
