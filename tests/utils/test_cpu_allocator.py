from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

# In a process of its own: once an allocation has failed, glibc lets a thread take its memory elsewhere from there on.
PROGRAM = """
import resource, sys, torch
from carvana.utils.cpu_allocator import freed_memory_kept

def faults(times=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def large():
    lines = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    return int(lines["AnonHugePages"].split()[0]) << 10

usual = faults()
with freed_memory_kept(torch.device(sys.argv[1])):
    with freed_memory_kept(torch.device(sys.argv[1])):
        faults(1)
    tensor, kept, inside, paged = torch.ones(64 << 20, dtype=torch.uint8), faults(), resident(), large()
    del tensor
print(usual, kept, inside - resident(), paged)
"""


def measured(device: str) -> list[int]:
    """Page faults before the context and in it, after another one in it; bytes given back; bytes in large pages."""
    words = [sys.executable, "-c", PROGRAM, device]
    return [int(word) for word in subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()]


@pytest.mark.slow
def test_freed_memory_is_used_again_and_given_back_at_the_end() -> None:
    usual, kept, returned, _ = measured("cpu")
    assert kept < usual / 2
    assert returned > 50 << 20


@pytest.mark.slow
def test_for_a_gpu_nothing_happens() -> None:
    usual, kept, *_ = measured("cuda")
    assert kept > usual / 2


@pytest.mark.skipif(
    not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(), reason="needs large pages of Linux's"
)
@pytest.mark.slow
def test_a_tensor_lies_in_large_pages() -> None:
    *_, paged = measured("cpu")
    assert paged > 32 << 20
