"""Writes the share of a submission that RANK and WORLD_SIZE say; run by test_shares.py.

Prints how many rows it made, and whether the table is complete. With ``die`` it kills itself at its twentieth image.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from submitting import small_predictor

from carvana.inference.submission.write import write_submission
from carvana.utils.progress import SilentReporter


class Dying(SilentReporter):
    def __init__(self) -> None:
        self.steps = 0

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        self.steps += 1
        if self.steps == 20:
            os.kill(os.getpid(), signal.SIGKILL)


def main(photos: Path, out: Path, chunk: int, *, dies: bool) -> None:
    reporter = Dying() if dies else SilentReporter()
    found = sorted(photos.iterdir())
    done = write_submission(small_predictor(), found, out=out, chunk=chunk, workers=1, reporter=reporter)
    print(done.written, done.complete)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), dies="die" in sys.argv[4:])
