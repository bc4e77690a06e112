from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from caching import Listener
from torch import Tensor, nn

import carvana
from carvana.errors import ConfigError, ModelError
from carvana.inference.tiling.grid import plan_whole
from carvana.inference.tiling.sliding_window import SlidingWindowConfig, SlidingWindowInferer
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))


def segmenter(module: nn.Module | None = None, **spec: Any) -> Segmenter:
    return Segmenter(module or network(), ModelSpec(**({"arch": "test", "stride": 8, "min_size": 16} | spec)))


def predictor(module: nn.Module | None = None, **settings: Any) -> carvana.Predictor:
    settings = {"scale": "native", "precision": "fp32"} | settings
    return carvana.Predictor(segmenter(module), **settings)


def photo(height: int = 300, width: int = 420, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


class Limited(nn.Module):
    """A network on a device that holds so many pixels at once."""

    def __init__(self, most: int, words: str = "CUDA out of memory. Tried to allocate 2 GiB") -> None:
        super().__init__()
        self.inner = network()
        self.most, self.words = most, words
        self.tried: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.tried.append(tuple(images.shape))
        if len(images) * images.shape[2] * images.shape[3] > self.most:
            raise torch.OutOfMemoryError(self.words) if "CUDA" in self.words else RuntimeError(self.words)
        return self.inner(images)


def inferer(
    module: nn.Module,
    *,
    batch_pixels: int = 2**20,
    min_size: int = 16,
    reporter: Listener | None = None,
    **cover: Any,
) -> SlidingWindowInferer:
    engine = StubEngine(module, ModelSpec(arch="test", stride=8, min_size=min_size))
    return SlidingWindowInferer(engine, SlidingWindowConfig(**cover), batch_pixels=batch_pixels, reporter=reporter)


class StubEngine:
    """A module on the CPU, with numbers of its own for the receptive field and the memory."""

    device, precision = torch.device("cpu"), "fp32"

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self.module, self.spec = module, spec

    def __call__(self, images: Tensor) -> Tensor:
        return self.module(images.float() / 255)

    def receptive_field(self) -> int:
        return 10

    def bytes_per_pixel(self) -> float:
        return 100.0

    def digest(self) -> str:
        return ""


def tensors(*photos: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(each).permute(2, 0, 1) for each in photos]


def test_exact_tiles_give_what_the_whole_gives() -> None:
    whole = predictor(mode="whole").predict(photo()).probabilities
    tiles = predictor(mode="tiles", tile=128, join="exact")
    assert len(tiles.plan((300, 420))) > 4
    np.testing.assert_allclose(tiles.predict(photo()).probabilities, whole, atol=1e-6)
    blended = predictor(mode="tiles", tile=128, overlap=0.5).predict(photo()).probabilities
    assert 1e-5 < np.abs(blended - whole).max() < 0.1


def test_auto_is_whole_where_it_fits_and_else_the_cheapest_tiles_that_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carvana")
    large = photo(1000, 1100)
    roomy, tight = predictor(), predictor(memory=0.05)
    assert len(roomy.plan((1000, 1100))) == 1
    plan = tight.plan((1000, 1100))
    assert len(plan) > 1
    assert "1000x1100 pixels do not fit the memory at once; they go in" in caplog.text
    np.testing.assert_allclose(
        tight.predict(large).probabilities, roomy.predict(large).probabilities, atol=0.2
    )  # blended: only near the tiles' edges is it another
    exact = predictor(memory=0.05, join="exact")
    np.testing.assert_allclose(exact.predict(large).probabilities, roomy.predict(large).probabilities, atol=1e-6)


def test_tiles_are_made_where_they_are_asked_for_though_it_fits() -> None:
    plan = predictor(mode="tiles").plan((900, 1300))
    assert len(plan) == 2
    assert plan.cost < 1.15
    assert len(predictor(mode="tiles").plan((60, 60))) == 1  # nothing to divide


def test_auto_makes_the_tiles_that_are_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carvana")
    for asked in ({"tile": 128}, {"overlap": 0.5}, {"tile": 128, "overlap": 0.5}, {"tile": 128, "join": "exact"}):
        assert predictor(**asked).plan((600, 700)) == predictor(mode="tiles", **asked).plan((600, 700))
        assert predictor(**asked).settings() == predictor(mode="tiles", **asked).settings()
    assert len(predictor(tile=128).plan((600, 700))) > 1
    assert "do not fit" not in caplog.text


def test_an_overlap_alone_means_the_usual_tiles() -> None:
    assert predictor(mode="tiles", overlap=0.5).plan((1280, 1918)).tile == (512, 512)


def test_out_of_memory_halves_the_batch_then_the_tile_says_so_once_and_goes_on() -> None:
    module, listener = Limited(5000), Listener()
    cover = inferer(module, batch_pixels=16 * 64 * 128, reporter=listener, mode="tiles", tile=(64, 128), overlap=0.25)
    pictures = tensors(photo(200, 300), photo(200, 300, seed=1))
    with torch.no_grad():
        results = cover.logits(pictures)
        expected = [module.inner(picture[None].float() / 255)[0] for picture in pictures]
    counts = [shape[0] for shape in module.tried if shape[2:] == (64, 128)]
    assert counts == [12, 6, 3, 1]  # 24 tiles, of which 16 may go together
    assert {shape[2:] for shape in module.tried[4:]} == {(32, 64)}
    assert max(math.prod(shape) // 3 for shape in module.tried[4:]) <= 16 * 64 * 128
    for result, truth in zip(results, expected, strict=True):
        assert float((result - truth).abs().mean()) < 0.01
    assert listener.warnings == ["test: 12 x 64x128 pixels do not fit the memory; it goes on with less at once"]
    module.tried.clear()
    with torch.no_grad():
        cover.logits(pictures)
    assert all(math.prod(shape) // 3 <= 5000 for shape in module.tried)  # it is kept in mind


def test_windows_are_halved_where_memory_runs_short_until_one_could_take_nothing() -> None:
    draft, cells = torch.full((600, 800), 0.25), np.zeros((75, 100), bool)
    cells[30, 10:90] = True
    [picture] = tensors(photo(600, 800))
    module = Limited(10_000)
    with torch.no_grad():
        [refined] = inferer(module, batch_pixels=2**20, reporter=Listener()).refine([picture], [draft], [cells])
    assert {shape[2:] for shape in module.tried} == {(192, 192), (96, 96)}
    assert (refined[240:248, 80:720] != 0.25).all()
    assert (refined[:100] == 0.25).all()
    for least, pixels in ((16, 500), (64, 4000)):  # windows of 24 pixels, which a network may need to be larger
        words = r"^test does not fit the memory in windows of 24x24 pixels; take a larger --memory"
        small = inferer(Limited(pixels), min_size=least, reporter=Listener())
        with torch.no_grad(), pytest.raises(ModelError, match=words):
            small.refine([picture], [draft], [cells])


@pytest.mark.parametrize(("join", "least", "side"), [("blend", 24, 24), ("exact", 28, 32)])
def test_windows_that_take_nothing_are_refused(join: str, least: int, side: int) -> None:
    cells = np.ones((75, 100), bool)
    with pytest.raises(ConfigError, match=rf"tile {least - 1}: too small for windows.* at least {least}"):
        inferer(network(), tile=least - 1, join=join).plan_refinement(cells, (600, 800))
    made = inferer(network(), tile=least, join=join)
    assert made.plan_refinement(cells, (600, 800)) == plan_whole((600, 800))
    cells[2:] = False
    assert made.plan_refinement(cells, (600, 800)).tile == (side, side)


def test_auto_goes_on_in_tiles_where_the_whole_does_not_fit_after_all() -> None:
    module, listener = Limited(150_000, "DefaultCPUAllocator: can't allocate memory"), Listener()
    made = predictor(module, reporter=listener)
    whole = predictor(module.inner, mode="whole").predict(photo(500, 600)).probabilities
    assert np.abs(made.predict(photo(500, 600)).probabilities - whole).mean() < 0.01
    assert len(listener.warnings) == 1


def test_what_is_learned_of_a_large_photo_leaves_small_ones_alone() -> None:
    for settings in ({}, {"mode": "tiles"}):
        made = predictor(Limited(300_000), reporter=Listener(), **settings)
        made.predict(photo(1000, 1000))
        for side in (200, 150, 100, 64, 9):
            assert made.predict(photo(side, side)).mask.shape == (side, side)


def test_a_narrow_photo_is_divided_along_its_length() -> None:
    made = predictor(Limited(300_000), reporter=Listener())
    assert made.predict(photo(20, 20_000)).mask.shape == (20, 20_000)
    assert len(made.plan((20, 20_000)).columns) > 1


@pytest.mark.parametrize("size", [(10, 700), (700, 13), (5, 900), (3, 3)])
def test_exact_tiles_of_photos_below_the_smallest_size_are_exact_too(size: tuple[int, int]) -> None:
    spec = {"stride": 16, "min_size": 32}
    whole, tiles = (
        carvana.Predictor(segmenter(**spec), scale="native", precision="fp32", **settings).predict(photo(*size))
        for settings in ({"mode": "whole"}, {"mode": "tiles", "tile": 64, "join": "exact"})
    )
    np.testing.assert_allclose(tiles.probabilities, whole.probabilities, atol=1e-6)


def test_tiles_are_never_smaller_than_the_network_takes() -> None:
    kernel = nn.Conv2d(3, 1, 9, padding=4)
    made = carvana.Predictor(
        segmenter(kernel, stride=32, min_size=256),
        scale="native",
        precision="fp32",
        mode="tiles",
        tile=256,
        join="exact",
    )
    whole = carvana.Predictor(
        segmenter(kernel, stride=32, min_size=256), scale="native", precision="fp32", mode="whole"
    )
    assert made.plan((600, 700)).tile == (256, 256)
    expected = whole.predict(photo(600, 700)).probabilities
    np.testing.assert_allclose(made.predict(photo(600, 700)).probabilities, expected, atol=1e-6)


def test_a_named_memory_counts_for_small_photos_as_well() -> None:
    each = predictor().engine.bytes_per_pixel()
    assert len(predictor(memory=each * 300**2 / 1e9).plan((500, 500))) > 1
    assert len(predictor().plan((500, 500))) == 1


def test_padding_counts_in_a_batch() -> None:
    cover = inferer(network(), batch_pixels=4 * 16 * 16, reporter=Listener(), mode="whole")
    assert cover.fits_batch((4, 4), [(4, 4)] * 3)
    assert not cover.fits_batch((4, 4), [(4, 4)] * 4)


def test_whole_is_never_divided() -> None:
    with pytest.raises(ModelError, match=r"300x420 pixels .*take --mode tiles, or a smaller scale.*150x210$"):
        predictor(Limited(1000), mode="whole").predict(photo())


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(ModelError, match="RuntimeError: mat1 and mat2"):
        predictor(Limited(1000, "mat1 and mat2 shapes cannot be multiplied")).predict(photo())


def test_a_memory_that_holds_no_tile_is_one_line() -> None:
    with pytest.raises(ModelError, match=r"test does not fit the memory with images of 900x900 pixels .*in common"):
        predictor(memory=1e-6).predict(photo(900, 900))


def test_no_more_than_the_photos_in_flight_go_together() -> None:
    cover = inferer(network(), batch_pixels=2**14, reporter=Listener(), mode="tiles", tile=64, overlap=0)
    assert cover.fits_batch((128, 128), [(128, 128)])
    assert cover.fits_batch((128, 192), [(128, 128)])  # another size, the same tiles
    assert not cover.fits_batch((128, 128), [(128, 128)] * 4)
    assert not cover.fits_batch((40, 40), [(128, 128)])
    whole = inferer(network(), batch_pixels=2**14, reporter=Listener(), mode="whole")
    assert whole.fits_batch((64, 64), [(64, 64)] * 3)
    assert not whole.fits_batch((64, 64), [(64, 64)] * 4)
    assert not whole.fits_batch((64, 72), [(64, 64)])


def test_what_cannot_be_joined_exactly_says_why() -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3), keepdim=True) + images[:, :1]

    message = r"test has no exact join: from its layer .* on every value depends on the whole.*--join blend"
    with pytest.raises(ModelError, match=message):
        predictor(Mean(), mode="tiles", tile=64, join="exact").predict(photo())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "tile"}, "mode 'tile' is unknown; expected auto, whole, tiles; did you mean 'tiles'"),
        ({"join": "exakt"}, "join 'exakt' .*did you mean 'exact'"),
        ({"memory": 0}, "memory 0: expected GB above 0"),
        ({"mode": "whole", "tile": 512}, "mode whole takes no tile"),
        ({"overlap": 0.25, "join": "exact"}, r"overlap 0\.25 with the exact join"),
        ({"overlap": 1.0}, "overlap 1.0 cannot be used"),
        ({"tile": -4}, "tile -4 cannot be used"),
        ({"tile": 0}, "tile 0 cannot be used"),
        ({"tile": 512.0}, r"tile 512\.0 cannot be used"),
        ({"memory": float("inf")}, "memory inf: expected GB above 0"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        predictor(**settings)


def test_settings_that_may_change_a_mask_are_told_apart() -> None:
    assert predictor().settings() == {"scale": "native", "threshold": 0.5, "precision": "fp32"}
    told = predictor(mode="tiles", tile=64, join="exact", tta=True).settings()
    assert told | {"mode": "tiles", "tile": 64, "join": "exact", "tta": True} == told


def test_a_flip_is_averaged_with_the_photo_itself() -> None:
    made, plain = predictor(tta=True), predictor()
    image = photo(57, 90)
    mirrored = plain.predict(np.ascontiguousarray(image[:, ::-1])).probabilities[:, ::-1]
    expected = (plain.predict(image).probabilities + mirrored) / 2
    np.testing.assert_allclose(made.predict(image).probabilities, expected, atol=1e-6)
    assert np.abs(expected - plain.predict(image).probabilities).max() > 1e-3
    tiles = predictor(tta=True, mode="tiles", tile=32, join="exact")
    np.testing.assert_allclose(tiles.predict(image).probabilities, expected, atol=1e-6)


def test_photos_of_several_sizes_stream_in_order() -> None:
    sizes = [(40, 50), (200, 260), (40, 50), (90, 30)]
    made = predictor(mode="tiles", tile=64)
    photos = [photo(*sizes[number % 4], seed=number) for number in range(12)]
    for image, prediction in zip(photos, made.predict_many(iter(photos)), strict=True):
        np.testing.assert_array_equal(prediction.mask, made.predict(image).mask)
