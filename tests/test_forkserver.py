"""A fork of the server of tests is to whoever starts it what a new interpreter is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import forkserver
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
WAYS: list[Any] = [forkserver.run, subprocess.run]


def python(run: Any, *words: object, **how: Any) -> tuple[int, str, str]:
    done = run([sys.executable, *map(str, words)], capture_output=True, text=True, **how)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "print('out'); import sys; print('err', file=sys.stderr)",
        "import sys; sys.exit(3)",
        "import sys; sys.exit('a reason')",
        "import sys; sys.exit()",
        "raise SystemExit(True)",
        "import sys; print(sys.argv, __name__)",
        "import os; print(os.getcwd(), os.environ['CARVANA_X'], sorted(os.environ)[:3])",
        "import os; os._exit(7)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import atexit; atexit.register(print, 'behind'); print('before')",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
        "import sys; print(repr(sys.stdin.read()))",
        "import random, tempfile; print(len(tempfile.gettempdir()) > 0)",
    ],
)
def test_code_ends_and_says_what_it_does_in_a_new_interpreter(code: str, tmp_path: Path) -> None:
    how = {"cwd": tmp_path, "env": os.environ | {"CARVANA_X": "y"}, "stdin": subprocess.DEVNULL}
    fork, interpreter = (python(run, "-c", code, "word", **how) for run in WAYS)
    assert fork == interpreter


def test_an_error_is_1_and_its_traceback_is_on_stderr() -> None:
    code, out, error = python(forkserver.run, "-c", "def f():\n    raise KeyError('x')\nf()")
    assert (code, out) == (1, "")
    assert error.startswith("Traceback")
    assert error.endswith("KeyError: 'x'\n")


def test_a_file_and_a_module_are_run_as_programs(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 5\n")
    (tmp_path / "program.py").write_text("import sys, beside\nprint(__name__, beside.VALUE, sys.argv[1:])\n")
    assert python(forkserver.run, tmp_path / "program.py", "a")[1] == "__main__ 5 ['a']\n"
    assert python(forkserver.run, "-m", "program", "a", cwd=tmp_path)[1] == "__main__ 5 ['a']\n"
    assert python(forkserver.run, "-P", "-m", "program", cwd=tmp_path)[0] == 1  # -P: not from the working folder


def test_a_fork_has_torch_loaded_and_leaves_nothing_to_the_next() -> None:
    code = "import sys; print('torch' in sys.modules, hasattr(sys, 'mark')); sys.mark = 1"
    assert [python(forkserver.run, "-c", code)[1] for _ in range(2)] == ["True False\n"] * 2
    assert python(subprocess.run, "-c", code)[1] == "False False\n"


def test_signals_and_groups_reach_it() -> None:
    code = "import os, time; print(os.getpid(), os.getpgrp(), flush=True); time.sleep(60)"
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        process = forkserver.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline().split() == [str(process.pid)] * 2
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
        os.killpg(process.pid, number)
        assert process.wait(timeout=30) == -number
        process.stdout.close()


def test_descriptors_are_passed_on_under_their_numbers() -> None:
    reader, writer = os.pipe()
    code = f"import os; os.write({writer}, b'there')"
    process = forkserver.Popen([sys.executable, "-c", code], pass_fds=[writer])
    assert process.wait(timeout=30) == 0
    os.close(writer)
    assert os.read(reader, 10) == b"there"
    os.close(reader)


def test_what_lies_on_pythonpath_is_imported_first(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.mark = 'customized'\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    assert python(forkserver.run, "-c", "import sys; print(sys.mark)", env=env)[1] == "customized\n"


@pytest.mark.parametrize("variables", [{"OMP_NUM_THREADS": "3"}, {"PYTHONUTF8": "0"}])
def test_variables_that_are_read_once_get_a_new_interpreter(variables: dict[str, str]) -> None:
    code = "import sys; print('torch' in sys.modules)"
    assert python(forkserver.run, "-c", code, env=os.environ | variables)[1] == "False\n"


def test_the_client_for_shells_has_the_exit_code_and_the_streams_of_the_command(tmp_path: Path) -> None:
    client = [sys.executable, "-S", "-E", forkserver.__file__]
    done = subprocess.run([*client, "-m", "carvana", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout.count(".")) == (0, 2)
    done = subprocess.run([*client, "-m", "carvana", "fit", "--arch", "nothing"], capture_output=True, text=True)
    assert (done.returncode, done.stderr[:7]) == (1, "error: ")
    done = subprocess.run([*client, "-c", "import os; os.kill(os.getpid(), 9)"], capture_output=True, text=True)
    assert done.returncode == -9
