"""Threads, scripts that multiprocessing runs again, and forks of a process that has run a network."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import forkserver
import numpy as np
import pytest

from carvana.utils.parallel import threaded


def test_results_come_in_order_whoever_finishes_first() -> None:
    delays = np.random.default_rng(0).random(40) * 0.01

    def work(number: int) -> int:
        time.sleep(delays[number])
        return number

    assert list(threaded(work, range(40), workers=4)) == list(range(40))


def test_work_is_done_in_several_threads_at_once() -> None:
    barrier = threading.Barrier(3, timeout=10)  # passes only if three wait at the same time
    assert len(list(threaded(lambda _: barrier.wait(), range(6), workers=3))) == 6


def test_reading_never_runs_far_ahead() -> None:
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for number in range(200):
            pulled = number + 1
            yield number

    for done, _ in enumerate(threaded(lambda number: number, source(), workers=2, ahead=2), start=1):
        assert pulled - done <= 4


def test_an_error_comes_out_at_its_turn() -> None:
    results = threaded(lambda number: 12 // (3 - number), range(9), workers=2)
    assert list(itertools.islice(results, 3)) == [4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_was_pulled_is_finished_when_the_source_fails() -> None:
    finished = []

    def source() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    def work(number: int) -> None:
        time.sleep(0.02)
        finished.append(number)

    with pytest.raises(KeyboardInterrupt):
        list(threaded(work, source(), workers=1, finish=True))
    assert finished == [0, 1, 2]


def test_stopping_early_drops_what_waits() -> None:
    started = []

    def work(number: int) -> int:
        started.append(number)
        time.sleep(0.01)
        return number

    results = threaded(work, range(1000), workers=2, ahead=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    time.sleep(0.05)
    assert len(started) < 10
    assert threading.active_count() < 20


@pytest.mark.parametrize("finish", [False, True])
def test_items_that_wait_behind_a_failure_are_dropped_unless_they_are_to_be_finished(finish: bool) -> None:
    done: list[int] = []
    failed = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            failed.wait(5)
            raise ValueError("first")
        failed.set()
        time.sleep(0.02)
        done.append(item)

    with pytest.raises(ValueError, match="first"):
        list(threaded(work, range(1000), workers=2, finish=finish))
    assert (len(done) >= 32) if finish else (len(done) < 10)


MODEL = Path(__file__).parents[1] / "fixtures" / "format-1" / "model"

CHECKED = """
import multiprocessing
multiprocessing.set_start_method("{method}", force=True)
from carvana.utils.parallel import check_main_guard
def work():
    check_main_guard()
    print("worked")
"""


def script(folder: Path, method: str, lines: str) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(CHECKED.format(method=method) + lines)
    return forkserver.run([sys.executable, path], capture_output=True, text=True)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("lines", ["work()\n", "for _ in [1]:\n    (lambda: work())()\n"])
def test_a_script_without_a_main_guard_is_told_to_get_one(tmp_path: Path, method: str, lines: str) -> None:
    done = script(tmp_path, method, lines)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"carvana.errors.ConfigError: {tmp_path / 'script.py'}: ")
    assert 'if __name__ == "__main__":' in last
    assert repr(method) in last


@pytest.mark.parametrize(
    ("method", "lines"),
    [
        ("fork", "work()\n"),
        ("spawn", 'if __name__ == "__main__":\n    work()\n'),
        ("forkserver", "def main():\n    work()\nif __name__ in ('__main__', 'other'):\n    main()\n"),
        ("spawn", "try:\n    if __name__ == '__main__':\n        work()\nfinally:\n    pass\n"),
        ("spawn", "import multiprocessing as mp\nif mp.parent_process() is None:\n    work()\n"),
    ],
)
def test_what_new_processes_do_not_run_again_is_let_alone(tmp_path: Path, method: str, lines: str) -> None:
    done = script(tmp_path, method, lines)
    assert (done.returncode, done.stdout) == (0, "worked\n"), done.stderr


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_package_that_is_run_by_its_name_needs_no_guard(tmp_path: Path, method: str) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "__main__.py").write_text(CHECKED.format(method=method) + "work()\n")
    done = subprocess.run([sys.executable, "-m", "package"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "worked\n"), done.stderr


def test_a_second_run_of_a_script_ends_at_once(tmp_path: Path) -> None:
    lines = "if __name__ != '__main__':\n    work()\n"
    start = "p = multiprocessing.Process(target=print)\n    p.start()\n    p.join()\n    print(p.exitcode)\n"
    done = script(tmp_path, "spawn", f"{lines}else:\n    {start}")
    assert done.stdout == "1\n"
    assert 'put its code under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


FIT = """
import multiprocessing
multiprocessing.set_start_method("{method}", force=True)
import carvana
config = carvana.FitConfig(model={{"options": {{"width": 2}}}}, train={{"epochs": 1}},
                           data={{"root": {data!r}, "size": (32, 48), "workers": 2}})
{guard}
    carvana.fit(config, out="run", device="cpu")
    print("fitted")
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_fit_of_a_script_without_a_main_guard_begins_nothing(tmp_path: Path, method: str) -> None:
    path = tmp_path / "script.py"
    fit = FIT.format(method=method, data=str(tmp_path / "no-data"), guard="try:")
    path.write_text(fit + "finally:\n    print(multiprocessing.active_children())\n")
    done = forkserver.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert 'put its code under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_fit_under_a_main_guard_is_read_for_by_new_processes(tiny_data: Path, tmp_path: Path, method: str) -> None:
    path = tmp_path / "script.py"
    path.write_text(FIT.format(method=method, data=str(tiny_data), guard='if __name__ == "__main__":'))
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "fitted\n"), done.stderr


FORKS = """
import os, sys
import numpy as np
import torch
import carvana
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec

IMAGE = np.zeros((600, 800, 3), np.uint8)

def make():
    model = Segmenter(torch.nn.Conv2d(3, 1, 1), ModelSpec(arch="mine", trained_size=(256, 256)))
    return carvana.Predictor(model, device="cpu", precision="fp32")

def say(work):
    try:
        print(work(), flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)

def forked(work):
    child = os.fork()
    if not child:
        say(work)
        os._exit(0)
    os.waitpid(child, 0)

def predict(predictor, threads=2):
    torch.set_num_threads(threads)
    return predictor.predict(IMAGE).mask.shape
"""


def forks(lines: str) -> list[str]:
    done = forkserver.run([sys.executable, "-c", FORKS + lines], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_network_that_ran_before_a_fork_is_refused_in_it_instead_of_hanging() -> None:
    said = forks(
        "mine = make()\n"
        "predict(mine)\n"
        "forked(lambda: predict(mine))\n"
        "forked(lambda: predict(make()))\n"
        f"forked(lambda: carvana.Predictor.from_pretrained({str(MODEL)!r}))\n"
        "forked(lambda: carvana.fit(carvana.FitConfig()))\n"
        "say(lambda: predict(mine))\n"
    )
    assert len(said) == 5
    for line in said[:4]:
        assert line.startswith("ConfigError: this process is a fork of one that ran a network before")
        assert 'multiprocessing.get_context("spawn")' in line
    assert said[4] == "(600, 800)"


def test_forks_in_which_no_network_would_hang_run_it() -> None:
    assert (
        forks(
            "mine = make()\n"
            "forked(lambda: predict(mine))\n"  # nothing ran before
            "predict(mine, threads=1)\n"
            "forked(lambda: predict(mine))\n"  # by one thread alone
            "predict(mine)\n"
            "forked(lambda: predict(mine, threads=1))\n"  # nothing is waited for
        )
        == ["(600, 800)"] * 3
    )
