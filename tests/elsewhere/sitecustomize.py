"""An interpreter without what only some systems have: fcntl, resource, pwd, os.fork, os.sched_getaffinity and /proc.

With this folder on PYTHONPATH, an interpreter and the processes that it starts are without them.
"""

import multiprocessing
import os
import sys

for name in ("fcntl", "resource", "pwd"):
    sys.modules[name] = None  # type: ignore[assignment]  # import raises ImportError
for name in ("fork", "forkpty", "sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)
multiprocessing.set_start_method("spawn")


def _without_proc(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])


sys.addaudithook(_without_proc)


def _no_link(path: object, **_: object) -> str:
    if str(path).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", path)
    return readlink(path)  # type: ignore[type-var]


readlink, os.readlink = os.readlink, _no_link  # type: ignore[assignment]
