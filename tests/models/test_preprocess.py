from __future__ import annotations

import numpy as np
import pytest
import torch

from carvana.models.preprocess import normalised, reflected

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)
FORMS = [torch.contiguous_format, torch.channels_last]


def photos(form: torch.memory_format, *size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).contiguous(memory_format=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(7, 9), (1, 5), (1, 1), (8, 16)])
def test_padding_is_numpy_s_reflection_and_keeps_the_order_in_memory(
    form: torch.memory_format, size: tuple[int, int]
) -> None:
    images = photos(form, 2, 3, *size)
    padded = reflected(images, 24, 32)
    edges = ((0, 0), (0, 0), (0, 24 - size[0]), (0, 32 - size[1]))
    np.testing.assert_array_equal(padded.numpy(), np.pad(images.numpy(), edges, mode="reflect"))
    if size != (1, 1):  # one pixel has no order
        assert padded.is_contiguous(memory_format=form)


@pytest.mark.parametrize("form", FORMS)
def test_bytes_and_floats_are_normalised_to_the_same_bits_in_either_order(form: torch.memory_format) -> None:
    images = photos(form, 2, 3, 13, 17)
    before = images.clone()
    expected = (images.float() / 255 - MEAN) / STD
    assert torch.equal(normalised(images, MEAN, STD), expected)
    assert torch.equal(images, before)
    floats = images.float() / 255
    kept = floats.clone()
    assert torch.equal(normalised(floats, MEAN, STD), expected)
    assert torch.equal(floats, kept)
    assert normalised(images, MEAN, STD).is_contiguous(memory_format=form)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_the_photos(form: torch.memory_format) -> None:
    images = photos(form, 1, 3, 5, 6).float().requires_grad_()
    normalised(reflected(images, 8, 8), MEAN, STD).sum().backward()
    assert images.grad is not None
    assert float(images.grad.sum()) == pytest.approx(float(64 * (1 / STD).sum()), rel=1e-5)
