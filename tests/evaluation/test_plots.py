from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from profiles import in_srgb, rgb_profile

from carvana.data.io.display import MISSED
from carvana.data.io.images import write_image
from carvana.data.io.masks import write_mask
from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.evaluation.evaluate import Evaluation, ImageScore
from carvana.evaluation.plots import contact_sheet, curves, worst_images


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def holds(sheet: np.ndarray, image: np.ndarray) -> bool:
    """Whether a picture lies somewhere on a sheet, every pixel as it was."""
    height, width = image.shape[:2]
    starts = np.argwhere((sheet[: -height + 1 or None, : -width + 1 or None] == image[0, 0]).all(axis=2))
    return any((sheet[top : top + height, left : left + width] == image).all() for top, left in starts)


def noise(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_a_sheet_holds_every_image_pixel_by_pixel(tmp_path: Path, count: int) -> None:
    images = [noise(seed) for seed in range(count)]
    contact_sheet(images, [f"image {seed}" for seed in range(count)], path=tmp_path / "sheet.png", title="Some")
    sheet = pixels(tmp_path / "sheet.png")
    assert all(holds(sheet, image.repeat(480 // 80, 0).repeat(480 // 80, 1)) for image in images)


def test_large_images_are_shrunk_small_ones_enlarged_by_whole_numbers(tmp_path: Path) -> None:
    images = [noise(0, 1280, 1918), noise(1, 300, 100), noise(2, 50, 50)]
    contact_sheet(images, ["large", "high", "small"], path=tmp_path / "sheet.png", title="")
    height, width = pixels(tmp_path / "sheet.png").shape[:2]
    assert 450 + 26 + 40 < height < 550 + 26 + 40
    assert 3 * 480 < width < 3 * 480 + 100


def test_titles_take_a_line_of_their_own(tmp_path: Path) -> None:
    contact_sheet([np.full((60, 80, 3), 200, np.uint8)], ["a name"], path=tmp_path / "sheet.png", title="Some")
    dark = (pixels(tmp_path / "sheet.png") < 100).any(axis=(1, 2))  # the rows with black letters
    assert np.count_nonzero(np.diff(dark.astype(int)) == 1) >= 2


def test_a_sheet_is_as_wide_as_its_title(tmp_path: Path) -> None:
    words = "The worst images: what is wrong, in the colour that was predicted"
    contact_sheet([noise(0, 480, 60)], ["a name"], path=tmp_path / "sheet.png", title=words)
    sheet = pixels(tmp_path / "sheet.png")
    assert sheet[:40].min() < 100  # the letters
    assert sheet[:40, -12:].min() == 255


def test_an_empty_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one image"):
        contact_sheet([], [], path=tmp_path / "sheet.png", title="")


def labelled(folder: Path, dices: list[float]) -> tuple[Evaluation, list[Sample]]:
    samples, scores = [], []
    for number, value in enumerate(dices):
        mask = np.zeros((60, 80), np.uint8)
        mask[10:40, 10 + number : 60] = 1
        sample = Sample(folder / f"{number}.png", folder / f"{number}_mask.png", f"group {number}")
        write_image(sample.image, noise(number))
        write_mask(folder / f"{number}_mask.png", mask)
        samples.append(sample)
        scores.append(ImageScore(sample.name, sample.group, "", value, value, value, value, value, 0.5))
    mean = float(np.mean(dices))
    return Evaluation(tuple(scores), mean, None, mean, mean, mean, mean, mean, 0.5, "native", 1.0), samples


def test_the_worst_photos_are_shown_worst_first(tmp_path: Path) -> None:
    evaluation, samples = labelled(tmp_path, [0.99, 0.5, 0.97, 0.7, 0.98])
    asked = []

    def mask_of(sample: Sample) -> np.ndarray:
        asked.append(sample)
        return np.zeros((60, 80), np.uint8)

    worst_images(evaluation, samples, mask_of, path=tmp_path / "worst.png", count=3)
    assert asked == [samples[1], samples[3], samples[2]]
    sheet = pixels(tmp_path / "worst.png")
    missed = (sheet == MISSED).all(axis=2).sum()
    assert missed == 6**2 * 30 * (49 + 47 + 48)  # all three cars, whole, each pixel as 6 x 6


def test_photos_are_shown_in_the_colours_of_their_profile(tmp_path: Path) -> None:
    evaluation, samples = labelled(tmp_path, [0.9])
    flat = np.full((60, 80, 3), (90, 200, 110), np.uint8)
    Image.fromarray(flat).save(samples[0].image, icc_profile=rgb_profile())
    worst_images(evaluation, samples, lambda _: np.ones((60, 80), np.uint8), path=tmp_path / "worst.png")
    within = (np.abs(pixels(tmp_path / "worst.png") - in_srgb(flat[0, 0])) < 2).all(axis=2)
    assert within.sum() > 1000  # of the true mask, which nothing is painted on


def test_fewer_photos_than_asked_for_are_all_shown(tmp_path: Path) -> None:
    evaluation, samples = labelled(tmp_path, [0.9, 0.8])
    worst_images(evaluation, samples, lambda _: np.ones((60, 80), np.uint8), path=tmp_path / "worst.png")
    assert pixels(tmp_path / "worst.png").shape[1] > 160


def record(epoch: int) -> dict[str, float]:
    return {
        "epoch": epoch, "train_loss": 1 / epoch, "val_loss": 1.2 / epoch, "val_dice": 1 - 0.1 / epoch,
        "val_accuracy": 1 - 0.05 / epoch, "lr": 1e-3 / epoch, "images_per_s": 7.0, "data_wait": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "records",
    [
        [record(epoch) for epoch in range(1, 9)],
        [record(1)],
        [{"epoch": 1, "train_loss": 0.0}],
        [{"epoch": 1, "train_loss": 0.3, "val_dice": 1.0, "val_loss": None}, {"epoch": 2, "train_loss": -0.1}],
    ],
)  # fmt: skip
def test_curves_are_drawn_from_whatever_records_hold(tmp_path: Path, records: list[dict[str, float]]) -> None:
    curves(records, tmp_path / "curves.png")
    picture = pixels(tmp_path / "curves.png")
    assert picture.shape[1] > 1000
    assert picture.std() > 10


def test_curves_differ_where_trainings_differ(tmp_path: Path) -> None:
    curves([record(epoch) for epoch in range(1, 9)], tmp_path / "one.png")
    curves([record(epoch) | {"val_dice": 0.5} for epoch in range(1, 9)], tmp_path / "other.png")
    assert (pixels(tmp_path / "one.png") != pixels(tmp_path / "other.png")).any()


def test_the_dots_of_one_epoch_do_not_cover_each_other(tmp_path: Path) -> None:
    curves([record(1)], tmp_path / "curves.png")
    inside = pixels(tmp_path / "curves.png")[30:350, 1000:1220]  # of the last panel
    for colour in ((10, 132, 255), (142, 142, 147)):  # the learning rate, and images a second
        assert (inside == colour).all(axis=2).sum() > 4


def test_no_epochs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no epochs"):
        curves([], tmp_path / "curves.png")
