"""Fuzzed files for the readers of images, masks, run lengths and tables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.pictures import FORMATS

TESTS = Path(__file__).parents[1]
QUICK, WHOLE = 200, 2500


def fuzzed(kind: str, examples: int) -> float:
    """Read as many made files, in a process that may neither crash nor hang nor take 4 GB; the MB that it took."""
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "faults.fuzzing", kind, str(examples)],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return float(done.stdout)


@pytest.mark.fault(
    done="files of 10 formats, made of sound ones of all kinds of pixels by cutting, changing, repeating and splicing "
    "(Hypothesis, the same ones each time), read as image, at reduced size, as mask, as coverage, for size and share",
    promised="pixels of the size that the header tells, masks of 0 and 1, or one line; no other exception, no crash, "
    "no hang, less than 100 MB, Hypothesis's own included, with a limit of a million pixels",
    reaches="data/: all readers, whatever their decoders raise",
    quick=3,
)
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_pictures_are_read_or_refused(kind: str, whole: bool, came_out: Callable[..., None]) -> None:
    examples = WHOLE if whole else QUICK
    megabytes = fuzzed(kind, examples)
    assert megabytes < 100
    came_out(f"{kind} {megabytes:.0f} MB", times=examples)


@pytest.mark.fault(
    done="texts of runs: numbers and what looks like them in any order, and any text (Hypothesis)",
    promised="the mask that going from number to number gives, or one line",
    reaches="data/io/rle.py: decode",
)
def test_texts_of_runs_are_decoded_or_refused(whole: bool, came_out: Callable[..., None]) -> None:
    examples = WHOLE if whole else QUICK
    fuzzed("RLE", examples)
    came_out(times=examples)


@pytest.mark.fault(
    done="tables of splits and of submissions, plain and gzip, damaged in the same ways (Hypothesis)",
    promised="read, or refused in one line",
    reaches="data/splits.py: read_split and check_unchanged; inference/submission/table.py: read_names",
)
def test_damaged_tables_are_read_or_refused(whole: bool, came_out: Callable[..., None]) -> None:
    examples = WHOLE if whole else QUICK
    fuzzed("tables", examples)
    came_out(times=examples)
