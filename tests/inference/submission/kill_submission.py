"""Writes a submission, is killed at random times and goes on each time; run by test_write.py.

The work is done in forks of a process that has imported everything, so that a kill finds it at work. Prints how many
parts each kill left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[2]))

from submitting import small_predictor

from carvana.inference.submission.write import write_submission
from carvana.utils.progress import SilentReporter


class Told(SilentReporter):
    """Writes a byte into a pipe for each image, slowly enough for a kill to come before the next."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def start(self, task: str, total: int | None) -> None:
        os.write(self._pipe, b".")

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        os.write(self._pipe, b".")
        time.sleep(0.01)


def in_a_fork(photos: Path, out: Path, chunk: int, pipe: int) -> NoReturn:
    try:
        found = sorted(photos.iterdir())
        write_submission(small_predictor(), found, out=out, chunk=chunk, workers=1, reporter=Told(pipe))
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def main(photos: Path, out: Path, chunk: int, kills: int) -> None:
    times = random.Random(1)
    left: list[int] = []
    while True:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            in_a_fork(photos, out, chunk, writer)
        os.close(writer)
        if len(left) < kills:
            for _ in range(times.randint(1, 9)):
                os.read(reader, 1)
            time.sleep(times.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(reader)
        if not os.WIFSIGNALED(status):
            print(json.dumps(left))
            sys.exit(os.waitstatus_to_exitcode(status))
        left.append(sum(path.name[:6].isdecimal() for path in Path(f"{out}.parts").iterdir()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
