"""Encoders of smp and timm (``tu-``) with their weights, for smp's decoders and for architectures of plugins."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import segmentation_models_pytorch as smp
import timm
from torch import nn

from carvana.errors import ModelError, UnknownNameError, did_you_mean
from carvana.models import encoder_weights
from carvana.models.encoder_weights import EncoderWeights
from carvana.models.smp_encoders import ENCODERS, Triple
from carvana.models.weight_files import first_line

Make = Callable[[str | bool | None, dict[str, Any]], nn.Module]
"""Builds a network from the weights, as smp takes them for its encoder, and the encoder's further arguments."""


@dataclass(frozen=True)
class Encoder:
    """An encoder of ``create_encoder``; its ``init``, ``mean`` and ``std`` go into the ``Network`` made with it.

    Attributes:
        module: Normalised float images (N, 3, H, W) to a list of features, the finest first. The channels of each are
            in ``module.out_channels``, by how much the last is smaller in ``module.output_stride``.
        init: Where its weights came from, as in ``ModelSpec.init``.
        mean: To be subtracted from pixels in [0, 1]; red, green, blue.
        std: To divide the result by.

    >>> encoder = create_encoder("mobilenet_v2")
    >>> encoder.is_random, encoder.mean
    (True, (0.485, 0.456, 0.406))
    """

    module: nn.Module
    init: str
    mean: Triple
    std: Triple

    @property
    def is_random(self) -> bool:
        """Whether it starts from random weights: asked for, or because ``auto`` found no others."""
        return self.init == "random" or self.init.startswith("auto: random ")


def create_encoder(name: str, *, weights: str | os.PathLike[str] | None = None) -> Encoder:
    """Build one encoder, for an architecture of your own.

    Args:
        name: An encoder of smp, such as ``"resnet34"``, or ``tu-`` and a model of timm.
        weights: As ``model.encoder_weights`` of a config: None or ``"none"`` (random), ``"imagenet"`` or another
            name that is published, ``"auto"`` (pretrained if cached or if the hub answers within 3 s, else random, and
            ``init`` has the reason), or a file (.safetensors, .pth).

    Raises:
        UnknownNameError: there is no such encoder.
        ConfigError: nothing is published under the name that ``weights`` gives.
        ModelError: the encoder cannot be built, or the weights are not available or do not fit.

    Example:
        >>> encoder = create_encoder("resnet18")
        >>> encoder.module.out_channels, encoder.init
        ([3, 64, 64, 128, 256, 512], 'random')
    """
    if name.startswith("tu-"):
        check_timm(name, name)
    elif name not in ENCODERS:
        hint = did_you_mean(name, ENCODERS)
        raise UnknownNameError(f"no encoder is named '{name}'{hint} (timm's models are written 'tu-NAME')")

    def make(published: str | bool | None, arguments: dict[str, Any]) -> nn.Module:
        def get(**more: Any) -> nn.Module:
            encoder: nn.Module = smp.encoders.get_encoder(name, weights=published, **arguments, **more)
            return encoder

        try:
            return first_built(get, size_arguments(name))
        except Exception as error:  # smp and timm raise whatever their layers raise
            reason = first_line(error)
            if "downsampling pattern" in reason:
                reason = "it gives no features of several scales"
            raise ModelError(f"the encoder '{name}' cannot be built: {reason}") from error

    wanted = None if weights is None or str(weights).lower() == "none" else os.fspath(weights)
    module, source = start(name, wanted, make)
    return Encoder(module, source.init, source.mean, source.std)


def start(encoder: str, wanted: str | None, make: Make, *, part: str = "") -> tuple[nn.Module, EncoderWeights]:
    """Build a network whose encoder starts from the wanted weights.

    Args:
        encoder: A name that smp or timm knows.
        wanted: None, a name that is published for the encoder, "auto", or a file.
        make: Builds the network, and raises a ModelError where it cannot.
        part: Where in the network the encoder is; by default the network is the encoder.

    Returns:
        The network, and the weights that were found.

    Raises:
        ConfigError: no such weights.
        ModelError: the network cannot be built, or the weights are not available.
    """
    source = encoder_weights.resolve(encoder, wanted, _repository(encoder, wanted))
    try:
        return _made(encoder, source, make, part), source
    except ModelError as error:
        if wanted != "auto" or not source.published:
            raise
        reason = str(error.__cause__ or error)  # the hub answers and does not give
    module = _made(encoder, replace(source, published=None), make, part)
    return module, encoder_weights.fallen_back(source, reason)


def first_built(build: Callable[..., nn.Module], attempts: list[dict[str, Any]]) -> nn.Module:
    """Build with the first arguments that work; raises the error of the last ones where none do."""
    for arguments in attempts[:-1]:
        with contextlib.suppress(Exception):
            return build(**arguments)
    return build(**attempts[-1])


def size_arguments(encoder: str) -> list[dict[str, Any]]:
    """Arguments to try, so that timm's Swin transformers take other sizes than the trained one; the last is empty."""
    return [{"strict_img_size": False}, {}] if encoder.startswith("tu-swin") else [{}]


def check_timm(name: str, encoder: str) -> None:
    """Refuse names that timm does not list, and names that it would download from elsewhere.

    Args:
        name: The name asked for, which begins the message.
        encoder: ``tu-`` and a model.

    Raises:
        UnknownNameError: timm has no such model, or no such weights of it.
    """
    model = encoder.removeprefix("tu-")
    if not timm.is_model(model) or ":" in model or "/" in model:  # timm would download names with these
        hint = did_you_mean(model, timm.list_models())
        raise UnknownNameError(f"'{name}' cannot be built: timm has no model '{model}'{hint}")
    tags = timm.list_pretrained(f"{model.partition('.')[0]}.*")
    if "." in model and model not in tags:
        raise UnknownNameError(
            f"'{name}' cannot be built: timm has no weights '{model}'{did_you_mean(model, tags)};"
            f" there are {', '.join(tags) or 'none'}"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of smp and timm about names and arguments that the user did not write."""
    log = logging.getLogger("timm")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _repository(encoder: str, wanted: str | None) -> tuple[str, str] | None:
    """Repository and revision of the weights of smp's own encoders."""
    if encoder.startswith("tu-"):
        return None
    published = smp.encoders.encoders[encoder]["pretrained_settings"]
    settings = published.get(wanted) or published[encoder_weights.published_names(encoder)[0]]
    return settings["repo_id"], settings["revision"]


def _made(encoder: str, source: EncoderWeights, make: Make, part: str) -> nn.Module:
    weights: str | bool | None = source.published
    arguments: dict[str, Any] = {}
    is_timm = encoder.startswith("tu-")
    if is_timm:
        weights = True if source.published or source.file else None
        if source.file:
            state = encoder_weights.file_for_timm(source.file, encoder.removeprefix("tu-"))
            arguments["pretrained_cfg_overlay"] = {"state_dict": state}
    with quiet():
        module = make(weights, arguments)
    if source.file and not is_timm:
        encoder_weights.load_file_into(source.file, module.get_submodule(part), encoder)
    for layer in module.modules():  # timm keeps a copy of the weights in its configuration
        for config in (getattr(layer, "pretrained_cfg", None), getattr(layer, "default_cfg", None)):
            if isinstance(config, dict):
                config.pop("state_dict", None)
    return module
