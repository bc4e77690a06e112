"""What must hold when a disk is full: one line that tells, nothing half, and the same command again ends well."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
from faults.commands import Done
from faults.disks import Disk, full_at, in_process, leftovers, places_written
from faults.running import assert_done
from safetensors.torch import load_file

ADVICE = "No space left on device; make room there and start the same again"


def assert_whole(folder: Path) -> None:
    """No file under its final name is half there, and none is left under another."""
    for path in filter(Path.is_file, folder.rglob("*")):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix in (".png", ".jpg"):
            assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None, path
        elif path.suffix == ".gz":
            gzip.decompress(path.read_bytes())
        elif path.suffix == ".yaml":
            assert path.read_text().startswith("arch: "), path
    assert leftovers(folder) == []


def assert_told(done: Done, folder: Path) -> None:
    """One line names a file or a folder of the disk, and what to do."""
    assert str(folder) in done.error, done.error
    assert "No space left on device" in done.error, done.error
    assert "make room there" in done.error or "is the disk full?" in done.error, done.error


def break_at_each_place(
    disk: Disk,
    words: Sequence[object],
    *,
    end: Callable[[], Any],
    prepare: Callable[[], object] = lambda: None,
    between: Callable[[], object] = lambda: None,
    few: bool,
) -> int:
    """Do something undisturbed, then with a disk that is full at each of its writes, and each time once more."""
    home = disk.folder / "work"

    def anew() -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        prepare()

    anew()
    places = places_written(home, lambda: assert_done(in_process(*words)))
    assert places
    expected = end()
    places = places[len(places) // 4 :: -(-len(places) // 2)] if few else places
    for place in places:
        anew()
        with full_at(disk, home, place):
            assert_told(in_process(*words), home)
        assert_whole(home)
        between()
        disk.clear()
        assert_done(in_process(*words))
        assert end() == expected, place
        assert_whole(home)
    return len(places)
