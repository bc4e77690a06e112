"""``carvana predict --clean --background``, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from profiles import in_srgb, rgb_profile
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.data.io.images import read_image, write_image
from carvana.data.io.masks import read_mask
from carvana.inference.base import BasePredictor
from carvana.inference.outputs.postprocess import clean
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec


class Brightness(nn.Module):
    """Says of each pixel how bright it is, as a probability."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(images.mean(dim=1, keepdim=True), eps=1e-6)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """A network whose masks are known, in place of one that is read from a folder."""
    predictor = Predictor(Segmenter(Brightness(), ModelSpec(arch="test", mean=(0, 0, 0), std=(1, 1, 1))))

    def load(paths: object, **settings: object) -> BasePredictor:  # type: ignore[type-arg]
        return predictor

    monkeypatch.setattr("carvana.inference.ensemble.load_predictor", load)
    return predictor


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A bright block with a crumb beside it."""
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[80:240, 100:330] = (255, 255, 250)
    pixels[10:14, 10:14] = 255
    write_image(tmp_path / "photo.png", pixels)
    return tmp_path / "photo.png"


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["predict", "run", *map(str, words)], catch_exceptions=False)


def test_clean_takes_crumbs_out_of_masks(model: Predictor, photo: Path, tmp_path: Path) -> None:
    for words, kept in (([], True), (["--clean"], False)):
        result = call(photo, "--out", tmp_path / "out", *words)
        assert result.exit_code == 0
        assert "1 written" in result.stdout
        mask = read_mask(tmp_path / "out" / "photo_mask.png")
        assert mask[10:14, 10:14].all() == kept
        assert mask[80:240, 100:330].all()
        expected = model.predict(photo).mask
        np.testing.assert_array_equal(mask, expected if kept else clean(expected))
    assert "1 there already" in call(photo, "--out", tmp_path / "out", "--clean").stdout


def test_cut_outs_are_laid_onto_a_colour_or_a_picture(model: Predictor, photo: Path, tmp_path: Path) -> None:
    green = np.zeros((50, 50, 3), np.uint8)
    green[..., 1] = 200
    write_image(tmp_path / "green.png", green)
    for background, colour in (("navy", (0, 0, 128)), (tmp_path / "green.png", (0, 200, 0))):
        out = tmp_path / "out"
        assert call(photo, "--out", out, "--save", "cutout", "--clean", "--background", background).exit_code == 0
        cut = read_image(out / "photo_cutout.jpg")
        np.testing.assert_allclose(cut[:40].reshape(-1, 3).mean(axis=0), colour, atol=2)
        np.testing.assert_allclose(cut[110:210, 130:300].reshape(-1, 3).mean(axis=0), (255, 255, 250), atol=2)


def test_without_a_background_cut_outs_stay_transparent(model: Predictor, photo: Path, tmp_path: Path) -> None:
    assert call(photo, "--out", tmp_path / "out", "--save", "cutout").exit_code == 0
    with Image.open(tmp_path / "out" / "photo_cutout.png") as picture:
        assert picture.mode == "RGBA"


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--background", "whit", "--save", "cutout"], "white"), (["--background", "white"], "add cutout to --save")],
)
def test_a_background_that_cannot_serve_is_one_line(
    model: Predictor, photo: Path, tmp_path: Path, words: list[str], expected: str
) -> None:
    result = call(photo, "--out", tmp_path / "out", *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_help_states_the_sizes() -> None:
    from carvana.inference.outputs.postprocess import HOLES, PARTS

    words = " ".join(CliRunner().invoke(app, ["predict", "--help"], terminal_width=300).stdout.split())
    assert f"1/{round(1 / PARTS)}" in words
    assert f"1/{round(1 / HOLES):,}" in words


def test_the_manifest_tells_cleaned_files_apart(model: Predictor, photo: Path, tmp_path: Path) -> None:
    settings = set()
    for words in ([], ["--clean"]):
        call(photo, "--out", tmp_path / "out", *words)
        lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
        settings.add(json.loads(lines[-1])["settings_digest"])
    assert len(settings) == 2


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def test_cut_outs_and_overlays_of_a_photo_with_a_profile_have_its_colours(
    model: Predictor, photo: Path, tmp_path: Path
) -> None:
    pixels = read_image(photo)
    pixels[80:240, 100:330] = (160, 230, 150)  # bright enough for this network
    write_image(photo, pixels)
    assert call(photo, "--out", tmp_path / "plain", "--save", "mask").exit_code == 0
    Image.fromarray(pixels).save(photo, icc_profile=rgb_profile())
    result = call(photo, "--out", tmp_path / "out", "--save", "mask,cutout,overlay")
    assert result.exit_code == 0
    expected = in_srgb(np.array([160, 230, 150]))
    assert np.abs(expected - (160, 230, 150)).max() > 40
    cut = pixels_of(tmp_path / "out" / "photo_cutout.png")
    assert np.abs(cut[150, 200, :3] - expected).max() < 2
    assert np.abs(pixels_of(tmp_path / "out" / "photo_overlay.jpg")[150, 200] - expected).max() < 6  # a JPEG
    with Image.open(tmp_path / "out" / "photo_cutout.png") as picture:
        assert "icc_profile" not in picture.info
    masks = [read_mask(tmp_path / folder / "photo_mask.png") for folder in ("plain", "out")]
    np.testing.assert_array_equal(masks[0], masks[1])  # the network saw what it always saw


def test_a_cut_out_of_a_cut_out_stays_transparent(model: Predictor, photo: Path, tmp_path: Path) -> None:
    """Networks see white where an image is transparent, and this one takes white for the object."""
    pixels = read_image(photo)
    clear = np.full(pixels.shape[:2], 255, np.uint8)
    clear[:, :200] = 0
    write_image(photo, np.dstack([pixels, clear]))
    words = [photo, "--save", "mask,cutout,overlay"]
    assert call(*words, "--out", tmp_path / "out").exit_code == 0
    assert read_mask(tmp_path / "out" / "photo_mask.png")[150, 50] == 1
    cut = pixels_of(tmp_path / "out" / "photo_cutout.png")
    assert not cut[:, :200, 3].any()
    assert (cut[90:230, 210:320, 3] > 250).all()
    assert (pixels_of(tmp_path / "out" / "photo_overlay.jpg")[150, 50] > 240).all()
    assert call(*words, "--out", tmp_path / "red", "--background", "red").exit_code == 0
    assert np.abs(pixels_of(tmp_path / "red" / "photo_cutout.jpg")[150, 50] - (255, 0, 0)).max() < 8


def test_a_background_with_a_profile_has_its_colours(model: Predictor, photo: Path, tmp_path: Path) -> None:
    behind = np.full((30, 40, 3), (40, 160, 90), np.uint8)
    Image.fromarray(behind).save(tmp_path / "wall.png", icc_profile=rgb_profile())
    words = [photo, "--out", tmp_path / "out", "--save", "cutout", "--background", tmp_path / "wall.png"]
    assert call(*words).exit_code == 0
    shown = pixels_of(tmp_path / "out" / "photo_cutout.jpg")[30, 350]
    assert np.abs(shown - in_srgb(behind[0, 0])).max() < 6
    assert np.abs(in_srgb(behind[0, 0]) - behind[0, 0]).max() > 25
