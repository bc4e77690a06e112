"""Networks for inference: BatchNorm folded into the convolutions before it, weights in the precision of the arithmetic.

In evaluation BatchNorm is one multiplication and one addition a channel, which the convolution before it can do as well
(Jacob et al. 2018, https://doi.org/10.1109/CVPR.2018.00286, section 3.2); the passes over memory that it takes are
saved. Automatic mixed precision casts all weights anew for each batch; cast once, they give the same bits.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from carvana.models.same_padding import ConstantPad
from carvana.models.segmenter import Segmenter

_CAST = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers whose weights automatic mixed precision casts, each time they are used."""

_TOLERANCE = 1e-3
"""How far logits may move, as a share of the largest: folding rounds otherwise, which deep networks amplify."""


def for_inference(model: Segmenter, dtype: torch.dtype = torch.float32) -> Segmenter:
    """A copy of a model for inference; later changes of the model do not change the copy.

    What cannot be folded stays as it is; a model that cannot be copied is returned itself.

    Args:
        model: on any device, in evaluation mode.
        dtype: what convolutions are computed in; the copy must be used under autocast of the same type.

    >>> network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1))
    >>> from carvana.models.spec import ModelSpec
    >>> for_inference(Segmenter(network, ModelSpec(arch="mine")).eval()).network[1]
    Identity()
    """
    try:
        plain = copy.deepcopy(model).eval().requires_grad_(False)
    except RuntimeError:  # torch copies no weights that are computed from others (weight_norm); or memory is short
        return model
    made = _folded(plain) or plain
    if dtype != torch.float32:
        for module in made.network.modules():
            if isinstance(module, _CAST) and not _computed(module):
                module.to(dtype)
    return made.to(memory_format=torch.channels_last)


def _folded(plain: Segmenter) -> Segmenter | None:
    """A copy with folded norms; None where the folded network gives other logits."""
    made = copy.deepcopy(plain)
    small = (plain.spec.min_size, plain.spec.min_size + plain.spec.stride)
    noise = torch.rand(1, len(plain.spec.channels), *small, generator=torch.Generator().manual_seed(0)).to(
        plain.mean.device
    )
    try:
        # In fp32 also under autocast: half precision rounds more than the tolerance allows.
        with torch.no_grad(), torch.autocast(noise.device.type, enabled=False):
            pairs, before = _pairs(made.network, noise)
            for convolution, norm in pairs:
                _fold(made.network, convolution, norm)
            moved = (made.network(noise) - before).abs().max()
            return made if pairs and moved <= _TOLERANCE * max(float(before.abs().max()), 1e-6) else None
    except Exception:  # a plugin's network may raise anything; if it is broken, the first image shows that
        return None


def _pairs(network: nn.Module, images: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """The names of each convolution and the BatchNorm that takes its output unchanged; and the network's output."""
    names = {module: name for name, module in network.named_modules()}
    calls: dict[nn.Module, int] = {}
    outputs: dict[int, tuple[nn.Module, Any]] = {}  # the tensors are kept, so that no address is used twice
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = (module, output)
        elif inputs and id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module))

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, kinds)]
    try:
        result: Tensor = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    once = [(first, second) for first, second in pairs if calls[first] == calls[second] == 1]
    return [(names[first], names[second]) for first, second in once if _plain(first) and _foldable(second)], result


def _plain(convolution: nn.Module) -> bool:
    return type(convolution) is nn.Conv2d and not _computed(convolution)


def _computed(layer: nn.Module) -> bool:
    """Whether its weight is computed before each use, as by weight_norm or spectral_norm."""
    hooks = layer._forward_pre_hooks.values()
    return parametrize.is_parametrized(layer) or not all(isinstance(hook, ConstantPad) for hook in hooks)


def _foldable(norm: nn.Module) -> bool:
    plain = type(norm) is nn.BatchNorm2d or hasattr(norm, "act")  # timm's norms end with an activation of their own
    return plain and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    first: Any = network.get_submodule(convolution)
    old: Any = network.get_submodule(norm)
    network.set_submodule(convolution, fuse_conv_bn_eval(first, old))
    rest = [part for part in (getattr(old, "drop", None), getattr(old, "act", None)) if part is not None]
    network.set_submodule(norm, nn.Sequential(*rest) if rest else nn.Identity())
