from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from carvana.errors import ConfigError, ModelError
from carvana.inference.ensemble import Ensemble, load_predictor
from carvana.inference.predictor import Predictor
from carvana.inference.refiner import Refiner
from carvana.inference.tiling.roi import CELL
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec


class Sees(nn.Module):
    """Says of each pixel how bright it is in the mean of the pixels around, some of them further below than above."""

    def __init__(self, reach: int, gain: float) -> None:
        super().__init__()
        self.reach = reach
        self.gain = nn.Parameter(torch.tensor(gain))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        grey = images.mean(dim=1, keepdim=True)
        sides = 2 * self.reach + 1
        mean = functional.avg_pool2d(grey, sides, 1, self.reach, count_include_pad=False)
        return self.gain * (mean - 0.5)


def predictor(reach: int, gain: float = 30.0, size: tuple[int, int] | None = None, **settings: object) -> Predictor:
    spec = ModelSpec(arch="test", mean=(0, 0, 0), std=(1, 1, 1), trained_size=size, stride=4)
    settings = {"precision": "fp32", "device": "cpu"} | settings
    return Predictor(Segmenter(Sees(reach, gain), spec), **settings)  # type: ignore[arg-type]


def seen(predictor: Predictor) -> list[tuple[int, ...]]:
    """The shapes that its network, which is a copy made for inference, was given."""
    return predictor.engine.network.network.seen  # type: ignore[union-attr, return-value]


def disc(size: tuple[int, int] = (403, 610), radius: float = 0.3) -> np.ndarray:
    """A bright disc with a soft edge, and some noise that only a look from near sees."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    far = np.hypot(rows - 0.45 * size[0], columns - 0.55 * size[1])
    light = 255 / (1 + np.exp((far - radius * size[0]) / 3))
    noise = np.random.default_rng(0).normal(0, 12, size)
    return cv2.cvtColor(np.clip(light + noise, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)


def pixels(refiner: Refiner, image: np.ndarray) -> np.ndarray:
    """The pixels that are looked at again."""
    cells = refiner.uncertain_cells(refiner.coarse.predict_maps([refiner.coarse.prepare(image)])[0])
    return np.kron(cells, np.ones((CELL, CELL), bool))[: image.shape[0], : image.shape[1]]


@pytest.mark.parametrize("margin", [0, 20])
@pytest.mark.parametrize("tta", [False, True], ids=["once", "mirrored"])
def test_the_fine_network_decides_where_the_coarse_one_is_unsure_and_nowhere_else(margin: int, tta: bool) -> None:
    image, coarse = disc(), predictor(1, size=(52, 76))
    fine = predictor(2, scale="native", join="exact", tile=64, tta=tta)
    refiner = Refiner(coarse, fine, margin=margin)
    refined = refiner.predict(image).probabilities
    again = pixels(refiner, image)
    assert 0.02 < again.mean() < 0.4
    whole = predictor(2, scale="native", tta=tta).predict(image).probabilities
    first = coarse.predict(image).probabilities
    np.testing.assert_allclose(refined[again], whole[again], atol=1e-6)
    near_either = np.minimum(abs(refined - whole), abs(refined - first))
    assert near_either.max() < (0.5 if tta else 1e-6)  # mirrored windows lie elsewhere: some pixels have both
    assert (abs(refined - first) < 1e-6).mean() > 0.3
    assert ((refined > 0.5) != (whole > 0.5)).mean() < 1e-3


@pytest.mark.parametrize("size", [(52, 76), (500, 704), (500, 76)], ids=["enlarged", "shrunk", "both"])
def test_the_band_widened_by_a_margin_holds_all_unsure_pixels(size: tuple[int, int]) -> None:
    image, coarse = disc(), predictor(1, size=size)
    first = coarse.predict(image).probabilities
    for band in ((0.02, 0.98), (0.4, 0.45), (0.9, 1.0)):
        for margin in (0, 9, 40):
            refiner = Refiner(coarse, predictor(2), band=band, margin=margin)
            unsure = ((first > band[0]) & (first < band[1])).astype(np.uint8)
            assert unsure.any()
            wide = cv2.dilate(unsure, np.ones((2 * margin + 1,) * 2, np.uint8)).astype(bool)
            again = pixels(refiner, image)
            assert again[wide].all()
            assert again.mean() < cv2.dilate(unsure, np.ones((2 * margin + 81,) * 2, np.uint8)).mean()


def test_a_jump_between_two_pixels_of_the_coarse_map_is_unsure() -> None:
    image = np.zeros((400, 600, 3), np.uint8)
    image[:, 304:] = 255
    refiner = Refiner(predictor(0, gain=100.0, size=(100, 150)), predictor(0))
    assert pixels(refiner, image)[:, 300:308].all()


def test_a_photo_without_doubt_is_not_looked_at_again() -> None:
    coarse, fine = predictor(1, size=(52, 76)), predictor(2, scale="native")
    black = np.zeros((200, 300, 3), np.uint8)
    refined = Refiner(coarse, fine).predict(black)
    np.testing.assert_allclose(refined.probabilities, coarse.predict(black).probabilities, atol=1e-7)
    assert seen(fine) == []


def test_where_all_is_unsure_it_is_what_the_fine_network_says_of_the_whole_photo() -> None:
    noise = np.random.default_rng(0).integers(120, 136, (200, 300, 3)).astype(np.uint8)
    fine = predictor(2, scale="native")
    refined = Refiner(predictor(1, size=(52, 76)), fine).predict(noise).probabilities
    np.testing.assert_array_equal(refined, fine.predict(noise).probabilities)
    assert {shape[2:] for shape in seen(fine)} == {(200, 300)}


def test_several_photos_at_once_come_out_as_each_alone() -> None:
    refiner = Refiner(predictor(1, size=(52, 76)), predictor(2, scale="native"))
    photos = [disc((403, 610)), disc((311, 517)), np.zeros((5, 7, 3), np.uint8), disc((200, 900))]
    for photo, together in zip(photos, refiner.predict_batch(photos), strict=True):
        alone = refiner.predict(photo)
        assert alone.mask.shape == photo.shape[:2]
        np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-6)


def test_an_ensemble_may_look_first() -> None:
    image = disc()
    first = Ensemble([predictor(1, size=(52, 76)), predictor(0, size=(40, 60)), predictor(1, 20.0, size=(52, 76))])
    refiner = Refiner(first, predictor(2, scale="native", join="exact"))
    again, whole = pixels(refiner, image), predictor(2, scale="native").predict(image).probabilities
    refined = refiner.predict(image).probabilities
    np.testing.assert_allclose(refined[again], whole[again], atol=1e-6)
    sure = abs(refined - first.predict(image).probabilities) < 1e-6
    assert sure.mean() > 0.3


def test_where_the_first_networks_contradict_each_other_the_second_decides() -> None:
    """Each of them is sure, and at its own scale; their mean is not."""
    image = np.full((200, 300, 3), 255, np.uint8)
    first = Ensemble([predictor(0, 40.0, size=(52, 76)), predictor(0, -40.0, size=(40, 60))])
    assert pixels(Refiner(first, predictor(2)), image).all()
    agreed = Ensemble([predictor(0, 40.0, size=(52, 76)), predictor(0, 30.0, size=(40, 60))])
    assert not pixels(Refiner(agreed, predictor(2)), image).any()


def test_a_batch_holds_no_more_than_so_many_pixels_at_their_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    refiner = Refiner(predictor(1, size=(52, 76)), predictor(2, scale="native"))
    photo = refiner.prepare(disc((200, 300)))
    assert refiner.fits_batch(photo, [photo] * 3)
    monkeypatch.setattr("carvana.inference.refiner.MOST_PIXELS", 3 * 200 * 300)
    assert refiner.fits_batch(photo, [photo] * 2)
    assert not refiner.fits_batch(photo, [photo] * 3)


def test_the_pixels_of_the_second_look_are_told() -> None:
    image, coarse = disc(), predictor(1, size=(52, 76))
    once, twice = (Refiner(coarse, predictor(2, scale="native", tta=tta)) for tta in (False, True))
    once.predict(image)
    shown = sum(shape[0] * shape[2] * shape[3] for shape in seen(once.fine)) / (403 * 610)
    assert once.refined_share(image) == pytest.approx(shown)
    assert twice.refined_share(image) == pytest.approx(2 * shown)


def test_an_unet_joins_exactly() -> None:
    torch.manual_seed(0)
    model = create_model("unet-ref", width=2).eval()
    with torch.no_grad():
        list(model.parameters())[-2].mul_(40)
    image = disc((1100, 1300), 0.05)
    fine = Predictor(model, scale="native", join="exact", precision="fp32", device="cpu")
    refiner = Refiner(predictor(1, size=(100, 120)), fine, margin=0)
    again, whole = pixels(refiner, image), fine.predict(image).probabilities
    assert whole.std() > 0.001
    refined = refiner.predict(image).probabilities
    np.testing.assert_allclose(refined[again], whole[again], atol=1e-5)
    assert (abs(refined - whole) > 1e-4).any()  # elsewhere the first look stands


def test_what_decides_a_mask_is_told() -> None:
    coarse, fine = predictor(1, 20.0, size=(52, 76)), predictor(2, scale="native", threshold=0.25)
    refiner = Refiner(coarse, fine, band=(0.1, 0.8), margin=3)
    assert refiner.scale == "52x76, then native"
    assert refiner.threshold == 0.25
    assert Refiner(coarse, fine, threshold=0.75).threshold == 0.75
    told = refiner.settings()
    assert (told["band"], told["margin"], told["threshold"]) == ([0.1, 0.8], 3, 0.25)
    assert told["coarse"] == coarse.settings()
    assert told["fine"] == fine.settings()
    assert refiner.weights_digest not in (coarse.weights_digest, fine.weights_digest)
    assert refiner.weights_digest != Refiner(fine, fine).weights_digest


def test_what_cannot_be_is_refused_in_a_line() -> None:
    coarse, fine = predictor(1, size=(52, 76)), predictor(2, scale="native")
    with pytest.raises(ConfigError, match=r'at their own size, not at 52x76: give it scale="native"'):
        Refiner(fine, coarse)
    for band in ((0.5, 0.5), (-0.1, 0.5), (0.2, 1.5), (float("nan"), 1.0)):
        with pytest.raises(ConfigError, match=r"band .* expected two probabilities"):
            Refiner(coarse, fine, band=band)
    for margin in (-1, 10**9):
        with pytest.raises(ConfigError, match=f"margin {margin}: expected pixels from 0 to 10000"):
            Refiner(coarse, fine, margin=margin)


def saved(folder: Path, size: tuple[int, int] | None) -> Path:
    torch.manual_seed(0)
    create_model("unet-ref", width=2).with_spec(trained_size=size).save_pretrained(folder)
    return folder


def test_it_is_loaded_by_names(tmp_path: Path) -> None:
    small, large = saved(tmp_path / "small", (64, 96)), saved(tmp_path / "large", None)
    how: dict[str, object] = {"precision": "fp32", "device": "cpu"}
    two = load_predictor(small, refine_with=large, tile=128, band=(0.3, 0.6), margin=1, **how)
    assert isinstance(two, Refiner)
    assert (two.scale, two.band, two.margin) == ("64x96, then native", (0.3, 0.6), 1)
    assert two.fine.settings()["tile"] == 128
    one = load_predictor(small, mode="refine", scale="32x48", **how)
    assert isinstance(one, Refiner)
    assert one.scale == "32x48, then native"
    many = load_predictor([small, large], refine_with=large, **how)
    assert isinstance(many, Refiner)
    assert many.scale == "64x96 + native, then native"
    with pytest.raises(ConfigError, match=r"large sees images at their own size at the first look as well; name"):
        load_predictor(large, mode="refine", **how)
    assert isinstance(load_predictor(small, scale="native", refine_with=large, **how), Refiner)
    with pytest.raises(ConfigError, match=r"'refin' is unknown; expected auto, whole, tiles, refine.*'refine'"):
        load_predictor(small, mode="refin", **how)
    for settings in ({"band": (0.2, 0.8)}, {"margin": 30}):
        with pytest.raises(ConfigError, match=r"(band \(0.2, 0.8\)|margin 30): goes with a second look"):
            load_predictor(small, **settings, **how)
    with pytest.raises(ConfigError, match="mode 'tiles' does not go with a network to refine with"):
        load_predictor(small, mode="tiles", refine_with=large, **how)
    with pytest.raises(ConfigError, match=r"overlap 0.5: the windows of mode refine"):
        load_predictor(small, mode="refine", overlap=0.5, **how)
    with pytest.raises(ConfigError, match="2 networks cannot refine together; name one with --refine-with"):
        load_predictor([small, large], mode="refine", **how)
    with pytest.raises(ModelError):
        load_predictor(small, refine_with=tmp_path / "nothing", **how)


def test_the_names_of_the_last_release_work_and_say_the_new_ones() -> None:
    image, coarse = disc(), predictor(1, size=(52, 76))
    refiner = Refiner(coarse, predictor(2, scale="native"))
    prepared = refiner.prepare(image)
    with pytest.warns(DeprecationWarning, match="is now") as warned:  # noqa: PT031 - one list of all
        maps = coarse.mix([prepared[0]])
        cells = refiner.unsure(maps[0])
        refined = refiner.fine.mix_again([prepared[1]], [maps[0].resized(maps[0].size)], unsure=[cells])
        assert refiner.looked_at(image) == refiner.fine.cost_again(cells, maps[0].size) > 0
        assert refiner.joins(prepared, [prepared])
        assert refiner.preparation(image)[1].size == prepared[1].size
    assert torch.equal(refined[0].maps[0], refiner.predict_maps([prepared])[0].maps[0])
    new = [str(each.message).split(" is now ")[1].split(";")[0].partition(".")[2] for each in warned]
    names = ["predict_maps", "uncertain_cells", "refine_maps", "refine_maps(uncertain=...)", "refined_share"]
    assert new == [*names, "refine_cost", "fits_batch", "preprocessor"]
