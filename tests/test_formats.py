"""Files that were written once are read for ever: see tests/fixtures/README.md."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bands import write_bands
from reference import Lines

from carvana.data.io.images import write_image
from carvana.data.io.masks import write_mask
from carvana.errors import ModelError, RunError
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.run import Run
from carvana.training.checkpoint import read_state
from carvana.training.fit import resume

FIXTURES = Path(__file__).parent / "fixtures"
FORMAT_1, FORMAT_2 = FIXTURES / "format-1", FIXTURES / "format-2"


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    values: dict[str, Any] = json.loads((FORMAT_1 / "model.json").read_text())
    return values


def photo(height: int, width: int) -> np.ndarray:
    return (np.arange(height * width * 3) * 37 % 256).astype(np.uint8).reshape(height, width, 3)


def test_nobody_has_written_the_fixture_anew(expected: dict[str, Any]) -> None:
    digest = hashlib.sha256((FORMAT_1 / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert digest == expected["sha256"]


def test_a_model_of_format_1_computes_what_keras_computed_with_its_weights(expected: dict[str, Any]) -> None:
    model = Segmenter.from_pretrained(FORMAT_1 / "model")
    picture = photo(*expected["photo"])
    with torch.no_grad():
        logits = model(torch.from_numpy(picture).permute(2, 0, 1)[None])[0, 0]
    for row, column, value in expected["logits"]:
        assert logits[row, column].item() == pytest.approx(value, abs=1e-4)
    probabilities = Predictor.from_pretrained(FORMAT_1 / "model", device="cpu").predict(picture).probabilities
    for row, column, value in expected["logits"]:
        assert probabilities[row, column] == pytest.approx(1 / (1 + np.exp(-value)), abs=0.02)  # in bf16, it may be


def test_the_record_of_format_1_says_what_it_said() -> None:
    spec = Segmenter.from_pretrained(FORMAT_1 / "model").spec
    assert spec == ModelSpec(
        arch="unet-ref", options={"width": 2, "bn_eps": 0.01}, classes=1, stride=16, min_size=32, mean=(0, 0, 0),
        std=(1, 1, 1), trained_size=(32, 48), threshold=0.375, init="keras:format-1.keras", package="carvana",
        format_version=1,
    )  # fmt: skip


def test_a_model_of_format_1_is_written_again_as_what_it_was(tmp_path: Path) -> None:
    Segmenter.from_pretrained(FORMAT_1 / "model").save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path)
    old = Segmenter.from_pretrained(FORMAT_1 / "model")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in old.state_dict().items())
    assert again.spec == old.spec


@pytest.mark.parametrize("version", [3, 99, "2", None, 1.5])
def test_a_model_of_a_later_format_asks_for_a_later_carvana_in_one_line(tmp_path: Path, version: Any) -> None:
    shutil.copytree(FORMAT_1 / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    later = {**json.loads(path.read_text()), "format_version": version, "something_new": 3}
    path.write_text(json.dumps(later))
    with pytest.raises(ModelError, match=r"reads up to 2; upgrade carvana") as caught:
        Segmenter.from_pretrained(tmp_path / "model")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The run of format 1, with images of the names that it was trained on."""
    run = Run(shutil.copytree(FORMAT_1 / "run", tmp_path / "run"))
    rng = np.random.default_rng(0)
    for row in run.split_path.read_text().splitlines()[1:]:
        name = Path(row.split(",")[0])
        mask = np.zeros((64, 96), np.uint8)
        mask[16:48, 20 : 60 + rng.integers(20)] = 1
        write_image(tmp_path / "photos" / "train" / name, np.repeat(mask[..., None] * np.uint8(200), 3, axis=2))
        write_mask(tmp_path / "photos" / "train_masks" / f"{name.stem}_mask.png", mask)
    recipe = run.config_path.read_text()
    run.config_path.write_text(recipe.replace("root: photos", f"root: {tmp_path / 'photos'}"))
    return run


def test_the_records_of_a_run_of_format_1_are_read(run: Run) -> None:
    assert run.read_config().train.ema == 0.9
    assert run.read_groups("val") == {"080ad3cfea8e"}
    assert [record["val_dice"] for record in run.read_metrics()] == [0.0]
    assert run.read_epochs()[0]["images_per_s"] > 1
    assert run.read_record()["format_version"] == 1
    assert Segmenter.from_pretrained(run.path).spec.trained_size == (32, 32)


def test_a_state_of_format_1_is_read_whole(run: Run) -> None:
    state = read_state(run.state_path)
    assert (state.progress.epoch, state.progress.batch, state.progress.step) == (1, 2, 4)
    assert state.progress.loss == 5.678930759429932
    parts = [name.split("/")[0] for name in state.tensors]
    assert {part: parts.count(part) for part in set(parts)} == {
        "model": 156,
        "average": 157,
        "optimizer": 270,
    }  # 23 convolutions, 22 norms
    assert state.origin["settings"]["epochs"] == 4


def test_a_training_of_format_1_goes_on_to_its_end(run: Run) -> None:
    resume(run.path, device="cpu")
    records = run.read_metrics()
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert records[0] == json.loads((FORMAT_1 / "run" / "metrics.jsonl").read_text())
    assert run.read_evaluation()["images"] == 2


def test_a_training_of_format_1_goes_on_where_its_photos_have_moved_without_digests_which_is_said(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    told = Lines()
    resume(run.path, root=tmp_path / "elsewhere", device="cpu", reporter=told)
    assert any("kept no digests" in line for line in told.warnings)
    assert [record["epoch"] for record in run.read_metrics()] == [1, 2, 3, 4]
    assert run.read_config().data.root == tmp_path / "photos"


@pytest.mark.parametrize("name", ["run.json", "state/state.json"])
def test_a_run_of_a_later_format_asks_for_a_later_carvana_in_one_line(run: Run, name: str) -> None:
    path = run.path / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    with pytest.raises(RunError, match=r"format version 2, this carvana reads up to 1; upgrade carvana") as caught:
        resume(run.path, device="cpu")
    assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def second() -> dict[str, Any]:
    values: dict[str, Any] = json.loads((FORMAT_2 / "expected.json").read_text())
    return values


@pytest.mark.parametrize("name", ["format-1", "format-2"])
def test_nobody_has_written_the_files_of_a_format_anew(name: str) -> None:
    lines = (FIXTURES / f"{name}.sha256").read_text().splitlines()
    for line in lines:
        digest, path = line.split("  ")
        assert hashlib.sha256((FIXTURES / path).read_bytes()).hexdigest() == digest, path
    assert len(lines) == sum(path.is_file() for path in (FIXTURES / name).rglob("*"))


@pytest.mark.parametrize("name", ["photo", "classes", "overlap", "bands"])
def test_a_model_of_format_2_says_and_computes_what_it_did(second: dict[str, Any], name: str, tmp_path: Path) -> None:
    model = Segmenter.from_pretrained(FORMAT_2 / "models" / name)
    assert model.spec.to_json() == second[name]["spec"]
    channels = len(model.spec.channels)
    image = (np.arange(channels * 40 * 56) * 37 % 256).astype(np.uint8).reshape(1, channels, 40, 56)
    with torch.no_grad():
        logits = model(torch.from_numpy(image))[0]
    for plane, row, column, value in second[name]["logits"]:
        assert logits[plane, row, column].item() == pytest.approx(value, abs=1e-4)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == json.loads((FORMAT_2 / "models" / name / "config.json").read_text())


def test_an_exported_file_of_format_2_takes_values_as_files_have_them(second: dict[str, Any]) -> None:
    values = (np.arange(40 * 56 * 4) * 37 % 3000 - 40).astype(np.int16).reshape(40, 56, 4)
    values[:3, :5] = -9999
    session = pytest.importorskip("onnxruntime").InferenceSession(FORMAT_2 / "bands.onnx")
    assert session.get_inputs()[0].type == "tensor(int16)"
    [logits] = session.run(None, {"images": np.ascontiguousarray(values.transpose(2, 0, 1))[None]})
    file = Predictor.from_pretrained(FORMAT_2 / "bands.onnx", scale="native").predict(values).probabilities
    model = Predictor.from_pretrained(FORMAT_2 / "models" / "bands", device="cpu", precision="fp32", scale="native")
    found = model.predict(values).probabilities
    for row, column, value in second["onnx"]:
        for each in (1 / (1 + np.exp(-logits[0, 0])), file, found):
            assert each[row, column] == pytest.approx(value, abs=1e-4)


def test_a_training_of_format_2_goes_on_to_its_end(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "tiles", 4, nodata=-9999, tag="-9999")
    run = Run(shutil.copytree(FORMAT_2 / "run", tmp_path / "run"))
    run.config_path.write_text(run.config_path.read_text().replace("/somewhere/tiles", str(root)))
    rows = [row.rsplit(",", 1)[0] for row in run.split_path.read_text().splitlines()]
    run.split_path.write_text("\n".join(rows) + "\n")  # without digests: the images were drawn anew
    resume(run.path, epochs=3, device="cpu")
    assert [record["epoch"] for record in run.read_metrics()] == [1, 2, 3]
    assert Segmenter.from_pretrained(run.path).spec.range == Segmenter.from_pretrained(FORMAT_2 / "run").spec.range
