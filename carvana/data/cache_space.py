"""How much the cache may hold, and what goes first: packs that no run has used for the longest time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from carvana.data.cache_pack import SUFFIX

DISK_SHARE = 0.5
"""Of the disk's free space, the cache takes this share at most."""


@dataclass(frozen=True, slots=True)
class CacheSpace:
    """What may be added to the cache: ``bytes``, and whether the disk is what bounds it."""

    bytes: int
    disk_is_full: bool


def held_bytes(folder: Path) -> int:
    """Bytes of all files of the cache."""
    return sum(size for _, size, _ in _files(folder))


def make_space(folder: Path, wanted: int, *, limit: int, needed: Set[Path]) -> CacheSpace:
    """Drop packs, those that were used the longest time ago first, until ``wanted`` bytes fit or none is left.

    A process that has a pack mapped goes on reading it. Call it under the cache's lock.

    Args:
        folder: The cache, with all its sizes and targets.
        wanted: Bytes that are about to be added.
        limit: Bytes that the whole cache may hold.
        needed: Packs that are not dropped for others, only if they alone exceed the limit.
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
    """Remove what killed processes left half written. Call it under the cache's lock: nobody else is writing then."""
    for path in folder.rglob(".part-*"):
        path.unlink(missing_ok=True)


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """The time of last use, the size and the path of each file."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with suppress(FileNotFoundError):
                told = path.stat()
                found.append((told.st_mtime_ns, told.st_size, path))
    return found
