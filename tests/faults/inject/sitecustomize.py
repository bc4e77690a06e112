"""Breaks things inside a command: Python imports this first in each of its processes, if it lies on PYTHONPATH.

CARVANA_FAULT is JSON. Events are those that carvana/utils/files.py names, ``carvana.write`` with a stage and a path,
and Python's own audit events.

    {"record": FILE}                             a line for each stage of each write: stage, path
    {"kill": [STAGE, PATTERN, N]}                SIGKILL for the whole process group at the N-th such event (from 1)
    {"kill": [...], "alone": true}               SIGKILL for the process that writes, and no other
    {"later": SECONDS}                           with kill: so long after that event
    {"cut": true}                                with kill: half of what was written is there, or half a line
    {"error": [STAGE, PATTERN, N, ERRNO]}        an OSError there
    {"no_network": true}                         any socket but a local one raises
    {"writes": FILE}                             a line for each file that is opened for writing, by whomever
"""

import fnmatch
import json
import os
import signal
import sys
import threading

_fault = json.loads(os.environ.get("CARVANA_FAULT", "{}"))
_GROUP = "CARVANA_FAULT_GROUP"
_seen = {"kill": 0, "error": 0}


def _append(path, *words):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, ("\t".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


def _meets(kind, stage, path):
    wanted = _fault.get(kind)
    if not wanted or wanted[0] != stage or not fnmatch.fnmatch(path, wanted[1]):
        return False
    _seen[kind] += 1
    return _seen[kind] == wanted[2]


def _kill():
    if not _fault.get("alone"):
        # The command's own group; processes of a comparison have groups of their own, and end with it.
        os.killpg(int(os.environ[_GROUP]), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _on_write(stage, path, temporary):
    if "record" in _fault:
        _append(_fault["record"], stage, path)
    if _meets("error", stage, path):
        number = _fault["error"][3]
        raise OSError(number, os.strerror(number), path)
    if _meets("kill", stage, path):
        if _fault.get("cut"):
            length = os.path.getsize(temporary)  # noqa: PTH202 - pathlib takes its time in every process
            os.truncate(temporary, length - 3 if stage == "appended" else length // 2)
        if "later" in _fault:
            threading.Timer(_fault["later"], _kill).start()
        else:
            _kill()


def _hook(event, arguments):
    if event == "carvana.write":
        _on_write(*arguments)
    elif event == "open" and "writes" in _fault:
        path, _, flags = arguments
        if isinstance(path, (str, bytes)) and path != _fault["writes"] and (flags or 0) & (os.O_WRONLY | os.O_RDWR):
            _append(_fault["writes"], os.fsdecode(path))
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") and _fault.get("no_network"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        if isinstance(address, (str, bytes)) and event == "socket.connect":
            return  # a Unix socket
        raise RuntimeError(f"reached for the network: {event} {arguments!r}")


if _fault:
    os.environ.setdefault(_GROUP, str(os.getpgrp()))
    sys.addaudithook(_hook)
