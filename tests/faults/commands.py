"""The real commands as processes of their own, with faults under them (see inject/sitecustomize.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forkserver

INJECT = Path(__file__).with_name("inject")
PATIENCE = 300.0
"""Seconds after which a command counts as hanging."""


@dataclass(frozen=True)
class Done:
    """A command that has ended: its exit code (negative: the signal), and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that tells what went wrong, behind ``error: ``."""
        assert self.code == 1, self
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("error: ")


def start(
    *words: object,
    fault: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    program: Sequence[object] = ("-m", "carvana"),
    fork: bool = True,
) -> subprocess.Popen[str]:
    """Start a command, in a session and a process group of its own.

    It is a fork of the server of :mod:`forkserver`, unless ``fork`` is false: then the imports are part of it.
    """
    environment = {**os.environ, **(env or {})}
    if fault:
        environment["CARVANA_FAULT"] = json.dumps(fault)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(INJECT), environment.get("PYTHONPATH"))))
    return (forkserver if fork else subprocess).Popen(
        [sys.executable, *map(str, program), *map(str, words)], env=environment, cwd=cwd, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        errors="surrogateescape",
    )  # fmt: skip


def carvana(*words: object, timeout: float = PATIENCE, **how: Any) -> Done:
    """Run a command to its end: ``carvana("fit", "--arch", "unet-ref", fault={...})``. A hang is an error."""
    process = start(*words, **how)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    return Done(process.returncode, out, err)


def killed_after(seconds: float, *words: object, **how: Any) -> Done:
    """Start a command and kill all of its processes after a while, unless it has ended."""
    process = start(*words, **how)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    return kill(process)


def kill(process: subprocess.Popen[str]) -> Done:
    """SIGKILL for a command's whole process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    return Done(process.returncode, out, err)


def children(pid: int) -> dict[int, list[str]]:
    """The living processes below one, by number, with their command lines."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, ValueError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(folder.name))
    found: dict[int, list[str]] = {}
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            with suppress(OSError):
                found[child] = (Path("/proc") / str(child) / "cmdline").read_bytes().decode().split("\0")
                waiting.append(child)
    return found


def wait_for(true: Any, process: subprocess.Popen[str], patience: float = PATIENCE) -> None:
    """Wait until something holds, while a command is at work."""
    until = time.monotonic() + patience
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
