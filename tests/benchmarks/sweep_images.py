"""``read_image`` against Pillow: ``python tests/benchmarks/sweep_images.py FOLDER...``. Some 30 files a second.

Every file below the folders whose suffix says that it is an image is read by ``carvana.read_image`` and by Pillow,
upright, over white, 16 bits as carvana/data/io/convert.py says. Each file has a process of its own, which is ended
after some seconds: a crash or a hang is told and costs no other file its turn. Files of equal bytes count once. JPEG
decoders may round differently, so a JPEG counts as read if it differs by a few of 255 levels; everything else must be
equal.

The end status is 1 if a file crashed, hung, gave a traceback or other pixels, or was refused although Pillow reads it,
for a reason that is none of REASONS.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import re
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from carvana.data.io.decode import formats
from carvana.data.io.images import MAX_PIXELS, SUFFIXES, image_size, read_image
from carvana.errors import DataError

FEW_LEVELS = 6
"""By how much a JPEG's pixels may differ: decoders round the colour transform and the enlarged chroma differently."""

REASONS = {
    "too large": "more than",
    "cut short": "damaged or cut JPEG",  # Pillow fills up some of them
    "too many scans": "a JPEG of",
    "a small part of a range": "bits a value, the lowest",  # Pillow shows them nearly black
    "a stack of pages": "a stack of",
}
"""Why a file is refused that Pillow reads, and the words that tell it."""

SHOWN = 10

Finding = tuple[str, str]
"""What came of a file, and why."""


def find(folders: list[Path]) -> Iterator[Path]:
    """The image files below the folders, those of equal bytes once."""
    seen = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                with open(path, "rb") as file:
                    key = hashlib.file_digest(file, "blake2b").digest()
                if key not in seen:
                    seen.add(key)
                    yield path


def by_pillow(path: Path) -> tuple[np.ndarray, str]:
    """uint8 (H, W, 3) as Pillow alone makes it, and the format."""
    with Image.open(path) as picture:
        kind = picture.format or ""
        picture.load()
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        wide = np.clip(np.asarray(picture, np.float64), 0, 65535)
        grey = np.floor((wide / 257 if wide.max() > 255 else wide) + 0.5).astype(np.uint8)
        return np.dstack([grey] * 3), kind
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture))[..., :3], kind
    return np.asarray(picture.convert("RGB")), kind


def compare(path: Path) -> Finding:
    """What came of a file, in this process."""
    try:
        expected, kind = by_pillow(path)
        error = ""
    except Exception as problem:  # Pillow raises nearly anything
        expected, kind, error = None, "", f"{type(problem).__name__}: {problem}"
    try:
        found, size = read_image(path), image_size(path)
    except DataError as problem:
        why = str(problem).removeprefix(f"{path}: ").split("; replace the file")[0]
        if expected is None:
            return "refused by both", why
        told = [reason for reason, words in REASONS.items() if words in why]
        if told or kind not in formats():
            return "refused, with a reason", told[0] if told else f"{kind} is not read"
        return "REFUSED, BUT PILLOW READS IT", why
    except BaseException:
        return "TRACEBACK", " ".join(traceback.format_exc(limit=-1).split()[1:])
    if expected is None:
        return "read, where Pillow fails", error
    if found.shape != expected.shape or size != found.shape[:2]:
        return "DIFFERENT", f"shape {found.shape}, image_size {size}, Pillow {expected.shape}"
    most = int(np.abs(found.astype(np.int16) - expected).max(initial=0))
    if most == 0:
        return "read, equal", kind
    if kind in ("JPEG", "MPO") and most <= FEW_LEVELS:
        return "read, slightly different", f"{kind}, by {most} of 255"
    if not np.array_equal(expected, by_pillow(path)[0]):  # bytes of memory that the file does not fill
        return "read, differently each time by Pillow too", kind
    return "DIFFERENT", f"{kind} {expected.shape}, by {most} of 255"


@dataclass
class Turn:
    """A file's process."""

    path: Path
    process: BaseProcess
    until: float


def begin(path: Path, seconds: float) -> tuple[Connection, Turn]:
    """Start the process of a file, as a fork of this one."""
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=answer, args=(path, theirs))
    process.start()
    theirs.close()
    return ours, Turn(path, process, time.monotonic() + seconds)


def answer(path: Path, pipe: Connection) -> None:
    """Send what came of a file."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and libpng print what they find odd
    pipe.send(compare(path))


def end(pipe: Connection, turn: Turn) -> Finding:
    """What came of a file whose process has answered, has died, or has no time left."""
    try:
        finding: Finding = pipe.recv() if pipe.poll() else ("HUNG", "no answer in time")
    except EOFError:
        turn.process.join()
        finding = "CRASHED", f"status {turn.process.exitcode}"
    turn.process.kill()
    turn.process.join()
    pipe.close()
    return finding


def sweep(paths: Iterator[Path], *, seconds: float, processes: int) -> Iterator[tuple[Path, Finding]]:
    """What came of each file; some at a time."""
    running: dict[Connection, Turn] = {}
    more = True
    while more or running:
        while more and len(running) < processes:
            path = next(paths, None)
            more = path is not None
            if path is not None:
                pipe, turn = begin(path, seconds)
                running[pipe] = turn
        if not running:
            return
        left = min(turn.until for turn in running.values()) - time.monotonic()
        ready = wait(list(running), timeout=max(0.0, left))
        late = [pipe for pipe, turn in running.items() if turn.until <= time.monotonic()]
        for pipe in {*ready, *late}:
            turn = running.pop(pipe)
            yield turn.path, end(pipe, turn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="for each file")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    formats()  # loads the plugins, once for all forks
    Image.init()
    found: dict[str, Counter[str]] = defaultdict(Counter)
    files: dict[tuple[str, str], list[Path]] = defaultdict(list)
    paths = find(options.folders)
    for path, (what, why) in sweep(paths, seconds=options.seconds, processes=os.cpu_count() or 1):
        group = re.sub(r"\d[\d,.]*", "N", why) if what.lower().startswith("refused") else why
        found[what][group] += 1
        files[what, group].append(path)
    print(f"{sum(map(Counter.total, found.values())):,} files")
    for what in sorted(found):
        print(f"{found[what].total():8,} {what}")
        for group, count in found[what].most_common():
            print(f"{count:12,} {group}")
            if not what.startswith("read, e") and not what.startswith("read, s"):
                for path in files[what, group][:SHOWN]:
                    print(f"{'':17}{path}")
    sys.exit(any(what.isupper() or what.startswith("REFUSED") for what in found))


if __name__ == "__main__":
    main()
