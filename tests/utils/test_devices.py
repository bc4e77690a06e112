from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from carvana.cli.app import app
from carvana.errors import ConfigError
from carvana.utils.devices import (
    autocast,
    cpu_count,
    describe,
    devices_named,
    float64_device,
    free_memory,
    is_out_of_memory,
    process_count,
    process_number,
    resolve_device,
    resolve_precision,
)

CPU, MPS = torch.device("cpu"), torch.device("mps")


def test_auto_is_the_gpu_where_there_is_one() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps:0", ""])
def test_an_unknown_device_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_told() -> None:
    with pytest.raises(ConfigError, match="--device cpu"):
        resolve_device("cuda")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
def test_a_missing_apple_gpu_is_one_line() -> None:
    result = CliRunner().invoke(app, ["fit", "--device", "mps"])
    assert result.exit_code == 1
    assert result.stderr == "error: device 'mps': no Apple GPU is usable here; take --device cpu\n"


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_is_nvidias_gpu_then_apples_then_the_cpu(
    cuda: bool, mps: bool, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert resolve_device("auto").type == best


def test_an_apple_gpu_computes_in_fp32_unless_asked_and_leaves_float64_to_the_cpu() -> None:
    assert resolve_precision("auto", MPS) == "fp32"
    assert resolve_precision("fp16", MPS) == "fp16"
    assert float64_device(MPS) == CPU
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    assert resolve_device("cuda").type == "cuda"
    with pytest.raises(ConfigError, match="counted from 0"):
        resolve_device("cuda:99")


def test_precision() -> None:
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("auto", CPU) in ("bf16", "fp32")
    with pytest.raises(ConfigError, match="fp16"):
        resolve_precision("fp16", CPU)
    with pytest.raises(ConfigError, match="bf16"):
        resolve_precision("bf32", CPU)


def test_autocast_computes_in_the_precision() -> None:
    layer = torch.nn.Linear(4, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(CPU, precision):
            assert layer(torch.zeros(1, 4)).dtype == dtype


def test_each_devices_lack_of_memory_is_known() -> None:
    """An Apple GPU raises no error of its own kind."""
    full = "MPS backend out of memory (MPS allocated: 18.00 GB, other allocations: 96.00 MB, max allowed: 18.13 GB)"
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(full)):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("sizes do not match"))


def test_cached_files_of_a_container_count_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carvana.utils.devices._CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    assert free_memory() == 100_000
    (tmp_path / "memory.stat").write_text("anon 250000\ninactive_file 400000\nactive_file 200000\nslab 50000\n")
    assert free_memory() == 700_000


@pytest.mark.parametrize(
    ("number", "count"),
    [("1", "x"), ("x", "2"), ("2", "2"), ("-1", "2"), ("1", "1"), ("0", "0"), ("0", "-2"), ("", "2")],
)
def test_numbers_of_processes_that_cannot_be_are_one_line(
    number: str, count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", number)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(ConfigError, match=f"RANK='{number}' and WORLD_SIZE='{count}' in the environment: expected"):
        process_number()


def test_a_process_is_alone_without_a_world_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "3")
    assert (process_number(), process_count()) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "5")
    assert (process_number(), process_count()) == (3, 5)
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert (process_number(), process_count()) == (0, 1)


def test_the_machine_is_described() -> None:
    assert cpu_count() >= 1
    assert str(cpu_count()) in describe(CPU)


def test_work_is_spread_over_all_gpus_unless_one_device_is_named() -> None:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert devices_named("cpu") == ["cpu"]
    assert devices_named("auto") == ([f"cuda:{number}" for number in range(gpus)] or ["cpu"])
    with pytest.raises(ConfigError, match="tpu"):
        devices_named("tpu")


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

# In a process of its own: once an allocation has failed, glibc lets a thread take its memory elsewhere from there on.
PROGRAM = """
import resource, sys, torch
from carvana.utils.devices import freed_memory_kept

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


@needs_linux
@pytest.mark.slow
def test_freed_memory_is_used_again_and_given_back_at_the_end() -> None:
    usual, kept, returned, _ = measured("cpu")
    assert kept < usual / 2
    assert returned > 50 << 20


@needs_linux
@pytest.mark.slow
def test_for_a_gpu_nothing_happens() -> None:
    usual, kept, *_ = measured("cuda")
    assert kept > usual / 2


@pytest.mark.skipif(
    not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(), reason="needs large pages of Linux's"
)
@needs_linux
@pytest.mark.slow
def test_a_tensor_lies_in_large_pages() -> None:
    *_, paged = measured("cpu")
    assert paged > 32 << 20
