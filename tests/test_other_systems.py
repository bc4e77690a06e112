"""What runs where a system lacks something: tests/elsewhere/ takes it from an interpreter and from those it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import forkserver
import pytest

ELSEWHERE = Path(__file__).parent / "elsewhere"

PROBE = """
import importlib.util, os, sys
from pathlib import Path
assert not hasattr(os, "fork") and not hasattr(os, "sched_getaffinity")
for name in ("fcntl", "resource", "pwd"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} is there")
try:
    open("/proc/meminfo")
except FileNotFoundError:
    pass
else:
    sys.exit("/proc is there")

import carvana
from carvana.data.digest import cache_home
from carvana.utils.devices import UNKNOWN_MEMORY, cpu_count, free_memory
from carvana.utils.files import append_json_line, lock, read_json_lines, sweep, write_text

folder = Path(sys.argv[1])
assert carvana.FitConfig(data={"root": "~/images"}).data.root == Path("~/images")
assert cache_home() == Path(sys.argv[2])
assert free_memory() == UNKNOWN_MEMORY and cpu_count() == os.cpu_count()
(folder / ".part-00000000-1-x").touch()
sweep(folder)
append_json_line(folder / "log", 1)
with open(folder / "log", "a") as log:
    log.write("2")  # cut by a kill
append_json_line(folder / "log", 3)
assert list(read_json_lines(folder / "log")) == [1, 2, 3]
with lock(folder / "lock"):
    write_text(folder / "text", "held")
    try:
        with lock(folder / "lock", wait=False):
            sys.exit("a lock was held twice")
    except BlockingIOError as error:
        print(error)
    os._exit(0) if len(sys.argv) > 3 else None  # as if killed
with lock(folder / "lock", wait=False):
    print("free")
"""


def elsewhere(*words: object, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run an interpreter without fcntl, resource, pwd, os.fork, os.sched_getaffinity, /proc and a home folder."""
    path = os.pathsep.join(filter(None, (str(ELSEWHERE), str(ELSEWHERE.parents[1]), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    environment |= {name: str(value) for name, value in variables.items()}
    del environment["HOME"]
    return subprocess.run(
        [sys.executable, *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )


def test_locks_logs_memory_and_the_cache_do_without_what_a_system_lacks(tmp_path: Path) -> None:
    home = {"CARVANA_CACHE": tmp_path / "cache"}
    killed = elsewhere("-c", PROBE, tmp_path, home["CARVANA_CACHE"], "killed", **home)
    assert killed.returncode == 0, killed.stderr
    assert "another process holds this lock" in killed.stdout
    after = elsewhere("-c", PROBE.replace("[1, 2, 3]", "[1, 2, 3, 1, 2, 3]"), tmp_path, home["CARVANA_CACHE"], **home)
    assert after.returncode == 0, after.stderr
    assert after.stdout.splitlines()[-1] == "free"


@pytest.mark.slow
def test_fit_resume_and_predict_do_without_what_a_system_lacks(tiny_data: Path, tmp_path: Path) -> None:
    """Readers are processes that are spawned; the cache is among the temporary files, for want of a home."""
    run, masks, photos = tmp_path / "run", tmp_path / "masks", tmp_path / "photos"
    variables = {"CARVANA_CACHE": "", "XDG_CACHE_HOME": "", "TMPDIR": tmp_path, "MPLCONFIGDIR": tmp_path}
    settings = ["model.options.width=4", "data.size=[32,48]", "data.workers=1", "train.epochs=1"]
    words = [word for setting in settings for word in ("--set", setting)]
    fitted = elsewhere(
        "-m", "carvana", "fit", "--data", tiny_data, "--out", run, "--device", "cpu", *words, **variables
    )
    assert fitted.returncode == 0, fitted.stderr
    assert (tmp_path / f"carvana-{os.getuid()}" / "samples").is_dir()
    resumed = elsewhere("-m", "carvana", "fit", "--resume", run, "--set", "train.epochs=2", **variables)
    assert resumed.returncode == 0, resumed.stderr
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    photos.mkdir()
    for photo in sorted((tiny_data / "train").iterdir())[:9]:  # enough for processes to read them
        shutil.copy(photo, photos)
    predicted = elsewhere("-m", "carvana", "predict", run, photos, "--out", masks, "--device", "cpu", **variables)
    assert predicted.returncode == 0, predicted.stderr
    assert len(list(masks.glob("*.png"))) == 9


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_readers_begin_by_each_way_that_a_python_starts_processes(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, method: str
) -> None:
    """Python 3.14 begins processes by a fork server where it is not told otherwise, macOS and Windows spawn them."""
    script = tmp_path / "predict.py"
    script.write_text(
        "import multiprocessing\n"
        "import sys\n"
        "import carvana.cli\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method({method!r})\n"
        "    carvana.cli.main()\n"
    )
    settings = ["--set", "model.options.width=4", "--set", "data.size=[32,48]", "--set", "data.workers=1"]
    fit = ["fit", "--data", tiny_data, "--out", tmp_path / "run", *settings, "--set", "train.epochs=1"]
    predict = ["predict", tiny_run, tiny_data / "train", "--out", tmp_path / "masks"]
    for words in (fit, predict):
        done = forkserver.run([sys.executable, script, *words, "--device", "cpu"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "masks").glob("*.png"))) == 20
