from __future__ import annotations

from pathlib import Path

import pytest

from carvana.config import FitConfig
from carvana.errors import RunError
from carvana.run import Run


def test_default_names_come_from_the_architecture_and_never_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = []
    for _ in range(3):
        run = Run.create(None, arch="unet/resnet34")
        run.write_config(FitConfig())
        made.append(run.path)
    assert made == [Path("runs/unet-resnet34"), Path("runs/unet-resnet34-2"), Path("runs/unet-resnet34-3")]


def test_a_folder_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(RunError, match="--out"):
        Run.create(tmp_path, arch="a")
    with pytest.raises(RunError, match="--out"):
        Run.create(tmp_path / "x", arch="a")
    assert Run.create(tmp_path / "new" / "deep", arch="a").path.is_dir()


def test_a_split_that_no_fit_wrote_is_not_taken_for_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("mine")
    with pytest.raises(RunError, match="never overwritten"):
        Run.create(tmp_path, arch="unet-ref")
    (tmp_path / "run.json").write_text("{}")  # nor is this a run's
    with pytest.raises(RunError, match="never overwritten"):
        Run.create(tmp_path, arch="unet-ref")
    (tmp_path / "run.json").write_text('{"format_version": 1}')  # a fit writes it first
    Run.create(tmp_path, arch="unet-ref")


def test_records_read_back(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", arch="a")
    run.write_config(FitConfig(arch="fpn/resnet18"))
    run.add_epoch({"epoch": 1, "val_dice": 0.5}, {"epoch": 1, "seconds": 3.0})
    run.add_epoch({"epoch": 2, "val_dice": 0.75}, {"epoch": 2, "seconds": 6.0})
    run.write_record({"init": "random"})
    run.write_evaluation({"dice": 0.9})
    again = Run.open(tmp_path / "run")
    assert again.read_config().arch == "fpn/resnet18"
    assert [record["val_dice"] for record in again.read_metrics()] == [0.5, 0.75]
    assert again.read_epochs()[1] == {"epoch": 2, "val_dice": 0.75, "seconds": 6.0}
    assert again.read_record() == {"format_version": 1, "init": "random"}
    assert again.read_evaluation() == {"dice": 0.9}


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.yaml"):
        Run.open(tmp_path)
    run = Run.create(tmp_path / "run", arch="a")
    with pytest.raises(RunError, match="carvana evaluate"):
        run.read_evaluation()
    run.evaluation_path.write_text("{")
    with pytest.raises(RunError, match=r"evaluation\.json"):
        run.read_evaluation()
