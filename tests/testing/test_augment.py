from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from carvana.registry import registry
from carvana.testing import check_augment


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.augments, "_entries", {entry.name: entry for entry in registry.augments.registered()})


def check(augment: Callable[..., Any]) -> None:
    registry.augments.register("under-test", lambda: augment, replace=True)
    check_augment("under-test")


@pytest.mark.parametrize("name", [entry.name for entry in registry.augments.registered() if entry.source == "carvana"])
def test_every_augmentation_of_the_library_keeps_the_contract(name: str) -> None:
    check_augment(name)


def flip(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    if np.random.rand() < 0.5:  # noqa: NPY002 - what foreign code draws from
        return {"image": image, "mask": mask}
    return {"image": image[:, ::-1].copy(), "mask": mask[:, ::-1].copy()}


def nearest_rotation() -> Any:
    import albumentations

    return albumentations.Compose([albumentations.Rotate(limit=(-30, 30), p=1.0)])


def test_a_sound_augmentation_passes() -> None:
    check(flip)


def test_albumentations_default_for_masks_is_found() -> None:
    with pytest.raises(AssertionError, match="destroys coverage"):
        check(nearest_rotation())


@pytest.mark.parametrize(
    ("augment", "line"),
    [
        (lambda image, mask: (image, mask), "mapping with image and mask, got tuple"),
        (lambda image, mask: {"image": image / 255, "mask": mask}, "its image is float64"),
        (lambda image, mask: {"image": image[:8], "mask": mask[:8]}, r"its image is uint8 \(8, 72, 3\)"),
        (lambda image, mask: {"image": image, "mask": mask.astype(np.float64)}, "its mask is float64"),
        (lambda image, mask: {"image": image[::-1].copy(), "mask": mask}, "not moved alike"),
        (lambda image, mask: {"image": image, "mask": mask.round()}, "coverage of one half"),
        (lambda image, mask: {"image": image + np.uint8(secrets.randbelow(30)), "mask": mask}, "the same seed gives"),
    ],
)
def test_each_broken_promise_is_found(augment: Callable[..., Any], line: str) -> None:
    with pytest.raises(AssertionError, match=line) as caught:
        check(augment)
    assert "\n" not in str(caught.value)
