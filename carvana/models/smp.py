"""The adapter to segmentation_models_pytorch: its twelve decoders on its own encoders and on timm's (``tu-``).

Also decided here: which sizes a network takes (tried on the built network), which options and names are refused, where
the encoder's weights come from, and which parameters are unused.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

from carvana.errors import ModelError
from carvana.models.build import check_options
from carvana.models.encoders import build_for_any_size, check_timm, quiet, start
from carvana.models.segmenter import round_up
from carvana.models.smp_encoders import DILATING, check
from carvana.models.spec import Network
from carvana.models.weight_files import first_line

# Set here, not by options: one output, logits of the given number of classes from RGB.
_RESERVED = ("self", "kwargs", "encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")


def build(
    name: str,
    *,
    classes: int = 1,
    channels: int = 3,
    encoder_weights: str | None = None,
    known_sizes: tuple[int, int] | None = None,
    **options: Any,
) -> Network:
    """Make ``<decoder>/<encoder>``.

    Args:
        name: Such as ``"unet/resnet34"`` or ``"deeplabv3plus/tu-convnext_tiny"``.
        classes: Channels of the logits.
        channels: Of an image; smp and timm adapt the first layer of published weights.
        encoder_weights: None, a name that is published for the encoder, "auto", or a file.
        known_sizes: Stride and smallest size of a saved model; None finds them by trying.
        options: What the decoder's class in smp takes, such as ``decoder_channels``.

    Raises:
        UnknownNameError: no such encoder, or the decoder does not take it.
        ConfigError: no such option or weights.
        ModelError: smp or timm refuse to build it, or the weights are not available.
    """
    decoder, _, encoder = name.partition("/")
    check(decoder, encoder)
    if encoder.startswith("tu-"):
        check_timm(name, encoder)
    check_options(name, options, option_names(decoder))

    def make(published: str | bool | None, for_encoder: dict[str, Any]) -> nn.Module:
        architecture = smp.MODEL_ARCHITECTURES_MAPPING[decoder]
        build = functools.partial(
            architecture,
            encoder,
            encoder_weights=published,
            in_channels=channels,
            classes=classes,
            **for_encoder,
            **options,
        )
        try:
            return build_for_any_size(build, encoder, is_dpt=decoder == "dpt")
        except Exception as error:  # layers of smp and timm may raise anything
            given = f" with {options}" if options else ""
            raise ModelError(f"'{name}' cannot be built{given}: {_why_not_built(decoder, error)}") from error

    module, source = start(encoder, encoder_weights, make, part="encoder")
    stride, min_size = known_sizes or _find_sizes(name, decoder, module, channels)
    _drop_unused(module, stride, min_size, channels)
    return Network(
        module,
        stride=stride,
        min_size=min_size,
        mean=source.mean,
        std=source.std,
        init=source.init,
        encoder=module.get_submodule("encoder"),
    )


def option_names(decoder: str) -> list[str]:
    """The options that a decoder takes.

    >>> option_names("linknet")
    ['encoder_depth', 'decoder_use_norm']
    """
    takes = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[decoder].__init__).parameters
    return [name for name in takes if name not in _RESERVED]


def _why_not_built(decoder: str, error: Exception) -> str:
    reason = first_line(error)
    if "downsampling pattern" in reason:
        return f"{decoder} needs features of several scales, which this encoder does not give; dpt takes plain ViTs"
    if decoder in DILATING and (isinstance(error, AssertionError) or "'output_stride'" in reason):
        return f"{decoder} dilates its encoder, which this one does not allow; take fpn, or another encoder"
    return reason


def _find_sizes(name: str, decoder: str, module: nn.Module, channels: int) -> tuple[int, int]:
    """The stride and the smallest size that the network works with, by trying.

    smp gives only the encoder's stride. Windows, pooling pyramids and patches need larger multiples or sizes, and some
    transformers take one size only.
    """
    encoder: Any = module.get_submodule("encoder")
    base = encoder.output_stride
    if decoder == "dpt":
        if len(set(encoder.output_strides)) > 1 or base & (base - 1):
            raise ModelError(
                f"'{name}' cannot be built: dpt takes only plain vision transformers, patches of 8, 16 or 32"
            )
        base *= 2  # its decoder halves the grid of patches once more
    error: Exception | None = None
    for stride in (base, 2 * base, 4 * base, 8 * base):
        # At least 2 * base: one pixel a channel is too little for BatchNorm to train on.
        for min_size in sorted({round_up(max(2 * base, size), stride) for size in (32, 64, 128, 256)}):
            tall, wide = (min_size + 2 * stride, min_size), (min_size, min_size + stride)
            error = _try(module, channels, wide) or _try(module, channels, tall)
            if error is None:
                return stride, min_size
    raise ModelError(f"'{name}' cannot be used: it does not take images of any size ({first_line(error)})") from error


def _try(module: nn.Module, channels: int, size: tuple[int, int]) -> Exception | None:
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), quiet():
            shape = module(torch.zeros(1, channels, *size)).shape[-2:]
    except Exception as error:  # see build
        return error
    finally:
        module.train(was_training)
    return None if tuple(shape) == size else ModelError(f"{size} becomes {tuple(shape)}")


def _drop_unused(module: nn.Module, stride: int, min_size: int, channels: int) -> None:
    """Remove modules that are never called, and freeze parameters that no gradient reaches.

    pspnet uses only the first stages of its encoder, dpt neither classifier nor last norm. Left in, they would count as
    parameters, and DistributedDataParallel would wait for their gradients.
    """
    called: set[nn.Module] = set()
    hooks = [part.register_forward_pre_hook(lambda part, _: called.add(part)) for part in module.modules()]
    was_training = module.training
    module.eval()  # running statistics stay as they are
    try:
        with torch.enable_grad(), quiet():
            module(torch.zeros(1, channels, min_size, min_size + stride)).sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
        module.train(was_training)
    unreached = {parameter for parameter in module.parameters() if parameter.grad is None}
    module.zero_grad(set_to_none=True)
    for parent in list(module.modules()):
        for key, child in list(parent.named_children()):
            parameters = list(child.parameters())
            if parameters and unreached.issuperset(parameters) and called.isdisjoint(child.modules()):
                setattr(parent, key, nn.Identity())
    for parameter in module.parameters():
        if parameter in unreached:
            parameter.requires_grad_(False)
