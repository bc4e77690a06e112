"""The one way this library writes a file: beside its place under another name, synced, then renamed.

A reader sees the old file or the new one and never half of either, whenever the writer is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; rename it to ``path`` when the block ends well.

    The temporary name keeps the suffix, since many writers choose their format by it.

    Raises:
        OSError: the folder cannot be written to.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", suffix=final.suffix, dir=final.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp grants the owner alone
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


def append_json_line(path: str | os.PathLike[str], value: Any) -> None:
    """Add one line of JSON to a log. A killed writer leaves at most one cut line, and the next one starts its own."""
    line = json.dumps(value, allow_nan=False) + "\n"
    with open(path, "a+b") as file:
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


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
