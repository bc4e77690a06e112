"""From a name to a network: calls the registry's factory with the arguments it takes, and checks its result."""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from carvana.errors import CarvanaError, ConfigError, ModelError, did_you_mean
from carvana.image_spec import RGB
from carvana.models.same_padding import make_padding_constant
from carvana.models.spec import ModelSpec, Network
from carvana.models.weight_files import first_line
from carvana.registry import Entry, registry

_RESERVED = ("name", "classes", "channels", "encoder_weights", "known_sizes")
_OF_BOTH = ("stride", "min_size", "mean", "std", "init")  # what a Network hands on to its ModelSpec


def build_network(
    name: str,
    *,
    classes: int = 1,
    channels: Sequence[str] = RGB,
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
    where = f"'{name}' (from {entry.source})"
    factory = entry.load()
    options = dict(options or {})
    for option in options:
        if option in _RESERVED:
            raise ConfigError(f"'{option}' is not an option of '{name}': it has an argument of its own")
    takes = inspect.signature(factory).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):  # else it checks them itself
        keywords = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        check_options(name, options, [key for key in takes if takes[key].kind in keywords and key not in _RESERVED])
    weights = _weights(encoder_weights)
    arguments = {"classes": classes, "known_sizes": known_sizes, "encoder_weights": weights}
    if "encoder_weights" not in takes and weights not in (None, "auto"):
        raise ConfigError(f"'{name}' has no encoder to load '{weights}' into: leave encoder_weights at none")
    if "channels" in takes:
        arguments["channels"] = len(channels)
    elif len(channels) != 3:
        raise ConfigError(
            f"'{name}' takes images of 3 channels, not of {len(channels)}: its factory has no argument channels"
        )
    arguments = {key: value for key, value in arguments.items() if key == "classes" or key in takes}
    built = _call(factory, entry, arguments | options)
    network = Network(built) if isinstance(built, nn.Module) else built
    if not isinstance(network, Network):
        raise ModelError(f"the factory of {where} must return a Network or an nn.Module, got {type(built).__name__}")
    if not isinstance(network.module, nn.Module):
        raise ModelError(f"the Network of {where} must hold an nn.Module, got {type(network.module).__name__}")
    spec = {"arch": name, "options": options, "classes": classes, "channels": channels, "package": entry.source}
    of_both = {key: getattr(network, key) for key in _OF_BOTH}
    if len(channels) != len(network.mean):  # those of RGB mean nothing for other channels
        of_both |= {"mean": [0.5] * len(channels), "std": [0.25] * len(channels)}
    try:
        made = ModelSpec.from_json(spec | of_both)
    except ModelError as error:
        raise ModelError(f"the factory of {where}: {error}") from None
    make_padding_constant(network.module, channels=len(channels), stride=made.stride, min_size=made.min_size)
    return network, made


class AllocationLimit(TorchDispatchMode):
    """Refuses tensors once more than ``most`` numbers are made within the block, before their memory is taken.

    It counts tensors that are made from a size, as parameters and buffers are. Results computed from other tensors are
    not counted, nor are tensors on the device "meta", which take no memory.

    >>> with AllocationLimit(1000, "a model"):
    ...     torch.empty(20, 20, 20)
    Traceback (most recent call last):
    ...
    carvana.errors.ModelError: a model would have more than 1,000 numbers
    """

    def __init__(self, most: int, what: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most = most
        self._what = what
        self._made = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count, then run the operation."""
        kwargs = kwargs or {}
        size = args[0] if args and isinstance(args[0], list | tuple | torch.Size) else ["not a size"]
        if all(isinstance(side, int) for side in size) and kwargs.get("device") != torch.device("meta"):
            self._made += math.prod(size)
            if self._made > self._most:
                raise ModelError(f"{self._what} would have more than {self._most:,} numbers")
        return func(*args, **kwargs)


def check_options(name: str, options: Iterable[str], known: Sequence[str]) -> None:
    """Refuse options that an architecture does not have.

    Raises:
        ConfigError: an option is unknown; the message has the known ones.
    """
    for option in options:
        if option not in known:
            listing = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ConfigError(f"'{name}' has no option '{option}'{did_you_mean(option, known)}; {listing}")


def _call(factory: Callable[..., Any], entry: Entry, arguments: Mapping[str, Any]) -> Any:
    """Call the factory; an error in its code becomes one line."""
    try:
        with (
            contextlib.redirect_stdout(sys.stderr),
            torch.inference_mode(False),
            torch.enable_grad(),  # factories may look at gradients
        ):
            return factory(entry.name, **arguments) if entry.family else factory(**arguments)
    except (CarvanaError, OSError):
        raise
    except (Exception, SystemExit) as error:
        line = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"'{entry.name}' (from {entry.source}) cannot be built: {line}") from error


def _weights(wanted: str | Path | None) -> str | None:
    if wanted is None or (isinstance(wanted, str) and wanted.lower() == "none"):
        return None
    if not isinstance(wanted, str | Path) or not str(wanted):
        raise ConfigError(f"encoder_weights must be imagenet, none, auto or a file, got {wanted!r}")
    return str(wanted)
