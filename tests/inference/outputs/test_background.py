from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carvana.data.io.images import write_image
from carvana.errors import ConfigError, DataError
from carvana.inference.outputs.background import Colour, Picture, compose, cover, parse_background


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("share", [0, 1, 100, 254, 255])
def test_a_cut_out_lies_on_its_background_as_pillow_lays_it(share: int) -> None:
    cut = noise(20, 30, 4)
    cut[:10, :, 3] = share
    behind = noise(20, 30, 3, seed=1)
    picture = Image.fromarray(behind).convert("RGBA")
    picture.alpha_composite(Image.fromarray(cut, "RGBA"))
    expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(compose(cut, Picture(behind, "")) - expected).max() <= 1
    exact = cut[..., 3:] / 255 * cut[..., :3] + (1 - cut[..., 3:] / 255) * behind
    assert np.abs(compose(cut, Picture(behind, "")) - exact).max() <= 0.5 + 1e-4


def test_a_colour_is_everywhere_behind() -> None:
    cut = noise(6, 8, 4)
    cut[..., 3] = 0
    cut[2, 3, 3] = 255
    result = compose(cut, Colour((1, 2, 3)))
    assert (result[2, 3] == cut[2, 3, :3]).all()
    result[2, 3] = (1, 2, 3)
    assert (result == (1, 2, 3)).all()


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (10, 90), (7, 7), (200, 300), (1, 1)])
def test_a_picture_covers_the_photo_evenly_around_its_middle(size: tuple[int, int]) -> None:
    height, width = 90, 120
    rows, columns = np.mgrid[:height, :width]
    ramps = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    covered = cover(ramps, size)
    assert covered.shape == (*size, 3)
    scale = max(size[0] / height, size[1] / width)
    down = (np.arange(size[0]) + 0.5 - size[0] / 2) / scale + height / 2 - 0.5
    right = (np.arange(size[1]) + 0.5 - size[1] / 2) / scale + width / 2 - 0.5
    off_by_a_pixel = 1.5 + 1 / scale
    assert np.abs(covered[..., 0] - np.clip(down, 0, height - 1)[:, None]).max() <= off_by_a_pixel
    assert np.abs(covered[..., 1] - np.clip(right, 0, width - 1)[None]).max() <= off_by_a_pixel


def test_colours_go_by_name_and_pictures_by_path(tmp_path: Path) -> None:
    assert parse_background("White") == Colour((255, 255, 255))
    assert parse_background("#0a84ff") == Colour((10, 132, 255))
    path = tmp_path / "street.png"
    write_image(path, noise(9, 12, 3))
    picture = parse_background(str(path))
    np.testing.assert_array_equal(picture.pixels((9, 12)), noise(9, 12, 3))
    assert picture.settings() != parse_background("white").settings()
    bare = path.rename(tmp_path / "street")
    np.testing.assert_array_equal(parse_background(str(bare)).pixels((9, 12)), noise(9, 12, 3))


def test_what_is_neither_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no picture .*'whit' is not a colour.*did you mean 'white'") as error:
        parse_background("whit")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        parse_background(str(tmp_path / "nowhere.jpg"))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png: not an image"):
        parse_background(str(tmp_path / "text.png"))
    for text in ("#12345", "#ggg", ""):
        with pytest.raises((ConfigError, DataError)):
            parse_background(text)
