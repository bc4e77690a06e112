from __future__ import annotations

import pytest
import torch

from carvana.config import FitConfig
from carvana.errors import ConfigError
from carvana.inference.preprocess import PreprocessedImage, network_size


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
        512,
        ["trained", "native"],
        (640.0, 960.0),
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


def test_what_an_image_took_while_it_was_read_is_known() -> None:
    shrunken = PreprocessedImage((torch.zeros(10, 20, 3, dtype=torch.uint8),), (1000, 2000))
    assert (shrunken.nbytes, shrunken.read_nbytes) == (600, 6_000_000)
    several = PreprocessedImage(2 * (torch.zeros(10, 20, 3, dtype=torch.uint8),), (10, 20))
    assert several.read_nbytes == several.nbytes == 1200
