"""Trains by a recipe, is killed at random times and goes on each time; run by test_resume.py in a process of its own.

The training runs in forks of a process that has imported everything, so that a kill finds it at work. Prints how many
kills came while it trained, and the steps at which they found a state.
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

import torch  # noqa: F401 - imported once for all forks

import carvana
from carvana.config import load_config
from carvana.training.fit import fit, resume
from carvana.utils.progress import SilentReporter


class Told(SilentReporter):
    """Writes a byte into a pipe when the training begins and at each batch."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        if task.startswith("training"):
            os.write(self._pipe, b".")


def in_a_fork(recipe: Path, out: Path, pipe: int) -> NoReturn:
    try:
        if (out / "config.yaml").exists():
            resume(out, device="cpu", reporter=Told(pipe))
        else:
            fit(load_config(recipe), out=out, device="cpu", reporter=Told(pipe))
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def state_of(out: Path) -> tuple[int, int]:
    path = out / "state" / "state.json"
    progress = json.loads(path.read_text())["progress"] if path.exists() else {"step": 0, "batch": 0}
    return progress["step"], progress["batch"]


def main(recipe: Path, out: Path, kills: int, seed: int) -> None:
    times = random.Random(seed)
    found = []
    while True:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            in_a_fork(recipe, out, writer)
        os.close(writer)
        if len(found) < kills:
            for _ in range(times.randint(1, 9)):  # batches, or less if it ends
                os.read(reader, 1)
            time.sleep(times.uniform(0.0, 0.1))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(reader)
        if os.WIFSIGNALED(status):
            found.append(state_of(out))
        elif os.WEXITSTATUS(status):
            sys.exit(1)
        else:
            break
    print(json.dumps(found))


if __name__ == "__main__":
    assert carvana.fit is fit
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
