"""Runs the application: the socket, the processes, and the end when it is asked for."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from carvana.errors import CarvanaError, ConfigError, ModelError, error_line
from carvana.inference.ensemble import load_predictor
from carvana.serve.app import LOCAL, Limits, create_app
from carvana.utils.devices import cpu_count
from carvana.utils.progress import Reporter

_SETTINGS = "CARVANA_SERVE"
"""The variable by which worker processes know what to serve."""

_SILENCE = 15.0
"""Seconds that a connection may be open without a whole head of a request, or without reading on in its answer."""

_LAST = 120
"""Seconds in which requests that were taken are answered after the signal to end."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served, and how: also what worker processes are told, as JSON.

    Attributes:
        runs: the networks, as :func:`carvana.inference.ensemble.load_predictor` takes them.
        predictor: its other arguments.
        limits: arguments of :class:`carvana.serve.app.Limits`.
    """

    runs: list[str]
    predictor: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)

    def app(self, reporter: Reporter | None = None) -> FastAPI:
        """The application; loads the networks."""
        predictor = load_predictor(self.runs, reporter=reporter, **self.predictor)
        return create_app(predictor, source=self.runs[0], limits=Limits(**self.limits))


def bind(host: str, port: int) -> socket.socket:
    """A socket at which nothing is accepted yet; port 0 takes a free one.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
        if os.name == "posix":  # a server that was killed leaves connections; elsewhere it means another thing
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--host {host} --port {port}: {why}; take another port, or --port 0 for a free one"
        ) from error
    return opened


def is_local(host: str) -> bool:
    """Whether a host is this machine alone.

    >>> is_local("127.0.0.1"), is_local("0.0.0.0")
    (True, False)
    """
    return host in LOCAL or host.startswith("127.")


def run(
    served: Served, at: socket.socket, *, workers: int = 1, ready: Any = None, reporter: Reporter | None = None
) -> None:
    """Serve until SIGINT or SIGTERM; what was taken on is answered first.

    Args:
        served: what is served.
        at: as :func:`bind` gives it.
        workers: processes, each with the networks and limits of its own; they share the cores.
        ready: is called once the networks are loaded, or the processes are started.
        reporter: shows what loading does.
    """
    _allow_many_connections()
    if workers == 1:
        server = _Server(_config(served.app(reporter)))
        if ready is not None:
            ready()
        try:
            server.run([at])
        except KeyboardInterrupt:  # uvicorn raises its signals again at the end
            return
        return
    os.environ[_SETTINGS] = json.dumps(asdict(served))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // workers)))
    with tempfile.TemporaryDirectory(prefix="carvana-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        config = _config("carvana.serve.server:worker_app", factory=True, workers=workers)
        if ready is not None:
            ready()
        Multiprocess(config, [at]).run()
        if (failure := Path(folder, _FAILURE)).is_file():
            raise ModelError(f"a process could not begin: {failure.read_text('utf-8')}")


def worker_app() -> FastAPI:
    """The application of a worker process; where there is none, all processes end."""
    told = json.loads(os.environ[_SETTINGS])
    told["predictor"] = {
        name: tuple(each) if isinstance(each, list) else each for name, each in told["predictor"].items()
    }
    try:
        return Served(**told).app()
    except Exception as error:
        line = str(error) if isinstance(error, CarvanaError) else error_line(error)
        Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], _FAILURE).write_text(line, "utf-8")
        sys.exit(STARTUP_FAILURE)  # by which the supervisor knows that another one would fail as well


_FAILURE = "failure.txt"


def _config(app: Any, **settings: Any) -> uvicorn.Config:
    verbose = logging.getLogger("carvana").isEnabledFor(logging.DEBUG)
    return uvicorn.Config(
        app, http="h11", loop="asyncio", ws="none", lifespan="on", log_level="info" if verbose else "error",
        access_log=verbose, server_header=False, backlog=4096, timeout_graceful_shutdown=_LAST,
        timeout_worker_healthcheck=20, **settings,  # loading torch may keep a process from answering for seconds
    )  # fmt: skip


class _Server(uvicorn.Server):
    """uvicorn's server, which also closes connections that send no whole request, or do not read their answer."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._silent: dict[Any, tuple[Any, float]] = {}  # for each connection the state that it is in, and since when

    async def on_tick(self, counter: int) -> bool:
        """Close what has been silent for too long; called ten times a second."""
        if counter % 10 == 0:
            now, known, self._silent = time.monotonic(), self._silent, {}
            for connection in cast("list[H11Protocol]", list(self.server_state.connections)):
                cycle, unread = connection.cycle, connection.transport.get_write_buffer_size()
                if cycle is not None and not cycle.response_complete and not unread:
                    continue  # in work; uploads have their own limits
                before, since = known.get(connection, (None, now))
                since = since if before == (cycle, unread) else now
                self._silent[connection] = (cycle, unread), since
                if now - since > _SILENCE:
                    connection.transport.abort()
        return await super().on_tick(counter)


def _allow_many_connections() -> None:
    """Raise the number of open files to what the system allows."""
    if sys.platform == "win32":
        return
    import resource

    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if most == resource.RLIM_INFINITY else min(most, 65536)
    if least not in (wanted, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, wanted), most))
