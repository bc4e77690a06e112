"""``carvana serve``."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

import typer

from carvana.cli import options


def serve(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run, a model folder, folds, an exported file, or user/repo of the hub."),
    ],
    host: Annotated[str, typer.Option(help="Where to listen; by default on this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    others: options.OTHERS = None,
    covering: options.Covering = options.Covering(),
    max_pixels: Annotated[int, typer.Option(min=1, help="Images with more pixels are refused.")] = 50_000_000,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Larger files are refused.")] = 50,
    queue: Annotated[int, typer.Option(min=1, help="Requests in work or waiting; more get status 503.")] = 64,
    token: Annotated[
        str | None,
        typer.Option(envvar="CARVANA_TOKEN", help="What each request must bring: Authorization: Bearer TOKEN."),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Listen on another host without a token: everybody there may ask.")
    ] = False,
    origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Pages of this origin may ask, as https://example.org; may be repeated."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a network of its own.")] = 1,
    device: options.DEVICE = "auto",
    engine: options.ENGINE = "auto",
) -> None:
    """Serve a page to drop images on, and an HTTP API, until Ctrl-C."""
    from carvana.cli.display import make_reporter
    from carvana.errors import ConfigError, ModelError

    try:
        from carvana.serve.app import LOCAL
        from carvana.serve.server import Served, bind, is_local
        from carvana.serve.server import run as run_server
    except ImportError as error:
        raise ModelError(
            f"carvana serve needs packages that are missing ({error}): pip install 'carvana[serve]'"
        ) from None

    if not is_local(host) and token is None and not open_:
        raise ConfigError(
            f"--host {host}: other machines could ask without a token; name one with --token, or say --open"
        )
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError("--token: expected 8 or more printable characters of ASCII, without spaces")
    if not math.isfinite(max_mb):
        raise ConfigError(f"--max-mb {max_mb}: expected a number of megabytes, such as 50")
    origins = [checked_origin(each) for each in origin or ()]
    reporter = make_reporter()
    guarded = token is None and is_local(host)
    names = [*LOCAL, host, *(urlsplit(each).hostname or "" for each in origins)]
    served = Served(
        runs=[run, *map(str, others or [])],
        predictor={name: str(value) if isinstance(value, Path) else value for name, value in vars(covering).items()}
        | {"max_pixels": max_pixels, "device": device, "engine": engine},
        limits={
            "max_bytes": int(max_mb * 1e6), "places": queue, "token": token, "origins": origins,
            "hosts": names if guarded else None,
        },
    )  # fmt: skip
    at = bind(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{at.getsockname()[1]}/" + (
        f"#token={quote(token, safe='')}" if token and sys.stdout.isatty() else ""
    )
    run_server(served, at, workers=workers, ready=lambda: typer.echo(address), reporter=reporter)


def checked_origin(text: str) -> str:
    """An origin as browsers send it."""
    from carvana.errors import ConfigError

    match = re.fullmatch(r"(https?)://([^/?#@\s]+?)(:\d+)?/?", text.strip().lower())
    try:
        known = match is not None and urlsplit(match[0]).hostname
    except ValueError:  # an address in brackets that is none
        known = None
    if match is None or not known:
        raise ConfigError(f"--origin {text}: expected a scheme and a host, as https://example.org")
    scheme, name, port = match.groups()
    return f"{scheme}://{name}{'' if port in (None, {'http': ':80', 'https': ':443'}[scheme]) else port}"
