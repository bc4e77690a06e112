"""Labels of several classes, in tiles, by windows, mirrored and by several networks, against arrays of all classes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from carvana.errors import ConfigError, ModelError
from carvana.inference.ensemble import Ensemble
from carvana.inference.predictor import Predictor
from carvana.inference.refiner import Refiner
from carvana.inference.tiling.roi import CELL
from carvana.inference.tiling.sliding_window import SlidingWindowInferer
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.task import Task

NAMES = ["sky", "road", "car", "pole", "tree"]


class Colours(nn.Module):
    """Tells colours apart in the mean of the pixels around."""

    def __init__(self, classes: int, reach: int, seed: int) -> None:
        super().__init__()
        self.reach = reach
        torch.manual_seed(seed)
        self.head = nn.Conv2d(3, classes, 1)
        with torch.no_grad():
            self.head.weight.mul_(80 / self.head.weight.std())
            self.head.bias.copy_(-self.head.weight[:, :, 0, 0].sum(1) / 2)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        mean = functional.avg_pool2d(images, 2 * self.reach + 1, 1, self.reach, count_include_pad=False)
        logits: Tensor = self.head(mean)
        return logits


def predictor(
    reach: int = 1,
    seed: int = 0,
    *,
    size: tuple[int, int] | None = None,
    task: Task | None = None,
    network: nn.Module | None = None,
    **settings: object,
) -> Predictor:
    task = task or Task(classes=NAMES)
    spec = ModelSpec(arch="test", mean=(0, 0, 0), std=(1, 1, 1), trained_size=size, stride=4, task=task)
    network = network or Colours(len(task.classes), reach, seed)
    settings = {"precision": "fp32", "device": "cpu"} | settings
    return Predictor(Segmenter(network, spec), **settings)  # type: ignore[arg-type]


def areas(height: int = 203, width: int = 310, seed: int = 0) -> np.ndarray:
    """Areas of many colours with soft borders, and noise."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (5, 7, 3)).astype(np.float32), (width, height))
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def labels(predictor: Predictor | Ensemble | Refiner, *images: np.ndarray) -> list[np.ndarray]:
    """What is written where nothing but labels is wanted."""
    return [prediction.labels for prediction in predictor.predict_many(images)]


class LargestTensor(TorchFunctionMode):
    """Counts the numbers of the largest tensor of floats that anything gives within the block."""

    numel = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.is_floating_point():
            self.numel = max(self.numel, made.numel())
        return made


def cells(refiner: Refiner, image: np.ndarray) -> np.ndarray:
    """The pixels that are refined."""
    found = refiner.uncertain_cells(refiner.coarse.predict_maps([refiner.coarse.prepare(image)])[0])
    return np.kron(found, np.ones((CELL, CELL), bool))[: image.shape[0], : image.shape[1]]


@pytest.mark.parametrize(
    "covering",
    [
        {},
        {"mode": "tiles", "tile": 64},
        {"mode": "tiles", "tile": 48, "overlap": 0.7},
        {"mode": "tiles", "tile": (40, 512), "overlap": 0.0},
        {"mode": "tiles", "tile": 40, "join": "exact"},
        {"mode": "tiles", "tile": 64, "tta": True},
        {"mode": "tiles", "tile": 40, "join": "exact", "tta": True},
    ],
)
def test_labels_alone_are_those_of_the_largest_probability(covering: dict[str, object]) -> None:
    """Near-ties may go either way: logits decide labels alone, and probabilities where these are there."""
    images = [areas(), areas(97, 41, seed=1), areas(seed=2)]
    made = predictor(scale="native", **covering)
    for found, image in zip(labels(made, *images), images, strict=True):
        probabilities = made.predict(image).probabilities
        assert found.dtype == np.uint8
        assert len(np.unique(found)) >= 3
        chosen = np.take_along_axis(probabilities, found[None].astype(np.intp), 0)[0]
        np.testing.assert_allclose(chosen, probabilities.max(0), atol=1e-6)


def test_labels_of_a_map_of_the_image_s_own_size_and_of_a_smaller_one_come_in_one_stream() -> None:
    images = [areas(64, 96), areas(64, 96, seed=1), areas()]
    made = predictor(size=(64, 96))
    for found, image in zip(labels(made, *images), images, strict=True):
        assert (found != made.predict(image).probabilities.argmax(0)).mean() < 1e-3


def test_300_classes_have_labels_of_16_bits() -> None:
    made = predictor(scale="native", mode="tiles", tile=64, task=Task(classes=[f"class {n}" for n in range(300)]))
    image = areas(100, 90)
    [found] = labels(made, image)
    assert found.dtype == np.uint16
    assert found.max() > 255
    assert (found != made.predict(image).probabilities.argmax(0)).mean() < 1e-3


def test_probabilities_that_were_not_kept_are_asked_for_by_name() -> None:
    [prediction] = predictor(scale="native").predict_many([areas()])
    with pytest.raises(ConfigError, match="not kept; ask for them with want='probabilities'"):
        prediction.probability_of("road")
    [prediction] = predictor(scale="native").predict_many([areas()], want="probabilities")
    assert prediction.probability_of("road").shape == (203, 310)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_network_that_gives_nan_in_one_corner_is_refused(number: float) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = images.mean(1, keepdim=True).repeat(1, 5, 1, 1)
            logits[:, 2, :3, :3] = number
            return logits

    with pytest.raises(ModelError, match="test gives NaN in fp32"):
        labels(predictor(scale="native", mode="tiles", tile=64, network=Broken()), areas())


@pytest.mark.parametrize("margin", [0, 20])
@pytest.mark.parametrize("size", [(52, 76), (250, 344)], ids=["enlarged", "shrunk"])
def test_refine_replaces_all_classes_where_best_and_second_are_close(size: tuple[int, int], margin: int) -> None:
    image, coarse = areas(403, 610), predictor(size=size)
    fine = predictor(2, 0, scale="native", join="exact", tile=64)
    first = coarse.predict(image).probabilities
    second, best = np.sort(first, axis=0)[-2:]
    for high in (0.6, 0.9):
        refiner = Refiner(coarse, fine, band=(0.1, high), margin=margin)
        unsure = (best / (best + second) < high).astype(np.uint8)
        again = cells(refiner, image)
        assert unsure.any()
        assert again[cv2.dilate(unsure, np.ones((2 * margin + 1,) * 2, np.uint8)).astype(bool)].all()
        assert again.mean() < min(1, cv2.dilate(unsure, np.ones((2 * margin + 81,) * 2, np.uint8)).mean())
        refined = refiner.predict(image).probabilities
        whole = predictor(2, 0, scale="native").predict(image).probabilities
        assert refined.shape == (5, 403, 610)
        np.testing.assert_allclose(refined[:, again], whole[:, again], atol=1e-6)
        assert np.minimum(abs(refined - whole).max(0), abs(refined - first).max(0)).max() < 1e-6
        assert (abs(refined - first).max(0) < 1e-6).mean() > 0.05
        np.testing.assert_array_equal(labels(refiner, image)[0], refined.argmax(0))


def test_two_classes_are_refined_where_one_object_is() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = Colours(1, 1, 0)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.one(images)
            return torch.cat([torch.zeros_like(logits), logits], 1)

    two, one = Task(classes=["rest", "car"]), Task.binary()
    image, found = areas(403, 610), []
    for task, network in ((two, Pair()), (one, Colours(1, 1, 0))):
        coarse = predictor(size=(52, 76), task=task, network=network)
        refiner = Refiner(coarse, predictor(scale="native", task=task), margin=0)
        found.append(cells(refiner, image))
    assert 0.05 < found[0].mean() < 0.8
    np.testing.assert_array_equal(*found)


def test_a_mirrored_ensemble_at_two_scales_may_look_first() -> None:
    image = areas(403, 610)
    first = Ensemble([predictor(1, size=(52, 76), tta=True), predictor(1, size=(100, 152)), predictor(size=(52, 76))])
    refiner = Refiner(first, predictor(2, scale="native", join="exact", tta=True), margin=0)
    again, whole = cells(refiner, image), predictor(2, scale="native", tta=True).predict(image).probabilities
    refined = refiner.predict(image).probabilities
    np.testing.assert_allclose(refined[:, again], whole[:, again], atol=1e-6)
    sure = abs(refined - first.predict(image).probabilities).max(0) < 1e-6
    assert 0.02 < sure.mean() < 1


TILES: dict[str, object] = {"scale": "native", "mode": "tiles", "tile": 64}
MEMBERS: dict[str, list[dict[str, object]]] = {
    "whole": [{"scale": "native", "tta": True}, {"size": (52, 76)}, {"size": (26, 40)}],
    "tiles": [TILES | {"tta": True}, TILES, TILES],
    "tiles of other sizes": [TILES, TILES | {"tile": 44, "join": "exact"}, {"scale": "native"}],
    "tiles and smaller scales": [{"size": (52, 76)}, TILES | {"tta": True}, {"size": (26, 40)}],
    "tiles and a larger scale": [TILES, {"size": (300, 200)}, {"size": (26, 40)}],
}


@pytest.mark.parametrize("how", MEMBERS.values(), ids=MEMBERS)
def test_the_mean_of_networks_decides(how: list[dict[str, object]]) -> None:
    """Near-ties may go either way."""
    images = [areas(), areas(97, 330, seed=1)]
    members = [predictor(1, seed, **settings) for seed, settings in enumerate(how)]  # type: ignore[arg-type]
    for found, image in zip(labels(Ensemble(members), *images), images, strict=True):
        mean = np.mean([member.predict(image).probabilities for member in members], axis=0)
        chosen = np.take_along_axis(mean, found[None].astype(np.intp), 0)[0]
        np.testing.assert_allclose(chosen, mean.max(0), atol=1e-4)
        assert all((found != member.predict(image).labels).any() for member in members)


@pytest.mark.parametrize("how", [TILES, TILES | {"tta": True}])
def test_masks_of_classes_that_overlap_are_decided_in_tiles_too(how: dict[str, object]) -> None:
    image, task = areas(), Task(kind="multilabel", classes=NAMES)
    made = Ensemble(
        [predictor(1, seed, task=task, threshold=0.3, **settings) for seed, settings in enumerate((how, TILES))]  # type: ignore[arg-type]
    )
    [found] = made.predict_many([image])
    probabilities = made.predict(image).probabilities
    differ = found.masks != (probabilities > np.float32(0.3))
    assert found.masks.dtype == np.uint8
    assert (abs(probabilities - 0.3)[differ] < 1e-5).all()
    assert [found.mask_of(name).any() for name in NAMES] == [True] * len(NAMES)
    with pytest.raises(ConfigError, match="not kept"):
        found.probability_of("road")


def test_labels_in_tiles_hold_no_map_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    image, all_maps = areas(), 5 * 203 * 310
    monkeypatch.setattr(SlidingWindowInferer, "_tiles_at_once", lambda *_: 4)
    made = Ensemble([predictor(1, seed, tta=True, **TILES) for seed in range(2)])  # type: ignore[arg-type]
    refiner = Refiner(predictor(size=(52, 76)), predictor(2, **TILES))  # type: ignore[arg-type]
    with LargestTensor() as largest:
        labels(made, image)
        labels(refiner, image)
    assert largest.numel < all_maps / 2
    with LargestTensor() as largest:
        made.predict(image)
    assert largest.numel >= all_maps


def test_labels_in_tiles_go_on_with_less_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    image, made = areas(), predictor(tta=True, **TILES)  # type: ignore[arg-type]
    probabilities = made.predict(image).probabilities
    run, calls = SlidingWindowInferer._run, []

    def short(self: SlidingWindowInferer, tiles: Tensor) -> Tensor:
        calls.append(tiles.shape)
        if len(calls) in (9, 20):  # in the middle of an image, and again
            raise MemoryError
        return run(self, tiles)

    monkeypatch.setattr(SlidingWindowInferer, "_run", short)
    monkeypatch.setattr(SlidingWindowInferer, "_tiles_at_once", lambda *_: 3)
    [found] = labels(made, image)
    assert len(calls) > 20
    assert (found != probabilities.argmax(0)).mean() < 1e-2  # smaller tiles have other borders


def test_what_has_no_meaning_is_refused_in_a_line() -> None:
    one, fine = predictor(size=(52, 76)), predictor(scale="native")
    for made in (
        lambda: predictor(threshold=0.5),
        lambda: Ensemble([one, one], threshold=0.5),
        lambda: Refiner(one, fine, threshold=0.5),
    ):
        with pytest.raises(ConfigError, match=r"^threshold 0.5: a multiclass task has none"):
            made()
    with pytest.raises(ConfigError, match=r"a share of the best two of at least 0\.5"):
        Refiner(one, fine, band=(0.1, 0.5))
    assert not [
        key for made in (one, Ensemble([one, one]), Refiner(one, fine)) for key in made.settings() if "thr" in key
    ]
