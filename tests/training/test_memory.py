from __future__ import annotations

import resource
import sys

import pytest
import torch

from carvana.training.memory import freed_memory_kept

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

CPU = torch.device("cpu")


def faults(times: int = 20, megabytes: int = 64) -> int:
    """Page faults of taking and freeing tensors."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(megabytes << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_freed_memory_is_used_again_and_given_back_at_the_end() -> None:
    usual = faults()
    with freed_memory_kept(CPU):
        faults(times=1)
        kept = faults()
        inside = resident()
    assert kept < usual / 5
    assert resident() < inside - (50 << 20)
    assert faults() > usual / 2  # as it was before


def test_elsewhere_nothing_happens() -> None:
    with freed_memory_kept(torch.device("cuda")):
        kept = faults()
    assert kept > faults() / 2
