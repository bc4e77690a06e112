from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carvana.config import FitConfig
from carvana.data.dataset import SegmentationDataset
from carvana.data.samples import find_samples
from carvana.data.splits import make_split
from carvana.errors import ConfigError
from carvana.training.setup import datasets


def test_the_first_epochs_hand_out_the_small_photos_and_all_others_the_large_ones(tiny_data: Path) -> None:
    samples = find_samples(tiny_data)
    small, large = (SegmentationDataset(samples, size, augment="studio", seed=3) for size in ((32, 48), (64, 96)))
    data = SegmentationDataset(samples, (64, 96), augment="studio", seed=3)
    data.begin_with(small, epochs=2)
    assert (len(data), data.size) == (len(samples), (64, 96))
    for epoch, expected in enumerate((small, small, large, large)):
        for mine, own in zip(data[epoch, 1], expected[epoch, 1], strict=True):
            assert torch.equal(mine, own)
    assert torch.equal(data[1][0], small[1][0])


def test_the_largest_photo_of_any_epoch_is_known(tiny_data: Path) -> None:
    """What a batch takes, and what is read ahead, follows it."""
    samples = find_samples(tiny_data)
    for first, then in (((96, 48), (64, 64)), ((64, 64), (96, 48))):
        data = SegmentationDataset(samples, then, mode="crop")
        data.begin_with(SegmentationDataset(samples, first), epochs=1)
        assert data.largest_size == (96, 48)


def test_other_photos_are_refused(tiny_data: Path) -> None:
    samples = find_samples(tiny_data)
    for other in (samples[:2], samples[::-1]):
        with pytest.raises(ConfigError, match=f"start: its {len(other)} images are not the 20 of data"):
            SegmentationDataset(samples).begin_with(SegmentationDataset(other), epochs=1)


@pytest.mark.parametrize("mode", ["resize", "crop"])
def test_a_recipe_begins_with_whole_photos(mode: str, tiny_data: Path) -> None:
    recipe = FitConfig(
        data={
            "root": tiny_data, "size": [64, 64], "mode": mode, "augment": "none",
            "start_size": [32, 48], "start_epochs": 3, "cache_gb": 0,
        },
        split={"val": 1},
    )  # fmt: skip
    split = make_split(recipe.data, recipe.split)
    train, val = datasets(recipe, split)
    whole = SegmentationDataset(split.train, (32, 48))
    assert torch.equal(train[2, 0][0], whole[0][0])
    assert train[3, 0][0].shape == val[0][0].shape == (3, 64, 64)


def test_size_and_epochs_of_the_beginning_go_together() -> None:
    for data in ({"start_size": [32, 48]}, {"start_epochs": 2}):
        with pytest.raises(ConfigError, match="start_size and start_epochs go together: name both, or neither"):
            FitConfig(data=data)
