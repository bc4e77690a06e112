from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from reference import dice
from torch import Tensor, nn

import carvana
from carvana.config import FitConfig
from carvana.data.io.images import write_image
from carvana.errors import ConfigError, ModelError, RunError
from carvana.folds import Folds
from carvana.inference.ensemble import Ensemble, load_predictor
from carvana.inference.predict_folder import predict_folder
from carvana.inference.prediction import Prediction
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec


class Gamma(nn.Module):
    """Says of each pixel how bright it is, to a power."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor(gamma))

    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(images.mean(dim=1, keepdim=True) ** self.gamma, eps=1e-6)


def member(gamma: float, size: tuple[int, int] | None = (16, 24), threshold: float = 0.5, **settings: int) -> Predictor:
    spec = ModelSpec(arch="test", mean=(0, 0, 0), std=(1, 1, 1), trained_size=size, threshold=threshold)
    return Predictor(Segmenter(Gamma(gamma), spec), precision="fp32", device="cpu", **settings)


def photo(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    blurred = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX)
    return blurred.astype(np.uint8)


MIXTURES = {
    "one scale": [(0.5, (16, 24)), (1.0, (16, 24)), (2.0, (16, 24))],
    "three scales": [(0.5, (16, 24)), (1.0, (8, 10)), (2.0, None)],
    "two of three at one scale": [(0.5, (16, 24)), (1.0, (80, 90)), (2.0, (16, 24))],
}


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_probabilities_are_the_mean_at_the_photos_size_each_network_at_its_own_scale(mixture: list) -> None:
    photos = [photo(40, 60, 1), photo(40, 60, 2), photo(31, 47, 3)]
    predictions = Ensemble([member(*each) for each in mixture]).predict_batch(photos)
    for image, prediction in zip(photos, predictions, strict=True):
        alone = [member(*each).predict(image).probabilities for each in mixture]
        np.testing.assert_allclose(prediction.probabilities, np.mean(alone, axis=0), atol=1e-6)
        assert prediction.probabilities.dtype == np.float32
        np.testing.assert_array_equal(prediction.mask, prediction.probabilities > 0.5)


def test_an_ensemble_of_one_is_that_one() -> None:
    alone = member(0.7, threshold=0.3)
    ensemble = Ensemble([alone])
    assert (ensemble.threshold, ensemble.scale) == (0.3, (16, 24))
    np.testing.assert_array_equal(ensemble.predict(photo()).probabilities, alone.predict(photo()).probabilities)


def test_the_threshold_is_the_mean_of_the_members_unless_given() -> None:
    members = [member(1.0, threshold=0.25), member(1.0, threshold=0.5)]
    assert Ensemble(members).threshold == 0.375
    assert Ensemble(members).predict(photo()).threshold == 0.375
    assert Ensemble(members, threshold=0.6).threshold == 0.6
    with pytest.raises(ConfigError, match="threshold -1 is outside"):
        Ensemble(members, threshold=-1)


def test_the_coarsest_network_says_how_wide_an_edge_is() -> None:
    prediction = Ensemble([member(1.0, (30, 40)), member(1.0, (8, 10)), member(1.0, None)]).predict(photo())
    assert prediction.network_probabilities.shape == (8, 10)


def test_batches_suit_the_member_that_sees_most() -> None:
    small, large = member(1.0, (16, 24)), member(1.0, (512, 512))
    ensemble = Ensemble([small, large])
    prepared = [ensemble.prepare(photo(seed=seed)) for seed in range(5)]
    assert [len(batch) for batch in Ensemble([small]).batches([each[:1] for each in prepared])] == [5]
    assert [len(batch) for batch in ensemble.batches(prepared)] == [2, 2, 1]


def test_a_photo_is_shrunk_once_for_each_scale() -> None:
    ensemble = Ensemble([member(1.0), member(2.0), member(1.0, None)])
    first, second, native = ensemble.prepare(photo()).images
    assert first is second
    assert native.shape == (40, 60, 3)
    assert ensemble.scale == "16x24 + native"


def test_files_larger_than_any_member_takes_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "car.png", photo())
    ensemble = Ensemble([member(1.0), member(1.0, max_pixels=100)])
    with pytest.raises(carvana.CarvanaError, match=r"car\.png"):
        ensemble.predict(tmp_path / "car.png")


def test_a_rerun_does_again_what_any_member_changed(tmp_path: Path) -> None:
    photos = [tmp_path / f"{number}.png" for number in range(3)]
    for seed, path in enumerate(photos):
        write_image(path, photo(seed=seed))

    def written(ensemble: Ensemble) -> int:
        return predict_folder(ensemble, photos, out=tmp_path / "out").written

    assert written(Ensemble([member(1.0), member(2.0)])) == 3
    assert written(Ensemble([member(1.0), member(2.0)])) == 0
    assert written(Ensemble([member(1.0), member(2.1)])) == 3  # other weights
    assert written(Ensemble([member(1.0), member(2.1, (8, 10))])) == 3  # another scale
    assert written(Ensemble([member(1.0), member(2.1, (8, 10))], threshold=0.4)) == 3
    assert written(Ensemble([member(1.0), member(2.1, (8, 10)), member(1.0)], threshold=0.4)) == 3
    assert written(Ensemble([member(1.0), member(2.1, (8, 10)), member(1.0)], threshold=0.4)) == 0


def test_evaluation_takes_an_ensemble(tiny_data: Path) -> None:
    samples = carvana.find_samples(tiny_data)[:6]
    members = [member(0.6), member(1.5, (30, 45))]
    evaluation = carvana.evaluate(Ensemble(members), samples)
    assert evaluation.scale == "16x24 + 30x45"
    scores = []
    for sample in samples:
        maps = [each.predict(sample.image).probabilities for each in members]
        true = carvana.data.io.masks.read_mask(sample.mask)
        scores.append(dice((maps[0] + maps[1]) / 2 > 0.5, true))
    assert evaluation.dice_at_half == pytest.approx(np.mean(scores), abs=1e-4)


def test_no_members_are_told() -> None:
    with pytest.raises(ModelError, match="at least one network"):
        Ensemble([])


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Folds:
    """Three networks, one of each fold, as a fit leaves them."""
    made = Folds.create(tmp_path_factory.mktemp("runs") / "folds", FitConfig(), folds=3)
    for number, run in enumerate(made.runs):
        torch.manual_seed(number)
        model = create_model("unet-ref", width=2).with_spec(trained_size=(16, 16), threshold=0.25 * (number + 1))
        model.save_pretrained(run.model_path)
        run.write_record({"fit_seconds": 1.0})
        run.write_evaluation({"dice": 0.9})
    return made


def test_a_folder_of_folds_stands_for_all_its_runs(folds: Folds) -> None:
    ensemble = load_predictor(folds.path, device="cpu")
    assert isinstance(ensemble, Ensemble)
    assert (len(ensemble.members), ensemble.threshold) == (3, 0.5)
    alone = [Predictor.from_pretrained(run.path, device="cpu").predict(photo()) for run in folds.runs]
    mean = np.mean([each.network_probabilities for each in alone], axis=0)
    np.testing.assert_allclose(ensemble.predict(photo()).network_probabilities, mean, atol=1e-6)


def test_runs_models_and_folds_may_stand_side_by_side(folds: Folds) -> None:
    first = folds.runs[0]
    ensemble = load_predictor([first.path, first.model_path, folds.path], device="cpu", threshold=0.2)
    assert isinstance(ensemble, Ensemble)
    assert (len(ensemble.members), ensemble.threshold) == (5, 0.2)
    assert isinstance(load_predictor([first.path], device="cpu"), Predictor)


def test_several_scales_of_a_network_are_averaged(folds: Folds) -> None:
    path = folds.runs[0].path
    both = load_predictor(path, device="cpu", scale="trained, 24x32", threshold=0.3)
    assert isinstance(both, Ensemble)
    assert (both.scale, both.threshold) == ("16x16 + 24x32", 0.3)
    alone = [load_predictor(path, device="cpu", scale=scale).predict(photo()) for scale in ("trained", "24x32")]
    mean = np.mean([each.probabilities for each in alone], axis=0)
    np.testing.assert_allclose(both.predict(photo()).probabilities, mean, atol=1e-6)
    four = load_predictor([path, folds.runs[1].path], device="cpu", scale="trained,24x32")
    assert isinstance(four, Ensemble)
    assert len(four.members) == 4
    with pytest.raises(ConfigError, match="scale '' cannot be used"):
        load_predictor(path, device="cpu", scale="trained,")


def test_one_predictor_of_folds_says_what_to_take_instead(folds: Folds) -> None:
    with pytest.raises(ModelError, match=r"holds folds; carvana\.Ensemble"):
        Predictor.from_pretrained(folds.path)


def test_unfinished_folds_are_told_with_how_to_go_on(folds: Folds, tmp_path: Path) -> None:
    other = Folds(shutil.copytree(folds.path, tmp_path / "folds"))
    other.runs[1].evaluation_path.unlink()
    with pytest.raises(RunError, match=r"fold-2 is not finished; `carvana fit --resume "):
        load_predictor(other.path)


def test_rounding_never_takes_a_mean_out_of_its_range() -> None:
    ensemble = Ensemble([member(1.0, (16, 24)), member(1.0, (8, 10)), member(1.0, None)])
    white: Prediction = ensemble.predict(np.full((40, 60, 3), 255, np.uint8))
    assert white.levels.min() == 255
