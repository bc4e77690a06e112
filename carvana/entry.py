"""The records of the registry: a name with what stands behind it, and the plugin that brought it."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from carvana.errors import CarvanaError

Target = str | Callable[..., Any]
"""A ``"module:attribute"`` string, imported when it is needed, or the object itself."""

NamesFunction = Callable[[str, str], Iterable[str]]
"""``names(family, pattern)``: the names in ``family`` ("unet/*") that may match ``pattern``.

A returned name may itself hold wildcards: it is then a rule, shown as it stands ("unet/tu-*"), and every name that fits
it is known. The function may raise UnknownNameError where it can tell why one name cannot be.
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name and what stands behind it.

    Attributes:
        name: What the user writes; a family as registered ends with ``/*``.
        target: Where the object is.
        summary: One line for listings.
        source: The distribution that registered it, ``"script"`` for the user's own code.
        version: The version of that distribution, empty for ``"script"``.
        family: The family that a concrete name belongs to, such as ``"unet/*"``; None for a name of its own.
        names: What lists the names of a family; None where any name with the prefix is right.
    """

    name: str
    target: Target
    summary: str = ""
    source: str = "script"
    version: str = ""
    family: str | None = None
    names: str | NamesFunction | None = None

    def load(self) -> Any:
        """Import the target and return it.

        Raises:
            CarvanaError: the module cannot be imported, whatever it raises, or lacks the attribute.
        """
        return resolve(self.target, f"'{self.name}' (from {self.source})")


@dataclass(frozen=True)
class Plugin:
    """One plugin, loaded or broken.

    Attributes:
        name: The name of its entry point.
        package: The distribution that brings it.
        version: The version of that distribution.
        adds: The names that it registered, by catalog (``{"archs": ("segnet",)}``); empty if broken.
        error: Why it is broken, in one line; None if it is not.
    """

    name: str
    package: str
    version: str
    adds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: str | None = None


def check_target(target: Target) -> None:
    """Raise a CarvanaError for what can be no target."""
    if callable(target) or (isinstance(target, str) and re.fullmatch(r"[\w.]+:[\w.]+", target)):
        return
    raise CarvanaError(f"a target must be 'module:attribute' or a callable, got {target!r}")


def resolve(target: Target, what: str) -> Any:
    """The object that a target names, imported if need be; ``what`` begins the message if it cannot be."""
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    try:
        with quietly():
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a stranger's module does on import
        raise CarvanaError(f"{what} cannot be loaded from '{target}': {told(error)}") from error
    return found


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What a stranger's code prints here must not get between the lines of a command's result: it goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def told(error: BaseException) -> str:
    """What a stranger's error is and says, as one line of bounded length that a terminal can show."""
    try:
        text = " ".join(str(error).split())
    except KeyboardInterrupt:
        raise
    except BaseException:  # its own words are a stranger's code as well
        text = ""
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text[:300])
    return f"{type(error).__name__}: {text or 'without a word'}"
