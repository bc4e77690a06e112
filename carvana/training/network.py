"""The network of a training: wrapped in a Segmenter before, and unwrapped from Accelerate and the compiler after."""

from __future__ import annotations

from torch import nn

from carvana.data.dataset import SegmentationDataset
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec


def as_segmenter(model: nn.Module, train: SegmentationDataset) -> Segmenter:
    """A network as a Segmenter with its training size in the spec."""
    size = train.size if train.mode == "resize" else None
    if not isinstance(model, Segmenter):
        # Most encoders halve five times, so 32 fits nearly every network that was not written for this library.
        spec = ModelSpec(arch=f"custom:{type(model).__name__}", stride=32, min_size=32, package="script")
        model = Segmenter(model, spec)
    return model.with_spec(trained_size=size)


def unwrap(model: Segmenter) -> None:
    """Remove what Accelerate and the compiler put around the network, so that it can be used or trained again."""
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(name, None)
    model._compiled_call_impl = None
