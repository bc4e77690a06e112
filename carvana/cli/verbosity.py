"""How much a command tells: ``--quiet`` and ``--verbose``, which stand before or behind the command's name."""

from __future__ import annotations

import functools
import inspect
import logging
import platform
import sys
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

QUIET, NORMAL, VERBOSE = "quiet", "normal", "verbose"

_chosen = NORMAL
_LISTED = ("torch", "segmentation-models-pytorch", "timm", "albumentations", "accelerate", "numpy")


def chosen() -> str:
    """What the command line of this process says."""
    return _chosen


def reset() -> None:
    """Forget it: a new command line begins."""
    global _chosen
    _chosen = NORMAL
    log = logging.getLogger("carvana")
    log.handlers = [handler for handler in log.handlers if not isinstance(handler, _Handler)]
    log.setLevel(logging.NOTSET)


def with_verbosity(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same command with both options, which it need not know of."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values()]
    for name, annotation in (("quiet", QUIETLY), ("verbose", VERBOSELY)):
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=False, annotation=annotation))

    @functools.wraps(function)
    def command(*args: Any, quiet: bool, verbose: bool, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


class _Handler(logging.Handler):
    """Prints to stderr as it is at the moment, which a live display replaces."""

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
    typer.Option(
        "-q", "--quiet", is_eager=True, callback=_be_quiet, help="Tell warnings and errors alone, beside the results."
    ),
]
VERBOSELY = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        is_eager=True,
        callback=_be_verbose,
        help="Tell versions and times too, and where errors arise.",
    ),
]
