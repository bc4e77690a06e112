"""Encoders of smp and timm (``tu-``), and their weights: random, from a file, or as published on the hub."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn

from carvana.errors import ConfigError, ModelError, UnknownNameError, did_you_mean
from carvana.models.smp_encoders import ENCODERS, IMAGENET_MEAN, IMAGENET_STD, Triple, normalisation
from carvana.models.weight_files import first_line, match_weights, read_weights
from carvana.utils.files import expanded

PATIENCE = 3.0
"""Seconds that the hub has to answer before ``auto`` starts from random weights."""

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


@dataclass(frozen=True)
class EncoderWeights:
    """The weights that an encoder starts from: ``init``, ``mean`` and ``std`` as in ``Encoder``.

    Attributes:
        published: The name under which they are published; None to download nothing.
        file: A local file of weights.
    """

    init: str
    mean: Triple
    std: Triple
    published: str | None = None
    file: Path | None = None

    def fallen_back(self, reason: str) -> EncoderWeights:
        """Random weights, where ``auto`` finds none; ``init`` records the reason."""
        reason = " ".join(reason.split())
        reason = reason if len(reason) <= 160 else reason[:157] + "..."
        return replace(self, init=f"auto: random ({reason})", published=None)


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
        build = functools.partial(smp.encoders.get_encoder, name, weights=published, **arguments)
        try:
            return build_for_any_size(build, name)
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
    source = resolve(encoder, wanted)
    try:
        return _made(encoder, source, make, part), source
    except ModelError as error:
        if wanted != "auto" or not source.published:
            raise
        source = source.fallen_back(str(error.__cause__ or error))  # the hub answers and does not give
    return _made(encoder, source, make, part), source


def resolve(encoder: str, wanted: str | None) -> EncoderWeights:
    """Find the weights of ``encoder``; see ``start``."""
    published = _published(encoder)
    usual = published[0] if published else ""
    random = EncoderWeights("random", *_normalisation(encoder, wanted if wanted in published else usual))
    if wanted is None:
        return random
    if wanted == "auto" or wanted in published:
        name = usual if wanted == "auto" else wanted
        reason = _why_not_available(encoder, name) if published else "none are published"
        if reason is None:
            return replace(random, init=name, published=name)
        if wanted == "auto":
            return random.fallen_back(reason)
        raise ModelError(f"the weights '{wanted}' of {encoder} are not available: {reason}; use auto, none or a file")
    path = expanded(wanted)
    if path.suffix or path.parent != Path() or path.exists():
        if not path.is_file():
            raise ModelError(f"encoder_weights: no such file '{wanted}'")
        return replace(random, init=f"file:{path.name}", file=path)
    choices = [*published, "auto", "none"]
    raise ConfigError(
        f"there are no weights '{wanted}' for {encoder}{did_you_mean(wanted, choices)};"
        f" there are {', '.join(choices)}, or a file (.safetensors, .pth)"
    )


def build_for_any_size(build: Callable[..., nn.Module], encoder: str, *, is_dpt: bool = False) -> nn.Module:
    """Build with the argument that lets timm's transformers take other sizes than the trained one, if there is one."""
    option = "dynamic_img_size" if is_dpt else "strict_img_size" if encoder.startswith("tu-swin") else None
    if option:
        with contextlib.suppress(Exception):
            return build(**{option: is_dpt})
    return build()


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


def _made(encoder: str, source: EncoderWeights, make: Make, part: str) -> nn.Module:
    if not encoder.startswith("tu-"):
        with quiet():
            module = make(source.published, {})
        if source.file:
            own = module.get_submodule(part)
            own.load_state_dict(own.state_dict() | _from_rgb(source.file, own, encoder))
        return module
    overlay = {"state_dict": _file_for_timm(source.file, encoder.removeprefix("tu-"))} if source.file else None
    with quiet():
        module = make(
            True if source.published or source.file else None, {"pretrained_cfg_overlay": overlay} if overlay else {}
        )
    for layer in module.modules():  # timm keeps a copy of the weights in its configuration
        for config in (getattr(layer, "pretrained_cfg", None), getattr(layer, "default_cfg", None)):
            if isinstance(config, dict):
                config.pop("state_dict", None)
    return module


def _from_rgb(path: Path, module: nn.Module, name: str) -> dict[str, Tensor]:
    """The weights of a file for an encoder of smp, those of its first layer spread over the channels that it has.

    As timm does it: one channel has the sum, others have the three in turn, by so much less as there are more.
    """
    state = module.state_dict()
    layers = ((place, layer) for place, layer in module.named_modules() if isinstance(layer, nn.Conv2d))
    place, first = next(layers)
    channels, key = first.in_channels, f"{place}.weight"
    if channels == 3 or first.groups > 1:
        return _matched(path, state, set(), name)
    found = _matched(path, state | {key: torch.zeros(first.out_channels, 3, *first.kernel_size)}, set(), name)
    rgb = found[key]
    spread = rgb.sum(1, keepdim=True) if channels == 1 else rgb[:, torch.arange(channels) % 3] * (3 / channels)
    return found | {key: spread}


def _file_for_timm(path: Path, model: str) -> dict[str, Tensor]:
    """The weights of a file under the names of timm's ``model``."""
    with torch.device("meta"):
        whole = timm.create_model(model)
    heads = whole.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    state = whole.state_dict()
    optional = {name for name in state if name.startswith(tuple(f"{head}." for head in heads))}
    rest = {name: torch.zeros(state[name].shape) for name in optional}  # timm wants every name; these are dropped later
    return rest | _matched(path, state, optional, model)


def _matched(path: Path, state: dict[str, Tensor], optional: set[str], name: str) -> dict[str, Tensor]:
    try:
        return match_weights(read_weights(path), state, optional)
    except ModelError as error:
        raise ModelError(f"'{path}' does not fit {name}: {error}") from None


def _published(encoder: str) -> tuple[str, ...]:
    """The names under which weights of an encoder are published, the usual one first; timm has one for each model."""
    if encoder.startswith("tu-"):
        return ("imagenet",) if timm.models.is_model_pretrained(encoder[3:]) else ()
    names = smp.encoders.encoders[encoder]["pretrained_settings"]
    return tuple(sorted(names, key=lambda name: name != "imagenet"))


def _normalisation(encoder: str, weights: str) -> tuple[Triple, Triple]:
    if not encoder.startswith("tu-"):
        return normalisation(encoder, weights)
    config = timm.get_pretrained_cfg(encoder[3:])
    if config is None or len(config.mean) != 3 or len(config.std) != 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(config.mean), tuple(config.std)


def _why_not_available(encoder: str, weights: str) -> str | None:
    """Why published weights are not available now; None if they are cached, or the hub answers."""
    if _is_cached(encoder, weights):
        return None
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set and they are not cached"
    return None if _answers(constants.ENDPOINT) else f"the hub did not answer within {PATIENCE:g} s"


def _is_cached(encoder: str, weights: str) -> bool:
    if not encoder.startswith("tu-"):
        place = smp.encoders.encoders[encoder]["pretrained_settings"][weights]
        return all(
            _in_hub_cache(place["repo_id"], place["revision"], name) for name in ("config.json", "model.safetensors")
        )
    config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
    if config is None:
        return False
    if config.hf_hub_id:
        names = {config.hf_hub_filename or "model.safetensors", "model.safetensors", "pytorch_model.bin"}
        return any(_in_hub_cache(config.hf_hub_id, None, name) for name in names)
    folder = Path(torch.hub.get_dir(), "checkpoints")
    return bool(config.url) and (folder / Path(str(config.url)).name).is_file()


def _in_hub_cache(repository: str, revision: str | None, name: str) -> bool:
    return isinstance(try_to_load_from_cache(repository, name, revision=revision), str | os.PathLike)


def _answers(address: str) -> bool:
    """Whether a server answers at all in time. In a thread: resolving a name cannot be interrupted."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - the hub's own address
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE):  # noqa: S310 - likewise
                answered.set()
        except urllib.error.HTTPError:
            answered.set()  # it refuses this request, so it is there
        except (OSError, ValueError):
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()
