"""Exports a Segmenter as one ONNX file: normalisation, padding, the network, cropping, and its ModelSpec.

The file maps uint8 images of any batch size, height and width to logits of that size, so running it needs ONNX Runtime
alone. Every file is compared with PyTorch before it gets its name.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from carvana.errors import ConfigError, ModelError
from carvana.inference.engines.onnx import INPUT, METADATA, NAMES, OUTPUT, TILING, OnnxEngine, is_exported, needed
from carvana.inference.tiling.measure import bytes_per_pixel, exact_halo
from carvana.models.fuse import for_inference
from carvana.models.segmenter import Segmenter, padded_size
from carvana.models.spec import ModelSpec
from carvana.models.weight_files import first_line
from carvana.utils.files import atomic_path, check_target
from carvana.utils.progress import Reporter, default_reporter

TOLERANCE = 1e-3
"""The largest allowed difference between ONNX Runtime and PyTorch: see ``difference``."""

OPSET = 18
"""The oldest that torch writes, so that old runtimes read the files, too."""

_MOST_BYTES = 2**31 - 2**24  # protobuf holds 2 GiB; the graph itself takes a little

_TASK = "exporting"

_POOLS: tuple[Any, ...] = (torch.ops.aten.adaptive_avg_pool2d.default, torch.ops.aten._adaptive_avg_pool2d.default)


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
        path: the file.
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
    model: Segmenter, out: str | os.PathLike[str], *, replace: bool = False, reporter: Reporter | None = None
) -> Exported:
    """Write a model as an ONNX file: ``images``, uint8 (N, 3, H, W), to ``logits``, float32 (N, classes, H, W).

    N, H and W are free. The metadata has the ModelSpec, as JSON under ``carvana``; the names of the classes, under
    ``names``, where other programs look for them; and what tiling needs, under ``carvana.tiling``: the halo of the
    exact join, and the memory for a pixel. The network is exported on the CPU, in fp32 and evaluation mode, from a
    copy: the model stays as it is.

    Args:
        model: on any device, in any mode.
        out: the file, whose name ends in ``.onnx``.
        replace: overwrite a file that is there.
        reporter: shows progress.

    Raises:
        ConfigError: the file is there already, or has another suffix.
        ModelError: the network cannot be exported, not for every size, or not in one file; or a package is missing.

    Example:
        >>> import tempfile
        >>> from carvana.models.spec import ModelSpec
        >>> model = Segmenter(torch.nn.Conv2d(3, 1, 1), ModelSpec(arch="mine"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_onnx(model, f"{folder}/mine.onnx").difference < 1e-4
        True
    """
    out, reporter = Path(out), reporter or default_reporter()
    if not is_exported(out):
        raise ConfigError(f"'{out}' must end in .onnx, as exported files do: take '{out}.onnx'")
    check_target(out, replace=replace)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package)
    arch = model.spec.arch
    size = sum(4 * tensor.numel() for tensor in model.state_dict().values())
    if size > _MOST_BYTES:
        raise ModelError(f"'{arch}' cannot be exported: its {size / 1e9:.1f} GB of weights exceed ONNX's 2 GB a file")
    sizes = check_shapes(model.spec.stride, model.spec.min_size)
    reporter.start(_TASK, 1 + len(sizes))
    try:
        network = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
        data = _onnx_bytes(network)
        reporter.advance(_TASK)
        with atomic_path(out) as temporary:
            temporary.write_bytes(data)
            del data  # up to 2 GB
            checks = tuple(_checked(network, temporary, shape, reporter) for shape in sizes)
    finally:
        reporter.finish(_TASK)
    return Exported(out, out.stat().st_size, checks)


def check_shapes(stride: int, min_size: int) -> list[tuple[int, int, int, int]]:
    """The shapes of images at which a file is compared: not square, not multiples of the stride, and one small.

    >>> check_shapes(32, 64)
    [(1, 3, 31, 99), (2, 3, 129, 95), (1, 3, 95, 229)]
    """
    return [
        (1, 3, max(1, min_size // 2 - 1), min_size + stride + 3),
        (2, 3, min_size + 2 * stride + 1, min_size + stride - 1),
        (1, 3, min_size + stride - 1, 2 * min_size + 3 * stride + 5),
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


def _converted(network: Segmenter) -> Any:
    """The network as ONNX's ModelProto."""
    spec = network.spec
    # Sides that nothing divides, and a batch above 1, which torch takes for a number that never changes.
    images = _images((2, 3, spec.min_size + spec.stride + 3, spec.min_size + 2 * spec.stride + 5))
    free = {"images": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    ends: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
    try:
        with _quiet():
            program = pool_at_any_size(torch.export.export(network, (images,), dynamic_shapes=free, strict=False))
            made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, **ends)
        assert made is not None
        return made.model_proto
    except Exception as error:  # whatever torch, or the network, raises
        raise _cannot(network, _cause(error)) from error


def _onnx_bytes(network: Segmenter) -> bytes:
    from carvana.utils import __version__

    proto = _converted(network)
    for part in (proto.graph, *proto.functions):
        _strip(part)
    for end in (*proto.graph.input, *proto.graph.output):
        axes = end.type.tensor_type.shape.dim
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            axes[axis].dim_param = name
    proto.producer_name, proto.producer_version = "carvana", __version__
    proto.graph.name = network.spec.arch
    proto.doc_string = (
        f"{INPUT}: images, RGB, uint8 (batch, 3, height, width), of any size. {OUTPUT}: float32 (batch, "
        f"{network.spec.classes}, height, width), of that size. {_meaning(network.spec)}"
    )
    proto.metadata_props.add(key=METADATA, value=json.dumps(network.spec.to_json()))
    if network.spec.task is not None:
        proto.metadata_props.add(key=NAMES, value=json.dumps(network.spec.task.names))
    proto.metadata_props.add(key=TILING, value=json.dumps(_tiling(network)))
    data: bytes = proto.SerializeToString()
    return data


def _meaning(spec: ModelSpec) -> str:
    if spec.task is not None and spec.task.kind == "multiclass":
        return f"A pixel has the class of the largest of its {OUTPUT}; the metadata '{METADATA}' names the classes."
    if spec.task is not None and spec.task.kind == "multilabel":
        return (
            f"A pixel has each class whose sigmoid({OUTPUT}) is above its threshold; the metadata '{METADATA}' names "
            "the classes and has their thresholds."
        )
    return f"Foreground is where sigmoid({OUTPUT}) is above the threshold in the metadata '{METADATA}'."


def _tiling(network: Segmenter) -> dict[str, Any]:
    """The receptive field, or why it has no limit, and the memory for a pixel.

    Measured with torch: ONNX Runtime's kernels need not spread NaN, and its memory cannot be observed.
    """
    spec, folded = network.spec, for_inference(network)
    with torch.inference_mode():
        taken = bytes_per_pixel(folded, padded_size(256, spec.stride, spec.min_size), torch.device("cpu"))
    found: dict[str, Any] = {"bytes_per_pixel": taken}
    try:
        return found | {"halo": exact_halo(folded, stride=spec.stride, min_size=spec.min_size)}
    except ModelError as error:
        return found | {"no_halo": str(error)}


def _strip(graph: Any) -> None:
    """Remove torch's notes for debugging: lines of source code, with folders of this machine."""
    for part in (graph, *graph.node, *getattr(graph, "input", ()), *getattr(graph, "initializer", ())):
        if not isinstance(part, str):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    graph.ClearField("value_info")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


def _checked(network: Segmenter, path: Path, shape: tuple[int, int, int, int], reporter: Reporter) -> Check:
    images = _images(shape)
    where = f"at {shape[0]} x {shape[2]}x{shape[3]} pixels"
    with torch.no_grad():
        expected = network(images)
    if not bool(expected.isfinite().all()):
        raise ModelError(
            f"'{network.spec.arch}' gives NaN {where}: its training may have diverged, so it is not exported"
        )
    try:
        found = OnnxEngine.load(path)(images)
    except ModelError as error:
        raise _cannot(network, f"{where} ONNX Runtime fails ({_cause(error)})") from error
    if found.shape != expected.shape:
        raise _cannot(network, f"{where} the file gives logits of {tuple(found.shape)}, not {tuple(expected.shape)}")
    check = Check(shape, difference(expected, found))
    if not check.difference <= TOLERANCE:
        raise _cannot(network, f"{where} the file differs from PyTorch by {check.difference:.2g}, above {TOLERANCE:g}")
    reporter.advance(_TASK)
    return check


def _images(shape: tuple[int, int, int, int]) -> Tensor:
    """Smooth areas with noise: smooth parts show errors of enlarging, noise shows those of padding."""
    generator = torch.Generator().manual_seed(0)
    areas = torch.rand(*shape[:2], 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(areas, size=shape[2:], mode="bilinear")
    return (200 * smooth + 55 * torch.rand(shape, generator=generator)).to(torch.uint8)


def _cannot(network: Segmenter, reason: str) -> ModelError:
    return ModelError(
        f"'{network.spec.arch}' cannot be exported to an ONNX file that takes images of every size: {reason}; predict "
        "with the run itself, or train an architecture that can, such as unet-ref or unet/resnet34"
    )


def _cause(error: BaseException) -> str:
    """The first line of the first error, which the exporter wraps in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def pool_at_any_size(program: ExportedProgram) -> ExportedProgram:
    """The same program, with adaptive average pooling that is valid for every height and width.

    Which pixels belong to each pooled cell depends on the image's size. Torch's decomposition fixes those of one size
    in the graph; here pooling is a product with a matrix that the graph computes from the size.
    """
    if not any(node.target in _POOLS and list(node.args[1]) != [1, 1] for node in program.graph.nodes):
        return program
    pooled: ExportedProgram = program.run_decompositions(dict.fromkeys(_POOLS, adaptive_average))
    return pooled


def adaptive_average(features: Tensor, output_size: Sequence[int]) -> Tensor:
    """The same as ``torch.nn.functional.adaptive_avg_pool2d``, as two matrix products.

    Args:
        features: float (..., H, W).
        output_size: (height, width).

    Returns:
        (..., height, width).

    >>> features = torch.rand(1, 2, 5, 7)
    >>> torch.allclose(adaptive_average(features, (2, 3)), torch.nn.functional.adaptive_avg_pool2d(features, (2, 3)))
    True
    """
    height, width = output_size
    return (
        _pool_weights(features.shape[-2], height, features)
        @ features
        @ _pool_weights(features.shape[-1], width, features).T
    )


def _pool_weights(size: int, parts: int, like: Tensor) -> Tensor:
    """The weight of each of ``size`` pixels in each of the parts, which overlap where ``parts`` does not divide it."""
    pixel = torch.arange(size, device=like.device)
    part = torch.arange(parts, device=like.device)[:, None]
    begin = part * size // parts
    end = ((part + 1) * size + parts - 1) // parts
    inside = (pixel >= begin) & (pixel < end)
    return inside.to(like.dtype) / (end - begin).to(like.dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the logs, warnings and standard output of torch and onnxscript."""
    logs = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir", "onnx")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
