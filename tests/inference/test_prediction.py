from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from carvana.errors import ConfigError
from carvana.inference.prediction import THRESHOLDS, Prediction, ProbabilityMaps


def maps(*sizes: tuple[int, int], image: tuple[int, int] = (83, 121)) -> ProbabilityMaps:
    generator = torch.Generator().manual_seed(0)
    several = [torch.rand(*size, generator=generator) for size in sizes]
    return ProbabilityMaps.mean([ProbabilityMaps.single(each, image) for each in several])


@pytest.mark.parametrize("sizes", [[(20, 30)], [(83, 121)], [(200, 300)], [(20, 30), (83, 121)], [(16, 16)] * 3])
def test_a_device_finishes_predictions_as_opencv_does(sizes: list[tuple[int, int]]) -> None:
    mixed = maps(*sizes)
    here, there = Prediction.from_maps(mixed, 0.37), Prediction.from_device(mixed, 0.37, "levels")
    unsure = np.abs(here.probabilities - 0.37) < 1e-5
    assert (here.mask == there.mask)[~unsure].all()
    assert np.abs(here.levels.astype(int) - there.levels.astype(int)).max() <= 1
    assert (here.levels != there.levels).mean() < 0.01
    assert (there.size, there.threshold) == ((83, 121), 0.37)


def test_levels_of_a_device_hold_the_mask_of_every_grid_threshold() -> None:
    mixed = maps((83, 121))
    levels = Prediction.from_device(mixed, 0.5, "levels").levels
    for threshold in THRESHOLDS[::17]:
        np.testing.assert_array_equal(levels >= 256 * threshold, mixed.maps[0].numpy() > threshold)


def test_maps_are_shrunk_without_float64_on_a_device_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Apple's GPUs have none; torch's meta device takes the place of one."""
    monkeypatch.setattr("carvana.inference.prediction.float64_device", lambda _: torch.device("cpu"))

    class Refusing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            assert not (isinstance(result, Tensor) and result.is_meta and result.dtype == torch.float64), func
            return result

    with Refusing():
        small = ProbabilityMaps.single(torch.rand(20, 30, device="meta"), (8, 12)).resized((8, 12))
    assert (small.shape, small.device.type) == ((8, 12), "meta")


def test_what_was_not_wanted_is_not_there() -> None:
    prediction = Prediction.from_device(maps((20, 30)), 0.5, "mask")
    assert prediction.mask.dtype == np.uint8
    for what in ("levels", "probabilities"):
        with pytest.raises(ConfigError, match=f"want='{what}'"):
            getattr(prediction, what)
    assert "83" in repr(prediction)


def test_every_network_counts_the_same_whatever_its_size() -> None:
    one, two, three = (torch.full(size, value) for size, value in (((4, 4), 0.1), ((8, 8), 0.4), ((4, 4), 0.7)))
    mixed = ProbabilityMaps.mean([ProbabilityMaps.single(each, (16, 16)) for each in (one, two, three)])
    assert len(mixed.maps) == 2
    np.testing.assert_allclose(Prediction.from_maps(mixed, 0.5).probabilities, 0.4, atol=1e-6)
    nested = ProbabilityMaps.mean([mixed, ProbabilityMaps.single(torch.zeros(2, 2), (16, 16))])
    np.testing.assert_allclose(Prediction.from_maps(nested, 0.5).probabilities, 0.2, atol=1e-6)
