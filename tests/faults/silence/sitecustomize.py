"""Python imports this first in each process, if it lies on PYTHONPATH: whoever asks for the network is written down.

CARVANA_SILENCE is the file. A library may catch what is raised here, so the lines count: a socket that leaves the
machine, a look-up of a name, and with which settings albumentations is imported.
"""

import os
import socket
import sys

_log = os.environ.get("CARVANA_SILENCE")
_listens = os.environ.get("CARVANA_SILENCE_LISTENS")  # a server, which is asked and asks nobody
_NAMES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "socket.sendto")


def _note(words):
    descriptor = os.open(_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, f"{words}\n".encode())
    os.close(descriptor)


def _is_new(event, arguments):
    if _listens:
        return event == "socket.connect" and arguments[0].family in (socket.AF_INET, socket.AF_INET6)
    return event == "socket.__new__" and arguments[1] in (socket.AF_INET, socket.AF_INET6)


def _hook(event, arguments):
    if event == "import" and arguments[0] == "albumentations":
        _note(f"albumentations {os.environ.get('NO_ALBUMENTATIONS_UPDATE')}")
    elif event in _NAMES or _is_new(event, arguments):
        _note(f"network {event} {arguments!r}")
        raise OSError(f"no network here: {event}")


if _log:
    _note("begun")
    sys.addaudithook(_hook)
