"""Runs the application: the socket, the processes, and the end when it is asked for."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h11
import psutil
import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from carvana.errors import CarvanaError, ConfigError, ModelError, error_line
from carvana.inference.ensemble import load_predictor
from carvana.serve.app import LOCAL, Limits, create_app
from carvana.serve.upload import SLOWEST
from carvana.utils.devices import cpu_count
from carvana.utils.progress import Reporter

_SETTINGS = "CARVANA_SERVE"
"""The variable by which worker processes know what to serve."""

SILENCE = 15.0
"""Seconds in which a whole head of a request must come, and in which a client must read on in its answer."""

UNREAD = 2**28
"""Bytes of answers that may wait for those who read slowly; beyond it the slowest are given up."""

_LAST = 120
"""Seconds in which requests that were taken are answered after the signal to end."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served, and how; worker processes get it as JSON.

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
        family, address = _address(host, port)
        opened = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # a server that was killed leaves connections; elsewhere it means another thing
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: a name as my..host
        why = getattr(error, "strerror", None) or error
        advice = "take another port, or --port 0 for a free one"
        if isinstance(error, socket.gaierror | UnicodeError) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
            advice = "take 127.0.0.1, or 0.0.0.0 for all networks of this machine"
        raise ConfigError(f"--host {host} --port {port}: {why}; {advice}") from error
    return opened


def _address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """What a host is; nothing is looked up for a number."""
    with suppress(ValueError):
        is_six = ipaddress.ip_address(host).version == 6
        return (socket.AF_INET6 if is_six else socket.AF_INET), (host, port)
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return family, address


def is_local(host: str) -> bool:
    """Whether a host is this machine alone.

    >>> is_local("127.0.0.1"), is_local("0.0.0.0")
    (True, False)
    """
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host in LOCAL


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
        server = uvicorn.Server(_config(served.app(reporter)))
        if ready is not None:
            ready()
        with suppress(KeyboardInterrupt):  # uvicorn raises its signals again at the end
            server.run([at])
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
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _forget_dead(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    settings = json.loads(os.environ[_SETTINGS])
    settings["predictor"] = {
        name: tuple(each) if isinstance(each, list) else each for name, each in settings["predictor"].items()
    }
    try:
        app = Served(**settings).app()
        _loaded.set()
        return app
    except Exception as error:
        line = str(error) if isinstance(error, CarvanaError) else error_line(error)
        Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], _FAILURE).write_text(line, "utf-8")
        sys.exit(STARTUP_FAILURE)  # by which the supervisor knows that another one would fail as well


_FAILURE = "failure.txt"
_loaded = threading.Event()


def _end_with_parent() -> None:
    """Where the command itself was killed, its processes would keep the port."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        if not _loaded.is_set():
            os._exit(1)  # nothing was taken on yet
        os.kill(os.getpid(), signal.SIGTERM)


def _forget_dead(folder: Path) -> None:
    """Leave out of the sums what processes had in work that are dead."""
    for file in folder.glob("gauge_live*_*.db"):
        if not psutil.pid_exists(pid := int(file.stem.rpartition("_")[2])):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _config(app: Any, **settings: Any) -> uvicorn.Config:
    verbose = logging.getLogger("carvana").isEnabledFor(logging.DEBUG)
    return uvicorn.Config(
        app, http=Protocol, loop="asyncio", ws="none", lifespan="on", log_level="info" if verbose else "error",
        access_log=verbose, server_header=False, backlog=4096, timeout_graceful_shutdown=_LAST,
        timeout_worker_healthcheck=20, **settings,  # loading torch may keep a process from answering for seconds
    )  # fmt: skip


class Protocol(H11Protocol):
    """HTTP by uvicorn, which also gives up clients that send no request or read too slowly, and refuses in JSON."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look after the connection."""
        super().connection_made(transport)
        self._marked, self._unread = self.cycle, 0  # the state at which something last went on
        self._since = self._begun = self.loop.time()  # then; and when the answer that is not read yet began to wait
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cease to."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        unread, now = self.transport.get_write_buffer_size(), self.loop.time()
        self._begun = self._begun if unread else now
        working = self.cycle is not None and not self.cycle.response_complete and not unread  # uploads have own limits
        goes_on = self._marked is not self.cycle or unread < self._unread - SLOWEST * (now - self._since)
        if working or goes_on:
            self._marked, self._unread, self._since = self.cycle, unread, now
        elif now - self._since > SILENCE:
            self.transport.abort()
        if now - self._begun > 2 and self._takes_most(unread):
            self.transport.abort()
        self._timer = self.loop.call_later(SILENCE / 10, self._look)

    def _takes_most(self, unread: int) -> bool:
        """Whether too much waits to be read, and nowhere more than here."""
        sizes = [each.transport.get_write_buffer_size() for each in self.connections]
        return sum(sizes) > UNREAD and unread == max(sizes)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        body = json.dumps({"error": msg}).encode()
        head = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=head, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _allow_many_connections() -> None:
    """Raise the number of open files to what the system allows."""
    if sys.platform == "win32":
        return
    import resource

    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (65536, 10240, 4096):  # macOS has a limit below the one that it tells
        if least < wanted and (most == resource.RLIM_INFINITY or wanted <= most):
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
                return
