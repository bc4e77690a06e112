"""Every error that a user can mend: one line that names the value, what was expected and what to do."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

# Control characters, line breaks of Unicode, what turns the direction of writing, and bytes that are no text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class CarvanaError(ValueError):
    """The caller's mistake, or the data's. The message is one line and complete without a traceback.

    It is a ValueError, so code that knows nothing of this library still catches it.

    >>> import carvana
    >>> try:
    ...     carvana.create_model("unet-erf")
    ... except carvana.CarvanaError as error:
    ...     print(error)
    no architecture is named 'unet-erf'; did you mean 'unet-ref'?
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConfigError(CarvanaError):
    """A recipe or an option that cannot be used as it stands."""


class DataError(CarvanaError):
    """An image, a mask or a folder of them that cannot be used as it stands."""


class ModelError(CarvanaError):
    """An architecture that cannot be built, or weights that cannot be loaded."""


class RunError(CarvanaError):
    """A run folder that is missing, incomplete or already there."""


class UnknownNameError(CarvanaError):
    """A name that is not in a registry; the message holds the nearest ones."""


def printable(text: str) -> str:
    r"""The text in one line that does nothing to a terminal, whatever characters the names of files in it hold.

    >>> print(printable("a\nb\x1b[2J\udcff.jpg"))
    a\nb\x1b[2J\xff.jpg
    """
    return _UNSAFE.sub(_escaped, text)


def cause(error: OSError) -> str:
    """Why the system refuses something, in its own words, and what to do where that is known.

    >>> cause(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device; make room there and start the same again'
    """
    words = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{words}; make room there and start the same again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{words}; name another place, or ask for the right to this one"
    return words


def nearest(name: str, choices: Iterable[str], count: int = 2) -> list[str]:
    """The choices spelled most like ``name``, best first; empty if none comes close.

    >>> nearest("unet/resnet43", ["unet/resnet34", "fpn/resnet34", "segnet"])
    ['unet/resnet34', 'fpn/resnet34']
    """
    folded = {choice.lower(): choice for choice in choices}
    return [folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.6)]


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A half-sentence to append to an error, or an empty string.

    >>> did_you_mean("epoch", ["epochs", "lr"])
    "; did you mean 'epochs'?"
    """
    found = nearest(name, choices)
    return f"; did you mean {' or '.join(repr(choice) for choice in found)}?" if found else ""


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no text, as Python hands it around
        return f"\\x{code - 0xDC00:02x}"
    return ascii(match[0])[1:-1]
