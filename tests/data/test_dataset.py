from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from carvana.data.cache import build_caches
from carvana.data.dataset import EpochSampler, SegmentationDataset
from carvana.data.io.images import read_image, write_image
from carvana.data.io.masks import read_mask, write_mask
from carvana.data.samples import Sample, find_samples
from carvana.errors import ConfigError, DataError
from carvana.task import Task


def test_an_item_is_an_image_and_the_coverage_of_its_mask(tiny_data: Path) -> None:
    samples = find_samples(tiny_data)
    image, coverage = SegmentationDataset(samples, size=(40, 60))[3]
    assert image.dtype == torch.uint8
    assert tuple(image.shape) == (3, 40, 60)
    mask = read_mask(samples[3].mask).astype(float)
    assert np.abs(coverage[0].numpy() - mask.reshape(40, 4, 60, 4).mean(axis=(1, 3))).max() <= 0.51 / 255
    whole = read_image(samples[3].image).astype(float).reshape(40, 4, 60, 4, 3).mean(axis=(1, 3))
    assert np.abs(image.permute(1, 2, 0).numpy() - whole).mean() < 3


@pytest.mark.parametrize("mode", ["resize", "crop"])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_do_not_depend_on_the_workers(tiny_data: Path, mode: str, workers: int) -> None:
    data = SegmentationDataset(find_samples(tiny_data), size=(32, 48), mode=mode, augment="studio", seed=7)
    sampler = EpochSampler(len(data), seed=7)
    sampler.set_epoch(2)
    expected = [data[key] for key in sampler]
    loader = DataLoader(data, batch_size=3, sampler=sampler, num_workers=workers)
    for number, (images, masks) in enumerate(loader):
        for place in range(len(images)):
            assert torch.equal(images[place], expected[3 * number + place][0])
            assert torch.equal(masks[place], expected[3 * number + place][1])


def test_epochs_differ_in_order_and_in_augmentation(tiny_data: Path) -> None:
    data = SegmentationDataset(find_samples(tiny_data), size=(32, 48), augment="studio")
    assert not torch.equal(data[0, 5][0], data[1, 5][0])
    sampler = EpochSampler(50, seed=0)
    first = [index for _, index in sampler]
    sampler.set_epoch(1)
    assert sorted(first) == list(range(50))
    assert first != [index for _, index in sampler]


def test_most_crops_hold_a_boundary_and_come_at_native_size(tmp_path: Path, rng: np.random.Generator) -> None:
    mask = np.zeros((400, 600), np.uint8)
    mask[180:200, 280:300] = 1
    write_image(tmp_path / "a.png", rng.integers(0, 256, (400, 600, 3), dtype=np.uint8))
    write_mask(tmp_path / "m.png", mask)
    data = SegmentationDataset([Sample(tmp_path / "a.png", tmp_path / "m.png", "a")], size=(64, 64), mode="crop")
    photo = read_image(tmp_path / "a.png")
    held = []
    for epoch in range(60):
        image, coverage = data[epoch, 0]
        held.append(bool(0 < float(coverage.mean()) < 1))
        top = image.permute(1, 2, 0).numpy()[0]
        assert any((photo[y, x : x + 64] == top).all() for y, x in np.argwhere((photo == top[0]).all(axis=2)))
    assert sum(held) > 40  # by chance it would be 3


def some(classes: int, size: tuple[int, int], folder: Path, rng: np.random.Generator) -> list[Sample]:
    """An image with blocks of labels."""
    write_image(folder / "a.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    blocks = rng.integers(0, classes, (size[0] // 7 + 1, size[1] // 7 + 1)).astype(np.uint8)
    labels = blocks.repeat(7, 0).repeat(7, 1)[: size[0], : size[1]]
    cv2.imwrite(str(folder / "m.png"), labels)
    return [Sample(folder / "a.png", folder / "m.png", "a")]


@pytest.mark.parametrize("crops", ["boundary", "class", "any"])
@pytest.mark.parametrize("size", [(90, 130), (40, 130)])  # the second is padded to the size of crops
def test_labels_that_are_kept_give_the_same_pieces_as_their_files(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, crops: str, size: tuple[int, int]
) -> None:
    task = Task(classes={"one": 0, "two": 1, "three": 2}, ignore=[3])
    samples = some(4, size, tmp_path, rng)

    def items() -> list[tuple[torch.Tensor, ...]]:
        data = SegmentationDataset(samples, (48, 64), task=task, mode="crop", crops=crops, seed=1)
        return [data[epoch, 0] for epoch in range(5)]

    kept = items()
    monkeypatch.setattr("carvana.data.dataset.KEPT_BYTES", 0)
    for one, other in zip(kept, items(), strict=True):
        assert all(torch.equal(part, same) for part, same in zip(one, other, strict=True))


def test_the_file_of_a_mask_is_read_once_for_all_pieces(tmp_path: Path, rng: np.random.Generator) -> None:
    samples = some(2, (90, 130), tmp_path, rng)
    write_mask(tmp_path / "m.png", np.pad(np.ones((40, 60), np.uint8), ((30, 20), (20, 50))))
    data = SegmentationDataset(samples, (48, 64), mode="crop")
    first = data[0, 0]
    mask = (tmp_path / "m.png").read_bytes()
    (tmp_path / "m.png").unlink()
    assert all(torch.equal(one, same) for one, same in zip(first, data[0, 0], strict=True))
    sent = pickle.loads(pickle.dumps(data))  # as to a process that reads, which begins with none kept
    with pytest.raises(DataError, match=r"m\.png"):
        sent[0, 0]
    (tmp_path / "m.png").write_bytes(mask)
    assert all(torch.equal(one, same) for one, same in zip(first, sent[0, 0], strict=True))
    data.size = (100, 140)  # larger than the image, which is padded now
    assert tuple(data[0, 0][0].shape) == (3, 100, 140)
    write_image(tmp_path / "a.png", np.zeros((80, 130, 3), np.uint8))
    data.size = (48, 64)
    with pytest.raises(DataError, match="they differ in size"):
        data[1, 0]


def test_crops_see_the_edges_of_a_photo(tmp_path: Path) -> None:
    rows = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 300, 3))
    write_image(tmp_path / "a.png", rows)
    write_mask(tmp_path / "m.png", np.zeros((200, 300), np.uint8))
    data = SegmentationDataset([Sample(tmp_path / "a.png", tmp_path / "m.png", "a")], size=(64, 64), mode="crop")
    seen = [data[epoch, 0][0] for epoch in range(200)]
    for row in (0, 199):
        assert sum(bool((image == row).any()) for image in seen) > 15  # a random corner would show each to one in 137


def test_a_photo_smaller_than_the_crop_is_padded(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.full((20, 30, 3), 9, np.uint8))
    write_mask(tmp_path / "m.png", np.ones((20, 30), np.uint8))
    data = SegmentationDataset([Sample(tmp_path / "a.png", tmp_path / "m.png", "a")], size=(64, 48), mode="crop")
    image, coverage = data[0]
    assert tuple(image.shape) == (3, 64, 48)
    assert float(coverage.min()) == 1


def test_mistakes_are_told(tmp_path: Path, tiny_data: Path) -> None:
    samples = find_samples(tiny_data)
    with pytest.raises(ConfigError, match="tiles"):
        SegmentationDataset(samples, mode="tiles")
    with pytest.raises(ConfigError, match="64x96: expected mode crop"):
        SegmentationDataset(samples, (32, 48), scale=(64, 96))
    with pytest.raises(ConfigError, match="no less than pieces of 32x48"):
        SegmentationDataset(samples, (32, 48), mode="crop", scale=(64, 40))
    with pytest.raises(ConfigError, match="soft"):
        SegmentationDataset(samples, target="soft")
    with pytest.raises(DataError, match="no mask"):
        SegmentationDataset([Sample(samples[0].image, None, "a")])[0]
    write_mask(tmp_path / "m.png", np.ones((20, 30), np.uint8))
    with pytest.raises(DataError, match="30 x 20"):
        SegmentationDataset([Sample(samples[0].image, tmp_path / "m.png", "a")], size=(16, 16), mode="crop")[0]
    with pytest.raises(DataError, match="augmentation"):
        SegmentationDataset(samples, augment=lambda *, image, mask: {"image": image[:8], "mask": mask})[0]


@pytest.mark.parametrize("cached", [False, True])
def test_pieces_of_shrunken_images_are_parts_of_them(tiny_data: Path, tmp_path: Path, cached: bool) -> None:
    samples, scale = find_samples(tiny_data), (64, 96)
    [cache] = build_caches([samples], scale, folder=tmp_path) if cached else [None]
    data = SegmentationDataset(samples, (32, 40), mode="crop", scale=scale, cache=cache)
    whole = SegmentationDataset(samples, scale)
    assert data.shown_size == scale
    held = []
    for epoch in range(8):
        for index in range(len(samples)):
            (piece, target), (image, mask) = data[epoch, index], whole[index]
            places = [
                (top, left)
                for top in range(64 - 32 + 1)
                for left in range(96 - 40 + 1)
                if torch.equal(image[:, top, left : left + 40], piece[:, 0])
            ]
            parts = [np.s_[:, top : top + 32, left : left + 40] for top, left in places]
            assert any(torch.equal(image[part], piece) and torch.equal(mask[part], target) for part in parts)
            held.append(0 < target.mean() < 1)
    assert np.mean(held) > 0.75


def test_pieces_of_shrunken_label_maps_hold_what_is_sought(tmp_path: Path) -> None:
    labels = np.zeros((120, 160), np.uint8)
    labels[100:104, 140:144], labels[:10] = 3, 255
    write_image(tmp_path / "a.png", np.zeros((120, 160, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "m.png"), labels)
    task = Task(kind="multiclass", classes=[{"name": str(value), "value": value} for value in range(4)], ignore=[255])
    sample = Sample(tmp_path / "a.png", tmp_path / "m.png", "a")
    data = SegmentationDataset([sample], (16, 16), task=task, mode="crop", scale=(60, 80), crops="class")
    items = [data[epoch, 0] for epoch in range(100)]
    assert all(torch.equal(target.sum(0, keepdim=True), valid) for _, target, valid in items)
    assert np.mean([target[3].max() == 1 for _, target, _ in items]) > 0.3  # it covers 1 in 1,000 pixels
    assert any(valid.min() == 0 for *_, valid in items)


def test_among_crops_a_share_of_photos_is_whole(tiny_data: Path) -> None:
    samples = find_samples(tiny_data)
    whole, crops = (SegmentationDataset(samples, (48, 72), mode=mode) for mode in ("resize", "crop"))
    mixed = SegmentationDataset(samples, (48, 72), mode="crop", whole=0.3)
    found = 0
    for epoch in range(10):
        for index in range(len(samples)):
            item = mixed[epoch, index][0]
            is_whole = torch.equal(item, whole[index][0])
            assert is_whole or torch.equal(item, crops[epoch, index][0])
            found += is_whole
    assert 0.2 < found / (10 * len(samples)) < 0.4
