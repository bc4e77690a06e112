"""The one way this library writes a file: beside its place under another name, synced, then renamed.

A reader sees the old file or the new one and never half of either, whenever the writer is killed. The same holds when
the power fails, but the newest files may then be missing: their bytes are on disk before they get their names, while
the folder is left to the operating system, since syncing it as well doubles the time that a small file takes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a new, empty file in the folder of ``path``; rename it to ``path`` when the block ends well.

    The temporary name keeps the suffix, since many writers choose their format by it. The file's mode is what the
    process's umask leaves of 0666. Threads and processes may write at once, even the same file: the last one wins.

    Raises:
        OSError: the folder cannot be written to.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".part-{secrets.token_hex(8)}{final.suffix}"
    # Not mkstemp, which grants the owner alone: opening it for all leaves the mode to the kernel and the umask.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors puts a file of its own there, which only the owner may read
        _sync(temporary)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` to ``path`` atomically, as indented JSON; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def lock(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that one process of a machine holds at a time. It ends with its holder, however that dies.

    Args:
        path: A file to lock by, made if it is not there; it stays, empty.
        wait: Wait until it is free.

    Raises:
        BlockingIOError: another holds it, and ``wait`` is false.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    _locks.add(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        if descriptor in _locks:
            _locks.remove(descriptor)
            os.close(descriptor)


_locks: set[int] = set()


def _leave_locks() -> None:
    """A forked process shares its parent's locks: it would hold them on for as long as it outlives a killed parent."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_leave_locks)


def append_json_line(path: str | os.PathLike[str], value: Any) -> None:
    """Add one line of JSON to a log. A killed writer leaves at most one cut line, and the next one starts its own.

    Several processes may write to one log, on several machines if the file system they share knows locks.
    """
    line = json.dumps(value, allow_nan=False) + "\n"
    with open(path, "a+b") as file:
        with suppress(OSError):  # without locks a system still appends whole writes, as local ones all do
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0, os.SEEK_END)
        if file.tell() and not _ends_with_newline(file.fileno()):
            line = "\n" + line
        file.write(line.encode())


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The records of a JSON-lines log, passing over lines that a killed writer cut short."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def file_digest(path: str | os.PathLike[str]) -> str:
    """The BLAKE2b digest (128 bits, hexadecimal) of a file's bytes: what this library knows files by."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def digest(*values: Any) -> str:
    """The digest of JSON-able values, equal in every process and on every machine."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _ends_with_newline(descriptor: int) -> bool:
    return os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1) == b"\n"
