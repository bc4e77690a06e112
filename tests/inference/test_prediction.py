from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from carvana.config import FitConfig
from carvana.errors import ConfigError
from carvana.inference.prediction import THRESHOLDS, Prediction, ProbabilityMaps, network_size


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


def test_a_model_that_saw_photos_at_their_own_size_does_so_again() -> None:
    assert network_size("trained", None) is None


@pytest.mark.parametrize("scale", ["640x960", " 640 x 960 ", (640, 960), [640, 960]])
def test_sizes_are_height_times_width(scale: object) -> None:
    assert network_size(scale, (128, 128)) == (640, 960)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "scale",
    [
        "640",
        "0x960",
        "640x",
        "big",
        "-1x5",
        (640,),
        (0, 5),
        "",
        "7x960",
        "640x16385",
        "1000000x1000000",
        pytest.param("9" * 5000 + "x9", id="more digits than int takes"),
    ],
)
def test_anything_else_is_refused_in_one_line(scale: object) -> None:
    with pytest.raises(ConfigError, match="expected trained, native or HEIGHTxWIDTH") as error:
        network_size(scale, None)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(8, 8), (16384, 8)])
def test_the_bounds_are_those_of_a_recipe(size: tuple[int, int]) -> None:
    assert network_size("{}x{}".format(*size), None) == FitConfig(data={"size": size}).data.size == size  # type: ignore[arg-type]
    for wrong in (size[0] + 16384, size[0] - 16380):
        with pytest.raises(ValueError, match=r"8|16384"):
            FitConfig(data={"size": (wrong, 64)})  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            network_size((wrong, 64), None)


def test_a_misspelt_scale_is_answered_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'native'"):
        network_size("nativ", None)
