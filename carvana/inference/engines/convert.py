"""Converts a Segmenter to an ONNX model: normalisation, padding, the network, cropping, and its ModelSpec.

The model maps uint8 images of any batch size, height and width to logits of that size, or to what is made of them, so
running it needs nothing of this library.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from carvana.errors import ModelError
from carvana.image_spec import RGB, ImageSpec
from carvana.inference.engines.exported import INPUT, METADATA, NAMES, TILING, Output, file_values, needed
from carvana.inference.tiling.measure import bytes_per_pixel, exact_halo
from carvana.models.fuse import for_inference
from carvana.models.segmenter import Segmenter, padded_size
from carvana.models.spec import ModelSpec
from carvana.models.weight_files import first_line

OPSET = 18
"""The oldest that torch writes, so that old runtimes read the files, too."""

_MOST_BYTES = 2**31 - 2**24  # protobuf holds 2 GiB; the graph itself takes a little

_POOLS: tuple[Any, ...] = (torch.ops.aten.adaptive_avg_pool2d.default, torch.ops.aten._adaptive_avg_pool2d.default)


class Answer(nn.Module):
    """A Segmenter that gives logits, probabilities or labels.

    Labels are indices of classes (N, H, W), uint8, int32 of more than 256 classes; of one class 1 where its probability
    is above the threshold, else 0; of classes that overlap such a mask for each, (N, K, H, W).

    Args:
        model: the Segmenter.
        output: what it gives.
        of_files: images have the type and the values of files, and not 8 bits: the spec's range and its values that
            stand for none are part of the network then.

    Raises:
        ModelError: the model has no task, which would say what its logits mean.
    """

    def __init__(self, model: Segmenter, output: Output = "logits", *, of_files: bool = False) -> None:
        super().__init__()
        if output != "logits" and model.spec.task is None:
            raise ModelError(f"'{model.spec.arch}' has no task, so it gives logits only: leave out the output {output}")
        self.model = model
        self.output = output
        spec = model.spec.image_spec
        self.read = FileValues(spec) if of_files and (spec.range or spec.nodata is not None) else nn.Identity()
        self.dtype = getattr(torch, model.spec.file_dtype) if of_files else torch.uint8

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W), uint8 or of the type of files, to the output."""
        logits: Tensor = self.model(self.read(images))
        task, spec = self.model.spec.task, self.model.spec
        if self.output == "logits" or task is None:
            return logits
        if self.output == "labels" and task.kind == "multiclass":
            return logits.argmax(1).to(torch.uint8 if spec.classes <= 256 else torch.int32)
        found = task.probabilities(logits)
        if self.output == "probabilities":
            return found
        thresholds = torch.tensor(spec.thresholds, device=logits.device).view(-1, 1, 1)
        masks = (found > thresholds).to(torch.uint8)
        return masks if task.kind == "multilabel" else masks[:, 0]


class FileValues(nn.Module):
    """The values of files as :func:`carvana.data.io.images.read_pixels` makes them 8 bits, as float32 in [0, 1]."""

    low: Tensor
    factor: Tensor
    fill: Tensor

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.scales, self.nodata = bool(spec.range), spec.nodata
        limits = spec.range or ((0.0, 255.0),) * len(spec.channels)
        fill = spec.fill or (0,) * len(spec.channels)
        for name, values in (
            ("low", [low for low, _ in limits]),
            ("factor", [255 / (high - low) for low, high in limits]),
            ("fill", fill),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) of any type to float32 in [0, 1]."""
        values = images.to(torch.float32)
        lacks = values != values if images.is_floating_point() else torch.zeros_like(values, dtype=torch.bool)
        for value in self.nodata or ():
            lacks = lacks | (values == value)
        levels = values
        if self.scales:
            levels = torch.where(values != values, 0.0, (values - self.low) * self.factor)
            levels = (levels.clamp(0, 255) + 0.5).floor()
        if self.nodata is not None:
            levels = torch.where(lacks, self.fill, levels)
        return levels / 255


def check_convertible(model: Segmenter) -> None:
    """Refuse what cannot be converted, before any work.

    Raises:
        ModelError: a package is missing, or the weights are too large for one file.
    """
    for package in ("onnx", "onnxscript"):
        needed(package)
    size = sum(4 * tensor.numel() for tensor in model.state_dict().values())
    if size > _MOST_BYTES:
        raise ModelError(
            f"'{model.spec.arch}' cannot be exported: its {size / 1e9:.1f} GB of weights exceed ONNX's 2 GB a file"
        )


CONVERSION_STEPS = 3
"""How often ``onnx_bytes`` calls its ``step``."""


def onnx_bytes(answer: Answer, *, step: Callable[[], None] = lambda: None) -> bytes:
    """An ONNX model, with its metadata.

    The metadata has the ModelSpec, as JSON under ``carvana``; the names of the classes, under ``names``, where other
    programs look for them; and what tiling needs, under ``carvana.tiling``: the halo of the exact join, and the memory
    for a pixel.

    Args:
        answer: on the CPU, in fp32 and evaluation mode.
        step: called after each part of the work.

    Raises:
        ModelError: the network cannot be converted.
    """
    from carvana.utils import __version__

    network = answer.model
    spec = network.spec
    proto = _converted(answer, step)
    for part in (proto.graph, *proto.functions):
        _strip(part)
    for end in (*proto.graph.input, *proto.graph.output):
        axes = end.type.tensor_type.shape.dim
        for axis, name in ((0, "batch"), (len(axes) - 2, "height"), (len(axes) - 1, "width")):
            axes[axis].dim_param = name
    proto.producer_name, proto.producer_version = "carvana", __version__
    proto.graph.name = spec.arch
    bands = "RGB" if spec.channels == RGB else ", ".join(spec.channels)
    form = f"{str(answer.dtype).removeprefix('torch.')} (batch, {len(spec.channels)}, height, width), of any size"
    proto.doc_string = f"{INPUT}: images, {bands}, {form}. {answer.output}: {_meaning(answer)}"
    proto.metadata_props.add(key=METADATA, value=json.dumps(spec.to_json()))
    if spec.task is not None:
        proto.metadata_props.add(key=NAMES, value=json.dumps(spec.task.names))
    proto.metadata_props.add(key=TILING, value=json.dumps(_tiling(network)))
    step()
    data: bytes = proto.SerializeToString()
    return data


def _converted(answer: Answer, step: Callable[[], None]) -> Any:
    """The network as ONNX's ModelProto."""
    spec = answer.model.spec
    # Sides that nothing divides, and a batch above 1, which torch takes for a number that never changes.
    images = example_images(
        (2, len(spec.channels), spec.min_size + spec.stride + 3, spec.min_size + 2 * spec.stride + 5)
    )
    if answer.dtype != torch.uint8:
        images = file_values(images, spec)
    free = {"images": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    ends: dict[str, Any] = {"input_names": [INPUT], "output_names": [answer.output]}
    try:
        with _quiet():
            program = pool_at_any_size(torch.export.export(answer, (images,), dynamic_shapes=free, strict=False))
            step()
            made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, **ends)
        assert made is not None
        step()
        return made.model_proto
    except Exception as error:  # whatever torch, or the network, raises
        raise cannot(spec, _cause(error)) from error


def _meaning(answer: Answer) -> str:
    spec, output = answer.model.spec, answer.output
    kind = "binary" if spec.task is None else spec.task.kind
    names = f"the metadata '{METADATA}' names the classes"
    if output == "labels":
        if kind == "binary":
            return "uint8 (batch, height, width), of that size: 1 is foreground."
        if kind == "multiclass":
            return f"(batch, height, width), of that size: indices of classes; {names}."
        return f"uint8 (batch, {spec.classes}, height, width), of that size: a pixel has each class that is 1; {names}."
    form = f"float32 (batch, {spec.classes}, height, width), of that size. "
    if kind == "multiclass":
        return f"{form}A pixel has the class of the largest of its {output}; {names}."
    value = "sigmoid(logits)" if output == "logits" else output
    if kind == "multilabel":
        return f"{form}A pixel has each class whose {value} is above its threshold; {names} and has their thresholds."
    return f"{form}Foreground is where {value} is above the threshold in the metadata '{METADATA}'."


def _tiling(network: Segmenter) -> dict[str, Any]:
    """The receptive field, or why it has no limit, and the memory for a pixel.

    Measured with torch: ONNX Runtime's kernels need not spread NaN, and its memory cannot be observed.
    """
    spec, folded = network.spec, for_inference(network)
    with torch.inference_mode():
        taken = bytes_per_pixel(
            folded, padded_size(256, spec.stride, spec.min_size), torch.device("cpu"), channels=len(spec.channels)
        )
    found: dict[str, Any] = {"bytes_per_pixel": taken}
    try:
        return found | {
            "halo": exact_halo(folded, stride=spec.stride, min_size=spec.min_size, channels=len(spec.channels))
        }
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


def example_images(shape: tuple[int, ...]) -> Tensor:
    """Smooth areas with noise: smooth parts show errors of enlarging, noise shows those of padding."""
    generator = torch.Generator().manual_seed(0)
    areas = torch.rand(*shape[:2], 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(areas, size=shape[2:], mode="bilinear")
    return (200 * smooth + 55 * torch.rand(shape, generator=generator)).to(torch.uint8)


def cannot(spec: ModelSpec, reason: str) -> ModelError:
    """The error that says why a network cannot be exported, and what to do."""
    return ModelError(
        f"'{spec.arch}' cannot be exported to an ONNX file that takes images of every size: {reason}; predict "
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
