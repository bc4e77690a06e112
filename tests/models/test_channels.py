"""Networks of images with any number of channels: built, saved, tiled, exported, and fed from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import carvana
from carvana.data.io.arrays import scaled
from carvana.errors import ConfigError, DataError, ModelError
from carvana.inference.engines.export import export_onnx, export_openvino
from carvana.models.spec import ModelSpec
from carvana.registry import registry

ARCHS = ("unet-ref", "unet/resnet18", "fpn/tu-mobilenetv3_small_050", "segformer/mit_b0")
OPTIONS = {"unet-ref": {"width": 2}}


def model_of(arch: str, channels: int | list[str], **how: object) -> carvana.Segmenter:
    torch.manual_seed(0)
    return carvana.create_model(arch, channels=channels, options=OPTIONS.get(arch), **how).eval()  # type: ignore[arg-type]


def bands(count: int, dtype: str = "int16", size: tuple[int, int] = (70, 90)) -> NDArray[np.int16]:
    values = np.random.default_rng(count).normal(500, 200, (*size, count))
    array: NDArray[np.int16] = values.astype(dtype)
    return array


@pytest.mark.parametrize("channels", [1, 4, 12])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_kind_of_network_takes_any_number_of_channels(arch: str, channels: int, tmp_path: Path) -> None:
    model = model_of(arch, channels)
    images = torch.randint(0, 256, (2, channels, 70, 90), dtype=torch.uint8)
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (2, 1, 70, 90)
        model.save_pretrained(tmp_path / "model")
        again = carvana.Segmenter.from_pretrained(tmp_path / "model")
        assert again.spec == model.spec
        torch.testing.assert_close(again(images), logits, rtol=0, atol=0)
    with pytest.raises(ModelError, match=rf"must be a tensor \(N, {channels}, H, W\)"):
        model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_channels_have_names_and_rgb_is_not_written() -> None:
    assert model_of("unet-ref", ["red", "infrared"]).spec.channels == ("red", "infrared")
    assert model_of("unet-ref", 2).spec.to_json()["channels"] == ["1", "2"]
    plain = model_of("unet-ref", 3).spec.to_json()
    assert {"channels", "range", "dtype", "nodata", "pages"}.isdisjoint(plain)
    assert ModelSpec.from_json(plain).channels == ("red", "green", "blue")
    assert model_of("unet-ref", "gray").spec.channels == ("gray",)
    for wrong in (0, 513, ["a", "a"], "bgr", True):
        with pytest.raises(ConfigError, match="expected rgb, gray, a number of 1 to 512, or different names"):
            model_of("unet-ref", wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"mean": [0.5]}, "mean and std have 1 and 2 values for 2 channels"),
        ({"range": [[0, 1]]}, "expected two values for each of 2 channels"),
        ({"range": [[0, 1], [1, 1]]}, "the lower one first"),
    ],
)
def test_a_spec_that_does_not_fit_its_channels_is_refused(changes: dict[str, object], line: str) -> None:
    with pytest.raises(ModelError, match=line):
        model_of("unet-ref", 2).spec.changed(**changes)


def test_an_architecture_without_the_argument_takes_three_channels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    carvana.register_arch("three-alone", "one_conv:rgb_network", replace=True)
    try:
        with pytest.raises(ConfigError, match="takes images of 3 channels, not of 4"):
            carvana.create_model("three-alone", channels=4)
    finally:
        registry.archs.remove("three-alone") if hasattr(registry.archs, "remove") else None


@pytest.mark.parametrize("suffix", [".npy", ".tif", "array"])
def test_a_predictor_reads_bands_of_any_type_by_the_range_of_its_network(tmp_path: Path, suffix: str) -> None:
    array = bands(12)
    ranges = [(100.0 + each, 900.0 + each) for each in range(12)]
    model = model_of("unet-ref", 12).with_spec(range=ranges)
    source: object = array
    if suffix == ".npy":
        source = tmp_path / "bands.npy"
        np.save(tmp_path / "bands.npy", array)
    elif suffix == ".tif":
        tifffile = pytest.importorskip("tifffile")
        source = tmp_path / "bands.tif"
        tifffile.imwrite(source, array, photometric="minisblack", planarconfig="contig")
    predictor = carvana.Predictor(model, device="cpu", precision="fp32")
    found = predictor.predict(source)  # type: ignore[arg-type]
    pixels = np.stack([scaled(array[..., each], *ranges[each]) for each in range(12)])
    with torch.no_grad():
        wanted = torch.sigmoid(model(torch.from_numpy(pixels)[None]))[0, 0].numpy()
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)
    small = carvana.Predictor(model, device="cpu", precision="fp32", scale="32x48").predict(source)  # type: ignore[arg-type]
    assert small.mask.shape == (70, 90)
    with pytest.raises(DataError, match=r"has 5 channels of int16; expected 12$"):
        predictor.predict(bands(5))
    with pytest.raises(DataError, match=r"values of int16, the lowest -?\d+, .* 8 bits are expected"):
        carvana.Predictor(model_of("unet-ref", 12), device="cpu").predict(array)


def test_a_network_of_grey_images_takes_colours_as_their_brightness() -> None:
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    model = model_of("unet-ref", 1)
    predictor = carvana.Predictor(model, device="cpu", precision="fp32")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(predictor.predict(image).probabilities, predictor.predict(grey).probabilities)


def test_tiles_of_many_bands_give_what_the_whole_gives() -> None:
    model = model_of("unet-ref", 5)
    image = np.random.default_rng(0).integers(0, 256, (300, 520, 5)).astype(np.uint8)
    whole, tiles = (
        carvana.Predictor(model, device="cpu", precision="fp32", mode=mode, **how).predict(image).probabilities  # type: ignore[arg-type]
        for mode, how in (("whole", {}), ("tiles", {"tile": 320, "join": "exact"}))
    )
    np.testing.assert_allclose(tiles, whole, atol=1e-5)


def test_networks_of_other_channels_do_not_work_together() -> None:
    members = [carvana.Predictor(model_of("unet-ref", count), device="cpu") for count in (3, 4)]
    with pytest.raises(ConfigError, match="cannot work together"):
        carvana.Ensemble(members)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["unet-ref", "unet/resnet18"])
def test_exported_files_take_the_same_channels(arch: str, tmp_path: Path) -> None:
    array = bands(12)
    model = model_of(arch, 12).with_spec(range=[(0.0, 1000.0)] * 12)
    wanted = carvana.Predictor(model, device="cpu", precision="fp32").predict(array).probabilities
    export_onnx(model, tmp_path / "bands.onnx")
    export_openvino(model, tmp_path / "bands")
    for path in (tmp_path / "bands.onnx", tmp_path / "bands"):
        found = carvana.Predictor.from_pretrained(path, precision="fp32").predict(array).probabilities
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_a_plain_loop_learns_from_bands() -> None:
    model = model_of("unet-ref", 4).train()
    images = torch.randint(0, 256, (4, 4, 32, 32), dtype=torch.uint8)
    target = (images[:, 3:4] > 127).float()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
