from __future__ import annotations

import json
from pathlib import Path

import pytest

from carvana.config import FitConfig
from carvana.errors import RunError
from carvana.folds import Folds


def test_a_folder_of_folds_remembers_what_it_was_begun_with(tmp_path: Path) -> None:
    config = FitConfig(arch="unet/resnet18", data={"root": tmp_path}, train={"lr": 0.5})
    made = Folds.create(tmp_path / "folds", config, folds=3, init="somewhere")
    again = Folds.open(tmp_path / "folds")
    assert again.read_config() == config
    assert (again.count, again.init) == (3, "somewhere")
    assert [run.path for run in again.runs] == [made.path / f"fold-{number}" for number in (1, 2, 3)]


def test_the_default_place_is_named_after_the_architecture_and_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = FitConfig(arch="unet/resnet18")
    paths = [Folds.create(None, config, folds=2).path for _ in range(2)]
    assert paths == [Path("runs/unet-resnet18-folds"), Path("runs/unet-resnet18-folds-2")]


def test_a_folder_that_holds_something_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(RunError, match="--out"):
        Folds.create(tmp_path, FitConfig(), folds=2)
    with pytest.raises(RunError, match="not a folder of folds"):
        Folds.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not readable as JSON"),
        ("[]", "expected a JSON object"),
        (json.dumps({"format_version": 99}), "format version 99, .*upgrade carvana"),
        (json.dumps({"format_version": 1, "folds": 3}), "expected the number of folds and their config"),
    ],
)
def test_a_record_that_cannot_serve_is_told_in_a_line(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "folds.json").write_text(text)
    with pytest.raises(RunError, match=word) as error:
        _ = Folds.open(tmp_path).count
    assert "\n" not in str(error.value)


def test_only_finished_folds_give_their_runs(tmp_path: Path) -> None:
    folds = Folds.create(tmp_path / "folds", FitConfig(), folds=2)
    for run in folds.runs:
        with pytest.raises(RunError, match=f"{run.path.name} is not finished; `carvana fit --resume"):
            folds.finished_runs()
        run.write_evaluation({"dice": 0.5})
        with pytest.raises(RunError, match=f"{run.path.name} is not finished"):  # evaluated by hand before its end
            folds.finished_runs()
        run.write_record({"fit_seconds": 1.0})
    assert [run.path.name for run in folds.finished_runs()] == ["fold-1", "fold-2"]
    with pytest.raises(RunError, match=r"evaluation\.json is missing"):
        folds.read_evaluation()
