from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import dice

import carvana
from carvana.config import FitConfig
from carvana.data.io.images import write_image
from carvana.data.io.masks import read_mask
from carvana.errors import CarvanaError, ConfigError, DataError, RunError
from carvana.evaluation.report import finish_run
from carvana.evaluation.samples import read_run_split
from carvana.folds import Folds
from carvana.training.callbacks import Callback
from carvana.training.cross_validation import fit_folds, resume_folds
from carvana.utils.progress import SilentReporter

pytestmark = pytest.mark.usefixtures("quick_fits")

TINY = {
    "arch": "one-conv",
    "model": {"options": {"width": 4}},
    "data": {"size": [32, 48], "workers": 0},
    "train": {"epochs": 2, "batch_size": 4, "lr": 1e-2, "precision": "fp32"},
}


def recipe(data: Path, **changes: Any) -> FitConfig:
    return FitConfig(**TINY).replace({"data.root": str(data), **{k.replace("__", "."): v for k, v in changes.items()}})


@pytest.fixture(scope="module")
def folds(quick_fits: None, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Folds:
    """Five groups in three folds."""
    return fit_folds(recipe(tiny_data), folds=3, out=tmp_path_factory.mktemp("runs") / "folds", device="cpu")


def table(folds: Folds) -> dict[str, int]:
    with open(folds.table_path, newline="") as file:
        return {row["image"]: int(row["fold"]) for row in csv.DictReader(file)}


def test_every_fold_is_a_run_and_every_car_validates_once(folds: Folds, tiny_data: Path) -> None:
    seen: list[str] = []
    for number, run in enumerate(folds.runs, start=1):
        split = read_run_split(carvana.Run.open(run.path))
        assert not split.shared_groups()
        assert {sample.name for sample in split.val} == {name for name, fold in table(folds).items() if fold == number}
        assert run.read_evaluation()["images"] == len(split.val) == len(list(run.masks_path.glob("*_mask.png")))
        assert len(split.train) + len(split.val) == 20
        seen += {sample.group for sample in split.val}
    assert sorted(seen) == sorted({sample.group for sample in carvana.find_samples(tiny_data)})


def test_all_photos_are_judged_by_the_network_that_was_not_trained_on_their_car(folds: Folds, tiny_data: Path) -> None:
    numbers = folds.read_evaluation()
    by_name = {photo["image"]: photo for photo in numbers["per_image"]}
    networks = [carvana.Predictor.from_pretrained(run.path, device="cpu") for run in folds.runs]
    own = []
    for sample in carvana.find_samples(tiny_data):
        network = networks[table(folds)[sample.name] - 1]
        probabilities = network.predict(sample.image).probabilities
        true = read_mask(sample.mask)  # type: ignore[arg-type]
        photo = by_name[sample.name]
        assert photo["dice"] == pytest.approx(dice(probabilities > photo["threshold"], true), abs=1e-3)
        own.append(dice(probabilities > network.threshold, true))
        written = read_mask(folds.masks_path / f"{sample.image.stem}_mask.png")
        assert (written == (probabilities > numbers["threshold"])).mean() > 0.999
    assert len(by_name) == numbers["images"] == 20
    assert numbers["groups"] == 5
    assert numbers["dice"] == pytest.approx(np.mean([photo["dice"] for photo in by_name.values()]))
    assert numbers["dice_as_predicted"] == pytest.approx(np.mean(own), abs=1e-3)
    assert numbers["dice_ci95"][0] < numbers["dice"] < numbers["dice_ci95"][1]


def test_the_record_has_a_runs_keys_and_the_spread_of_the_folds(folds: Folds) -> None:
    numbers, each = folds.read_evaluation(), [run.read_evaluation() for run in folds.runs]
    assert each[0].keys() <= numbers.keys()
    assert [fold["dice"] for fold in numbers["folds"]] == [own["dice"] for own in each]
    assert numbers["folds_dice_mean"] == pytest.approx(np.mean([own["dice"] for own in each]))
    assert numbers["folds_dice_std"] == pytest.approx(np.std([own["dice"] for own in each], ddof=1))
    assert (folds.pictures_path / "worst.png").is_file()


def test_each_folds_model_keeps_the_threshold_of_its_own_cars(folds: Folds) -> None:
    for run in folds.runs:
        assert carvana.Segmenter.from_pretrained(run.path).spec.threshold == run.read_evaluation()["threshold"]


class Killer(Callback):
    """Ends the process's work in the second fold, after its first epoch."""

    def __init__(self) -> None:
        self.fits = 0

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        if self.fits == 1:
            raise KeyboardInterrupt

    def on_fit_end(self) -> None:
        self.fits += 1


@pytest.mark.parametrize("way", [pytest.param("the same call", marks=pytest.mark.slow), "resume"])
def test_interrupted_folds_go_on_and_end_the_same(folds: Folds, tiny_data: Path, tmp_path: Path, way: str) -> None:
    out = tmp_path / "folds"
    with pytest.raises(KeyboardInterrupt):
        fit_folds(recipe(tiny_data), folds=3, out=out, device="cpu", callbacks=(Killer(),))
    first, second, third = Folds(out).runs
    assert first.evaluation_path.is_file()
    assert not second.evaluation_path.exists()
    assert not third.path.exists()
    with pytest.raises(RunError, match="fold-2 is not finished"):
        carvana.Ensemble.from_pretrained(out)
    before = first.evaluation_path.stat().st_mtime_ns
    if way == "resume":
        finish_run(second, device="cpu")  # as `carvana evaluate` does
        assert second.is_evaluated
        with pytest.raises(RunError, match="fold-2 is not finished"):
            carvana.Ensemble.from_pretrained(out)
        resume_folds(out, device="cpu")
    else:
        now = {"train__log_to": ["tensorboard"], "data__cache_gb": 1}
        fit_folds(recipe(tiny_data, **now), folds=3, out=out, device="cpu")
        assert [run.read_config().train.log_to for run in Folds(out).runs] == ["auto", ["tensorboard"], ["tensorboard"]]
        assert Folds(out).read_config().data.cache_gb == 1
    assert first.evaluation_path.stat().st_mtime_ns == before
    for run, undisturbed in zip(Folds(out).runs, folds.runs, strict=True):
        weights, expected = (r.model_path / "model.safetensors" for r in (run, undisturbed))
        assert weights.read_bytes() == expected.read_bytes()
    numbers, expected_numbers = Folds(out).read_evaluation(), folds.read_evaluation()
    assert numbers | {"seconds": 0} == expected_numbers | {"seconds": 0}


@pytest.mark.slow
def test_a_fold_that_was_stopped_after_its_last_step_is_finished(folds: Folds, tiny_data: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(folds.path, tmp_path / "folds"))
    Folds(out).evaluation_path.unlink()
    run = Folds(out).runs[1]
    record = run.read_record()
    run.write_record({key: value for key, value in record.items() if key != "fit_seconds"})
    resume_folds(out, device="cpu")
    assert run.is_done
    numbers, expected = Folds(out).read_evaluation(), folds.read_evaluation()
    assert numbers | {"seconds": 0} == expected | {"seconds": 0}


@pytest.mark.slow
def test_folds_go_on_where_their_data_folder_has_moved(folds: Folds, tiny_data: Path, tmp_path: Path) -> None:
    data, now = Path(shutil.copytree(tiny_data, tmp_path / "data")), tmp_path / "elsewhere"
    out = tmp_path / "folds"
    with pytest.raises(KeyboardInterrupt):
        fit_folds(recipe(data), folds=3, out=out, device="cpu", callbacks=(Killer(),))
    data.rename(now)
    out = out.rename(tmp_path / "moved")  # the folder of the folds may lie elsewhere, too
    with pytest.raises(DataError, match="--root DIR"):
        resume_folds(out, device="cpu")
    shutil.copytree(now, tmp_path / "other")
    masks = sorted((tmp_path / "other" / "train_masks").iterdir())
    shutil.copy(masks[1], masks[0])
    with pytest.raises(DataError, match="1 of 20 images"):
        resume_folds(out, root=tmp_path / "other", device="cpu")
    resume_folds(out, root=now, device="cpu")
    for run, undisturbed in zip(Folds(out).runs, folds.runs, strict=True):
        weights, expected = (r.model_path / "model.safetensors" for r in (run, undisturbed))
        assert weights.read_bytes() == expected.read_bytes()
    numbers, expected_numbers = Folds(out).read_evaluation(), folds.read_evaluation()
    assert numbers | {"seconds": 0} == expected_numbers | {"seconds": 0}


def test_a_fold_that_was_killed_before_it_began_is_begun_anew(folds: Folds, tiny_data: Path, tmp_path: Path) -> None:
    made = Folds.create(tmp_path / "folds", recipe(tiny_data, train__epochs=1), folds=2)
    made.runs[0].path.mkdir()
    (made.runs[0].path / "run.json").write_text('{"format_version": 1}')  # the first file of a fit
    (made.runs[0].path / "split.csv").write_text("half a")
    resume_folds(made.path, device="cpu")
    assert made.read_evaluation()["images"] == 20


def test_finished_folds_are_never_overwritten(folds: Folds, tiny_data: Path) -> None:
    before = folds.evaluation_path.read_bytes()
    with pytest.raises(RunError, match="exists already"):
        fit_folds(recipe(tiny_data), folds=3, out=folds.path)
    assert resume_folds(folds.path).path == folds.path
    assert folds.evaluation_path.read_bytes() == before


def test_unfinished_folds_of_another_recipe_are_left_alone(tiny_data: Path, tmp_path: Path) -> None:
    made = Folds.create(tmp_path / "folds", recipe(tiny_data), folds=3)
    for other in ({"folds": 4}, {"init": tmp_path}):
        with pytest.raises(RunError, match="holds folds of another config"):
            fit_folds(recipe(tiny_data), out=made.path, **{"folds": 3} | other)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="holds folds of another config"):
        fit_folds(recipe(tiny_data, train__lr=0.5), folds=3, out=made.path)


def test_images_of_one_stem_are_refused_before_training(tmp_path: Path) -> None:
    names = ["a.png", "a.jpg", "b.png", "c.png"]
    images = [{"id": n, "file_name": name, "height": 40, "width": 60} for n, name in enumerate(names)]
    square = [4, 4, 24, 4, 24, 24, 4, 24]
    marked = [{"id": n, "image_id": n, "category_id": 1, "segmentation": [square]} for n in range(4)]
    values = {"images": images, "annotations": marked, "categories": [{"id": 1, "name": "car"}]}
    (tmp_path / "x.json").write_text(json.dumps(values))
    for number, name in enumerate(names):
        write_image(tmp_path / "images" / name, np.full((40, 60, 3), 40 * number, np.uint8))
    made = recipe(tmp_path, task__classes=["car"])
    with pytest.raises(DataError, match=r"would both write a_mask\.png"):
        fit_folds(made, folds=2, out=tmp_path / "folds", device="cpu")
    rows = ["a.png,g,val", "a.jpg,g,val", "b.png,h,train", "c.png,i,train"]
    (tmp_path / "split.csv").write_text("\n".join(["image,group,subset", *rows]))
    with pytest.raises(DataError, match=r"would both write a_mask\.png"):
        carvana.fit(made.replace({"split.file": str(tmp_path / "split.csv")}), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_all_folds_start_from_the_same_weights(folds: Folds, tiny_data: Path, tmp_path: Path) -> None:
    config = recipe(tiny_data, train__epochs=1, train__lr=1e-12, train__warmup=0.0)
    made = fit_folds(config, folds=2, out=tmp_path / "folds", init=folds.runs[0].path, device="cpu")
    expected = list(carvana.Segmenter.from_pretrained(folds.runs[0].path).parameters())
    for run in made.runs:
        for value, first in zip(carvana.Segmenter.from_pretrained(run.path).parameters(), expected, strict=True):
            np.testing.assert_allclose(value.detach(), first.detach(), atol=1e-6)


class Warnings(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, message: str) -> None:
        self.lines.append(message)


def test_folds_of_photos_are_told_to_leak(tiny_data: Path, tmp_path: Path) -> None:
    warnings = Warnings()
    config = recipe(tiny_data, split__by="image", train__epochs=1)
    made = fit_folds(config, folds=2, out=tmp_path / "folds", device="cpu", reporter=warnings)
    assert made.read_evaluation()["images"] == 20
    assert any("both sides of the split" in line for line in warnings.lines)


@pytest.mark.parametrize(
    ("changes", "count", "error", "word"),
    [
        ({}, 6, DataError, "6 folds need as many groups, and there are 5"),
        ({}, 1, ConfigError, "1 folds: expected at least 2"),
        ({"split__file": "own"}, 2, ConfigError, "split.file = 'own': --folds makes its own splits"),
        ({"train__loss": "bcd"}, 2, CarvanaError, "bce"),
        ({"arch": "unet-erf"}, 2, CarvanaError, "unet-ref"),
        ({"model__options": {"widht": 4}}, 2, CarvanaError, "width"),
        ({"data__root": "nowhere"}, 2, DataError, "nowhere"),
    ],
)
def test_a_mistake_leaves_no_folder(
    tiny_data: Path, tmp_path: Path, changes: dict[str, Any], count: int, error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        fit_folds(recipe(tiny_data, **changes), folds=count, out=tmp_path / "folds", device="cpu")
    assert not list(tmp_path.iterdir())


def test_folds_are_refused_under_torchrun(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    begin: Any
    for begin in (lambda out: fit_folds(recipe(tiny_data), folds=2, out=out), resume_folds):
        with pytest.raises(ConfigError, match="without torchrun"):
            begin(tmp_path / "folds")


def test_the_printed_table_holds_the_numbers(folds: Folds, capsys: pytest.CaptureFixture[str]) -> None:
    from carvana.cli.fit import print_folds

    print_folds(folds)
    printed, numbers = capsys.readouterr().out, json.loads(folds.evaluation_path.read_text())
    for value in (numbers["dice"], numbers["folds_dice_mean"], *(fold["dice"] for fold in numbers["folds"])):
        assert f"{value:.5f}" in printed
    assert f"carvana predict {folds.path}" in printed
