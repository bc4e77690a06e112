from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from reference import dice
from torch import Tensor, nn

from carvana.config import FitConfig
from carvana.data.io.images import write_image
from carvana.errors import ConfigError, DataError, ModelError, RunError
from carvana.inference.prediction import THRESHOLDS
from carvana.inference.predictor import Predictor, precision_of
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.run import Run
from carvana.utils.devices import describe, resolve_device


class Brightness(nn.Module):
    """Says of each pixel how bright it is, as a probability: the mask of a white thing on black, perfectly."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(images.mean(dim=1, keepdim=True) * self.gain, eps=1e-6)


def segmenter(network: nn.Module | None = None, **spec: object) -> Segmenter:
    record = {"arch": "test", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)} | spec
    return Segmenter(network or Brightness(), ModelSpec.model_validate(record))


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    network.train()
    for _ in range(3):
        network(torch.randn(4, 3, 16, 16))
    return network


def photo(height: int = 41, width: int = 60, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def test_a_path_and_its_pixels_give_the_same_prediction_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "car.png"
    write_image(path, photo(200, 300))
    predictor = Predictor(segmenter(small_network(), trained_size=(24, 32)))
    expected = predictor.predict(photo(200, 300))
    np.testing.assert_array_equal(predictor.predict(path).probabilities, expected.probabilities)
    np.testing.assert_array_equal(predictor.predict(str(path)).mask, expected.mask)


@pytest.mark.parametrize("scale", ["trained", "native", "17x23", (64, 96)])
def test_maps_have_the_photo_s_own_size(scale: str | tuple[int, int]) -> None:
    prediction = Predictor(segmenter(small_network(), trained_size=(16, 16)), scale=scale).predict(photo())
    assert prediction.probabilities.shape == prediction.mask.shape == (41, 60)
    assert prediction.probabilities.dtype == np.float32
    assert prediction.mask.dtype == np.uint8
    assert 0 <= prediction.probabilities.min() <= prediction.probabilities.max() <= 1
    assert set(np.unique(prediction.mask)) <= {0, 1}


def test_who_shows_a_network_larger_objects_than_it_knows_is_told(caplog: pytest.LogCaptureFixture) -> None:
    Predictor(segmenter(trained_size=(16, 24)), scale="native")
    assert "trained on whole images of 16x24" in caplog.text
    caplog.clear()
    Predictor(segmenter(), scale="native")  # trained on crops, or not at all
    Predictor(segmenter(trained_size=(16, 24)), scale="32x48")
    assert not caplog.text


def test_at_native_scale_the_network_s_word_is_final() -> None:
    model = segmenter(small_network(), trained_size=(16, 16))
    prediction = Predictor(model, scale="native", precision="fp32").predict(photo())
    with torch.no_grad():
        expected = model(torch.from_numpy(photo()).permute(2, 0, 1)[None]).sigmoid()[0, 0]
    np.testing.assert_allclose(prediction.probabilities, expected.numpy(), atol=1e-6)


def test_a_photo_is_shrunk_by_area_and_its_probabilities_enlarged_bilinearly() -> None:
    image = photo(64, 96)
    prediction = Predictor(segmenter(trained_size=(16, 24)), precision="fp32").predict(image)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    small = nn.functional.avg_pool2d(pixels, 4).mean(dim=1, keepdim=True)
    large = nn.functional.interpolate(small, (64, 96), mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(prediction.probabilities, large.numpy(), atol=0.6 / 255)  # the shrunk photo is 8 bit


def test_enlarging_before_the_threshold_finds_the_boundary_within_the_network_s_pixels() -> None:
    rows, columns = np.mgrid[:320, :480]
    disc = ((rows - 150.3) ** 2 + (columns - 231.7) ** 2 < 103**2).astype(np.uint8)
    image = np.repeat(disc[..., None] * np.uint8(255), 3, axis=2)
    prediction = Predictor(segmenter(trained_size=(32, 48)), precision="fp32").predict(image)
    coarse = (prediction.network_probabilities > 0.5).astype(np.uint8)
    thresholded_first = cv2.resize(coarse, (480, 320), interpolation=cv2.INTER_NEAREST)
    assert dice(prediction.mask, disc) > 0.995
    assert 1 - dice(prediction.mask, disc) < 0.3 * (1 - dice(thresholded_first, disc))


def test_what_is_exactly_at_the_threshold_is_background() -> None:
    image = np.full((4, 4, 3), 51, np.uint8)  # a fifth
    image[0] = 52
    predictor = Predictor(segmenter(), precision="fp32", threshold=float(np.float32(51 / 255)) + 1e-6)
    np.testing.assert_array_equal(predictor.predict(image).mask[:2], [[1] * 4, [0] * 4])


def test_the_model_s_threshold_counts_unless_another_is_given() -> None:
    image = np.full((4, 4, 3), 128, np.uint8)
    assert not Predictor(segmenter(threshold=0.7)).predict(image).mask.any()
    assert Predictor(segmenter(threshold=0.7), threshold=0.4).predict(image).mask.all()
    with pytest.raises(ConfigError, match=r"threshold 1\.5 .*0 to 1"):
        Predictor(segmenter(), threshold=1.5)


def test_levels_hold_the_mask_of_every_grid_threshold() -> None:
    prediction = Predictor(segmenter(trained_size=(16, 16)), precision="fp32").predict(photo())
    for threshold in THRESHOLDS[::16]:
        np.testing.assert_array_equal(prediction.levels >= 256 * threshold, prediction.probabilities > threshold)


@pytest.mark.parametrize("scale", ["trained", "native"])
def test_a_prediction_does_not_depend_on_what_else_is_in_the_batch(scale: str) -> None:
    predictor = Predictor(segmenter(small_network(), trained_size=(24, 32)), scale=scale, precision="fp32")
    photos = [photo(40, 60, 1), photo(40, 60, 2), photo(30, 50, 3), photo(40, 60, 4)]
    together = predictor.predict_batch(photos)
    for image, prediction in zip(photos, together, strict=True):
        np.testing.assert_allclose(prediction.probabilities, predictor.predict(image).probabilities, atol=1e-6)


def test_pixels_go_to_the_device_of_the_network() -> None:
    model = Predictor(segmenter(), device="cpu")
    model.device = torch.device("meta")  # stands for a GPU of any maker
    assert model._on_device(torch.zeros(4, 5, 3, dtype=torch.uint8)).device == model.device


def test_batches_hold_one_size_and_bounded_pixels() -> None:
    predictor = Predictor(segmenter(), scale="native")
    prepared = [predictor.prepare(photo(512, 512)) for _ in range(5)] + [predictor.prepare(photo(20, 30))] * 2
    batches = predictor.batches(prepared)
    assert [photo for batch in batches for photo in batch] == prepared
    assert all(len({photo.images[0].shape for photo in batch}) == 1 for batch in batches)
    if predictor.device.type == "cpu":
        assert [len(batch) for batch in batches] == [2, 2, 1, 2]


def test_a_model_in_training_is_set_to_evaluation() -> None:
    model = segmenter(small_network().train())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Predictor(model, precision="fp32").predict(photo())
    assert all(torch.equal(value.cpu(), before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5), np.uint16),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_photo_is_refused(array: np.ndarray) -> None:
    with pytest.raises(DataError, match="expected uint8 of shape"):
        Predictor(segmenter()).predict(array)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        Predictor(segmenter()).predict("nowhere.jpg")


def test_a_network_that_gives_nan_says_so_instead_of_an_empty_mask() -> None:
    model = segmenter()
    nn.init.constant_(model.network.gain, float("nan"))
    with pytest.raises(ModelError, match=r"gives NaN in bf16: .*train\.precision=fp32"):
        Predictor(model, precision="bf16").predict(photo())
    with pytest.raises(ModelError, match=r"gives NaN in fp32: .*a lower train\.lr") as error:
        Predictor(model, precision="fp32").predict(photo())
    assert "precision=" not in str(error.value)


class Greedy(nn.Module):
    """Wants a million terabytes."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.empty(2**60, dtype=torch.uint8, device=images.device)


class Broken(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise self.error


def test_a_network_that_does_not_fit_the_memory_is_one_line_with_its_size() -> None:
    with pytest.raises(ModelError, match=r"images of 640x960 pixels .*--scale 320x480$") as error:
        Predictor(segmenter(Greedy()), scale="640x960").predict(photo())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "mended"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_only_a_want_of_memory_is_mended_by_a_smaller_scale(error: Exception, mended: bool) -> None:
    network = Broken()
    network.error = error  # type: ignore[assignment]
    with pytest.raises(ModelError, match="--scale" if mended else "RuntimeError: mat1 .* cannot be multiplied"):
        Predictor(segmenter(network)).predict(photo())


def test_what_cannot_make_one_mask_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Conv2d.*Segmenter"):
        Predictor(nn.Conv2d(3, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"has 3 channels and no task"):
        Predictor(segmenter(nn.Conv2d(3, 3, 1), classes=3))


def test_weights_are_known_by_their_values() -> None:
    one, same, other = Predictor(segmenter()), Predictor(segmenter()), Predictor(segmenter())
    with torch.no_grad():
        other.model.network.gain += 1e-3  # type: ignore[operator]
    assert one.weights_digest == same.weights_digest != other.weights_digest
    assert Predictor(segmenter(mean=(0.5, 0.5, 0.5))).weights_digest != one.weights_digest


def test_settings_are_all_that_else_decides_a_mask() -> None:
    settings = Predictor(segmenter(trained_size=(16, 24)), precision="fp32").settings()
    assert settings == {"scale": (16, 24), "threshold": 0.5, "precision": "fp32"}
    assert Predictor(segmenter(), threshold=0.25).settings()["scale"] == "native"


def test_a_saved_model_predicts_as_before(tmp_path: Path) -> None:
    model = segmenter(small_network(), trained_size=(24, 32), threshold=0.3)
    model.save_pretrained(tmp_path / "model")
    again = Predictor(Segmenter.from_pretrained(tmp_path / "model", network=small_network()))
    expected = Predictor(model).predict(photo())
    np.testing.assert_array_equal(again.predict(photo()).probabilities, expected.probabilities)
    assert again.threshold == 0.3


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
