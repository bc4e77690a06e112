from __future__ import annotations

from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional

from carvana.errors import ConfigError
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


def void_cross_entropy(kind: str = "binary", class_weights: Tensor | None = None) -> Callable[..., Tensor]:
    """Cross-entropy with all that the contract knows of: kinds, weights, and pixels that count for nothing."""

    def loss(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
        counts = torch.ones_like(targets[:, 0]) if valid is None else valid[:, 0]
        if kind == "binary":
            targets = targets if valid is None else targets / valid.clamp(min=1e-6)
            losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")[:, 0] * counts
        else:
            losses = functional.cross_entropy(logits, targets, weight=class_weights, reduction="none")
            if class_weights is not None:
                counts = (targets * class_weights[:, None, None]).sum(1)
        return (losses.sum((1, 2)) / counts.sum((1, 2)).clamp(min=1e-6)).mean()

    return loss


def test_a_loss_of_several_classes_with_void_and_weights_passes() -> None:
    registry.losses.register("under-test", void_cross_entropy)
    check_loss("under-test")


def changed(change: Callable[..., Tensor]) -> Callable[..., Callable[..., Tensor]]:
    """The sound loss, with what a change makes of (kind, loss, logits, targets, valid)."""

    def factory(kind: str = "binary") -> Callable[..., Tensor]:
        loss = void_cross_entropy(kind)

        def broken(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
            return change(kind, loss, logits, targets, valid)

        return broken

    return factory


def of_three(logits: Tensor, targets: Tensor) -> Tensor:
    """Of four classes the last one is forgotten."""
    return functional.cross_entropy(logits[:, :3], targets[:, :3])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda k, f, x, t, v: f(x, t, None), "pixels that are ignored change it"),
        (
            lambda k, f, x, t, v: f(x, t, v) if v is None else f(x, t, v) / v.mean(),
            "it is nan, and not 0",
        ),
        (lambda k, f, x, t, v: f(x, t, v) + (v is not None), "where all pixels count, valid changes it"),
        (lambda k, f, x, t, v: f(x, t, v) + (0 if v is None else 1 - v.mean()), "not 0, for an image that is ignored"),
        (lambda k, f, x, t, v: f(x, t, v) if k == "binary" else of_three(x, t), "class 3 of 4 classes is wrong"),
        (lambda k, f, x, t, v: f(x, t, v) * (1 if k == "binary" else len(x)), "of a batch of 4 classes it is"),
    ],
)
def test_what_is_wrong_with_several_classes_or_void_is_found(change: Callable[..., Tensor], line: str) -> None:
    registry.losses.register("under-test", changed(change))
    with pytest.raises(AssertionError, match=line):
        check_loss("under-test")


def test_weights_that_are_not_normalised_are_found() -> None:
    def factory(kind: str = "binary", class_weights: Tensor | None = None) -> Callable[..., Tensor]:
        plain = void_cross_entropy(kind)
        return plain if class_weights is None else lambda x, t, v=None: plain(x, t, v) * class_weights.mean()

    registry.losses.register("under-test", factory)
    with pytest.raises(AssertionError, match="weights that are equal for all classes change it of 4 classes"):
        check_loss("under-test")


def test_a_kind_that_a_loss_refuses_is_not_checked_and_one_kind_it_must_take() -> None:
    def factory(kind: str = "binary", *, refused: tuple[str, ...] = ("multiclass",)) -> Callable[..., Tensor]:
        if kind in refused:
            raise ConfigError(f"the loss is not for a task that is {kind}")
        return lambda logits, targets: mean_square(logits[:, 0], targets[:, 0])

    registry.losses.register("under-test", factory)
    check_loss("under-test")
    registry.losses.register("under-test", lambda kind: factory(kind, refused=()), replace=True)
    with pytest.raises(AssertionError, match="it is no larger where class 1 of 4 classes is wrong"):
        check_loss("under-test")
    registry.losses.register("under-test", lambda kind: factory(kind, refused=("binary", "multiclass")), replace=True)
    with pytest.raises(AssertionError, match="the loss is not for a task that is binary"):
        check_loss("under-test")
