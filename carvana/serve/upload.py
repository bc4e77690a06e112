"""Reads the image of a request, within bounds of size, time and memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from carvana.serve.work import BusyError

T = TypeVar("T")

STALL = 10.0
"""Seconds without a byte after which a request is given up."""

SLOWEST = 20_000
"""Bytes a second that a client must send, in each period of ``STALL`` seconds."""

_FORM = 65_536  # bytes that the form around a file may take

_PLAIN = ("application/octet-stream", "application/x-www-form-urlencoded")
"""Types of a body that is the file itself, besides images'; the second is what ``curl --data-binary`` sends."""


class Uploads:
    """Reads uploads, and knows how many bytes of them there are.

    Args:
        largest: bytes that one may have.
    """

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self._bytes = 0
        self._most = max(4 * largest, 2**28)

    @contextmanager
    def held(self) -> Iterator[list[int]]:
        """A block in which bytes are held: their numbers go into the list."""
        sizes: list[int] = []
        try:
            yield sizes
        finally:
            self._bytes -= sum(sizes)

    async def read(self, request: Request, sizes: list[int]) -> tuple[bytes, str]:
        """The bytes of the image in a request, and its name.

        Args:
            request: with a form that has one file, or with the file as its body.
            sizes: as :meth:`held` gives it.

        Raises:
            HTTPException: 400 for a damaged form or an empty body, 408 for one that comes too slowly, 413 for a large
                one, 415 for another type, 422 for a form with no file or several.
            BusyError: other uploads take the memory.
            ClientDisconnect: the client hung up.
        """
        kind = request.headers.get("content-type", _PLAIN[0]).partition(";")[0].strip().lower()
        form = kind == "multipart/form-data"
        if not form and not kind.startswith("image/") and kind not in _PLAIN:
            raise HTTPException(
                415, f"content type {kind!r:.80}: expected multipart/form-data, or an image as the body"
            )
        if (coding := request.headers.get("content-encoding", "identity")) != "identity":
            raise HTTPException(415, f"content encoding {coding!r:.80}: send the image as it is")
        limit = self.largest + (_FORM if form else 0)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise self._too_large()
        chunks = self._chunks(request, limit, sizes)
        data, name = await self._of_form(request, chunks) if form else (b"".join([each async for each in chunks]), "")
        if not data:
            raise HTTPException(400, "the image is empty")
        if len(data) > self.largest:
            raise self._too_large()
        return data, name

    async def _chunks(self, request: Request, limit: int, sizes: list[int]) -> AsyncGenerator[bytes, None]:
        total, more = 0, True
        began, before = time.monotonic(), 0  # of the period
        while more:
            try:
                async with asyncio.timeout(STALL):
                    message = await request.receive()
            except TimeoutError:
                raise HTTPException(408, f"no byte came for {STALL:g} s") from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            total += len(chunk)
            if total > limit:
                raise self._too_large()
            seconds = time.monotonic() - began
            if more and seconds > STALL:
                if total - before < SLOWEST * seconds:
                    raise HTTPException(
                        408, f"{total - before} bytes came in {seconds:.0f} s; expected {SLOWEST} a second"
                    )
                began, before = time.monotonic(), total
            if self._bytes + len(chunk) > self._most:
                raise BusyError(5, "other uploads take the memory")
            self._bytes += len(chunk)
            sizes.append(len(chunk))
            yield chunk

    async def _of_form(self, request: Request, chunks: AsyncGenerator[bytes, None]) -> tuple[bytes, str]:
        parser = _InMemory(request.headers, chunks, max_files=2, max_fields=2)  # one too many is refused below
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400, f"the form cannot be read: {error.message}") from error
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        others = [name for name, part in form.multi_items() if not isinstance(part, UploadFile)]
        try:
            if len(files) != 1 or others:
                what = f"the field {others[0]!r:.80}" if others else f"{len(files)} files" if files else "no file"
                raise HTTPException(422, f"the form has {what}; expected one file, and options in the address")
            return await files[0].read(), files[0].filename or ""
        finally:
            for file in files:
                await file.close()

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the image has more than {self.largest:,} bytes, the limit here")


class _InMemory(MultiPartParser):
    spool_max_size = 2**40  # bounded before; what is uploaded reaches no disk


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work, which is given up when the client hangs up.

    Raises:
        ClientDisconnect: it did.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
