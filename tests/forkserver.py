"""Python processes as forks of one interpreter that has torch loaded, for tests of what a process does.

``run`` and ``Popen`` are those of :mod:`subprocess` for ``[sys.executable, "-m" | "-c" | FILE, ...]``; a start takes
0.02 s instead of the 3 to 5 s of the imports. The process is a real one: its exit code, signals, session, files and
environment are its own. What an interpreter does when it begins cannot be seen here (which modules it imports, which
variables it reads then): use :mod:`subprocess` for that. :func:`Popen` does so itself where variables are asked for
that are read only once.

pytest's first process starts the server (:func:`serve`), and all of its workers use it. ``python -S -E forkserver.py
WORDS...`` is a client for shell scripts: the command's exit code and streams are its own.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import pytest

ADDRESS = "CARVANA_TEST_FORKSERVER"
"""The variable that holds the path of the server's socket."""

HIDDEN = "CARVANA_TEST_NO_PICTURES"
"""The variable that has forks draw no pictures of runs."""

PRELOADED = (
    "torch", "torch.utils.tensorboard", "torchvision", "segmentation_models_pytorch", "timm", "albumentations", "cv2",
    "accelerate", "matplotlib.pyplot", "safetensors.torch", "huggingface_hub", "onnxruntime", "typer.testing",
    "carvana.builtins", "carvana.cli.app", "carvana.leaderboard.compare",
    "carvana.leaderboard.jobs", "carvana.leaderboard.report.html", "carvana.data.check.report", "carvana.data.demo",
    "carvana.data.splits", "carvana.evaluation.report",
    "carvana.inference.submission.write",
    "carvana.inference.ensemble", "carvana.inference.predict_folder", "carvana.training.fit",
    "carvana.training.cross_validation",
    "carvana.training.find_lr",
)  # fmt: skip

READ_ONCE = (
    "LD_PRELOAD", "MALLOC_", "GLIBC_", "OMP_", "MKL_", "KMP_", "CUDA_", "PYTHON", "LC_", "LANG", "TERM", "COLUMNS",
    "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_", "TYPER_", "HOME", "XDG_", "HF_", "MPL", "KERAS_", "TORCH_",
)  # fmt: skip
"""What the names of variables begin with that are read when an interpreter or a library begins."""


class Popen(subprocess.Popen):
    """A fork of the server; a new interpreter where there is no server, or it could not do the same."""

    _connection: socket.socket | None = None

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest) -> None:  # type: ignore[no-untyped-def, override]
        _, _, _, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, _, _, _, _, _, new_session, *_ = rest
        words = [os.fspath(word) for word in args]
        environment = {**(os.environ if env is None else env)}
        if words[0] != sys.executable or preexec_fn is not None or not _can_fork(words[1:], environment):
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
            return
        streams = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        request = {"words": words[1:], "env": environment, "cwd": os.fspath(cwd or Path.cwd()), "session": new_session,
                   "passed": list(pass_fds)}  # fmt: skip
        self._connection = _connect(environment[ADDRESS], request, [*streams, *pass_fds])
        self.pid = struct.unpack("i", _read(self._connection, 4))[0]
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._connection is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        self._connection.settimeout(0 if wait_flags & os.WNOHANG else None)
        try:
            status = struct.unpack("i", _read(self._connection, 4))[0]
        except BlockingIOError:
            return 0, 0
        self._connection.close()
        return self.pid, status

    def _internal_poll(self, *how: Any, **named: Any) -> int | None:
        if self._connection is None:
            return super()._internal_poll(*how, **named)  # type: ignore[misc, no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid == self.pid:
                        self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def run(
    words: Sequence[object], *, timeout: float | None = None, check: bool = False, capture_output: bool = False,
    **how: Any,
) -> subprocess.CompletedProcess[Any]:  # fmt: skip
    """As :func:`subprocess.run`, without ``input``."""
    if capture_output:
        how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen([os.fspath(word) for word in words], **how) as process:  # type: ignore[call-overload]
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


@contextlib.contextmanager
def server(folder: Path) -> Iterator[None]:
    """A server for as long as the block lasts; this process and those that it starts know its address."""
    address = str(folder / "socket")
    code = f"import sys; sys.path[0] = {str(Path(__file__).parent)!r}; import forkserver; forkserver.serve()"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    started = {"stdin": subprocess.PIPE, "pass_fds": [listener.fileno()], "start_new_session": True}
    Path(f"{address}.env").write_text(json.dumps(dict(os.environ)))
    process = subprocess.Popen([sys.executable, "-c", code, str(listener.fileno())], **started)  # type: ignore[call-overload]
    listener.close()
    os.environ[ADDRESS] = address
    try:
        yield
    finally:
        del os.environ[ADDRESS]
        process.stdin.close()  # its sign to end
        process.wait()


def serve() -> None:
    """Fork for each request, and tell who asked how the fork ended, until stdin is closed."""
    import gc
    import selectors

    listener = socket.socket(fileno=int(sys.argv[1]))
    del sys.path[0]
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    wake, waker = socket.socketpair()
    wake.setblocking(False)
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    children: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    for source in (listener, wake, 0):
        selector.register(source, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                os._exit(0)
            if key.fileobj is listener:
                connection, _ = listener.accept()
                request, descriptors = _received(connection)
                child = os.fork()
                if not child:
                    for other in (listener, wake, waker, selector, connection, *children.values()):
                        other.close()
                    _become(request, descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                children[child] = connection
                connection.sendall(struct.pack("i", child))
            else:
                with contextlib.suppress(BlockingIOError):
                    wake.recv(4096)
                with contextlib.suppress(ChildProcessError):
                    while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                        with contextlib.suppress(OSError), children.pop(ended[0]) as connection:
                            connection.sendall(struct.pack("i", ended[1]))


def fork_workers() -> None:
    """From here on the processes of a comparison are forks as well, and measure costs for a tenth of a second."""
    from carvana.leaderboard import jobs, worker_pool

    worker_pool.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": Popen})  # type: ignore[assignment]
    jobs.MEASURED = 0.1


def hide_pictures(patch: pytest.MonkeyPatch) -> None:
    """No pictures of runs, which take longer than a tiny training, in this process and in its forks."""
    patch.setattr("carvana.evaluation.report.draw_pictures", _draw_nothing)
    patch.setenv(HIDDEN, "1")


def _draw_nothing(*_: Any, **__: Any) -> None:
    pass


def _become(request: Mapping[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """Be the process that was asked for."""
    import fcntl

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if request["session"]:
        os.setsid()
    away = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 256) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, place in zip(away, [0, 1, 2, *request["passed"]], strict=True):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.chdir(request["cwd"])
    python_path = os.environ.get("PYTHONPATH")
    os.environ.clear()
    os.environ.update(request["env"])
    if os.environ.get("PYTHONPATH", "") != (python_path or ""):
        sys.path[:0] = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        sys.modules.pop("sitecustomize", None)
        with contextlib.suppress(ImportError):
            importlib.import_module("sitecustomize")
    code = 1
    try:
        fork_workers()
        if os.environ.get(HIDDEN):
            from carvana.evaluation import report

            report.draw_pictures = _draw_nothing
        _run(request["words"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code & 0xFF)


def _run(words: Sequence[str]) -> None:
    """Do what an interpreter does with its words."""
    safe, words = words[:1] == ["-P"], words[1:] if words[:1] == ["-P"] else words
    kind, *rest = words
    main = vars(sys.modules["__main__"])
    if kind == "-m":
        sys.argv[:] = ["-m", *rest[1:]]
        sys.path[:0] = [] if safe else [str(Path.cwd())]
        runpy._run_module_as_main(rest[0])  # type: ignore[attr-defined]
    elif kind == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        sys.path[:0] = [""]
        exec(compile(rest[0], "<string>", "exec"), main)
    else:
        sys.argv[:] = words
        sys.path[:0] = [str(Path(kind).resolve().parent)]
        main["__file__"] = kind
        exec(compile(Path(kind).read_bytes(), kind, "exec"), main)


def _can_fork(words: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether there is a server, and all that an interpreter reads once is as it was when the server started."""
    if ADDRESS not in environment or (words[0].startswith("-") and words[0] not in ("-P", "-m", "-c")):
        return False
    started = json.loads(Path(f"{environment[ADDRESS]}.env").read_text())
    return _read_once(environment) == _read_once(started)


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    found = {name: value for name, value in environment.items() if name.startswith(READ_ONCE)}
    found.pop("PYTHONPATH", None)  # a fork takes it in
    return found


def _connect(address: str, request: Mapping[str, Any], descriptors: Sequence[int]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    data = json.dumps(request).encode("utf-8", "surrogateescape")
    socket.send_fds(connection, [struct.pack("ii", len(data), len(descriptors))], list(descriptors))
    connection.sendall(data)
    return connection


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, descriptors, _, _ = socket.recv_fds(connection, 8, 32)
    length, _ = struct.unpack("ii", head)
    return json.loads(_read(connection, length).decode("utf-8", "surrogateescape")), descriptors


def _read(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise ConnectionError("the fork server has ended")
        data += part
    return data


def main() -> NoReturn:
    """Have a command done by the server, for a shell script."""
    words, environment = sys.argv[1:], dict(os.environ)
    if not _can_fork(words, environment):
        os.execv(sys.executable, [sys.executable, *words])
    request = {"words": words, "env": environment, "cwd": str(Path.cwd()), "session": False, "passed": []}
    connection = _connect(environment[ADDRESS], request, [0, 1, 2])
    _read(connection, 4)
    status = os.waitstatus_to_exitcode(struct.unpack("i", _read(connection, 4))[0])
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
