from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from reference import boundary_dice, dice, iou, pixel_accuracy
from torch import Tensor, nn

from carvana.data.io.images import write_image
from carvana.data.io.masks import write_mask
from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.evaluation.evaluate import Evaluation, evaluate
from carvana.inference.prediction import THRESHOLDS
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec


class Brightness(nn.Module):
    """Says of each pixel how bright it is, as a probability."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(images.mean(dim=1, keepdim=True) * self.gain, eps=1e-6)


def predictor(**settings: object) -> Predictor:
    spec = ModelSpec(arch="test", mean=(0, 0, 0), std=(1, 1, 1), trained_size=(24, 32))
    return Predictor(Segmenter(Brightness(), spec), precision="fp32", **settings)  # type: ignore[arg-type]


def draw(folder: Path, group: str, view: int, *, light: float = 1.0) -> Sample:
    """A white shape on black, noisy, and as bright as ``light`` says: each group wants a threshold of its own."""
    rng = np.random.default_rng([ord(group[0]), view])
    smooth = cv2.GaussianBlur(rng.standard_normal((72, 96)).astype(np.float32), (0, 0), 9)
    mask = (smooth > 0).astype(np.uint8)
    noisy = 255 * light * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2) + rng.normal(0, 30, mask.shape)
    image = np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    name = f"{group}_{view:02d}"
    write_image(folder / "images" / f"{name}.png", image)
    write_mask(folder / "masks" / f"{name}_mask.png", mask)
    return Sample(folder / "images" / f"{name}.png", folder / "masks" / f"{name}_mask.png", group, f"{view:02d}")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    lights = {"a": 1.0, "b": 0.9, "c": 0.75, "d": 0.6, "e": 0.5, "f": 0.8}
    return [draw(tmp_path, group, view, light=light) for group, light in lights.items() for view in (1, 2)]


def truth(sample: Sample) -> np.ndarray:
    with Image.open(sample.mask) as picture:  # type: ignore[arg-type]
        return np.asarray(picture).astype(np.uint8)


def mean_dice(samples: list[Sample], threshold: float) -> float:
    return float(np.mean([dice(predictor(threshold=threshold).predict(s.image).mask, truth(s)) for s in samples]))


def test_every_score_is_that_of_the_photo_s_own_mask(samples: list[Sample]) -> None:
    evaluation = evaluate(predictor(), samples)
    for sample, score in zip(samples, evaluation.images, strict=True):
        mask = predictor(threshold=score.threshold).predict(sample.image).mask
        assert score.dice == pytest.approx(dice(mask, truth(sample)), abs=1e-12)
        assert score.iou == pytest.approx(iou(mask, truth(sample)), abs=1e-12)
        assert score.pixel_accuracy == pytest.approx(pixel_accuracy(mask, truth(sample)), abs=1e-12)
        assert score.boundary_dice == pytest.approx(boundary_dice(mask, truth(sample)), abs=1e-12)
        at_half = predictor(threshold=0.5).predict(sample.image).mask
        assert score.dice_at_half == pytest.approx(dice(at_half, truth(sample)), abs=1e-12)


def test_the_threshold_is_the_best_of_all_and_no_photo_is_scored_with_its_own(samples: list[Sample]) -> None:
    evaluation = evaluate(predictor(), samples)
    tried = [mean_dice(samples, threshold) for threshold in THRESHOLDS[::8]]
    best = mean_dice(samples, evaluation.threshold)
    assert best >= max(tried)
    assert evaluation.dice <= best
    assert len({score.threshold for score in evaluation.images}) > 1
    for group in "abcdef":
        assert len({score.threshold for score in evaluation.images if score.group == group}) == 1


def test_the_predictor_s_own_threshold_plays_no_part_but_in_its_own_number(samples: list[Sample]) -> None:
    one, other = evaluate(predictor(threshold=0.5), samples), evaluate(predictor(threshold=0.25), samples)
    assert one.images == other.images
    assert one.dice_as_predicted == one.dice_at_half
    assert other.dice_as_predicted == pytest.approx(mean_dice(samples, 0.25), abs=1e-12)


def test_summary_is_of_the_photos_and_json_can_hold_it(samples: list[Sample]) -> None:
    evaluation = evaluate(predictor(), samples)
    record = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    asked = {"images", "groups", "dice", "dice_ci95", "dice_at_half", "iou", "pixel_accuracy", "boundary_dice"}
    assert asked | {"threshold", "per_image"} <= set(record)
    assert (record["images"], record["groups"], record["scale"]) == (12, 6, [24, 32])
    assert [photo["image"] for photo in record["per_image"]] == [sample.image.name for sample in samples]
    assert [photo["group"] for photo in record["per_image"]] == [sample.group for sample in samples]
    for name in ("dice", "iou", "pixel_accuracy", "boundary_dice", "dice_at_half"):
        assert record[name] == pytest.approx(np.mean([photo[name] for photo in record["per_image"]]))
    low, high = record["dice_ci95"]
    assert low < record["dice"] < high


def test_one_group_gives_numbers_without_an_interval(samples: list[Sample]) -> None:
    evaluation = evaluate(predictor(), samples[:2])
    assert evaluation.dice_ci95 is None
    assert evaluation.to_json()["dice_ci95"] == [None, None]
    assert evaluation.dice == evaluation.dice_at_half  # nothing to choose a threshold on


def test_masks_are_those_of_the_chosen_threshold_exactly(samples: list[Sample], tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluation = evaluate(predictor(), samples, masks_dir=out)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{s.image.stem}_mask.png" for s in samples)
    for sample in samples:
        expected = predictor(threshold=evaluation.threshold).predict(sample.image).mask
        with Image.open(out / f"{sample.image.stem}_mask.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), expected.astype(bool))


def test_a_failed_evaluation_leaves_nothing_behind(samples: list[Sample], tmp_path: Path) -> None:
    samples[5].image.write_bytes(b"broken")
    with pytest.raises(DataError, match=samples[5].image.name):
        evaluate(predictor(), samples, masks_dir=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_number_of_workers_changes_nothing(samples: list[Sample]) -> None:
    def numbers(evaluation: Evaluation) -> dict[str, object]:
        return evaluation.to_json() | {"seconds": None}

    assert numbers(evaluate(predictor(), samples, workers=1)) == numbers(evaluate(predictor(), samples, workers=6))


def test_a_photo_without_a_mask_is_named(samples: list[Sample]) -> None:
    lonely = Sample(samples[0].image, None, "a")
    with pytest.raises(DataError, match=f"{samples[0].image.name}: has no mask"):
        evaluate(predictor(), [*samples, lonely])


def test_photos_larger_than_the_predictor_takes_are_refused(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match=r"a_01\.png"):
        evaluate(predictor(max_pixels=1000), samples)
    assert len(evaluate(predictor(max_pixels=72 * 96), samples).images) == 12


def test_a_mask_of_another_size_is_named_with_both_sizes(samples: list[Sample]) -> None:
    write_mask(samples[3].mask, np.ones((70, 96), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"{samples[3].mask.name}: 96 x 70 .*96 x 72") as error:  # type: ignore[union-attr]
        evaluate(predictor(), samples)
    assert "\n" not in str(error.value)


def test_masks_of_two_photos_never_share_a_file(samples: list[Sample], tmp_path: Path) -> None:
    namesake = draw(tmp_path / "more", "a", 1)
    assert len(evaluate(predictor(), [*samples, namesake]).images) == 13
    with pytest.raises(DataError, match=r"a_01_mask\.png"):
        evaluate(predictor(), [*samples, namesake], masks_dir=tmp_path / "out")


def test_a_folder_for_masks_that_cannot_be_made_is_one_line(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match="cannot be written to"):
        evaluate(predictor(), samples, masks_dir=samples[0].image / "masks")


def test_nothing_to_evaluate_on_is_an_error() -> None:
    with pytest.raises(DataError, match="no labelled images"):
        evaluate(predictor(), [])


def test_a_photo_without_a_car_counts_as_the_competition_counts_it(samples: list[Sample], tmp_path: Path) -> None:
    empty = draw(tmp_path, "z", 1, light=0.0)
    write_mask(empty.mask, np.zeros((72, 96), np.uint8))  # type: ignore[arg-type]
    score = evaluate(predictor(), [*samples, empty]).images[-1]
    assert (score.dice, score.boundary_dice) == (1.0, 1.0)
