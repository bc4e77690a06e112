"""What commands wrote once is read, resumed and continued for ever: see tests/fixtures/README.md."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from carvana.config import FitConfig
from carvana.data.cache import build_caches
from carvana.data.dataset import SegmentationDataset
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.data.samples import find_samples
from carvana.evaluation.evaluate import evaluate
from carvana.folds import Folds
from carvana.inference.ensemble import load_predictor
from carvana.inference.predict_folder import Summary, predict_folder
from carvana.inference.predictor import Predictor
from carvana.inference.submission.write import write_submission
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.compare import compare
from carvana.models.segmenter import Segmenter
from carvana.training.cross_validation import resume_folds
from carvana.utils.files import digest

pytestmark = pytest.mark.usefixtures("no_pictures")

FIXTURES = Path(__file__).parent / "fixtures"
FORMAT_1 = FIXTURES / "format-1"
TEXTS = {".json", ".jsonl", ".yaml", ".csv"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the fixtures to work in; where their records hold a folder's whole path, it is that of the copy."""
    here = Path(shutil.copytree(FORMAT_1, tmp_path / "here"))
    for path in here.rglob("*"):
        if path.suffix in TEXTS and "/somewhere" in (text := path.read_text()):
            path.write_text(text.replace("/somewhere", str(here)))
    for run in (*here.glob("folds/fold-*"), *here.glob("leaderboard/runs/*")):
        _move_split(run, FORMAT_1 / run.relative_to(here))
    monkeypatch.chdir(here)
    return here


def _move_split(run: Path, before: Path) -> None:
    """A run's record holds a digest of its recipe, and these recipes hold the whole path of their split.csv."""
    neutral = {"root": None, "images": None, "masks": None, "workers": 0, "cache_gb": 0.0}
    later = {"start_size", "start_epochs", "whole", "crops"}  # keys that the first recipes did not have

    def recipe(folder: Path) -> str:
        values = yaml.safe_load((folder / "config.yaml").read_text())
        data = {key: value for key, value in values["data"].items() if key not in later}
        train = values["train"] | {"epochs": 1, "minutes": None}
        return digest(values | {"data": data | neutral, "train": train})

    record = json.loads((run / "run.json").read_text())
    assert record["recipe"] == recipe(before)
    (run / "run.json").write_text(json.dumps(record | {"recipe": recipe(run)}))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def predictor(here: Path) -> Predictor:
    model = Segmenter.from_pretrained(here / "model").with_spec(threshold=0.52)  # masks of both values
    return Predictor(model, device="cpu", precision="fp32", scale="trained")


def photos(here: Path) -> list[Path]:
    return sorted((here / "photos" / "train").iterdir())


def test_folds_of_format_1_keep_what_is_fitted_and_go_on_within_the_second(here: Path) -> None:
    folds = Folds.open("folds")
    assert (folds.count, folds.init, folds.is_evaluated) == (3, None, False)
    fitted, begun = contents(here / "folds" / "fold-1"), folds.runs[1].read_metrics()
    assert len(begun) == 1
    resume_folds("folds", device="cpu")
    assert contents(here / "folds" / "fold-1") == fitted
    assert folds.runs[1].read_metrics()[:1] == begun
    assert len(folds.runs[1].read_metrics()) == 2
    found = folds.read_evaluation()
    assert found["images"] == 6
    assert {record["image"] for record in found["per_image"]} == {photo.name for photo in photos(here)}


def test_a_finished_fold_of_format_1_is_evaluated_to_the_same_numbers(here: Path) -> None:
    run = Folds.open("folds").runs[0]
    known = run.read_evaluation()
    judged = {record["image"] for record in known["per_image"]}
    samples = [sample for sample in find_samples("photos") if sample.name in judged]
    found = evaluate(load_predictor(run.path, device="cpu", precision="fp32"), samples).to_json()
    assert found["images"] == len(judged) == 2
    assert found["dice"] == pytest.approx(known["dice"], abs=1e-4)


def test_a_leaderboard_of_format_1_says_what_it_said(here: Path) -> None:
    board = Leaderboard.load("leaderboard")
    known = json.loads((FORMAT_1 / "leaderboard" / "leaderboard.json").read_text())
    assert [(row.name, row.status) for row in board.rows] == [("first", "ok"), ("second", "waiting")]
    assert board["first"].dice == known["rows"][0]["dice"]
    assert "first" in str(board)
    board.save(here / "again")
    assert json.loads((here / "again" / "leaderboard.json").read_text())["rows"][0]["dice"] == board["first"].dice
    assert "second" in (here / "again" / "leaderboard.html").read_text()


def test_a_comparison_of_format_1_keeps_what_is_fitted_and_goes_on_within_the_second(here: Path) -> None:
    config = FitConfig(
        arch="unet-ref", model={"options": {"width": 1}},
        data={"root": "photos", "size": [32, 32], "workers": 0, "cache_gb": 0.0}, split={"val": 1},
        train={"epochs": 12, "batch_size": 2, "optimizer": "sgd", "lr": 0.01, "precision": "fp32"},
    )  # fmt: skip
    known = Leaderboard.load("leaderboard")
    runs = here / "leaderboard" / "runs"
    (first,), (second,) = runs.glob("first-*"), runs.glob("second-*")
    before = contents(first)
    board = compare(
        ["first=unet-ref", "second=unet-ref"], config,
        settings=["second:model.options={width: 2}"], out="leaderboard", device="cpu",
    )  # fmt: skip
    assert {row.name: row.status for row in board.rows} == {"first": "ok", "second": "ok"}
    assert board["first"].dice == known["first"].dice
    assert contents(first) == before
    assert len(list(runs.iterdir())) == 2
    assert len((second / "metrics.jsonl").read_text().splitlines()) == 12


def test_an_exported_file_of_format_1_computes_what_the_model_computed(here: Path) -> None:
    pytest.importorskip("onnxruntime")
    expected = json.loads((FORMAT_1 / "model.json").read_text())
    height, width = expected["photo"]
    picture = (np.arange(height * width * 3) * 37 % 256).astype(np.uint8).reshape(height, width, 3)
    exported = load_predictor(here / "model.onnx", device="cpu")
    probabilities = exported.predict(picture).probabilities
    for row, column, value in expected["logits"]:
        assert probabilities[row, column] == pytest.approx(1 / (1 + np.exp(-value)), abs=1e-3)
    assert exported.predict(picture).threshold == 0.375


def test_a_folder_of_masks_of_format_1_is_known_by_its_manifest(here: Path) -> None:
    before = contents(here / "masks")
    assert predict_folder(predictor(here), photos(here), out="masks", save=("mask", "prob")) == Summary(skipped=6)
    assert contents(here / "masks") == before
    lost = sorted((here / "masks").glob("*_mask.png"))[0]
    known = read_mask(lost)
    lost.unlink()
    again = predict_folder(predictor(here), photos(here), out="masks", save=("mask", "prob"))
    assert (again.written, again.skipped) == (1, 5)
    assert np.mean(read_mask(lost) != known) < 0.01


def test_half_a_submission_of_format_1_goes_on(here: Path) -> None:
    test = Path(shutil.copytree(here / "photos" / "train", here / "test"))
    # Its record holds a digest of the photos' whole paths, and its parts are named by the record's digest.
    parts = here / "submission.csv.gz.parts"
    record = json.loads((parts / "record.json").read_text())
    mark = digest(record)[:12]
    record["photos"] = digest([str(photo.resolve()) for photo in sorted(test.iterdir())])
    (parts / "record.json").write_text(json.dumps(record))
    (parts / "lock").write_bytes(b"")  # as a submission that was killed leaves it
    kept = {}
    for part in parts.glob(f"*-{mark}.gz"):
        kept[int(part.name[:6])] = gzip.decompress(part.read_bytes()).decode()
        part.rename(part.with_name(part.name.replace(mark, digest(record)[:12])))
    assert set(kept) == {0, 2}
    for photo in sorted(test.iterdir())[:2]:  # their rows are there: nobody reads them again
        photo.write_bytes(b"not an image")
    done = write_submission(predictor(here), [test], out="submission.csv.gz", chunk=2, workers=0)
    assert (done.rows, done.written, done.complete) == (6, 2, True)
    with gzip.open("submission.csv.gz", "rt", newline="") as file:
        table = file.read()
    assert table.startswith("img,rle_mask\n" + kept[0])
    assert table.endswith(kept[2])
    assert [row[0] for row in csv.reader(table.splitlines())][1:] == [photo.name for photo in photos(here)]
    assert not parts.exists()


def test_a_cache_of_format_1_changes_nothing_of_what_is_read_and_makes_room(here: Path) -> None:
    samples = find_samples(here / "photos")
    [cache] = build_caches([samples], (32, 32), folder=here / "cache" / "samples", limit_gb=0.1)
    assert cache.held == 6
    kept, plain = SegmentationDataset(samples, (32, 32), cache=cache), SegmentationDataset(samples, (32, 32))
    for index in range(6):
        for left, right in zip(kept[index], plain[index], strict=True):
            assert left.equal(right)
    assert read_image(samples[0].image).shape == (48, 72, 3)
    old = set((FORMAT_1 / "cache").rglob("*.pack"))
    assert old
    build_caches([samples], (48, 48), folder=here / "cache" / "samples", limit_gb=6 * 4 * 48 * 48 / 1e9 + 1e-5)
    left = {path.name for path in (here / "cache").rglob("*.pack")}
    assert not left & {path.name for path in old}
