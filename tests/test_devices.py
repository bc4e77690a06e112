from __future__ import annotations

import pytest
import torch

from carvana.devices import autocast, cpu_count, describe, devices_named, resolve_device, resolve_precision
from carvana.errors import ConfigError

CPU = torch.device("cpu")


def test_auto_is_the_gpu_where_there_is_one() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", ""])
def test_an_unknown_device_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_told() -> None:
    with pytest.raises(ConfigError, match="--device cpu"):
        resolve_device("cuda")


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


def test_the_machine_is_described() -> None:
    assert cpu_count() >= 1
    assert str(cpu_count()) in describe(CPU)


def test_work_is_spread_over_all_gpus_unless_one_device_is_named() -> None:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert devices_named("cpu") == ["cpu"]
    assert devices_named("auto") == ([f"cuda:{number}" for number in range(gpus)] or ["cpu"])
    with pytest.raises(ConfigError, match="tpu"):
        devices_named("tpu")
