"""Augmentation of training images.

An augmentation is any callable with albumentations' convention, ``augment(image=..., mask=...)`` giving a mapping
with the same two keys: image uint8 (H, W, channels), mask float32 (H, W), the share of each pixel that the object
covers; of several classes (H, W, P), a plane for each. Where classes exclude each other, a pixel that no plane covers
counts for nothing.
The augmentations here keep that share: albumentations, by default, moves masks by nearest neighbour.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from carvana.errors import CarvanaError, ConfigError, error_line
from carvana.registry import registry

Augment = Callable[..., Mapping[str, Any]]


RGB_ALONE = {
    "studio": "the brightness of each changes instead of hue and saturation, and noise comes in place of JPEG's",
    "scene": "the brightness of each changes instead of hue and saturation",
}
"""What replaces, in augmentations here, that which only RGB can be given."""


def make_augment(name: str, *, void: bool = False, rgb: bool = True) -> Augment | None:
    """The augmentation of a registered name; None for "none".

    Args:
        name: The name.
        void: Whether a task knows pixels that count for nothing. If so, what comes in at a border is void, with grey in
            the image; else the edge is repeated, in the mask as well.
        rgb: Whether images are RGB. Other channels have no hue and no saturation, and JPEG does not compress them:
            the augmentations here change how bright each channel is instead, and add noise.

    Raises:
        UnknownNameError: no augmentation has this name.
    """
    entry = registry.augments.entry(name)
    try:
        factory = entry.load()
        takes = inspect.signature(factory).parameters
        augment: Augment | None = factory(
            **({"void": True} if void and "void" in takes else {}),
            **({} if rgb or "rgb" not in takes else {"rgb": False}),
        )
    except CarvanaError:
        raise
    except (Exception, SystemExit) as error:  # a factory of a plugin may raise anything
        raise ConfigError(
            f"the augmentation '{name}' (from {entry.source}) cannot be made: {error_line(error)}; expected a factory "
            "without arguments that returns it"
        ) from error
    if augment is not None and not callable(augment):
        raise ConfigError(
            f"the augmentation '{name}' (from {entry.source}) cannot be made: its factory returned {augment!r:.60}"
        )
    return augment


def flip() -> Augment:
    """Left and right exchanged, in half of the images; unlike rotation it leaves every pixel as sharp as it is."""
    return _compose([_albumentations().HorizontalFlip(p=0.5)])


def turns() -> Augment:
    """Mirror images and quarter turns, of what has no upright; of oblong images half turns, which keep their shape."""
    return _Turns()


class _Turns:
    """An augmentation that depends on the shape of the image."""

    def __init__(self) -> None:
        a = _albumentations()
        self.transforms = [
            _compose([a.HorizontalFlip(p=0.5), a.VerticalFlip(p=0.5)]),
            _compose([a.HorizontalFlip(p=0.5), a.VerticalFlip(p=0.5), a.Transpose(p=0.5)]),
        ]

    def set_random_state(self, generator: np.random.Generator, python: random.Random) -> None:
        for each in self.transforms:
            each.set_random_state(generator, python)  # type: ignore[attr-defined]

    def __call__(self, *, image: np.ndarray, mask: np.ndarray) -> Mapping[str, Any]:
        oblong, square = self.transforms
        return (square if image.shape[0] == image.shape[1] else oblong)(image=image, mask=mask)


def seed(*, void: bool = False) -> Augment:
    """The seed project's augmentation: flips, and rotations of up to 8 degrees either way."""
    a = _albumentations()
    return _compose([a.HorizontalFlip(p=0.5), a.Rotate(limit=(-8, 8), p=1.0, **_border(void))])


def studio(*, void: bool = False, rgb: bool = True) -> Augment:
    """Variations of a photo studio: framing, perspective, colour, light, focus, noise."""
    a = _albumentations()
    edge, noise = _border(void), a.GaussNoise(std_range=(0.005, 0.03), p=0.2)
    return _compose(
        [
            a.HorizontalFlip(p=0.5),
            a.Affine(
                scale=(0.8, 1.2),
                translate_percent={"x": (-0.08, 0.08), "y": (-0.08, 0.08)},
                rotate=(-8, 8),
                shear={"x": (-4, 4), "y": (-2, 2)},
                keep_ratio=True,
                p=0.9,
                **edge,
            ),
            a.Perspective(scale=(0.02, 0.05), p=0.2, **edge),
            _hue(12, 25, 15) if rgb else _gains(),
            a.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
            a.RandomGamma(gamma_limit=(75, 130), p=0.3),
            a.OneOf([a.GaussianBlur(sigma_limit=(0.3, 1.2), p=1.0), a.MotionBlur(blur_limit=(3, 5), p=1.0)], p=0.1),
            a.ImageCompression(quality_range=(55, 95), p=0.2) if rgb else noise,
            noise,
        ]
    )


def scene(*, void: bool = False, rgb: bool = True) -> Augment:
    """Variations of a view, such as a street: nearer and farther by much, light, colour; what is above stays above."""
    a = _albumentations()
    return _compose(
        [
            a.HorizontalFlip(p=0.5),
            a.Affine(
                scale=(0.75, 1.6),
                translate_percent={"x": (-0.15, 0.15), "y": (-0.1, 0.1)},
                rotate=(-5, 5),
                keep_ratio=True,
                p=0.9,
                **_border(void),
            ),
            _hue(8, 25, 10) if rgb else _gains(),
            a.RandomBrightnessContrast(brightness_limit=0.25, contrast_limit=0.25, p=0.6),
            a.RandomGamma(gamma_limit=(75, 130), p=0.3),
        ]
    )


def _hue(hue: int, saturation: int, value: int) -> Any:
    return _albumentations().HueSaturationValue(
        hue_shift_limit=hue, sat_shift_limit=saturation, val_shift_limit=value, p=0.4
    )


def _gains() -> Any:
    """Each channel brighter or darker by a factor of its own, where there is no hue to change."""
    return _albumentations().MultiplicativeNoise(multiplier=(0.85, 1.15), per_channel=True, elementwise=False, p=0.4)


def none() -> None:
    """No augmentation."""


def _border(void: bool) -> dict[str, Any]:
    """What comes in at a border: the edge again, or grey that counts for nothing."""
    if void:
        return {"border_mode": cv2.BORDER_CONSTANT, "fill": 127, "fill_mask": 0}
    return {"border_mode": cv2.BORDER_REPLICATE}


def check_keeps_coverage(augment: Augment | None) -> None:
    """Refuse albumentations that move masks by nearest neighbour, their default: a share would become a step.

    Raises:
        ConfigError: a transform does.
    """
    for transform in _flattened(augment):
        if getattr(transform, "mask_interpolation", None) == cv2.INTER_NEAREST:
            raise ConfigError(
                f"augment: {type(transform).__name__} moves masks by nearest neighbour, which destroys coverage; "
                "pass mask_interpolation=cv2.INTER_LINEAR to Compose, or take target='nearest'"
            )


def apply(
    augment: Augment, image: np.ndarray, mask: np.ndarray, key: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Run an augmentation so that its result depends on ``key`` (seed, epoch, index) and nothing else.

    albumentations' own random state is set if there is one; for any other callable the global generators of
    ``random`` and ``numpy.random`` are seeded, and restored afterwards.
    """
    if image.ndim == 3 and image.shape[2] > MOST_AT_ONCE:
        return _in_parts(augment, image, mask, key)
    generator = np.random.default_rng(key)
    python = random.Random(int(generator.integers(1 << 62)))  # noqa: S311 - augmentation, no secret
    if hasattr(augment, "set_random_state"):
        augment.set_random_state(generator, python)
        result = augment(image=image, mask=mask)
    else:
        result = _with_global_seed(augment, image, mask, int(generator.integers(1 << 32)))
    return result["image"], np.clip(result["mask"], 0.0, 1.0)


MOST_AT_ONCE = 128
"""Channels that OpenCV takes."""


def _in_parts(
    augment: Augment, image: np.ndarray, mask: np.ndarray, key: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`apply`, on some channels after the others: with the same key all are moved alike."""
    channels = image.shape[2]
    parts = -(-channels // MOST_AT_ONCE)
    each = -(-channels // parts)  # in all parts, so that as many random numbers are drawn
    places = (np.arange(part * each, (part + 1) * each) % channels for part in range(parts))
    moved = [apply(augment, np.ascontiguousarray(image[..., some]), mask.copy(), key) for some in places]
    return np.concatenate([part for part, _ in moved], axis=2)[..., :channels], moved[0][1]


def _flattened(augment: object) -> Iterator[object]:
    yield augment
    for part in getattr(augment, "transforms", ()):
        yield from _flattened(part)


def _with_global_seed(augment: Augment, image: np.ndarray, mask: np.ndarray, value: int) -> Mapping[str, Any]:
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - what foreign code draws from
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002
    try:
        result: Mapping[str, Any] = augment(image=image, mask=mask)
        return result
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _albumentations() -> Any:
    # Otherwise it looks for a newer version online on import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


def _compose(steps: list[Any]) -> Augment:
    composed: Augment = _albumentations().Compose(steps, mask_interpolation=cv2.INTER_LINEAR)
    return composed
