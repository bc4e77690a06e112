from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from carvana.data.demo import write_demo
from carvana.data.demo.write import in_processes
from carvana.utils.progress import LogReporter

SIZE = (96, 144)


def members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(process_group) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process, leader of its own group, that draws with two others."""
    code = f"from carvana.data.demo import write_demo; write_demo('demo', cars=40, views=16, size={SIZE}, workers=2)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    for left in members(process.pid):
        os.kill(left, signal.SIGKILL)
    process.communicate()


def started(writer: subprocess.Popen[str]) -> bool:
    return len(members(writer.pid)) == 4  # this one, two workers, Python's tracker of resources


def importing(writer: subprocess.Popen[str]) -> bool:
    maps = [Path(f"/proc/{process}/maps").read_text() for process in members(writer.pid) if process != writer.pid]
    return len(maps) == 3 and any("_multiarray_umath" in loaded for loaded in maps)


def drawing(writer: subprocess.Popen[str]) -> bool:
    return len(list(Path(f"/proc/{writer.pid}/cwd").glob("demo/train/[!.]*"))) >= 3


@pytest.mark.parametrize("moment", [started, importing, drawing])
def test_ctrl_c_ends_all_processes_without_a_word_from_the_workers(
    writer: subprocess.Popen[str], moment: Callable[[subprocess.Popen[str]], bool], tmp_path: Path
) -> None:
    wait_until(lambda: moment(writer))
    os.killpg(writer.pid, signal.SIGINT)
    told = writer.communicate(timeout=30)[1]
    assert writer.returncode == -signal.SIGINT
    assert told.count("Traceback") == 1  # the caller's own KeyboardInterrupt
    assert "SpawnProcess" not in told
    wait_until(lambda: not members(writer.pid))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) < 40 * 16
    for path in files:
        assert not path.name.startswith(".part-")
        with Image.open(path) as picture:
            picture.load()


def test_workers_do_not_outlive_a_parent_that_is_killed(writer: subprocess.Popen[str]) -> None:
    wait_until(lambda: drawing(writer))
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    wait_until(lambda: not members(writer.pid))


def test_an_error_in_a_worker_comes_out_and_ends_the_task(tmp_path: Path) -> None:
    class Tasks(LogReporter):
        open = 0

        def start(self, task: str, total: int | None) -> None:
            self.open += 1

        def finish(self, task: str, **values: float) -> None:
            self.open -= 1

    for workers in (1, 2):
        tasks = Tasks()
        root = tmp_path / str(workers)
        root.mkdir()
        (root / "train_masks").symlink_to(tmp_path / "nowhere")  # no folder can be made there
        with pytest.raises(OSError, match="train_masks"):
            write_demo(root, cars=2, views=8, size=SIZE, workers=workers, reporter=tasks)
        assert tasks.open == 0


def test_each_item_is_dealt_with_once(tmp_path: Path) -> None:
    for workers in (1, 2):
        folders = [tmp_path / f"{workers}-{number}" for number in range(6)]
        assert len(list(in_processes(os.mkdir, folders, workers=workers))) == 6  # a second call would fail
        assert all(folder.is_dir() for folder in folders)
    assert list(in_processes(os.mkdir, [], workers=2)) == []


def test_a_script_without_a_guard_draws_and_is_run_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        f"import carvana\nprint('script')\ncarvana.write_demo('demo', cars=2, views=8, size={SIZE}, workers=2)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["script"]
    assert len(list((tmp_path / "demo" / "train").iterdir())) == 16
