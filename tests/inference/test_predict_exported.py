from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import carvana
from carvana.cli.app import app
from carvana.data.io.masks import read_mask
from carvana.errors import ConfigError, ModelError
from carvana.inference.engines.export import export_onnx


def photo(height: int = 83, width: int = 430, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


@pytest.fixture(scope="module")
def model() -> carvana.Segmenter:
    torch.manual_seed(0)
    made = carvana.create_model("unet-ref", width=2).with_spec(trained_size=(32, 48), threshold=0.3125)
    return made.eval()


@pytest.fixture(scope="module")
def file(model: carvana.Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("models") / "car.onnx").path


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": "native"},
        {"scale": "native", "mode": "tiles", "tile": 64, "overlap": 0.5},
        {"scale": "native", "mode": "tiles", "tile": 256, "join": "exact"},
        {"scale": "64x96", "tta": True, "threshold": 0.5},
    ],
)
def test_an_exported_file_predicts_as_the_model_does(
    model: carvana.Segmenter, file: Path, settings: dict[str, object]
) -> None:
    expected = carvana.Predictor(model, precision="fp32", device="cpu", **settings).predict(photo())  # type: ignore[arg-type]
    found = carvana.Predictor.from_pretrained(file, device="cpu", **settings).predict(photo())
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    assert found.threshold == expected.threshold


def test_an_exported_file_looks_again_as_the_model_does(model: carvana.Segmenter, file: Path) -> None:
    first = carvana.Predictor(model, precision="fp32", device="cpu")
    image = photo(270, 450)
    image[:, 100:] = 128
    flat = float(first.predict(image).probabilities[135, 400])
    expected, found = (
        carvana.Refiner(first, second, band=(flat + 1e-5, 1), margin=0)
        for second in (
            carvana.Predictor(model, scale="native", tile=32, precision="fp32", device="cpu"),
            carvana.Predictor.from_pretrained(file, scale="native", tile=32, device="cpu"),
        )
    )
    assert 0 < found.refined_share(image) == expected.refined_share(image) < 1
    np.testing.assert_allclose(found.predict(image).probabilities, expected.predict(image).probabilities, atol=1e-5)


def test_what_has_no_exact_join_says_so_from_the_file(tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :1] + images.mean((2, 3), keepdim=True)[:, :1]

    segmenter = carvana.Segmenter(Mean(), carvana.ModelSpec(arch="mine"))
    export_onnx(segmenter, tmp_path / "mine.onnx")
    made = carvana.Predictor.from_pretrained(tmp_path / "mine.onnx", scale="native", mode="tiles", join="exact")
    with pytest.raises(ModelError, match=r"mine has no exact join: .*depends on the whole image"):
        made.predict(photo())


def test_its_memory_is_measured_too(file: Path) -> None:
    made = carvana.Predictor.from_pretrained(file, scale="native", memory=0.05, device="cpu")
    assert len(made.plan((2000, 3000))) > 1
    assert len(carvana.Predictor.from_pretrained(file, scale="native", memory=10, device="cpu").plan((2000, 3000))) == 1


def test_it_computes_in_fp32_alone(file: Path) -> None:
    with pytest.raises(ConfigError, match="'bf16': the engine onnx computes in fp32"):
        carvana.Predictor.from_pretrained(file, precision="bf16")


def test_the_command_predicts_with_it_alone_and_beside_a_model(
    model: carvana.Segmenter, file: Path, tiny_data: Path, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "model")
    photos = str(tiny_data / "train")
    for out, more in (("file", []), ("both", ["--with", str(tmp_path / "model")])):
        done = CliRunner().invoke(app, ["predict", str(file), photos, "--out", str(tmp_path / out), *more])
        assert done.exit_code == 0, done.stderr
    expected = carvana.Predictor(model, precision="fp32")
    for path in sorted((tiny_data / "train").iterdir()):
        mask = expected.predict(path).mask
        for out in ("file", "both"):
            assert (read_mask(tmp_path / out / f"{path.stem}_mask.png") == mask).mean() > 0.99
