from __future__ import annotations

import json
import sys
from pathlib import Path

import forkserver
import pytest
import torch
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.inference.engines.choice import installed
from carvana.inference.engines.onnx import OnnxEngine
from carvana.models.segmenter import Segmenter, create_model


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model where a run has it."""
    path = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    create_model("unet-ref", width=2).with_spec(threshold=0.37).save_pretrained(path / "model")
    return path


@pytest.mark.slow
def test_a_run_replaces_a_file_and_the_command_says_how_it_was_checked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "car.onnx"
    out.parent.mkdir()
    out.write_text("mine")
    words = [sys.executable, "-m", "carvana", "export", str(run), "--to", "onnx", "--out", str(out), "--replace"]
    done = forkserver.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert str(out) in lines[0]
    assert f"{out.stat().st_size / 1e6:.1f} MB" in lines[0]
    assert "1 x 15x51, 2 x 65x47, 1 x 47x117" in lines[1]
    assert len(lines) == 3
    assert "Warning" not in done.stderr
    assert "torch" not in done.stderr
    assert list(out.parent.iterdir()) == [out]

    exported, model = OnnxEngine.load(out), Segmenter.from_pretrained(run)
    assert exported.spec == model.spec
    images = torch.randint(0, 256, (1, 3, 70, 50), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images), rtol=1e-3, atol=1e-6)


def test_a_file_that_is_there_stays(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "car.onnx"
    out.write_text("mine")
    result = call("export", run, "--to", "onnx", "--out", out)
    assert result.exit_code == 1
    assert f"{out}: exists already; name another file, or overwrite it with --replace" in result.stderr
    assert out.read_text() == "mine"


def test_mistakes_are_one_line_and_exit_1(run: Path, tmp_path: Path) -> None:
    folds = tmp_path / "folds"
    folds.mkdir()
    (folds / "folds.json").write_text(json.dumps({"format_version": 1, "folds": 2}))
    for words, expected in (
        ((run, "--to", "onxx", "--out", tmp_path / "car.onnx"), "did you mean 'onnx'?"),
        ((run, "--to", "onnx", "--out", tmp_path / "car.pt"), "must end in .onnx"),
        ((tmp_path / "nowhere", "--to", "onnx", "--out", tmp_path / "car.onnx"), "nowhere"),
        ((folds, "--to", "onnx", "--out", tmp_path / "car.onnx"), f"{folds}/fold-1"),
    ):
        result = call("export", *words)
        assert result.exit_code == 1
        assert result.stdout == ""
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        assert expected in lines[0]
    assert list(tmp_path.iterdir()) == [folds]


def test_format_and_file_are_asked_for(run: Path) -> None:
    assert call("export", run, "--to", "onnx").exit_code == 2
    assert call("export", run, "--out", "car.onnx").exit_code == 2


@pytest.mark.slow
def test_an_exported_file_is_evaluated_on_labelled_images_that_are_named(
    run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "car.onnx"
    assert call("export", run, "--to", "onnx", "--out", out).exit_code == 0
    done = call("evaluate", out, "--scale", "32x48")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert f"{out}: an exported file has no images of its own: name labelled ones with --data" in done.stderr
    done = call("evaluate", out, "--scale", "32x48", "--data", tiny_data)
    assert done.exit_code == 0, done.stderr


@pytest.mark.skipif(not installed("openvino"), reason="OpenVINO is not installed")
@pytest.mark.slow
def test_a_folder_for_openvino_is_predicted_with_and_labels_are_not(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    done = call("export", run, "--to", "openvino", "--out", tmp_path / "car", "--output", "probabilities")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"folder  {tmp_path / 'car'}, ")
    assert lines[1].startswith("checked probabilities, within ")
    assert lines[2].startswith("next    carvana predict")
    done = call("predict", tmp_path / "car", tiny_data / "train", "--out", tmp_path / "masks", "--scale", "32x48")
    assert done.exit_code == 0, done.stderr
    assert list((tmp_path / "masks").glob("*_mask.png"))

    done = call("export", run, "--to", "onnx", "--out", tmp_path / "labels.onnx", "--output", "labels")
    assert "of the pixels of PyTorch" in done.stdout
    assert "next" not in done.stdout
    done = call("predict", tmp_path / "labels.onnx", tiny_data / "train", "--out", tmp_path / "others")
    assert done.exit_code == 1
    assert "gives labels" in done.stderr
    assert not (tmp_path / "others").exists()
