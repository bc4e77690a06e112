"""Preprocessing of images for a network: padding to sizes that it takes, and normalisation.

Both keep the memory format. In channels_last the three channels of a pixel lie side by side, and torch is slow where
its innermost loop has three steps; there, whole rows of pixels are processed at once.
"""

from __future__ import annotations

import torch
from torch import Tensor


def round_up(length: int, stride: int) -> int:
    """The next multiple of the stride."""
    # ONNX rounds quotients towards zero, so an exported graph is right where none is negative.
    return (length + stride - 1) // stride * stride


def padded_size(size: int, stride: int, min_size: int) -> int:
    """The height, or width, after padding of an image with height, or width, ``size``.

    >>> padded_size(1918, 32, 64), padded_size(5, 32, 64)
    (1920, 64)
    """
    return round_up(max(size, min_size), stride)


def reflection(size: int, padded: int, device: torch.device) -> Tensor:
    """Indices 0, 1, .., size - 1, size - 2, .., that bounce off both ends as often as it takes to reach ``padded``.

    Rows and columns are added only after the last ones, so that the network's grid begins at the image's corner.
    """
    last = size - 1
    steps = torch.arange(padded, device=device)
    phase = steps % torch.full_like(steps, max(2 * last, 1))  # by a tensor: ONNX takes no remainder by a symbol
    return last - (phase - last).abs()


def reflected(images: Tensor, height: int, width: int) -> Tensor:
    """Pad images (N, C, h, w) at the lower and right edge by reflection."""
    if torch.compiler.is_exporting():  # an exported graph holds for all sizes: no branch there
        for axis, side in ((2, height), (3, width)):
            images = images.index_select(axis, reflection(images.shape[axis], side, images.device))
        return images
    form = (
        torch.channels_last if _channels_last(images) else torch.contiguous_format
    )  # torch.cat keeps it if all have it
    for axis, side in ((2, height), (3, width)):
        size = images.shape[axis]
        if side != size:
            beyond = images.index_select(axis, reflection(size, side, images.device)[size:])
            images = torch.cat([images, beyond.contiguous(memory_format=form)], axis)
    return images


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Subtract ``mean`` and divide by ``std``, (1, 3, 1, 1) each, from pixels in [0, 1], or in 0..255 if of uint8."""
    count, channels, height, width = images.shape
    pixels = images.to(mean.dtype)
    if torch.compiler.is_exporting() or not _channels_last(pixels):
        return ((pixels / 255 if images.dtype == torch.uint8 else pixels) - mean) / std
    rows = pixels.permute(0, 2, 3, 1).reshape(count, height, width * channels)
    mean, std = (values.flatten().repeat(width) for values in (mean, std))
    # uint8 was copied above, so the copy may be changed in place; floats are the caller's tensor.
    rows = rows.div_(255).sub_(mean) if images.dtype == torch.uint8 else rows - mean
    return rows.div_(std).reshape(count, height, width, channels).permute(0, 3, 1, 2)


def _channels_last(images: Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last)
