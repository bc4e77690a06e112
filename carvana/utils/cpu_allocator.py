"""Memory between the steps of a network on a CPU: kept, and in large pages, not given back and taken again."""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from carvana.utils.devices import free_memory

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""The parameters of glibc's mallopt(3) that say when memory goes back to the system."""

_AFTERWARDS = {M_TRIM_THRESHOLD: 64 << 20, M_MMAP_THRESHOLD: 32 << 20, M_MMAP_MAX: 65536}
"""What malloc arrives at by itself once large tensors have come and gone; set by hand, it moves no more."""

_lock = threading.Lock()
_inside = 0
"""How many such contexts there are at this moment."""


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """A context in which glibc's malloc keeps what is freed for a CPU's next tensor; elsewhere nothing happens.

    As it comes, malloc maps every large tensor anew and unmaps it when it is freed, and the system clears each page
    again: some 500,000 page faults a step of a U-Net, a sixth to a third of its time. What is left is the search for
    pages of 4 kB, and pages of 2 MB save most of that where Linux has them to give. At the end of the last such context
    the memory is given back, and malloc gives back what is large again, as it comes to do in any process that has
    freed a tensor of 32 MB.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            library.mallopt(M_TRIM_THRESHOLD, -1)
            library.mallopt(M_MMAP_MAX, 0)
            _ask_for_large_pages(library)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for parameter, value in _AFTERWARDS.items():
                    library.mallopt(parameter, value)
                library.malloc_trim(0)


def _ask_for_large_pages(library: ctypes.CDLL) -> None:
    """Let malloc's heap grow by half of the free memory, tell Linux to back it with pages of 2 MB, and free it again.

    Nothing of it is touched, so it takes no memory yet; not being trimmed, it is what later tensors are made of.
    """
    if sys.platform != "linux":
        return
    try:
        import resource
    except ImportError:  # a Python that was built without it
        return
    limits = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if any(limit != resource.RLIM_INFINITY for limit in limits):
        return  # addresses are counted here, which others will want, too
    try:
        size = free_memory() // 2
        # It fails where the heap would fail, which must not happen: threads would leave it for good.
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, ValueError, OverflowError, LookupError):  # nor where nothing tells how much is free
        return
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = library.malloc(size)
    if block is not None:
        begin = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        library.madvise(begin, block + size - begin, mmap.MADV_HUGEPAGE)  # or it stays as it is, where it cannot be had
        library.free(block)
