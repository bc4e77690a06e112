"""The one way this library writes a file: beside its place under another name, synced, then renamed.

A reader sees the old file or the new one and never half of either, whenever the writer is killed. The same holds when
the power fails, but the newest files may then be missing: their bytes are on disk before they get their names, while
the folder is left to the operating system, since syncing it as well doubles the time that a small file takes.

Each step of a write is an event for Python's audit hooks, named ``carvana.write`` with a stage (``begun``, ``written``,
``synced``, ``renamed``; ``begun``, ``appended`` for a log), the final path and the one that is written to. With
these the tests in tests/faults/ find all places that write, and kill the writer at each.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout, lock_descriptor

from carvana.errors import ConfigError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a new, empty file in the folder of ``path``; rename it to ``path`` when the block ends well.

    The temporary name keeps the suffix, since many writers choose their format by it. The file's mode is what the
    process's umask leaves of 0666. Threads and processes may write at once, even the same file: the last one wins.
    What killed writers left in the folder is removed.

    Raises:
        OSError: the folder cannot be written to.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    sweep(final.parent)
    temporary = final.parent / f"{PART}{_here()}-{os.getpid()}-{secrets.token_hex(4)}{final.suffix}"
    # Not mkstemp, which grants the owner alone: opening it for all leaves the mode to the kernel and the umask.
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode
        _audit("begun", final, temporary)
        yield temporary
        _audit("written", final, temporary)
        temporary.chmod(mode)  # safetensors replaces the file by one that only the owner may read
        _sync(temporary)
        _audit("synced", final, temporary)
        temporary.replace(final)
        _audit("renamed", final, final)
    except OSError as error:
        _name(error, final, temporary)
        raise
    finally:
        with suppress(OSError):  # a folder without write permission
            temporary.unlink()


@contextmanager
def scratch_folder(parent: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder inside another for as long as the block lasts; a killed process leaves it to the next :func:`sweep`.

    Raises:
        OSError: the folder cannot be written to.
    """
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    folder = parent / f"{PART}{_here()}-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove the unfinished files of killed writers in a folder, once in each process.

    Only writers on this machine (and in this container) are known to be dead; files of others stay.
    """
    if folder in _swept:
        return
    _swept.add(folder)
    for entry in os.scandir(folder):
        match = _PART.match(entry.name)
        if match and match["here"] == _here() and not _lives(int(match["pid"])):
            with suppress(OSError):
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else Path(entry.path).unlink()


def is_leftover(path: Path) -> bool:
    """Whether a file is unfinished: of a writer at work, or of a killed one."""
    return path.name.startswith(PART)


PART = ".part-"
"""The beginning of the names of unfinished files."""

_PART = re.compile(rf"{re.escape(PART)}(?P<here>[0-9a-f]+)-(?P<pid>\d{{1,9}})-")
_swept: set[Path] = set()


@functools.cache
def _here() -> str:
    """A digest of this machine, and within it this container, where process numbers are valid."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return digest(platform.node(), space)[:8]


def _lives(process: int) -> bool:
    import psutil  # takes 40 ms, and leftovers are rare

    return bool(psutil.pid_exists(process))


def _name(error: OSError, final: Path, written: Path) -> None:
    """Let an error name the final file: on a full disk it names none, otherwise the temporary one."""
    if error.filename in (None, str(written)):
        error.filename, error.filename2 = str(final), None


def _audit(stage: str, final: Path, written: Path) -> None:
    sys.audit("carvana.write", stage, str(final), str(written))


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` replaced, which no shell does for paths in a config."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user, or one without a home: the name is reported with what is missing there
        return Path(path)


def check_target(
    path: str | os.PathLike[str], *, option: str = "--out", replace: bool = False, instead: str = "name another file"
) -> None:
    """Refuse a file that exists already, or that cannot be written.

    An empty file may be overwritten.

    Args:
        path: The file.
        option: The option that named it.
        replace: Allow an existing file to be overwritten; never a folder or a pipe.
        instead: The advice in the message.

    Raises:
        ConfigError: One line that says why.
    """
    target = Path(path)
    named = f"{option} {target}"
    if target.is_dir():
        raise ConfigError(f"{named}: is a folder; name a file in it{instead.removeprefix('name another file')}")
    if os.path.lexists(target):
        if not target.is_symlink() and not target.is_file():
            raise ConfigError(f"{named}: is a pipe or a device; {instead}")
        if not replace and (target.is_symlink() or target.stat().st_size):
            raise ConfigError(f"{named}: exists already; {instead}, or overwrite it with --replace")
    _check_writable(target.absolute().parent, named, instead)


def check_folder(path: str | os.PathLike[str], *, option: str = "--out") -> None:
    """Refuse a folder that cannot be made, or written into.

    Raises:
        ConfigError: One line that says why.
    """
    _check_writable(Path(path).absolute(), f"{option} {path}", "name another folder")


def _check_writable(path: Path, named: str, instead: str) -> None:
    # Folders that are missing will be made.
    folder = next(each for each in (path, *path.parents) if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{named}: cannot be written into {folder}; {instead}")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8; bytes that are not text, as in names of files, are kept."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` to ``path`` atomically, as indented JSON; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def lock(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that only one process of a machine has at a time. It ends with the process, however that ends.

    Args:
        path: The lock file, created if it does not exist; it stays, empty.
        wait: Wait until it is free.

    Raises:
        BlockingIOError: another process has it, and ``wait`` is false.
        OSError: the file cannot be made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {"poll_interval": _POLL, "thread_local": False}
    with ExitStack() as stack:
        try:
            try:
                stack.enter_context(FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False, **how))
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                # A file that names its process: if that is killed, the lock is free on this machine, not on others.
                stack.enter_context(SoftFileLock(f"{path}.held", timeout=-1 if wait else 0.3, **how))
        except Timeout:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process holds this lock", str(path)) from None
        except OSError as error:
            _name(error, path, path)
            raise
        yield


_POLL = 0.02
"""Seconds between two attempts to get a lock."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
"""The errors of systems, or of file systems mounted without locks (Lustre, NFS)."""


def append_json_line(path: str | os.PathLike[str], value: Any) -> None:
    """Add one line of JSON to a log. A killed writer leaves at most one cut line, and the next one begins a new line.

    Several processes may write to one log, on several machines if the file system they share knows locks.
    """
    path, line = Path(path), json.dumps(value, allow_nan=False) + "\n"
    try:
        with open(path, "a+b") as file:
            with suppress(OSError):  # without locks a system still appends whole writes, as local ones all do
                lock_descriptor(file.fileno(), poll_interval=_POLL)
            _audit("begun", path, path)
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode())
            file.flush()
            _audit("appended", path, path)
    except OSError as error:
        _name(error, path, path)
        raise


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The records of a JSON-lines log, without lines that a killed writer cut short."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield parse_json(line)
            except ValueError:
                continue


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """
    return parse_json(Path(path).read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """The value of a JSON text, a ValueError if it is not JSON.

    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ...
    ValueError: nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def bytes_digest(data: bytes) -> str:
    """The digest of a file that holds these bytes: see :func:`file_digest`."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """The BLAKE2b digest (128 bits, hexadecimal) of a file's bytes: by which this library identifies files."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def digest(*values: Any) -> str:
    """The digest of JSON-able values, equal in every process and on every machine."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _sync(path: Path) -> None:
    # Windows syncs only what is open for writing; elsewhere a umask may forbid that.
    with open(path, "r+b" if sys.platform == "win32" else "rb") as file:
        os.fsync(file.fileno())
