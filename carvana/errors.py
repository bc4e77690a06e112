"""Every error that a user can mend: one line that names the value, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


class ConfigError(CarvanaError):
    """A recipe or an option that cannot be used as it stands."""


class DataError(CarvanaError):
    """A photo, a mask or a folder of them that cannot be used as it stands."""


class ModelError(CarvanaError):
    """An architecture that cannot be built, or weights that cannot be loaded."""


class RunError(CarvanaError):
    """A run folder that is missing, incomplete or already there."""


class UnknownNameError(CarvanaError):
    """A name that is not in a registry; the message holds the nearest ones."""


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
