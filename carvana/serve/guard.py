"""Checks of every request: the name of the host, the origin of the page, the token."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carvana.serve.metrics import Metrics

_PUBLIC = ("/", "/healthz")
"""The page without any data, and the sign of life: no token is asked for."""

_HEADERS = {b"x-content-type-options": b"nosniff", b"referrer-policy": b"no-referrer", b"cache-control": b"no-store"}

_log = logging.getLogger("carvana")


class Guard:
    """ASGI middleware: refuses requests by host, origin and token, and counts answers.

    A browser names a page's origin with what its scripts and forms ask of other hosts; others than these are refused
    unless they are named.
    A page can also give its own host name the address of this machine (DNS rebinding). So without a token the Host
    header must be one of ``hosts``.

    Args:
        app: what is guarded.
        metrics: counts answers.
        hosts: names by which the server may be asked; None for any.
        origins: of other pages that may ask, as ``https://example.org``.
        token: that a request must bring; None for none.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, hosts: Sequence[str] | None, origins: Sequence[str], token: str | None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = hosts
        self._origins = origins
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # as nginx counts clients that hang up
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = dict(_HEADERS)
                if status >= 400 and "expect" in headers:  # no body comes, so what comes next would be taken for it
                    more[b"connection"] = b"close"
                message["headers"] = [*message.get("headers", ()), *more.items()]
            await send(message)

        refusal = self._refusal(scope, headers)
        try:
            if refusal is None:
                await self._app(scope, receive, send_guarded)
            else:
                await _refuse(send_guarded, *refusal)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if status != 499:  # the answer has begun
                raise
            await _refuse(send_guarded, 500, "the server failed; its log says why")
        finally:
            route = scope.get("route")
            self._metrics.requests.labels(getattr(route, "path", "other"), status).inc()

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """The status and the line of a refusal, None where the request may pass."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and _name_of(host) not in self._hosts:
            return 403, f"host {host!r:.100} is not served here; name it by --origin, or take a --token"
        own = origin is None or origin.partition("://")[2].lower() == host.lower()
        if not own and origin not in self._origins:
            return 403, f"pages of {origin!r:.100} may not ask here; --origin names those that may"
        if self._token is None or scope["path"] in _PUBLIC:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode()):
            return None
        return 401, "a token is needed: send the header 'Authorization: Bearer TOKEN'"


def _name_of(host: str) -> str:
    """A Host header without its port.

    >>> _name_of("localhost:8000"), _name_of("[::1]:8000"), _name_of("Example.org")
    ('localhost', '::1', 'example.org')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _refuse(send: Send, status: int, line: str) -> None:
    headers: list[tuple[bytes, Any]] = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    body = json.dumps({"error": line}).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
