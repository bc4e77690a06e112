"""Images shared out over processes, and how processes that torchrun started leave together.

Which share is a process's own follows from its number alone, so processes need not know of one another: they may run on
several machines, at different times, started by torchrun or by hand with RANK and WORLD_SIZE in their environment.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from carvana.utils.devices import process_count, process_number

if TYPE_CHECKING:
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

T = TypeVar("T")

_LOOK_EVERY = 0.2  # seconds
_PATIENCE = timedelta(seconds=60)

_leavings = itertools.count()


def rank_slice(items: Sequence[T]) -> Sequence[T]:
    """Every n-th item, from this process's own number on: all of them where there is one process.

    >>> rank_slice("abc")
    'abc'
    """
    return items[process_number() :: process_count()]


def announce(word: str) -> None:
    """Leave a word for the processes that torchrun started together with this one; nothing without torchrun."""
    with _store() as store:
        if store is not None:
            store.set(word, "")


def was_announced(word: str) -> bool:
    """Whether one of them has left this word."""
    with _store() as store:
        return store is not None and store.check([word])
    return False


def wait_for_all_ranks(*, failed: bool) -> None:
    """Say that this process has done its share; if it is to fail, wait for the others to say so too.

    torchrun ends all processes as soon as one fails: an image that cannot be read would keep the others from ever
    finishing theirs. Every process calls this once its share is done. Without torchrun nobody waits.
    """
    turn = next(_leavings)  # a script may share out several folders, one after the other
    everybody = [f"left-{turn}-{number}" for number in range(process_count())]
    with _store() as store:
        if store is not None:
            store.set(everybody[process_number()], "")
            # A wait in small steps, since Python hears no signal within one of torch's.
            while failed and not store.check(everybody):
                time.sleep(_LOOK_EVERY)


@contextmanager
def _store() -> Iterator[PrefixStore | None]:
    """What torchrun keeps for its processes; None without torchrun. Where it ends meanwhile, so does the block."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or process_count() == 1:
        yield None
        return
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(host, port, is_master=False, timeout=_PATIENCE, wait_for_workers=False)
    except RuntimeError:  # torchrun is gone, and with it those that it started
        yield None
        return
    with suppress(RuntimeError):  # the same, meanwhile
        yield PrefixStore("carvana", store)
