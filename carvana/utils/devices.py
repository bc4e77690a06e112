"""The choice of device and precision, memory, and what is known of the hardware."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from carvana.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]


def resolve_device(name: str = "auto") -> torch.device:
    """The torch device that "auto", "cpu", "cuda", "cuda:N" or "mps" (Apple's GPU) stands for.

    "auto" is NVIDIA's GPU where there is one, else Apple's, else the CPU; under torchrun each process takes the GPU of
    its LOCAL_RANK.

    Raises:
        ConfigError: there is no such device here.
    """
    import torch

    cuda, mps = torch.cuda.is_available, torch.backends.mps.is_available
    usable: dict[str, Callable[[], bool]] = {"cuda": cuda, "mps": mps, "cpu": lambda: True}
    if name == "auto":
        name = next(kind for kind, is_usable in usable.items() if is_usable())
    kind, colon, index = name.partition(":")
    if kind not in usable or (colon and not (kind == "cuda" and index.isdecimal())):
        hint = did_you_mean(name, ["auto", "cpu", "cuda", "mps"])
        raise ConfigError(f"device {name!r} is unknown; expected auto, cpu, cuda or mps{hint}")
    if not usable[kind]():
        maker = "Apple" if kind == "mps" else "CUDA"
        raise ConfigError(f"device {name!r}: no {maker} GPU is usable here; take --device cpu")
    if kind != "cuda":
        return torch.device(kind)
    number = int(index or os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r}: this machine has {torch.cuda.device_count()} GPUs, counted from 0")
    return torch.device("cuda", number)


def float64_device(device: torch.device) -> torch.device:
    """The device for float64: the CPU where the device is an Apple GPU, which has no float64."""
    import torch

    return torch.device("cpu") if device.type == "mps" else device


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type != "cpu":
        import torch

        torch.accelerator.synchronize(device)


def release_memory(device: torch.device) -> None:
    """Release the GPU memory that torch caches for later tensors."""
    if device.type != "cpu":
        import torch

        torch.get_device_module(device).empty_cache()


_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, Apple's GPUs
    "allocate memory",  # torch on a CPU of Linux and macOS, ONNX Runtime
    "not enough memory",  # torch on a CPU of Windows
    "bad_alloc", "bad allocation",  # C++
    "ALLOC_FAILED",  # cuBLAS, cuDNN
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left: many libraries have no class of error for it.

    >>> is_out_of_memory(RuntimeError("MPS backend out of memory")), is_out_of_memory(RuntimeError("sizes differ"))
    (True, False)
    """
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch may not be imported
    return named or any(words in str(error) for words in _OUT_OF_MEMORY)


def devices_named(name: str) -> list[str]:
    """The devices to spread work over: with "auto" or "cuda" all GPUs.

    Raises:
        ConfigError: as for :func:`resolve_device`.
    """
    import torch

    device = resolve_device(name)
    if name in ("auto", "cuda") and device.type == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(device)]


def resolve_precision(name: str, device: torch.device) -> Precision:
    """The precision of the network's arithmetic.

    "auto" takes bf16 where the processor computes in it, else fp16 on an NVIDIA GPU (training then scales its losses),
    else fp32, as on an Apple GPU. A precision asked for by name is taken, except fp16 on a CPU, which is slow there and
    of small range.

    Raises:
        ConfigError: no such precision, or not on this device.
    """
    choices = ["auto", "bf16", "fp16", "fp32"]
    if name not in choices:
        raise ConfigError(f"precision {name!r} is unknown; expected {', '.join(choices)}{did_you_mean(name, choices)}")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision 'fp16' needs a GPU; on a CPU take bf16, fp32 or auto")
    if name != "auto":
        return cast("Precision", name)
    if _computes_in_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A context in which networks compute in ``precision`` on ``device``."""
    import torch

    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def cpu_count() -> int:
    """The cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_number() -> int:
    """The number of this process among those that torchrun or accelerate launch started together, from 0.

    Raises:
        ConfigError: RANK or WORLD_SIZE is not valid.
    """
    number, count = os.environ.get("RANK"), process_count()
    if not os.environ.get("WORLD_SIZE") or (count == 1 and not number):
        return 0
    if not number or not number.isdecimal() or int(number) >= count:
        raise _wrong_processes()
    return int(number)


def process_count() -> int:
    """The number of processes that were started together, on all machines.

    Raises:
        ConfigError: WORLD_SIZE is not valid.
    """
    count = os.environ.get("WORLD_SIZE") or "1"
    if not count.isdecimal() or int(count) < 1:
        raise _wrong_processes()
    return int(count)


def _wrong_processes() -> ConfigError:
    number, count = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return ConfigError(
        f"RANK={number!r} and WORLD_SIZE={count!r} in the environment: expected whole numbers with 0 <= RANK < "
        "WORLD_SIZE; set both, or neither"
    )


def processes_here() -> int:
    """The number of processes of one training on this machine."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def free_memory() -> int:
    """Free memory in bytes: that of the machine, or of its container if that has less."""
    try:
        import psutil

        free = int(psutil.virtual_memory().available)
    except (ImportError, OSError):  # a container without /proc, a Python without resource
        return UNKNOWN_MEMORY
    limit, used = (_cgroup_bytes(name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, limit - used + _cached_bytes())


_CGROUP = Path("/sys/fs/cgroup")

UNKNOWN_MEMORY = 2 * 2**30
"""Assumed to be free where the system does not report it."""


class PeakMemory:
    """Peak memory within a block: ``with PeakMemory(device) as peak: ...``, then ``megabytes``.

    On an NVIDIA GPU it is the memory of this process's tensors, elsewhere that of the whole process with its libraries.
    On macOS and Windows, where the peak cannot be reset, it is the peak since the process began.

    Args:
        device: where the work is done.

    Attributes:
        megabytes: of 10^6 bytes; set at the end of the block.
    """

    def __init__(self, device: torch.device) -> None:
        self.megabytes = 0.0
        self._device = device

    def __enter__(self) -> PeakMemory:
        """Reset the peak."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # resets the peak to the present size: proc_pid_clear_refs(5)
        return self

    def __exit__(self, *_: object) -> None:
        """Read the peak."""
        if self._device.type == "cuda":
            import torch

            self.megabytes = torch.cuda.max_memory_allocated(self._device) / 1e6
        else:
            self.megabytes = _peak_bytes() / 1e6


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
"""Parameters of glibc's mallopt(3) for when memory is returned to the system, and for the number of heaps."""

_AFTERWARDS = {M_TRIM_THRESHOLD: 64 << 20, M_MMAP_THRESHOLD: 32 << 20, M_MMAP_MAX: 65536}
"""The values that malloc adapts to by itself once large tensors were freed; once set, it adapts no more."""

_keeping_lock = threading.Lock()
_keeping = 0
"""The number of open contexts of :func:`freed_memory_kept`."""


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """A context in which glibc's malloc keeps freed memory for the next tensor; without effect on other devices.

    By default malloc maps each large tensor anew and unmaps it when it is freed, and the system clears each page again:
    some 500,000 page faults in a step of a U-Net, a sixth to a third of its time. Pages of 2 MB instead of 4 kB save
    most of the remaining page faults where Linux has such pages free. At the end of the last context the memory is
    returned, and malloc again returns large blocks, as in any process that has freed a tensor of 32 MB.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    global _keeping
    with _keeping_lock:
        _keeping += 1
        if _keeping == 1:
            library.mallopt(M_TRIM_THRESHOLD, -1)
            library.mallopt(M_MMAP_MAX, 0)
            _ask_for_large_pages(library)
    try:
        yield
    finally:
        with _keeping_lock:
            _keeping -= 1
            if not _keeping:
                for parameter, value in _AFTERWARDS.items():
                    library.mallopt(parameter, value)
                library.malloc_trim(0)


def share_one_heap() -> None:
    """Let later threads take memory from the main thread's heap, where :func:`freed_memory_kept` works.

    glibc gives each thread a heap of its own, whose large blocks go back to the system whatever is set; a network in
    such a thread waits for pages in a third of its time.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is not None and hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_ARENA_MAX, 1)


def _ask_for_large_pages(library: ctypes.CDLL) -> None:
    """Grow malloc's heap by half of the free memory, ask Linux to back it with pages of 2 MB, and free it again.

    It is not written to, so it takes no memory yet; since it is not trimmed, later tensors are placed in it.
    """
    if sys.platform != "linux":
        return  # where these names are missing
    try:
        import resource

        limits = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
        if any(limit != resource.RLIM_INFINITY for limit in limits):
            return  # the limit counts addresses, which others need, too
        size = free_memory() // 2
        # A trial: if the heap itself failed to grow, threads would abandon it for good.
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (ImportError, OSError, ValueError, OverflowError, LookupError):  # also a Python without resource
        return
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = library.malloc(size)
    if block is not None:
        begin = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        library.madvise(begin, block + size - begin, mmap.MADV_HUGEPAGE)  # without effect where Linux has none
        library.free(block)


def describe(device: torch.device) -> str:
    """The hardware in words, for records: "2 cores, x86_64 (AMX)", "NVIDIA H200" or "GPU of Apple M4"."""
    import platform

    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"GPU of {torch.backends.mps.get_name()}"
    return f"{cpu_count()} cores of {_cpu_model() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def one_core(machine: str) -> str:
    """The words of :func:`describe` for people. Records keep "1 cores": runs are known to be of this machine by it.

    >>> one_core("1 cores of AMD EPYC, AVX2"), one_core("11 cores of AMD EPYC, AVX2")
    ('1 core of AMD EPYC, AVX2', '11 cores of AMD EPYC, AVX2')
    """
    return re.sub(r"^1 cores\b", "1 core", machine)


def _computes_in_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        # Compute capability 8.0 (Ampere) brought bf16 tensor cores; older GPUs only emulate it.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "mps":
        return False  # older systems have no bf16; whether it is faster is not measured yet
    # oneDNN accepts bf16 on any AVX-512 processor, but is faster than fp32 only where instructions exist for it.
    capabilities = torch.cpu.get_capabilities()
    instructions = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return instructions and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _peak_bytes() -> int:
    """Peak memory of this process in bytes; 0 where it is unknown."""
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["VmHWM"].split()[0])
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _cgroup_bytes(name: str) -> int | None:
    with suppress(OSError, ValueError):  # no container, or one without a limit: "max"
        return int((_CGROUP / name).read_text(encoding="ascii"))
    return None


def _cached_bytes() -> int:
    """The cached files of a container: they count as used, and are dropped where memory is needed."""
    with suppress(OSError, ValueError):
        lines = map(str.split, (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        return sum(int(number) for name, number in lines if name in ("active_file", "inactive_file"))
    return 0


def _cpu_model() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    return ""
