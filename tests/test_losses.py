from __future__ import annotations

import math

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from carvana.errors import CarvanaError, ConfigError, UnknownNameError
from carvana.losses import loss_for, loss_names, make_loss
from carvana.registry import registry
from carvana.task import Task

NAMES = registry.losses.names()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 24, 32, generator=generator)
    return logits, (torch.rand(3, 1, 24, 32, generator=generator) > 0.7).float()


def test_every_registered_loss_is_a_finite_scalar_with_a_gradient(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    for name in NAMES:
        logits = batch[0].clone().requires_grad_()
        loss = make_loss(name)(logits, batch[1])
        loss.backward()
        assert loss.shape == ()
        assert math.isfinite(loss.item())
        assert logits.grad is not None
        assert logits.grad.abs().sum() > 0, name


def test_dice_is_smps_taken_photo_by_photo(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    smps = smp.losses.DiceLoss("binary", smooth=1.0)
    expected = torch.stack([smps(*(side[i : i + 1] for side in batch)) for i in range(3)]).mean()
    assert make_loss("dice")(*batch).item() == pytest.approx(expected.item(), abs=1e-6)
    assert make_loss("dice")(*batch).item() != pytest.approx(smps(*batch).item(), abs=1e-5)  # one sum over the batch


def test_jaccard_and_tversky_are_smps_on_hard_targets(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    for name, theirs in (
        ("jaccard", smp.losses.JaccardLoss("binary", smooth=1.0)),
        ("tversky", smp.losses.TverskyLoss("binary", smooth=1.0, alpha=0.3, beta=0.7)),
    ):
        one = tuple(side[:1] for side in batch)
        assert make_loss(name)(*one).item() == pytest.approx(theirs(*one).item(), abs=1e-5)


def test_bce_and_focal_are_their_formulas(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = (side.double() for side in batch)
    right = torch.where(targets == 1, logits.sigmoid(), 1 - logits.sigmoid())  # the probability of what is there
    assert make_loss("bce")(logits, targets).item() == pytest.approx(-right.log().mean().item(), rel=1e-6)
    expected = -((1 - right) ** 2 * right.log()).mean().item()
    assert make_loss("focal")(logits, targets).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lovasz"])
def test_on_soft_targets_a_loss_is_least_where_the_prediction_is_the_target(name: str) -> None:
    """Lovasz knows hard labels alone."""
    targets = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)).clamp(0.02, 0.98)
    best = targets.logit()
    loss = make_loss(name)
    least = loss(best, targets)
    for shift in (0.3, -0.3):
        assert loss(best + shift, targets) > least
    assert loss(best * 1.3, targets) > least


def test_the_usual_product_would_fail_there() -> None:
    """Why the overlap is not sum p * t: on soft targets, overconfidence would pay."""
    targets = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)).clamp(0.02, 0.98)

    def usual(logits: torch.Tensor) -> torch.Tensor:
        p = logits.sigmoid()
        return 1 - 2 * (p * targets).sum() / (p.sum() + targets.sum())

    best = targets.logit()
    assert usual(best * 3) < usual(best)
    assert make_loss("dice")(best * 3, targets) > make_loss("dice")(best, targets)


def test_a_photo_without_the_object_still_teaches(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    empty = torch.zeros_like(batch[1])
    logits = batch[0].clone().requires_grad_()
    make_loss("dice")(logits, empty).backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()
    assert make_loss("dice")(torch.full_like(logits, -40.0), empty).item() == pytest.approx(0, abs=1e-6)


def test_boundary_bce_weighs_an_error_at_the_boundary_more() -> None:
    targets = torch.zeros(1, 1, 64, 64)
    targets[..., :32] = 1
    good = (targets * 2 - 1) * 4
    near, far = good.clone(), good.clone()
    near[..., 20, 32] = 4
    far[..., 20, 60] = 4
    loss = make_loss("boundary_bce")
    assert loss(near, targets) - loss(good, targets) > 2 * (loss(far, targets) - loss(good, targets))


def test_sums_and_weights(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    bce, dice = (make_loss(name)(*batch).item() for name in ("bce", "dice"))
    assert make_loss("bce + dice")(*batch).item() == pytest.approx(bce + dice)
    assert make_loss("0.25*bce+2 * dice")(*batch).item() == pytest.approx(bce / 4 + 2 * dice)


@pytest.mark.parametrize("expression", ["", "bce +", "bce - dice", "2*", "bce dice", "bce*2"])
def test_an_expression_that_is_no_sum_is_refused(expression: str) -> None:
    with pytest.raises(ConfigError, match="expected a sum"):
        make_loss(expression)


def test_weights_keep_all_their_digits_and_have_one_spelling() -> None:
    assert loss_for("bce + 0.12345678*dice", "multiclass") == "ce + 0.12345678*dice"
    assert loss_for("bce + 0.00005 * dice", "multiclass") == "ce + 5e-05*dice"
    assert loss_for("bce + 1.0*dice + .5*lovasz", "multiclass") == "ce + dice + 0.5*lovasz"
    assert loss_for("bce+5e-05*dice", "multiclass") == "ce + 5e-05*dice"
    assert loss_names("5e-05*dice") == ["dice"]


@pytest.mark.usefixtures("_own_names")
def test_a_loss_is_made_on_the_device_that_computes_it() -> None:
    made = []

    class Own(nn.Module):
        def __init__(self, class_weights: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("shift", torch.zeros(1))
            self.class_weights = class_weights
            made.append(self)

        def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return logits.mean()

    registry.losses.register("own", Own)
    make_loss("ce + own", Task(classes=["a", "b"]), class_weights=[1, 2], device="meta")
    assert made[0].class_weights.device.type == made[0].shift.device.type == "meta"


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="dice"):
        make_loss("bce + dcie")


@pytest.fixture
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.losses, "_entries", {entry.name: entry for entry in registry.losses.registered()})


@pytest.mark.usefixtures("_own_names")
@pytest.mark.parametrize("target", [lambda logits, targets: 0, lambda: 3])
def test_what_is_no_factory_of_a_loss_is_told_by_name(target: object) -> None:
    registry.losses.register("odd", target)
    with pytest.raises(ConfigError, match="'odd' \\(from script\\)"):
        make_loss("bce + odd")


@pytest.mark.parametrize("name", ["2d-loss", "sub.loss", "a+b", "a/b", "family/*"])
def test_a_name_that_no_recipe_could_use_is_refused(name: str) -> None:
    with pytest.raises(CarvanaError, match="cannot be a name"):
        registry.losses.register(name, "math:tau")
