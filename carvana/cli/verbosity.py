"""How much a command prints: ``--quiet`` and ``--verbose``, before or after the command's name."""

from __future__ import annotations

import functools
import inspect
import logging
import platform
import sys
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from carvana.cli.options import signed

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


def with_verbosity(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command with both options added, which the function itself does not take."""
    hints = get_type_hints(function, include_extras=True)
    parameters = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]
    for name, annotation in (("quiet", QUIETLY), ("verbose", VERBOSELY)):
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=False, annotation=annotation))

    @functools.wraps(function)
    def command(*args: Any, quiet: bool, verbose: bool, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return signed(command, parameters)


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
