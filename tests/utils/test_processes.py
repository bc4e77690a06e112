"""Scripts that multiprocessing runs again, and forks of a process that has run a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import forkserver
import pytest

MODEL = Path(__file__).parents[1] / "fixtures" / "format-1" / "model"

CHECKED = """
import multiprocessing
multiprocessing.set_start_method("{method}", force=True)
from carvana.utils.processes import check_main_guard
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
