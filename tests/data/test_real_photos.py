"""What the competition's own files must give: run where CARVANA_DATA names a folder of them."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from reference import dice

from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask, shrink_mask
from carvana.data.samples import Sample, find_samples

pytestmark = pytest.mark.skipif("CARVANA_DATA" not in os.environ, reason="CARVANA_DATA names no folder of real images")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    found = find_samples(Path(os.environ["CARVANA_DATA"]))
    return found[:: len(found) // 24]


def test_photos_and_masks_read_as_pillow_reads_them(samples: list[Sample]) -> None:
    for sample in samples[:6]:
        theirs = np.asarray(Image.open(sample.image).convert("RGB")).astype(int)
        assert np.abs(read_image(sample.image).astype(int) - theirs).mean() < 1
        assert (read_mask(sample.mask) == np.asarray(Image.open(sample.mask).convert("L")) // 255).all()


def ceiling(samples: list[Sample], target: str) -> float:
    """The Dice of a network that repeats its 128 x 128 targets without an error."""
    scores = []
    for sample in samples:
        mask = read_mask(sample.mask)
        small = shrink_mask(mask, (128, 128), target=target).astype(np.float32) / 255
        large = cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        scores.append(dice(large > 0.5, mask))
    return float(np.mean(scores))


def test_coverage_lifts_the_ceiling_that_nearest_masks_set(samples: list[Sample]) -> None:
    assert ceiling(samples, "nearest") < 0.985
    assert ceiling(samples, "coverage") > 0.9965
