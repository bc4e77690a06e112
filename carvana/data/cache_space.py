"""Keeps the cache within its limit: the packs that no run has used for the longest time are removed first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from carvana.data.cache_pack import SUFFIX

DISK_SHARE = 0.5
"""The largest share of the disk's free space that the cache may take."""


@dataclass(frozen=True, slots=True)
class CacheSpace:
    """The bytes that may be added to the cache, and whether the disk is the limit."""

    bytes: int
    disk_is_full: bool


def held_bytes(folder: Path) -> int:
    """Bytes of all files of the cache."""
    return sum(size for _, size, _ in _files(folder))


def make_space(folder: Path, wanted: int, *, limit: int, needed: Set[Path]) -> CacheSpace:
    """Remove packs, the least recently used ones first, until ``wanted`` bytes fit or none is left.

    A process that has mapped a pack can still read it. Call this under the cache's lock.

    Args:
        folder: The cache, with all its sizes and targets.
        wanted: Bytes that are about to be added.
        limit: Bytes that the whole cache may hold.
        needed: Packs that are removed only if they alone exceed the limit.
    """
    files = sorted(_files(folder))
    held = sum(size for _, size, _ in files)
    free = shutil.disk_usage(folder).free

    def room() -> int:
        return min(limit - held, int(DISK_SHARE * free))

    packs = [file for file in files if file[2].suffix == SUFFIX]
    others = [file for file in packs if file[2] not in needed]
    own = [file for file in packs if file[2] in needed]
    for candidates, enough in ((others, wanted), (own, 0)):
        for _, size, path in candidates:
            if room() >= enough:
                break
            try:
                path.unlink(missing_ok=True)
            except PermissionError:  # on Windows as long as a process has it mapped
                continue
            held, free = held - size, free + size
    return CacheSpace(max(0, room()), disk_is_full=limit - held > DISK_SHARE * free)


def touch(path: Path) -> None:
    """Mark a pack as used now."""
    with suppress(OSError):
        os.utime(path)


def sweep(folder: Path) -> None:
    """Remove unfinished files of killed processes. Call this under the cache's lock: no process is writing then."""
    for path in folder.rglob(".part-*"):
        path.unlink(missing_ok=True)


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """The time of last use, the size and the path of each file."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_size, path))
    return found
