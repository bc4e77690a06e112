from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import carvana
from carvana.errors import ConfigError, ModelError
from carvana.inference.tiling.grid import plan_tiles
from carvana.inference.tiling.tiled import Accumulator, _weights, run_tiles, tiled
from carvana.models.segmenter import create_model


class Watched(nn.Module):
    """Keeps the sizes of what a network was given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return self.network(images)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("settings", [{"overlap": 0.0}, {"overlap": 0.4}, {"halo": 8}, {}])
@pytest.mark.parametrize("size", [(70, 90), (33, 200), (20, 20)])
def test_what_looks_at_single_pixels_gives_the_same_in_tiles(size: tuple[int, int], settings: dict[str, float]) -> None:
    photos = images(3, 3, *size)
    pixelwise = nn.Conv2d(3, 5, 1)
    with torch.no_grad():
        joined = carvana.tiled(pixelwise, photos, tile=32, stride=8, batch=4, **settings)
        torch.testing.assert_close(joined, pixelwise(photos), atol=1e-6, rtol=1e-5)


def test_any_callable_and_any_type_will_do() -> None:
    photos = torch.randint(0, 256, (2, 3, 50, 61), dtype=torch.uint8)
    joined = tiled(lambda tiles: tiles[:, :1], photos, tile=20, halo=3)
    assert joined.dtype == torch.uint8
    assert torch.equal(joined, photos[:, :1])


def test_no_pass_sees_more_than_the_tile_and_the_fewest_batches_are_as_large_as_one_another() -> None:
    watched = Watched(nn.Conv2d(3, 1, 3, padding=1))
    with torch.no_grad():
        tiled(watched, images(3, 3, 100, 130), tile=(32, 48), overlap=0.25, stride=16, batch=4)
    plan = plan_tiles((100, 130), tile=(32, 48), overlap=0.25, stride=16)
    assert {shape[2:] for shape in watched.seen} == {(32, 48)}
    counts = [shape[0] for shape in watched.seen]
    assert (sum(counts), len(counts)) == (3 * len(plan), -(-3 * len(plan) // 4))
    assert max(counts) <= 4
    assert max(counts) - min(counts) <= 1


def test_tiles_beyond_the_edge_see_the_picture_mirrored_like_the_whole_padded_once() -> None:
    photo = images(3, 21, 45)
    down, right = (torch.tensor([*range(side), *range(side - 2, -1, -1)]) for side in (21, 45))
    padded = photo.index_select(1, down[:32]).index_select(2, right[:64])
    plan = plan_tiles((21, 45), tile=32, overlap=0.25, stride=16)
    accumulator = Accumulator(photo, plan)
    for rows, columns in plan.places:
        assert torch.equal(accumulator.crop(rows, columns), padded[:, rows.seen, columns.seen])


def test_pictures_of_several_sizes_share_batches() -> None:
    watched = Watched(nn.Conv2d(3, 1, 1))
    photos = [images(3, 64, 100), images(3, 90, 64), images(3, 16, 16)]
    accumulators = [
        Accumulator(photo, plan_tiles((photo.shape[1], photo.shape[2]), tile=32, overlap=0)) for photo in photos
    ]
    with torch.no_grad():
        run_tiles(accumulators, watched, most=lambda _: 5)
        for accumulator, photo in zip(accumulators, photos, strict=True):
            torch.testing.assert_close(accumulator.output, watched.network(photo[None])[0])
    counts = [shape[0] for shape in watched.seen if shape[2:] == (32, 32)]
    assert counts == [4, 5, 5]  # 8 tiles and 6


# The pictures are long and narrow, so that tiles lie between tiles and it takes no more than a moment.
@pytest.mark.parametrize(
    ("name", "options", "halo"),
    [
        ("unet-ref", {"width": 8}, 112),
        pytest.param("unet/resnet18", {}, 288, marks=pytest.mark.slow),
        pytest.param("unetplusplus/resnet18", {}, 288, marks=pytest.mark.slow),
        ("linknet/resnet18", {}, 256),
    ],
)
def test_a_halo_of_the_reach_gives_the_whole_and_a_smaller_one_does_not(
    name: str, options: dict[str, int], halo: int
) -> None:
    torch.manual_seed(0)
    model = create_model(name, options=options).eval()
    stride = model.spec.stride
    photo = images(1, 3, 64, 2 * halo + 8 * stride)
    watched = Watched(model)
    width = 2 * halo + 2 * stride
    with torch.inference_mode():
        whole = model(photo)
        joined = tiled(watched, photo, tile=(64, width), halo=halo, stride=stride)
        assert float((whole - joined).abs().max()) <= 1e-4
        assert {shape[2:] for shape in watched.seen} == {(64, width)}
        assert len(watched.seen) >= 3

        # What a smaller halo costs may be less than float32 rounds off, so it is measured in double precision.
        model, photo = model.double(), photo.double()
        whole = model(photo)
        joined = tiled(model, photo, tile=(64, width), halo=halo, stride=stride)
        smaller = tiled(model, photo, tile=(64, width - 64), halo=halo - 32, stride=stride)
    assert float((whole - joined).abs().max()) < 1e-12
    assert float((whole - smaller).abs().max()) > 1e-8


@pytest.mark.parametrize("batch", [1, 4])
def test_callables_that_work_in_place_or_hand_out_one_buffer_are_fine(batch: int) -> None:
    photos = images(2, 3, 90, 70)
    before = photos.clone()
    for tile in (32, 200):
        joined = tiled(lambda tiles: tiles.sub_(0.5), photos, tile=tile, overlap=0.25, batch=batch)
        torch.testing.assert_close(joined, before - 0.5)
        assert torch.equal(photos, before)
    buffer = torch.empty(batch, 3, 90, 70)
    joined = tiled(lambda tiles: buffer[: len(tiles)].copy_(tiles), photos, tile=200, batch=batch)
    assert torch.equal(joined, before)


def test_wrong_arguments_are_one_line() -> None:
    photos = images(1, 3, 40, 40)
    with pytest.raises(ConfigError, match=r"shape \(3, 40, 40\).*\(N, C, H, W\)"):
        tiled(nn.Identity(), photos[0])
    with pytest.raises(ConfigError, match="batch 0"):
        tiled(nn.Identity(), photos, batch=0)
    with pytest.raises(ConfigError, match="leave overlap out"):
        tiled(nn.Identity(), photos, overlap=0.5, halo=4)
    with pytest.raises(ModelError, match=r"\(10, 10\) for tiles of \(20, 20\)"):
        tiled(lambda tiles: tiles[..., ::2, ::2], photos, tile=20)


def test_weights_of_large_tiles_are_kept_for_one_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    photos, network = images(1, 3, 70, 90), nn.Conv2d(3, 1, 1)
    _weights.cache_clear()
    with torch.no_grad():
        carvana.tiled(network, photos, tile=32, stride=8)
        assert _weights.cache_info().currsize > 0
        monkeypatch.setattr("carvana.inference.tiling.tiled._KEPT", 100)
        carvana.tiled(network, photos, tile=32, stride=8)
    assert _weights.cache_info().currsize == 0
