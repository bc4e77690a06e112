from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from carvana.leaderboard.worker_pool import WorkerExit, WorkerJob, WorkerMessage, run_jobs


@pytest.fixture(autouse=True)
def _new_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carvana.leaderboard.worker_pool.subprocess", subprocess)


def works(*, reporter: Any, device: str, number: int) -> None:
    """Says what it is given."""
    print("printed", number)
    reporter.info(f"number {number} on {device}")
    reporter.start("counting", 3)
    for _ in range(3):
        reporter.advance("counting", loss=0.5)
    reporter.finish("counting")


def breaks(*, reporter: Any, device: str, how: str) -> None:
    """Ends in some other way."""
    if how == "raise":
        raise KeyError("some\nkey")
    if how == "memory":
        bytearray(10**12)
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.Signals[how])


def waits(*, reporter: Any, device: str, mark: Path) -> None:
    """Ends only if it is asked to, and leaves a word then."""
    signal.signal(signal.SIGTERM, lambda *_: (mark.write_text("saved"), os._exit(0)))
    reporter.info(str(os.getpid()))
    while True:
        time.sleep(0.05)


def ignores(*, reporter: Any, device: str) -> None:
    """Does not end, asked or not."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reporter.info(str(os.getpid()))
    while True:
        time.sleep(0.05)


def has_a_child(*, reporter: Any, device: str) -> None:
    """Is killed while a process of its own lives on."""
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def job(tmp_path: Path, function: str, memory_gb: float | None = None, **arguments: Any) -> WorkerJob:
    return WorkerJob(
        function,
        f"leaderboard.test_worker_pool:{function}",
        arguments,
        tmp_path / f"{function}.log",
        memory_gb=memory_gb,
    )


def reasons(jobs: list[WorkerJob], devices: tuple[str, ...] = ("cpu",)) -> list[str | None]:
    return [event.reason for event in run_jobs(jobs, devices) if isinstance(event, WorkerExit)]


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_jobs_are_done_in_order_and_heard(tmp_path: Path) -> None:
    events = list(run_jobs([job(tmp_path, "works", number=1), job(tmp_path, "works", number=2)], ["there"]))
    assert [event.values[0] for event in events if isinstance(event, WorkerMessage) and event.kind == "info"] == [
        "number 1 on there",
        "number 2 on there",
    ]
    assert [event.reason for event in events if isinstance(event, WorkerExit)] == [None, None]
    kinds = [event.kind for event in events if isinstance(event, WorkerMessage)]
    assert kinds.count("start") == kinds.count("finish") == 2
    assert (tmp_path / "works.log").read_text().count("printed") == 2


def test_several_devices_work_at_once(tmp_path: Path) -> None:
    marks = [tmp_path / "a", tmp_path / "b"]
    working = run_jobs([job(tmp_path, "waits", mark=mark) for mark in marks], ["one", "two"])
    with closing(working) as events:
        pids = {
            int(event.values[0]) for _, event in zip(range(2), events, strict=False) if isinstance(event, WorkerMessage)
        }
        assert len(pids) == 2  # neither would have ended for the other to begin
    assert [mark.read_text() for mark in marks] == ["saved", "saved"]  # they were asked to end
    assert all(map(gone, pids))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", r"KeyError: 'some\nkey'"),
        ("exit", "its process ended with exit code 3"),
        ("SIGKILL", "its process was killed (SIGKILL), as systems do when memory runs out"),
        ("SIGSEGV", "its process crashed (SIGSEGV)"),
        ("SIGABRT", "its process crashed (SIGABRT)"),
        ("SIGTERM", "its process was asked to end (SIGTERM)"),
    ],
)
def test_whatever_becomes_of_a_process_the_next_one_works(tmp_path: Path, how: str, reason: str) -> None:
    assert reasons([job(tmp_path, "breaks", how=how), job(tmp_path, "works", number=1)]) == [reason, None]


def test_a_limit_of_memory_holds_for_one_process(tmp_path: Path) -> None:
    broken = job(tmp_path, "breaks", how="memory", memory_gb=2)
    assert reasons([broken, job(tmp_path, "works", number=1)]) == [
        "out of memory (the limit of its process is 2 GB)",
        None,
    ]


def test_whoever_ends_under_a_limit_is_told_of_it(tmp_path: Path) -> None:
    broken = job(tmp_path, "breaks", how="SIGABRT", memory_gb=2)
    assert reasons([broken]) == ["its process crashed (SIGABRT); its limit is 2 GB"]


def test_the_log_holds_the_whole_story(tmp_path: Path) -> None:
    list(run_jobs([job(tmp_path, "breaks", how="raise")], ["cpu"]))
    assert "Traceback" in (tmp_path / "breaks.log").read_text()


def test_a_killed_process_is_noticed_though_its_child_lives_on(tmp_path: Path) -> None:
    began = time.monotonic()
    assert "SIGKILL" in str(reasons([job(tmp_path, "has_a_child")])[0])
    assert time.monotonic() - began < 30  # not after the child's minute


def test_work_that_cannot_be_found_is_told(tmp_path: Path) -> None:
    assert "nosuch" in str(reasons([WorkerJob("x", "nosuch.module:f", {}, tmp_path / "x.log")])[0])


def test_who_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carvana.leaderboard.worker_pool.GRACE", 0.5)
    with closing(run_jobs([job(tmp_path, "ignores")], ["cpu"])) as events:
        pid = int(next(event.values[0] for event in events if isinstance(event, WorkerMessage)))
    assert gone(pid)


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path[:] = eval(sys.argv[1])\n"
        "from pathlib import Path\n"
        "from leaderboard.test_worker_pool import job, run_jobs, WorkerMessage\n"
        "for event in run_jobs([job(Path(sys.argv[2]), 'ignores')], ['cpu']):\n"
        "    if isinstance(event, WorkerMessage): print(event.values[0], flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, repr(sys.path), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert gone(pid)
