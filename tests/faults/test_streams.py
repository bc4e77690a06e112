"""Output that is not read, and shared memory that is full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults.commands import carvana
from faults.disks import Disk, in_process, instead
from faults.full import ADVICE, assert_whole
from faults.running import assert_done, fit_words, result_of


@pytest.mark.fault(
    done="stdout on /dev/full: --version, --help, archs, configs, evaluate --json -",
    promised="exit 1 and one line, no traceback",
    reaches="cli/app.py: what is printed before a command begins, by it, and what is left in the buffer",
    quick=2,
)
@pytest.mark.parametrize("words", ["--version", "configs", "--help", "archs", "evaluate RUN --json -"])
def test_stdout_without_room(run: Path, words: str) -> None:
    done = carvana(*words.replace("RUN", str(run)).split(), **instead("sh", "-c", 'exec "$@" > /dev/full', "sh"))
    assert done.error == f"standard output: {ADVICE}"


@pytest.mark.fault(
    done="a reader of the output that goes after one line (archs, evaluate --json -, predict with its messages)",
    promised="no error: exit 0, nothing on stderr; predictions are all there",
    reaches="cli/app.py: BrokenPipeError; inference/predict_folder.py, evaluation/evaluate.py let it pass",
    quick=0,
)
@pytest.mark.parametrize("words", ["archs", "evaluate RUN --json -", "predict RUN DATA --out OUT"])
def test_a_reader_that_goes(run: Path, tiny_data: Path, tmp_path: Path, words: str) -> None:
    places = {"RUN": run, "DATA": tiny_data / "train", "OUT": tmp_path / "masks"}
    script = 'set -o pipefail; "$@" 2>"$0" | head -1 > /dev/null'
    through = instead("bash", "-c", script, str(tmp_path / "told"))
    done = carvana(*[places.get(word, word) for word in words.split()], **through)
    told = (tmp_path / "told").read_text()
    assert done.code == 0, (done, told)
    assert "rror" not in told
    assert not words.startswith("predict") or len(list((tmp_path / "masks").glob("*_mask.png"))) == 20


@pytest.mark.fault(
    done="`predict` with stdout and stderr closed, or stderr without room",
    promised="exit 0, all masks, and no message written into any file",
    reaches="cli/app.py: numbers 1 and 2 that files would get",
    quick=0,
)
@pytest.mark.parametrize("how", [">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_streams_that_are_closed(run: Path, tiny_data: Path, tmp_path: Path, how: str) -> None:
    script = instead("sh", "-c", f'exec "$@" {how}', "sh")
    done = carvana("predict", run, tiny_data / "train", "--out", tmp_path / "masks", **script)
    assert_done(done)
    assert len(list((tmp_path / "masks").glob("*_mask.png"))) == 20
    assert_whole(tmp_path / "masks")


@pytest.mark.fault(
    done="`fit` and `submit` with readers while /dev/shm has 16 kB, 64 kB and 128 kB",
    promised="an error that names /dev/shm and what to do: no hang; with room the same again ends well",
    reaches="inference/pipeline.py, training/loader.py, utils/parallel.py: readers that find no shared memory",
    quick=0,
)
@pytest.mark.parametrize("size", ["16k", "64k", "128k"])
def test_readers_without_shared_memory(
    disk: Disk, run: Path, tiny_data: Path, tmp_path: Path, came_out: Any, size: str
) -> None:
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    cramped = instead("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    fit = fit_words(tiny_data, tmp_path / "run", data__workers=2)
    submit = ["submit", run, tiny_data / "train", "--out", tmp_path / "s.csv.gz", "--workers", 2, "--device", "cpu"]
    for words in (fit, submit):
        done = carvana(*words, **cramped)
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert done.code == 1, done
        assert len(errors) == 1, done.err
        assert "for lack of memory or of space in /dev/shm: take fewer with" in errors[0]
        assert "Alarm clock" not in done.err  # which ends readers that nobody ended, half a minute later
    assert_done(in_process(*fit))
    assert result_of(tmp_path / "run") == result_of(run)
    assert_done(in_process(*submit))
