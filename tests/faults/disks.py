"""A small disk of a test's own, that can be full or read-only, and commands that run without the right to write.

The disk is a tmpfs in a mount namespace of its own, seen through /proc: nothing is mounted where others would see it,
and it is gone with the process that holds it, however the tests end.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from faults.commands import Done
from typer.testing import CliRunner

from carvana.cli.app import app

_HOLDER = """
mount -t tmpfs -o size="$1",mode=777 tmpfs "$0" && echo ready || exit 1
while read -r words; do if eval "$words"; then echo done; else echo failed; fi; done
"""
_NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


class Disk:
    """A disk of a size.

    Attributes:
        folder: Where it is seen, by this process and those that it starts.
    """

    def __init__(self, place: Path, size: str) -> None:
        if shutil.which("unshare") is None:
            pytest.skip("this machine has no unshare, which gives a process mounts of its own")
        place.mkdir(parents=True, exist_ok=True)
        self._place = place
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _HOLDER, str(place), size],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        if self._answer() != "ready":
            self.close()
            pytest.skip("this machine lets no process have mounts of its own")
        self.folder = Path(f"/proc/{self._holder.pid}/root{place}")

    def fill(self, *, but: int = 0) -> None:
        """Leave no byte free, or ``but`` bytes, in whole pages."""
        descriptor = os.open(self._ballast, os.O_CREAT | os.O_RDWR)
        while (free := self._free() - but) > 0:
            with suppress(OSError):  # a thread was quicker
                os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, free)
        os.close(descriptor)

    def clear(self) -> None:
        """Give room again."""
        self._ballast.unlink(missing_ok=True)

    @contextmanager
    def read_only(self, folder: Path) -> Iterator[None]:
        """Nobody can write into a folder of the disk, and what is below it, for as long as the block lasts."""
        place = self._place / folder.relative_to(self.folder)
        self._do(f"mount --bind '{place}' '{place}' && mount -o remount,bind,ro '{place}'")
        try:
            yield
        finally:
            self._do(f"umount '{place}'")

    def close(self) -> None:
        """Take the disk away."""
        with suppress(BrokenPipeError):
            self._holder.communicate()

    def _free(self) -> int:
        told = os.statvfs(self.folder)
        return told.f_bavail * told.f_frsize

    @property
    def _ballast(self) -> Path:
        return self.folder / ".ballast"

    def _do(self, words: str) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.write(words + "\n")
        self._holder.stdin.flush()
        assert self._answer() == "done", words

    def _answer(self) -> str:
        assert self._holder.stdout is not None
        return self._holder.stdout.readline().strip()


@contextmanager
def small_disk(place: Path, size: str = "64m") -> Iterator[Disk]:
    """A disk for the length of a block; a test is skipped where the machine gives none."""
    disk = Disk(place, size)
    try:
        yield disk
    finally:
        disk.close()


def without_rights() -> dict[str, Any]:
    """How to start a command whose process must obey the modes of files, as that of a plain user does anyway."""
    if os.geteuid() != 0:
        return {}
    if shutil.which("setpriv") is None:
        pytest.skip("this machine has no setpriv, which takes root's right to write everywhere")
    return instead(*_NO_OVERRIDE)


def instead(*words: str) -> dict[str, Any]:
    """How to start a command through another program: ``carvana("fit", ..., **instead("nice"))``."""
    become = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    return {"program": ("-c", become, *words, sys.executable, "-m", "carvana")}


def in_process(*words: object) -> Done:
    """A command inside this process, where a disk can be filled at a write."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def leftovers(folder: Path) -> list[Path]:
    """Unfinished files that writers left."""
    return list(folder.rglob(".part-*"))


def place_of(path: str) -> str:
    """What a file is called in a list of places: without what is another in each repetition."""
    path = re.sub(r"\.part-[^/]*", "*", path)
    path = re.sub(r"tfevents\..*", "tfevents.*", path)
    return re.sub(r"[0-9a-f]{8,}(-\d)?", "*", path)


@contextmanager
def at_each_write(folder: Path, act: Callable[[str], None]) -> Iterator[None]:
    """Call ``act`` with the place of each file below a folder that this process opens to write, just before it does."""
    if not _watched:
        sys.addaudithook(_hear)
    _watched[:] = [(f"{folder}/", act)]
    try:
        yield
    finally:
        _watched[:] = [("/dev/null/", act)]


def places_written(folder: Path, work: Callable[[], object]) -> list[str]:
    """All places of a piece of work, in the order in which each is first written."""
    found: dict[str, None] = {}
    with at_each_write(folder, lambda place: found.setdefault(place)):
        work()
    return list(found)


@contextmanager
def full_at(disk: Disk, folder: Path, place: str) -> Iterator[None]:
    """Fill a disk just before the first write at a place of a folder on it."""
    reached: list[str] = []

    def act(found: str) -> None:
        if found == place and not reached:
            reached.append(found)
            disk.fill()

    with at_each_write(folder, act):
        yield
    assert reached, f"{place} was not written"


@contextmanager
def refused_at(folder: Path, place: str, number: int) -> Iterator[None]:
    """Refuse the first write at a place of any folder as the system would, by an error's number."""
    reached: list[str] = []

    def act(found: str) -> None:
        if found == place and not reached:
            reached.append(found)
            raise OSError(number, os.strerror(number))

    with at_each_write(folder, act):
        yield
    assert reached, f"{place} was not written"


_watched: list[tuple[str, Callable[[str], None]]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "carvana.write":
        stage, path, _ = arguments
        if stage != "begun":
            return
    elif event == "open":
        path, _, flags = arguments
        if isinstance(path, int) or not (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = os.fsdecode(path)
        if Path(path).name.startswith((".part-", ".ballast")):
            return  # atomic_path tells of it under the name that it will have
    else:
        return
    folder, act = _watched[0]
    if path.startswith(folder):
        act(place_of(path.removeprefix(folder)))
