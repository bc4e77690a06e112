"""Options that several commands share, --quiet and --verbose among them, and what the shell completes."""

from __future__ import annotations

import functools
import inspect
import logging
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from carvana.utils import __version__

_LISTED = ("torch", "segmentation-models-pytorch", "timm", "albumentations", "accelerate", "numpy")

verbosity: set[str] = set()
"""What the present command line asks for: "quiet", "verbose", or neither."""


class _Handler(logging.Handler):
    """Prints to the present ``sys.stderr``, which a live display replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        print(self.format(record), file=sys.stderr, flush=True)


def reset_verbosity() -> None:
    """Back to normal: a new command line begins."""
    verbosity.clear()
    log = logging.getLogger("carvana")
    log.handlers = [handler for handler in log.handlers if not isinstance(handler, _Handler)]
    log.setLevel(logging.NOTSET)


def _ask_for(parameter: typer.CallbackParam, wanted: bool) -> None:
    if not wanted or parameter.name in verbosity:
        return
    verbosity.add(str(parameter.name))
    if parameter.name == "verbose":
        from importlib.metadata import version

        handler = _Handler()
        handler.setFormatter(logging.Formatter("%(relativeCreated)6d ms  %(message)s"))
        log = logging.getLogger("carvana")
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        log.debug("carvana %s, Python %s, %s", __version__, platform.python_version(), platform.platform())
        log.debug(", ".join(f"{name} {version(name)}" for name in _LISTED))


def complete_archs(incomplete: str) -> list[str]:
    """Architectures that complete a word: families; timm's encoders once ``tu-`` and a letter stand there."""
    from carvana.errors import UnknownNameError
    from carvana.registry import registry

    label, equals, name = incomplete.rpartition("=")  # compare takes LABEL=NAME
    registered = [entry.name for entry in registry.archs.registered()]
    found = [known.removesuffix("*") for known in registered if known.startswith(name)]
    if "/" in name or (len(found) == 1 and found[0].endswith("/")):
        family, _, encoder = (name if "/" in name else found[0]).partition("/")
        timm = encoder.startswith("tu-") and len(encoder) > len("tu-")  # seconds, and torch
        try:
            found = registry.archs.names(f"{family}/{encoder}*" if timm or "tu" not in encoder else f"{family}/*")
        except UnknownNameError:
            return []
    return [label + equals + known.removesuffix("*") for known in found if known.startswith(name)]


def complete_configs(incomplete: str) -> Iterator[tuple[str, str]]:
    """Shipped configs that complete a word, each with its line."""
    from carvana.config import configs as shipped
    from carvana.config import describe

    return ((name, describe(path)) for name, path in shipped().items() if name.startswith(incomplete))


QUIETLY = Annotated[
    bool,
    typer.Option("-q", "--quiet", is_eager=True, callback=_ask_for, help="Print only results, warnings and errors."),
]
VERBOSELY = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        is_eager=True,
        callback=_ask_for,
        help="Print versions and times too, and the traceback of an error.",
    ),
]
CONFIG = Annotated[
    str | None,
    typer.Option(
        help="A config: a name that `carvana configs` lists, or a YAML file.", autocompletion=complete_configs
    ),
]
OTHERS = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="RUN", help="Average with this network, each at its own scale; may be repeated."),
]
TILE = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Largest side of a tile in pixels; by default the cheapest tiles that fit."),
]
OVERLAP = Annotated[
    float | None,
    typer.Option(metavar="F", help="Share of a tile that overlaps its neighbours, 0 to 0.9; 0.25 with --tile."),
]
REPLACE = Annotated[bool, typer.Option("--replace", help="Overwrite the file to write, if it exists.")]
DEVICE = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
ENGINE = Annotated[
    str | None,
    typer.Option(help="What runs the network: torch, onnx, openvino, or auto, the quicker of torch and openvino."),
]


@dataclass(frozen=True, kw_only=True)
class Covering:
    """How networks see and cover images: options of predict, evaluate and submit."""

    scale: Annotated[
        str,
        typer.Option(
            metavar="SIZE,...",
            help="Size at which the network sees images: trained, native or HxW; several, with commas, are averaged.",
        ),
    ] = "trained"
    mode: Annotated[
        str,
        typer.Option(
            help="How images are covered: whole, tiles, auto (whole if that fits into memory and no tile is given), or "
            "refine (at the scale first, then low-confidence regions at native size)."
        ),
    ] = "auto"
    refine_with: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The network that refines low-confidence regions; implies --mode refine."),
    ] = None
    band: Annotated[
        tuple[float, float],
        typer.Option(metavar="LOW HIGH", help="With refine: pixels with a probability between these are refined."),
    ] = (0.1, 0.9)
    margin: Annotated[
        int, typer.Option(metavar="N", help="With refine: pixels by which low-confidence regions are widened.")
    ] = 8
    tile: TILE = None
    overlap: OVERLAP = None
    join: Annotated[
        str,
        typer.Option(
            help="blend: tiles are averaged with Gaussian weights; exact: equal to the whole image, where possible."
        ),
    ] = "blend"
    tta: Annotated[bool, typer.Option("--tta", help="Average with the mirrored image, which takes twice the time.")] = (
        False
    )
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GB", help="Memory that one forward pass may take; by default a share of the free memory."
        ),
    ] = None


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command with ``--quiet``, ``--verbose``, and an option for each field of those parameters that are records.

    The function takes such a record, for example :class:`Covering`, as a whole.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    records: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if not is_dataclass(hint):
            parameters.append(parameter.replace(annotation=hint))
            continue
        records[parameter.name] = hint
        kinds = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            default, annotation = field.default, kinds[field.name]
            parameters.append(inspect.Parameter(field.name, parameter.kind, default=default, annotation=annotation))
    for name, annotation in (("quiet", QUIETLY), ("verbose", VERBOSELY)):
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=False, annotation=annotation))

    @functools.wraps(function)
    def command(*, quiet: bool, verbose: bool, **values: Any) -> Any:
        for name, record in records.items():
            values[name] = record(**{field.name: values.pop(field.name) for field in fields(record)})
        return function(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def parse_size(text: str) -> tuple[int, int]:
    """The height and the width that an option ``--size`` names; wrong usage if it names none."""
    match = re.fullmatch(r"\s*([1-9]\d{0,5})\s*x\s*([1-9]\d{0,5})\s*", text)
    if match is None:
        raise typer.BadParameter(f"--size {text}: expected HEIGHTxWIDTH in pixels, such as 1280x1918")
    return int(match[1]), int(match[2])


def given(context: typer.Context) -> set[str]:
    """The names of the parameters that stand on the command line, but for those that every command takes."""
    sources = {name: context.get_parameter_source(name) for name in context.params if name not in ("quiet", "verbose")}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
