"""Losses of classes that may overlap: of each class that of one object, and the mean over classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from carvana.errors import ConfigError
from carvana.losses import make_loss
from carvana.task import Task

CLASSES = ["disc", "box", "dot"]
OVERLAPPING, VOID = Task(kind="multilabel", classes=CLASSES), Task(kind="multilabel", classes=CLASSES, ignore=["fog"])
OF_ONE = ["bce", "focal", "dice", "jaccard", "tversky", "lovasz", "boundary_bce"]


def drawn(classes: int = 3) -> tuple[Tensor, Tensor]:
    """Logits, and targets of which the last class of the first image covers nothing."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(4, classes, 20, 24, generator=generator) - 0.2).clamp(min=0)
    targets[0, -1] = 0
    return torch.randn(4, classes, 20, 24, generator=generator), targets


@pytest.mark.parametrize("name", [*OF_ONE, "bce + 0.5*dice"])
def test_a_loss_is_the_mean_over_classes_of_that_of_one_object(name: str) -> None:
    logits, targets = drawn()
    valid = (torch.rand(4, 1, 20, 24, generator=torch.Generator().manual_seed(1)) > 0.3).float()
    valid[3] = 0  # nothing of it counts
    one = make_loss(name)
    each = [one(logits[:, k : k + 1], targets[:, k : k + 1]) for k in range(3)]
    assert make_loss(name, OVERLAPPING)(logits, targets) == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)
    one = make_loss(name, Task(classes={"cell": 1}, ignore=[255]))
    each = [one(logits[:, k : k + 1], (targets * valid)[:, k : k + 1], valid) for k in range(3)]
    found = make_loss(name, VOID)(logits, targets * valid, valid)
    assert found == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)
    weighed = make_loss(name, VOID, class_weights=[1.0, 0.0, 3.0])(logits, targets * valid, valid)
    assert weighed == pytest.approx((each[0] + 3 * each[2]).item() / 4, rel=1e-5)


@pytest.mark.parametrize("name", OF_ONE)
def test_of_a_single_class_it_is_that_of_one_object_to_the_bit(name: str) -> None:
    logits, targets = drawn(1)
    alone = Task(kind="multilabel", classes=["disc"])
    assert make_loss(name, alone)(logits, targets) == make_loss(name)(logits, targets)


def test_bce_and_dice_are_what_torch_and_the_definition_give() -> None:
    logits, targets = drawn()
    expected = functional.binary_cross_entropy_with_logits(logits, targets)
    assert make_loss("bce", OVERLAPPING)(logits, targets) == pytest.approx(expected.item(), rel=1e-6)
    hard, p = (targets > 0.4).float(), logits.sigmoid()
    scores = ((p * hard).sum((2, 3)) + 1) / ((p.sum((2, 3)) + hard.sum((2, 3))) / 2 + 1)
    assert make_loss("dice", OVERLAPPING)(logits, hard) == pytest.approx((1 - scores).mean().item(), rel=1e-5)
    both = make_loss("auto", OVERLAPPING)(logits, hard)
    assert both == pytest.approx(
        (make_loss("bce", OVERLAPPING)(logits, hard) + make_loss("dice", OVERLAPPING)(logits, hard)).item(), rel=1e-6
    )
    assert make_loss("ce", OVERLAPPING)(logits, hard) == make_loss("bce", OVERLAPPING)(logits, hard)


def test_weights_are_one_for_each_class() -> None:
    logits, targets = drawn()
    equal = make_loss("bce + dice", OVERLAPPING, class_weights=[2.0] * 3)(logits, targets)
    assert equal == pytest.approx(make_loss("bce + dice", OVERLAPPING)(logits, targets).item(), rel=1e-5)
    with pytest.raises(ConfigError, match=r"class_weights = \[1\.0\]: expected 3 weights of at least 0"):
        make_loss("bce", OVERLAPPING, class_weights=[1.0])
