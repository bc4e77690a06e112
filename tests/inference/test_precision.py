from __future__ import annotations

from pathlib import Path

import pytest

from carvana.config import FitConfig
from carvana.errors import ConfigError, RunError
from carvana.inference.precision import precision_of
from carvana.run import Run
from carvana.utils.devices import describe, resolve_device

HERE = describe(resolve_device("cpu"))


def run_with(folder: Path, *, asked: str = "auto", machine: str = HERE, used: str | None = None) -> Path:
    run = Run.create(folder, arch="a")
    run.write_config(FitConfig(train={"precision": asked}))  # type: ignore[arg-type]
    run.write_record({"machine": machine} | ({"precision": used} if used else {}))
    return run.path


@pytest.mark.parametrize(
    ("asked", "used", "machine", "expected"),
    [
        ("auto", "fp32", HERE, "fp32"),
        ("auto", "bf16", HERE, "bf16"),
        ("auto", "fp32", "a GPU", "fp32"),
        ("auto", "bf16", "a GPU", "auto"),
        ("fp16", "fp16", "a GPU", "auto"),
        ("fp32", None, HERE, "fp32"),  # interrupted before it was recorded
        ("bf16", None, HERE, "bf16"),
        ("auto", None, HERE, "auto"),
    ],
)
def test_a_run_keeps_its_precision_where_that_makes_sense(
    tmp_path: Path, asked: str, used: str | None, machine: str, expected: str
) -> None:
    assert precision_of(run_with(tmp_path, asked=asked, used=used, machine=machine), "cpu") == expected


def test_what_is_no_run_has_none(tmp_path: Path) -> None:
    assert precision_of(tmp_path) == precision_of("name/repository") == "auto"


def test_unreadable_records_and_devices_are_named(tmp_path: Path) -> None:
    run = run_with(tmp_path, used="bf16")
    with pytest.raises(ConfigError, match="tpu"):
        precision_of(run, "tpu")
    Run(run).record_path.write_text("{")
    with pytest.raises(RunError, match=r"run\.json"):
        precision_of(run, "cpu")
