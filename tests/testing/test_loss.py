from __future__ import annotations

from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional

from carvana.registry import registry
from carvana.testing import check_loss


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry.losses, "_entries", {e.name: e for e in registry.losses.registered() if e.source == "carvana"}
    )


def check(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    registry.losses.register("under-test", lambda: loss, replace=True)
    check_loss("under-test")


@pytest.mark.parametrize("name", [entry.name for entry in registry.losses.registered() if entry.source == "carvana"])
def test_every_loss_of_the_library_keeps_the_contract(name: str) -> None:
    check_loss(name)


def mean_square(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.sigmoid() - targets).square().mean()


def wrong_way(logits: Tensor, targets: Tensor) -> Tensor:
    return -mean_square(logits, targets)


def of_the_sum(logits: Tensor, targets: Tensor) -> Tensor:
    return mean_square(logits, targets) * len(logits)


def in_place(logits: Tensor, targets: Tensor) -> Tensor:
    return mean_square(logits, targets.round_())


def logarithm(logits: Tensor, targets: Tensor) -> Tensor:
    p = logits.sigmoid()
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


def test_smps_dice_over_the_whole_batch_is_found() -> None:
    with pytest.raises(AssertionError, match="in the mean over the batch's images"):
        check(smp.losses.DiceLoss("binary"))


@pytest.mark.parametrize("target", [mean_square, lambda: 3])
def test_what_is_no_factory_is_told_by_name(target: Callable[..., object]) -> None:
    registry.losses.register("odd", target)
    with pytest.raises(AssertionError, match="'odd'"):
        check_loss("odd")


def failing() -> None:
    raise OSError("no\nsuch file")


def test_a_factory_that_fails_is_told_by_name_in_one_line() -> None:
    registry.losses.register("odd", failing)
    with pytest.raises(AssertionError, match=r"^the loss 'odd': .*OSError: no such file"):
        check_loss("odd")


def of_several(logits: Tensor, targets: Tensor) -> Tensor:
    if len(logits) == 1:
        raise AssertionError("more\nphotos")
    return mean_square(logits, targets)


def test_a_sound_loss_passes() -> None:
    check(mean_square)
    check(functional.binary_cross_entropy_with_logits)


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        (wrong_way, "does not fall from wrong to right"),
        (of_several, "^the loss 'under-test': more photos"),
        (of_the_sum, "in the mean over the batch's images"),
        (in_place, "changes the masks"),
        (logarithm, "it is (nan|inf) for|gradient is not finite for"),
        (lambda logits, targets: (logits.sigmoid() - targets).square(), "scalar tensor"),
        (lambda logits, targets: mean_square(logits, targets).item(), "scalar tensor"),
        (lambda logits, targets: mean_square(logits.detach(), targets), "no gradient"),
        (lambda logits, targets: mean_square(logits, targets[:, 3]), "it fails for soft masks"),
    ],
)
def test_each_broken_promise_is_found(loss: Callable[[Tensor, Tensor], Tensor], line: str) -> None:
    with pytest.raises(AssertionError, match=line) as caught:
        check(loss)
    assert "\n" not in str(caught.value)
    assert torch.is_grad_enabled()
