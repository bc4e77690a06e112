"""Divides images among processes, and lets processes that torchrun started end together.

The share of a process follows from its rank alone, so processes need not communicate: they may run on several machines,
at different times, started by torchrun or by hand with RANK and WORLD_SIZE in their environment.
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

_POLL_SECONDS = 0.2
_TIMEOUT = timedelta(seconds=60)

_calls = itertools.count()


def rank_slice(items: Sequence[T]) -> Sequence[T]:
    """The items of this process: every n-th from its rank on, or all of them where there is one process.

    >>> rank_slice("abc")
    'abc'
    """
    return items[process_number() :: process_count()]


def announce(flag: str) -> None:
    """Set a flag that the other processes of torchrun see; does nothing without torchrun."""
    with _store() as store:
        if store is not None:
            store.set(flag, "")


def was_announced(flag: str) -> bool:
    """Whether a process of torchrun has set a flag."""
    with _store() as store:
        return store is not None and store.check([flag])
    return False


def wait_for_all_ranks(*, failed: bool) -> None:
    """Announce that this process has done its share; if it will fail, wait until all others have done theirs.

    torchrun ends all processes as soon as one fails, so an image that cannot be read would keep the others from
    finishing their shares. Every process calls this once its share is done. Without torchrun it returns at once.
    """
    turn = next(_calls)  # a script may divide several folders, one after the other
    all_ranks = [f"left-{turn}-{number}" for number in range(process_count())]
    with _store() as store:
        if store is not None:
            store.set(all_ranks[process_number()], "")
            # In small steps, since Python handles no signal while torch waits.
            while failed and not store.check(all_ranks):
                time.sleep(_POLL_SECONDS)


@contextmanager
def _store() -> Iterator[PrefixStore | None]:
    """The key-value store of torchrun; None without torchrun. The block ends early if torchrun does."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or process_count() == 1:
        yield None
        return
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(host, port, is_master=False, timeout=_TIMEOUT, wait_for_workers=False)
    except RuntimeError:  # torchrun is gone, and with it those that it started
        yield None
        return
    with suppress(RuntimeError):  # the same, meanwhile
        yield PrefixStore("carvana", store)
