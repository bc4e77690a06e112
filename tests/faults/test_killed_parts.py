"""Killed: one process of several."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from comparing import recipe, settings
from faults.commands import Done, carvana, children, start, wait_for
from submitting import draw_photos, small_predictor

from carvana.models.segmenter import Segmenter

LIMIT = 60
"""Seconds within which a command must have told what happened."""


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start commands of which nothing outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*words: object, **how: object) -> subprocess.Popen[str]:
        processes.append(start(*words, **how))  # type: ignore[arg-type]
        return processes[-1]

    yield begin
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def fit_words(data: Path, out: Path, *, workers: int, epochs: int) -> list[object]:
    changes = {"data__workers": workers, "train__epochs": epochs, "split__val": 1}
    return ["fit", "--data", data, "--out", out, "--device", "cpu", *settings(recipe(data, **changes))]


def ended(process: subprocess.Popen[str]) -> tuple[Done, float]:
    """How a command ends of which a process was killed just now, and after how many seconds."""
    began = time.monotonic()
    out, err = process.communicate(timeout=LIMIT)
    return Done(process.returncode, out, err), time.monotonic() - began


def epochs(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def alike(process: subprocess.Popen[str]) -> list[int]:
    """The forks of a command, which are its readers."""
    own = (Path("/proc") / str(process.pid) / "cmdline").read_bytes().decode().split("\0")
    return [number for number, words in children(process.pid).items() if words == own]


@pytest.mark.fault(
    done="a reader killed while fit trains",
    promised="one line about the reader within 60 s; the same command continues to the end",
    reaches="training/loader.py: a reader that is gone; utils/parallel.py: ReaderKilledError",
)
def test_a_reader_of_fit(
    tiny_data: Path, tmp_path: Path, started: Callable[..., subprocess.Popen[str]], came_out: Callable[..., None]
) -> None:
    words = fit_words(tiny_data, tmp_path / "run", workers=2, epochs=400)
    process = started(*words)
    wait_for(lambda: epochs(tmp_path / "run") >= 2, process)
    os.kill(alike(process)[0], signal.SIGKILL)
    done, seconds = ended(process)
    assert "a reading process was killed" in done.error
    assert "--resume" in done.error or "again" in done.error or "workers" in done.error
    came_out(f"{seconds:.1f} s")
    before = epochs(tmp_path / "run")
    assert 2 <= before < 400
    process = started(*words)
    wait_for(lambda: epochs(tmp_path / "run") > before, process)


@pytest.mark.fault(
    done="a reader killed while submit predicts",
    promised="one line about the reader within 60 s; the same command again completes",
    reaches="inference/pipeline.py and submission/write.py: _explained",
)
def test_a_reader_of_submit(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]], came_out: Callable[..., None]
) -> None:
    network = small_predictor().model
    assert isinstance(network, Segmenter)
    network.save_pretrained(tmp_path / "model")
    draw_photos(tmp_path / "photos", 600)
    words = ["submit", tmp_path / "model", tmp_path / "photos", "--out", tmp_path / "s.csv.gz", "--device", "cpu"]
    process = started(*words, "--workers", "2")
    wait_for(lambda: list(tmp_path.glob("s.csv.gz.parts/0*.gz")), process)
    os.kill(alike(process)[0], signal.SIGKILL)
    done, seconds = ended(process)
    assert "a reading process was killed" in done.error
    came_out(f"{seconds:.1f} s")
    again = carvana(*words)
    assert again.code == 0, again
    assert [path.name for path in tmp_path.glob("s.csv*")] == ["s.csv.gz"]


@pytest.mark.fault(
    done="one of two processes that torchrun started for a fit killed, the first and the second",
    promised="an end within 60 s that names the process; fit --resume goes on with as many",
    reaches="training/accelerator.py and signals.py: another process of this training died",
    quick=1,
)
@pytest.mark.parametrize("rank", [1, 0])
def test_a_process_of_torchrun(
    rank: int,
    tiny_data: Path,
    tmp_path: Path,
    started: Callable[..., subprocess.Popen[str]],
    came_out: Callable[..., None],
) -> None:
    def launched(*words: object) -> subprocess.Popen[str]:
        launcher = "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"
        return started(*words, program=(*launcher, "-m", "carvana"))

    run = tmp_path / "run"
    process = launched(*fit_words(tiny_data, run, workers=0, epochs=400))
    wait_for(lambda: epochs(run) >= 2, process)
    ours = [number for number, words in children(process.pid).items() if "fit" in words]
    [victim] = [number for number in ours if f"\0RANK={rank}\0" in environment(number)]
    os.kill(victim, signal.SIGKILL)
    done, seconds = ended(process)
    assert done.code != 0
    assert "SIGKILL" in done.err or "exitcode: -9" in done.err or "exitcode  : -9" in done.err
    assert f"rank      : {rank}" in done.err
    came_out(f"{seconds:.1f} s")
    before = epochs(run)
    process = launched("fit", "--resume", run, "--device", "cpu")
    wait_for(lambda: epochs(run) > before, process)


@pytest.mark.fault(
    done="a network's process killed while compare fits it",
    promised="its row says how it ended, the other network is ranked; the same command trains it",
    reaches="leaderboard/worker_pool.py: _Worker.reason",
    quick=0,
)
def test_a_network_of_compare(
    tiny_data: Path, tmp_path: Path, started: Callable[..., subprocess.Popen[str]], came_out: Callable[..., None]
) -> None:
    own = "--set", "second:model.options={width: 6}"
    shared = settings(recipe(tiny_data))
    out = tmp_path / "board"
    words = ["compare", "first=unet-ref", "second=unet-ref", "--data", tiny_data, "--out", out, "--device", "cpu"]
    process = started(*words, *own, *shared, fork=False)  # forks are not each other's children
    wait_for(lambda: any(out.glob("runs/first-*/metrics.jsonl")), process)
    [worker] = [number for number, line in children(process.pid).items() if "carvana.leaderboard.jobs" in line][:1]
    os.kill(worker, signal.SIGKILL)
    printed, err = process.communicate(timeout=600)
    assert process.returncode == 0, (printed, err)  # what the others did is worth something
    assert "its process was killed (SIGKILL)" in printed + err
    again = carvana(*words, *own, *shared)
    assert again.code == 0, again
    assert "killed" not in again.out


def environment(process: int) -> str:
    return "\0" + (Path("/proc") / str(process) / "environ").read_bytes().decode(errors="replace")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
