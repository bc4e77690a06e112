"""Encoder weights: random, from a file, or as smp and timm publish them on the Hugging Face hub."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn

from carvana.errors import ConfigError, ModelError, did_you_mean
from carvana.models.smp_encoders import ENCODERS, IMAGENET_MEAN, IMAGENET_STD, Triple, normalisation
from carvana.models.weight_files import match_weights, read_weights
from carvana.utils.files import expanded

PATIENCE = 3.0
"""Seconds that the hub has to answer before ``auto`` starts from random weights."""


@dataclass(frozen=True)
class EncoderWeights:
    """The weights that an encoder starts from, resolved.

    Attributes:
        init: The value of ``ModelSpec.init``.
        mean: Mean of the images that the weights were trained on.
        std: Their standard deviation.
        published: The name under which the weights are published; None to download nothing.
        file: A local file of weights.
    """

    init: str
    mean: Triple
    std: Triple
    published: str | None = None
    file: Path | None = None


def resolve(encoder: str, wanted: str | None, smp_repository: tuple[str, str] | None) -> EncoderWeights:
    """Find the weights of ``encoder``.

    Args:
        encoder: One of smp's encoders, or ``tu-`` and a model of timm.
        wanted: None, "imagenet" or another published name, "auto", or a file.
        smp_repository: Repository and revision in which smp publishes the weights of its own encoders.

    Raises:
        ConfigError: nothing is published under that name.
        ModelError: the file is missing.
    """
    published = published_names(encoder)
    usual = published[0] if published else ""
    mean, std = _normalisation(encoder, wanted if wanted in published else usual)
    if wanted is None:
        return EncoderWeights("random", mean, std)
    if wanted == "auto":
        reason = _why_not(encoder, smp_repository) if published else "none are published"
        if reason is None:
            return EncoderWeights(usual, mean, std, published=usual)
        return fallen_back(EncoderWeights(usual, mean, std), reason)
    if wanted in published:
        reason = _why_not(encoder, smp_repository)
        if reason:
            raise ModelError(
                f"the weights '{wanted}' of {encoder} are not available: {reason}; use auto, none or a file"
            )
        return EncoderWeights(wanted, mean, std, published=wanted)
    path = expanded(wanted)
    if path.suffix or path.parent != Path() or path.exists():
        if not path.is_file():
            raise ModelError(f"encoder_weights: no such file '{wanted}'")
        return EncoderWeights(f"file:{path.name}", mean, std, file=path)
    choices = [*published, "auto", "none"]
    raise ConfigError(
        f"there are no weights '{wanted}' for {encoder}{did_you_mean(wanted, choices)};"
        f" there are {', '.join(choices)}, or a file (.safetensors, .pth)"
    )


def fallen_back(source: EncoderWeights, reason: str) -> EncoderWeights:
    """Random weights, where ``auto`` finds none; ``init`` records the reason."""
    reason = " ".join(reason.split())
    reason = reason if len(reason) <= 160 else reason[:157] + "..."
    return EncoderWeights(f"auto: random ({reason})", source.mean, source.std)


def published_names(encoder: str) -> tuple[str, ...]:
    """The names under which weights of an encoder are published, the usual one first; timm has one for each model."""
    if not encoder.startswith("tu-"):
        return ENCODERS[encoder]
    return ("imagenet",) if timm.models.is_model_pretrained(encoder[3:]) else ()


def file_for_timm(path: Path, model: str) -> dict[str, Tensor]:
    """The weights of a file under the names of timm's ``model``.

    Raises:
        ModelError: they do not fit.
    """
    with torch.device("meta"):
        whole = timm.create_model(model)
    heads = whole.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    state = whole.state_dict()
    optional = {name for name in state if name.startswith(tuple(f"{head}." for head in heads))} if heads else set()
    rest = {name: torch.zeros(state[name].shape) for name in optional}  # timm wants every name; these are dropped later
    return rest | _matched(path, state, optional, model)


def load_file_into(path: Path, encoder: nn.Module, name: str) -> None:
    """Fill one of smp's own encoders from a file.

    Raises:
        ModelError: the weights do not fit.
    """
    state = encoder.state_dict()
    encoder.load_state_dict(state | _matched(path, state, set(), name))


def _matched(path: Path, state: dict[str, Tensor], optional: set[str], name: str) -> dict[str, Tensor]:
    try:
        return match_weights(read_weights(path), state, optional)
    except ModelError as error:
        raise ModelError(f"'{path}' does not fit {name}: {error}") from None


def _normalisation(encoder: str, weights: str) -> tuple[Triple, Triple]:
    if not encoder.startswith("tu-"):
        return normalisation(encoder, weights)
    config = timm.get_pretrained_cfg(encoder[3:])
    if config is None or len(config.mean) != 3 or len(config.std) != 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(config.mean), tuple(config.std)


def _why_not(encoder: str, smp_repository: tuple[str, str] | None) -> str | None:
    """Why published weights are not available now; None if they are cached, or the hub answers."""
    if _is_cached(encoder, smp_repository):
        return None
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set and they are not cached"
    return None if _answers(constants.ENDPOINT) else f"the hub did not answer within {PATIENCE:g} s"


def _is_cached(encoder: str, smp_repository: tuple[str, str] | None) -> bool:
    if smp_repository:
        repository, revision = smp_repository
        return _in_hub_cache(repository, revision, "config.json") and _in_hub_cache(
            repository, revision, "model.safetensors"
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
