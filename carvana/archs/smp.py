"""The adapter to segmentation_models_pytorch: its twelve decoders on its own encoders and on timm's (``tu-``).

What the decoders leave to their callers is settled here: which sizes they take (tried on the built network), options
and names that cannot be, where the encoder's weights come from, and parameters that no gradient ever reaches.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from carvana.archs import encoder_weights as weights
from carvana.archs.build import unknown_option
from carvana.archs.names import DILATING, check
from carvana.archs.spec import Network
from carvana.archs.weight_files import first_line
from carvana.errors import ModelError, UnknownNameError, did_you_mean

_DECODERS: dict[str, type[nn.Module]] = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "manet": smp.MAnet,
    "linknet": smp.Linknet,
    "fpn": smp.FPN,
    "pspnet": smp.PSPNet,
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "pan": smp.PAN,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
    "dpt": smp.DPT,
}

# Ours to set: logits of the asked number of classes from RGB, one output.
_RESERVED = ("self", "kwargs", "encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")


def build(
    name: str,
    *,
    classes: int = 1,
    encoder_weights: str | None = None,
    known_sizes: tuple[int, int] | None = None,
    **options: Any,
) -> Network:
    """Make ``<decoder>/<encoder>``.

    Args:
        name: Such as ``"unet/resnet34"`` or ``"deeplabv3plus/tu-convnext_tiny"``.
        classes: Channels of the logits.
        encoder_weights: None, a name that is published for the encoder, "auto", or a file.
        known_sizes: Stride and smallest size, where a saved model tells them; None tries them out.
        options: What the decoder's class in smp takes, such as ``decoder_channels``.

    Raises:
        UnknownNameError: no such encoder, or the decoder does not take it.
        ConfigError: no such option or weights.
        ModelError: smp or timm refuse to build it, or the weights cannot be had.
    """
    decoder, _, encoder = name.partition("/")
    check(decoder, encoder)
    if encoder.startswith("tu-"):
        _check_timm(name, encoder)
    known = option_names(decoder)
    for option in options:
        if option not in known:
            raise unknown_option(option, name, known)
    source = weights.resolve(encoder, encoder_weights, _repository(encoder, encoder_weights))
    arguments = {"classes": classes, **options}
    try:
        module = _construct(name, decoder, encoder, source, arguments)
    except ModelError as error:
        if encoder_weights != "auto" or not source.published:
            raise
        module = _construct(name, decoder, encoder, replace(source, published=None), arguments)
        source = weights.fallen_back(source, str(error.__cause__ or error))  # the hub answers and does not give
    stride, min_size = known_sizes or _find_sizes(name, decoder, module)
    _drop_unused(module, stride, min_size)
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
    return [name for name in inspect.signature(_DECODERS[decoder].__init__).parameters if name not in _RESERVED]


def _check_timm(name: str, encoder: str) -> None:
    model = encoder.removeprefix("tu-")
    if not timm.is_model(model) or ":" in model or "/" in model:  # timm would fetch what names with these mean
        hint = did_you_mean(model, timm.list_models())
        raise UnknownNameError(f"'{name}' cannot be built: timm has no model '{model}'{hint}")
    tags = timm.list_pretrained(f"{model.partition('.')[0]}.*")
    if "." in model and model not in tags:
        raise UnknownNameError(
            f"'{name}' cannot be built: timm has no weights '{model}'{did_you_mean(model, tags)};"
            f" there are {', '.join(tags) or 'none'}"
        )


def _repository(encoder: str, wanted: str | None) -> tuple[str, str] | None:
    """Where smp publishes weights of its own encoders."""
    if encoder.startswith("tu-"):
        return None
    published = smp.encoders.encoders[encoder]["pretrained_settings"]
    settings = published.get(wanted) or published[weights.published_names(encoder)[0]]
    return settings["repo_id"], settings["revision"]


def _construct(name: str, decoder: str, encoder: str, source: weights.Source, options: dict[str, Any]) -> nn.Module:
    arguments: dict[str, Any] = {"encoder_name": encoder, "encoder_weights": source.published, **options}
    if encoder.startswith("tu-"):
        arguments["encoder_weights"] = True if source.published or source.file else None
        if source.file:
            state = weights.file_for_timm(source.file, encoder.removeprefix("tu-"))
            arguments["pretrained_cfg_overlay"] = {"state_dict": state}
    errors = []
    for extra in _size_arguments(decoder, encoder):
        try:
            with _quiet():
                module = _DECODERS[decoder](**arguments, **extra)
            break
        except Exception as error:  # smp and timm raise whatever their layers raise
            errors.append(error)
    else:
        raise ModelError(_why_not_built(name, decoder, errors[-1], options)) from errors[-1]
    if source.file and not encoder.startswith("tu-"):
        weights.load_file_into(source.file, module.get_submodule("encoder"), encoder)
    for part in module.modules():  # timm keeps a copy of the weights that it was handed
        for config in (getattr(part, "pretrained_cfg", None), getattr(part, "default_cfg", None)):
            if isinstance(config, dict):
                config.pop("state_dict", None)
    return module


def _size_arguments(decoder: str, encoder: str) -> list[dict[str, Any]]:
    """What frees some of timm's transformers from the size that they were trained at; the last is always nothing."""
    if decoder == "dpt":
        return [{"dynamic_img_size": True}, {}]
    if encoder.startswith("tu-swin"):
        return [{"strict_img_size": False}, {}]
    return [{}]


def _why_not_built(name: str, decoder: str, error: Exception, options: dict[str, Any]) -> str:
    reason = first_line(error)
    if "downsampling pattern" in reason:
        reason = f"{decoder} needs features of several scales, which this encoder does not give; dpt takes plain ViTs"
    elif decoder in DILATING and (isinstance(error, AssertionError) or "'output_stride'" in reason):
        reason = f"{decoder} dilates its encoder, which this one does not allow; take fpn, or another encoder"
    given = {option: value for option, value in options.items() if option != "classes"}
    return f"'{name}' cannot be built{f' with {given}' if given else ''}: {reason}"


def _find_sizes(name: str, decoder: str, module: nn.Module) -> tuple[int, int]:
    """The stride and the smallest size that the network works with, by trying.

    smp tells only the encoder's stride. Windows, pooling pyramids and patches want larger multiples or sizes, and some
    transformers take a single size.
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
        for min_size in sorted({-(-max(2 * base, size) // stride) * stride for size in (32, 64, 128, 256)}):
            error = _try(module, (min_size, min_size + stride)) or _try(module, (min_size + 2 * stride, min_size))
            if error is None:
                return stride, min_size
    raise ModelError(f"'{name}' cannot be used: it does not take photos of any size ({first_line(error)})") from error


def _try(module: nn.Module, size: tuple[int, int]) -> Exception | None:
    images = torch.zeros(1, 3, *size)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), _quiet():
            shape = module(images).shape[-2:]
    except Exception as error:  # see _construct
        return error
    finally:
        module.train(was_training)
    return None if tuple(shape) == size else ModelError(f"{size} becomes {tuple(shape)}")


def _drop_unused(module: nn.Module, stride: int, min_size: int) -> None:
    """Take out modules that are never called and freeze parameters that no gradient reaches.

    pspnet uses the first stages of its encoder, dpt no classifier and no last norm. Left in, they count as parameters
    that the model does not have, and DistributedDataParallel waits for their gradients.
    """
    called: set[nn.Module] = set()
    hooks = [part.register_forward_pre_hook(lambda part, _: called.add(part)) for part in module.modules()]
    was_training = module.training
    module.eval()  # running statistics stay as they are
    try:
        with torch.enable_grad(), _quiet():
            module(torch.zeros(1, 3, min_size, min_size + stride)).sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
        module.train(was_training)
    unreached = {parameter for parameter in module.parameters() if parameter.grad is None}
    module.zero_grad(set_to_none=True)
    for parent, key, child in list(_children(module)):
        parameters = list(child.parameters())
        if parameters and unreached.issuperset(parameters) and called.isdisjoint(child.modules()):
            setattr(parent, key, nn.Identity())
    for parameter in module.parameters():
        if parameter in unreached:
            parameter.requires_grad_(False)


def _children(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Every module below, with its parent and its name there, outermost first."""
    for key, child in module.named_children():
        yield module, key, child
        yield from _children(child)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what smp and timm say of names, arguments and left-out classifiers that no user of ours wrote."""
    log = logging.getLogger("timm")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
