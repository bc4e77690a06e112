"""What tests of killed commands share: points of writing, and the same command again until it ends."""

from __future__ import annotations

import fnmatch
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faults.commands import Done, carvana

FILE = ("begun", "written", "synced", "renamed")
LOG = ("begun", "appended")

Point = tuple[str, str, int]
"""A stage, a pattern of paths, and which of such events, from 1."""


def points(files: Sequence[str], logs: Sequence[str] = (), *, again: Sequence[tuple[str, int]] = ()) -> list[Point]:
    """Each stage of the first write of each file and log; ``again``: half way through later writes, and behind them."""
    first = [(stage, name, 1) for name in files for stage in FILE]
    first += [(stage, name, 1) for name in logs for stage in LOG]
    later = [
        (stage, name, number)
        for name, number in again
        for stage in (("appended",) if name in logs else ("written", "renamed"))
    ]
    return first + later


def told(point: Point) -> str:
    """For a test's name."""
    return f"{point[1].strip('*/')}:{point[0]}:{point[2]}"


def events(record: Path) -> Iterator[tuple[str, str]]:
    """What a command's record holds: stage and path, as they were."""
    for line in record.read_text().splitlines():
        stage, path = line.split("\t")
        yield stage, path


def unknown(record: Path, patterns: Sequence[str]) -> set[str]:
    """Paths that were written to and match none of the patterns."""
    return {path for _, path in events(record) if not any(fnmatch.fnmatch(path, pattern) for pattern in patterns)}


def files(folder: Path, *, but: Sequence[str] = ()) -> dict[str, bytes]:
    """All files below a folder with their bytes.

    Of those in ``but``, which differ in each repetition, the names alone; TensorBoard's logs, which bear names of
    processes, are left out.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith("tensorboard/"):
            found[name] = b"" if any(fnmatch.fnmatch(name, pattern) for pattern in but) else _timeless(path)
    return found


def _timeless(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name != "evaluation.json":
        return data
    return json.dumps({key: value for key, value in json.loads(data).items() if key != "seconds"}).encode()


def moments(seed: int, count: int, *, least: float, most: float) -> list[float]:
    """Seconds after which to kill, drawn anew for each seed."""
    return [random.Random(f"{seed}-{number}").uniform(least, most) for number in range(count)]


def kill_at(point: Point, *words: object, **how: Any) -> Done:
    """Run a command that is killed at a point, in the middle of what it writes there."""
    stage, pattern, number = point
    cut = stage in ("written", "appended")
    done = carvana(*words, fault={"kill": [stage, pattern, number], "cut": cut}, **how)
    assert done.code == -9, (point, done)
    return done


def kill_during(first: tuple[str, str], seconds: float, *words: object, **how: Any) -> Done:
    """Run a command that is killed some time after its first write of a kind, unless it has ended by then."""
    return carvana(*words, fault={"kill": [*first, 1], "later": seconds}, **how)
