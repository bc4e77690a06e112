"""Importing what other people wrote: whatever it prints or raises, the caller gets an object or one line."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

from carvana.errors import CarvanaError


def resolve(target: Any, what: str) -> Any:
    """The object at ``"module:attribute"``, imported if need be; anything but a string is returned as it is.

    Raises:
        CarvanaError: the module cannot be imported, whatever it raises, or lacks the attribute; the message begins
            with ``what``.
    """
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a command's result is alone on stdout
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything on import, SystemExit too
        raise CarvanaError(f"{what} cannot be loaded from '{target}': {error_line(error)}") from error
    return found


def error_line(error: BaseException) -> str:
    """The type and the text of an error, as one line of bounded length that a terminal can show."""
    try:
        text = " ".join(str(error).split())
    except KeyboardInterrupt:
        raise
    except BaseException:  # __str__ of another package's error may fail as well
        text = ""
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text[:300])
    return f"{type(error).__name__}: {text or 'without a message'}"
