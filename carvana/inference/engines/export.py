"""Exports a Segmenter as files that run without torch: ONNX for ONNX Runtime, OpenVINO's own for OpenVINO.

Every file is compared with PyTorch before it gets its name.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from carvana.errors import ConfigError, ModelError, did_you_mean
from carvana.inference.engines.convert import (
    CONVERSION_STEPS,
    Answer,
    cannot,
    check_convertible,
    example_images,
    onnx_bytes,
)
from carvana.inference.engines.exported import (
    OPENVINO_FILE,
    ExportedEngine,
    Output,
    file_values,
    holds_model,
    needed,
)
from carvana.inference.engines.onnx import OnnxEngine
from carvana.inference.engines.openvino import OpenVinoEngine, openvino_package, read_network
from carvana.models.segmenter import Segmenter
from carvana.models.weight_files import first_line
from carvana.utils.files import atomic_path, check_target, scratch_folder
from carvana.utils.progress import Reporter, default_reporter

TOLERANCE = 1e-3
"""The largest allowed difference between ONNX Runtime and PyTorch: see ``difference``."""

_TASK = "exporting"


@dataclass(frozen=True)
class Check:
    """One comparison of the file with PyTorch.

    Attributes:
        shape: (N, 3, H, W) of the images.
        difference: see the function of this name.
    """

    shape: tuple[int, int, int, int]
    difference: float


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        path: the file, or the folder.
        size: its bytes.
        checks: its comparisons with PyTorch, at three sizes.
    """

    path: Path
    size: int
    checks: tuple[Check, ...]

    @property
    def difference(self) -> float:
        """The largest of all checks."""
        return max(check.difference for check in self.checks)


def export_onnx(
    model: Segmenter,
    out: str | os.PathLike[str],
    *,
    output: str = "logits",
    replace: bool = False,
    reporter: Reporter | None = None,
) -> Exported:
    """Write a model as an ONNX file, from ``images``, uint8 (N, 3, H, W), to what ``output`` names; N, H, W are free.

    The metadata is that of :func:`carvana.inference.engines.convert.onnx_bytes`. The network is exported on the CPU, in
    fp32 and evaluation mode, from a copy: the model stays as it is.

    Args:
        model: on any device, in any mode.
        out: the file, whose name ends in ``.onnx``.
        output: ``logits``, float32 (N, classes, H, W); ``probabilities``, of the same form; or ``labels``, the smallest
            answer, see :class:`carvana.inference.engines.convert.Answer`.
        replace: overwrite a file that is there.
        reporter: shows progress.

    Raises:
        ConfigError: the file is there already, or has another suffix; or there is no such output.
        ModelError: the network cannot be exported, not for every size, or not in one file; or a package is missing.

    Example:
        >>> import tempfile
        >>> from carvana.models.spec import ModelSpec
        >>> model = Segmenter(torch.nn.Conv2d(3, 1, 1), ModelSpec(arch="mine"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_onnx(model, f"{folder}/mine.onnx").difference < 1e-4
        True
    """
    out = Path(out)
    if out.suffix.lower() != ".onnx":
        raise ConfigError(f"'{out}' must end in .onnx, as exported files do: take '{out}.onnx'")
    check_target(out, replace=replace)
    needed("onnxruntime")

    def write(data: bytes, check: Checking) -> tuple[Check, ...]:
        with atomic_path(out) as temporary:
            temporary.write_bytes(data)
            return check(OnnxEngine.load(temporary))

    return _export(model, out, output, write, reporter)


def export_openvino(
    model: Segmenter,
    out: str | os.PathLike[str],
    *,
    output: str = "logits",
    replace: bool = False,
    reporter: Reporter | None = None,
) -> Exported:
    """Write a model as a folder for OpenVINO: ``model.xml``, the network, and ``model.bin``, its weights in fp32.

    Args:
        model: as for :func:`export_onnx`.
        out: the folder; other files in it stay.
        output: as for :func:`export_onnx`.
        replace: overwrite the two files.
        reporter: shows progress.

    Raises:
        ConfigError, ModelError: as for :func:`export_onnx`.
    """
    out = Path(out)
    if out.is_file() or out.suffix.lower() in (".onnx", ".xml", ".bin"):
        raise ConfigError(f"'{out}': OpenVINO's network is two files; name a folder for them, such as '{out.stem}'")
    if holds_model(out):
        raise ConfigError(f"'{out}' is a run or a model folder; name another folder for the exported network")
    weights = Path(OPENVINO_FILE).with_suffix(".bin").name
    for name in (OPENVINO_FILE, weights):
        check_target(out / name, replace=replace, instead="name another folder")
    openvino = openvino_package()

    def write(data: bytes, check: Checking) -> tuple[Check, ...]:
        new = not out.exists()
        with ExitStack() as stack:
            if new:
                stack.callback(_remove_if_empty, out)  # where nothing was written
            folder = stack.enter_context(scratch_folder(out))
            openvino.save_model(read_network(data), os.fspath(folder / OPENVINO_FILE), compress_to_fp16=False)
            checks = check(OpenVinoEngine.load(folder, precision="fp32"))
            (out / OPENVINO_FILE).unlink(missing_ok=True)  # an old network never reads new weights
            for name in (weights, OPENVINO_FILE):
                with atomic_path(out / name) as temporary:
                    (folder / name).replace(temporary)
        return checks

    return _export(model, out, output, write, reporter)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


Checking = Callable[[ExportedEngine], tuple[Check, ...]]


def _export(
    model: Segmenter,
    out: Path,
    output: str,
    write: Callable[[bytes, Checking], tuple[Check, ...]],
    reporter: Reporter | None,
) -> Exported:
    outputs = get_args(Output)
    if output not in outputs:
        raise ConfigError(f"output {output!r} is unknown; expected {', '.join(outputs)}{did_you_mean(output, outputs)}")
    reporter = reporter or default_reporter()
    check_convertible(model)
    sizes = check_shapes(model.spec.stride, model.spec.min_size, len(model.spec.channels))
    reporter.start(_TASK, CONVERSION_STEPS + len(sizes))
    try:
        network = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
        answer = Answer(network, next(each for each in outputs if each == output), of_files=True)
        data = onnx_bytes(answer, step=lambda: reporter.advance(_TASK))

        def check(engine: ExportedEngine) -> tuple[Check, ...]:
            made = []
            for shape in sizes:
                made.append(checked(answer, engine, shape))
                reporter.advance(_TASK)
            return tuple(made)

        checks = write(data, check)
    finally:
        reporter.finish(_TASK)
    files = [out / OPENVINO_FILE, (out / OPENVINO_FILE).with_suffix(".bin")] if out.is_dir() else [out]
    return Exported(out, sum(file.stat().st_size for file in files), checks)


def check_shapes(stride: int, min_size: int, channels: int = 3) -> list[tuple[int, int, int, int]]:
    """The shapes of images at which a file is compared: not square, not multiples of the stride, and one small.

    >>> check_shapes(32, 64)
    [(1, 3, 31, 99), (2, 3, 129, 95), (1, 3, 95, 229)]
    """
    return [
        (1, channels, max(1, min_size // 2 - 1), min_size + stride + 3),
        (2, channels, min_size + 2 * stride + 1, min_size + stride - 1),
        (1, channels, min_size + stride - 1, 2 * min_size + 3 * stride + 5),
    ]


def difference(expected: Tensor, found: Tensor) -> float:
    """The largest difference of two sets of logits: in probability, or as a share of the largest logit.

    The difference in probability is what a mask shows. The share also shows errors where logits are far from zero, or
    all near it.

    >>> round(difference(torch.tensor([0.0, 8.0]), torch.tensor([0.004, 8.0])), 5)  # a quarter, in probability
    0.001
    """
    share = (expected - found).abs().max() / expected.abs().max().clamp(min=1e-6)
    probability = (expected.sigmoid() - found.sigmoid()).abs().max()
    return float(torch.maximum(share, probability))


def checked(answer: Answer, engine: ExportedEngine, shape: tuple[int, int, int, int]) -> Check:
    """Compare an engine in fp32 with PyTorch.

    Args:
        answer: what was converted.
        engine: of what it became.
        shape: of the images to try.

    Raises:
        ModelError: they differ by more than ``TOLERANCE``, the engine fails, or the network gives NaN.
    """
    spec, images = answer.model.spec, example_images(shape)
    where = f"at {shape[0]} x {shape[2]}x{shape[3]} pixels"
    with torch.no_grad():
        logits = answer.model(images)
        given = images if answer.dtype == torch.uint8 else file_values(images, spec)
        expected = answer(given)
    if not bool(logits.isfinite().all()):
        raise ModelError(f"'{spec.arch}' gives NaN {where}: its training may have diverged, so it is not exported")
    try:
        found = engine.answer(images)
    except ModelError as error:
        raise cannot(spec, f"{where} {engine.program} fails ({first_line(error.__cause__ or error)})") from error
    if found.shape != expected.shape:
        raise cannot(
            spec, f"{where} the file gives {answer.output} of {tuple(found.shape)}, not {tuple(expected.shape)}"
        )
    off = difference(expected, found) if answer.output == "logits" else _share_off(expected, found)
    if not off <= TOLERANCE:
        raise cannot(spec, f"{where} the file differs from PyTorch by {off:.2g}, above {TOLERANCE:g}")
    return Check(shape, off)


def _share_off(expected: Tensor, found: Tensor) -> float:
    """The largest difference of probabilities; of labels the share of pixels that differ."""
    if expected.is_floating_point():
        return float((expected - found).abs().max())
    return float((expected != found).float().mean())
