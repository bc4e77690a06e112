"""How much a command prints: ``--quiet`` and ``--verbose``, before or after the command's name."""

from __future__ import annotations

import logging
import platform
import sys
from typing import Annotated

import typer

QUIET, NORMAL, VERBOSE = "quiet", "normal", "verbose"

_chosen = NORMAL
_LISTED = ("torch", "segmentation-models-pytorch", "timm", "albumentations", "accelerate", "numpy")


def chosen() -> str:
    """The verbosity that the command line asks for."""
    return _chosen


def reset() -> None:
    """Back to normal: a new command line begins."""
    global _chosen
    _chosen = NORMAL
    log = logging.getLogger("carvana")
    log.handlers = [handler for handler in log.handlers if not isinstance(handler, _Handler)]
    log.setLevel(logging.NOTSET)


class _Handler(logging.Handler):
    """Prints to the present ``sys.stderr``, which a live display replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        print(self.format(record), file=sys.stderr, flush=True)


def _be_quiet(wanted: bool) -> None:
    global _chosen
    if wanted:
        _chosen = QUIET


def _be_verbose(wanted: bool) -> None:
    global _chosen
    if not wanted or _chosen == VERBOSE:
        return
    _chosen = VERBOSE
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(relativeCreated)6d ms  %(message)s"))
    log = logging.getLogger("carvana")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.debug("carvana %s, Python %s, %s", _version("carvana"), platform.python_version(), platform.platform())
    log.debug(", ".join(f"{name} {_version(name)}" for name in _LISTED))


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


QUIETLY = Annotated[
    bool,
    typer.Option("-q", "--quiet", is_eager=True, callback=_be_quiet, help="Print only results, warnings and errors."),
]
VERBOSELY = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        is_eager=True,
        callback=_be_verbose,
        help="Print versions and times too, and the traceback of an error.",
    ),
]
