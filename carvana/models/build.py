"""From a name to a network: calls the registry's factory with the arguments it takes, and checks its result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from carvana.errors import CarvanaError, ConfigError, ModelError, did_you_mean
from carvana.models.spec import ModelSpec, Network
from carvana.models.weight_files import first_line
from carvana.registry import Entry, registry
from carvana.utils.imports import stdout_to_stderr

RESERVED = ("name", "classes", "encoder_weights", "known_sizes")


def build_network(
    name: str,
    *,
    classes: int = 1,
    encoder_weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    known_sizes: tuple[int, int] | None = None,
) -> tuple[Network, ModelSpec]:
    """Call the factory of ``name``; see ``carvana.create_model`` for the arguments and the errors.

    ``known_sizes`` are the stride and smallest size of a saved model, for factories with an argument of this name: they
    need not find them by trying.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ConfigError(f"classes must be a whole number of at least 1, got {classes!r}")
    entry = registry.archs.entry(name)
    factory = entry.load()
    arguments = dict(options or {})
    _check_options(name, factory, arguments)
    weights = _plain(encoder_weights)
    takes = inspect.signature(factory).parameters
    if "known_sizes" in takes:
        arguments["known_sizes"] = known_sizes
    if "encoder_weights" in takes:
        arguments["encoder_weights"] = weights
    elif weights not in (None, "auto"):
        raise ConfigError(f"'{name}' has no encoder to load '{weights}' into: leave encoder_weights at none")
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
    ):  # factories may look at gradients
        built = _call(factory, entry, {"classes": classes, **arguments})
    network = Network(built) if isinstance(built, nn.Module) else built
    if not isinstance(network, Network):
        raise ModelError(
            f"the factory of '{name}' (from {entry.source}) must return a Network or an nn.Module,"
            f" got {type(built).__name__}"
        )
    if not isinstance(network.module, nn.Module):
        raise ModelError(
            f"the Network of '{name}' (from {entry.source}) must hold an nn.Module, got {type(network.module).__name__}"
        )
    spec = {
        "arch": name,
        "options": dict(options or {}),
        "classes": classes,
        "stride": network.stride,
        "min_size": network.min_size,
        "mean": network.mean,
        "std": network.std,
        "init": network.init,
        "package": entry.source,
    }
    try:
        return network, ModelSpec.from_json(spec)
    except ModelError as error:
        raise ModelError(f"the factory of '{name}' (from {entry.source}): {error}") from None


def _call(factory: Callable[..., Any], entry: Entry, arguments: Mapping[str, Any]) -> Any:
    """Call the factory; an error in its code becomes one line."""
    try:
        with stdout_to_stderr():
            return factory(entry.name, **arguments) if entry.family else factory(**arguments)
    except (CarvanaError, OSError):
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"'{entry.name}' (from {entry.source}) cannot be built: {type(error).__name__}: {first_line(error)}"
        ) from error


def unknown_option(option: str, name: str, known: list[str]) -> ConfigError:
    """The error for an unknown option, with the known ones."""
    listing = f"it takes {', '.join(known)}" if known else "it takes none"
    return ConfigError(f"'{name}' has no option '{option}'{did_you_mean(option, known)}; {listing}")


def _plain(encoder_weights: str | Path | None) -> str | None:
    if encoder_weights is None or (isinstance(encoder_weights, str) and encoder_weights.lower() == "none"):
        return None
    if not isinstance(encoder_weights, str | Path) or not str(encoder_weights):
        raise ConfigError(f"encoder_weights must be imagenet, none, auto or a file, got {encoder_weights!r}")
    return str(encoder_weights)


def _check_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that are not in the factory's signature; a factory with ``**options`` checks them itself."""
    for option in options:
        if option in RESERVED:
            raise ConfigError(f"'{option}' is not an option of '{name}': it has an argument of its own")
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    takes = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [parameter.name for parameter in parameters if parameter.name not in RESERVED and parameter.kind in takes]
    for option in options:
        if option not in known:
            raise unknown_option(option, name, known)
