"""Losses of several classes, and of pixels that count for nothing, against definitions written out."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

import carvana
from carvana.errors import ConfigError
from carvana.losses import loss_for, make_loss
from carvana.registry import registry
from carvana.task import Task

K, VOID = 5, 255
MANY = Task(classes=["sky", "building", "pole", "road", "tree"], ignore=[VOID])
ONE = Task(classes={"cell": 1}, ignore=[VOID])
OF_MANY = ["ce", "focal", "dice", "jaccard", "tversky", "lovasz", "boundary_ce"]
OF_ONE = ["bce", "focal", "dice", "jaccard", "tversky", "lovasz", "boundary_bce"]


def hard(labels: Tensor, classes: int = K) -> Tensor:
    """One plane for each class, 0 everywhere where a pixel is void."""
    planes = [(labels == index).float() for index in range(classes)]
    return torch.stack(planes, 1)


@pytest.fixture
def many() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with void in them, and no pixel of the last class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, K - 1, (3, 12, 16), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = VOID
    return torch.randn(3, K, 12, 16, generator=generator), labels, (labels != VOID)[:, None].float()


@pytest.mark.parametrize("name", OF_MANY)
def test_every_loss_has_a_gradient_on_what_counts_and_none_on_what_is_ignored(
    name: str, many: tuple[Tensor, Tensor, Tensor]
) -> None:
    logits, labels, valid = many
    logits.requires_grad_()
    make_loss(name, MANY)(logits, hard(labels), valid).backward()
    assert logits.grad is not None
    assert logits.grad.permute(0, 2, 3, 1)[labels == VOID].abs().max() == 0
    assert logits.grad.permute(0, 2, 3, 1)[labels != VOID].abs().max() > 0
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", OF_MANY)
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 1.0, 3.0]])
def test_what_lies_under_void_changes_nothing(
    name: str, weights: list[float] | None, many: tuple[Tensor, Tensor, Tensor]
) -> None:
    if name == "lovasz" and weights:
        with pytest.raises(ConfigError, match="no part of the loss 'lovasz' weighs classes; add ce"):
            make_loss(name, MANY, class_weights=weights)
        return
    logits, labels, valid = many
    loss = make_loss(name, MANY, class_weights=weights)
    other = torch.where((labels == VOID)[:, None], torch.randn_like(logits) * 9, logits)
    torch.testing.assert_close(loss(other, hard(labels), valid), loss(logits, hard(labels), valid))


@pytest.mark.parametrize("task", [MANY, ONE], ids=["many", "one"])
def test_an_image_that_is_ignored_as_a_whole_adds_nothing_to_the_sum(task: Task) -> None:
    classes = len(task.classes)
    logits, valid = torch.randn(2, classes, 8, 8), torch.ones(2, 1, 8, 8)
    targets = hard(torch.randint(0, classes, (2, 8, 8)), classes)
    targets[1], valid[1] = 0, 0
    for name in OF_MANY if classes > 1 else OF_ONE:
        loss = make_loss(name, task)
        assert loss(logits, targets, valid) == pytest.approx(loss(logits[:1], targets[:1], valid[:1]).item() / 2), name
        nothing = loss(logits[1:].requires_grad_(), targets[1:], valid[1:])
        nothing.backward()
        assert nothing.item() == 0, name
        logits = logits.detach()


def test_cross_entropy_is_torchs_image_by_image(many: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, valid = many
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    for given in (None, weights):
        theirs = torch.nn.CrossEntropyLoss(weight=given, ignore_index=VOID)
        expected = torch.stack([theirs(logits[i : i + 1], labels[i : i + 1]) for i in range(3)]).mean()
        ours = make_loss("ce", MANY, class_weights=None if given is None else given.tolist())
        torch.testing.assert_close(ours(logits, hard(labels), valid), expected)


def test_soft_cross_entropy_is_that_of_the_enlarged_logits_and_hard_labels(many: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, _ = many
    soft = torch.nn.functional.avg_pool2d(hard(labels), 4)
    small = logits[:, :, ::4, ::4]
    large = torch.nn.functional.interpolate(small, scale_factor=4, mode="nearest")
    loss = make_loss("ce", MANY)
    torch.testing.assert_close(
        loss(small, soft, soft.sum(1, keepdim=True)), loss(large, hard(labels), (labels != VOID)[:, None].float())
    )


def test_focal_is_its_formula_on_hard_labels(many: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, valid = many
    expected = []
    for image, truth in zip(logits.softmax(1), labels, strict=True):
        right = image.gather(0, truth.clamp(max=K - 1)[None])[0][truth != VOID]
        expected.append((-((1 - right) ** 2) * right.log()).mean())
    torch.testing.assert_close(make_loss("focal", MANY)(logits, hard(labels), valid), torch.stack(expected).mean())


def test_dice_counts_the_classes_of_an_image_and_no_other(many: tuple[Tensor, Tensor, Tensor]) -> None:
    """smp divides by all classes: with everything wrong and one of four absent it says 0.75."""
    logits, labels, valid = many
    images = []
    for image, truth in zip(logits.softmax(1), labels, strict=True):
        counts, scores = truth != VOID, []
        for index in range(K):
            p, t = image[index][counts], (truth[counts] == index).float()
            if t.any():
                scores.append(((p * t).sum() + 1) / ((p.sum() + t.sum()) / 2 + 1))
        assert len(scores) == K - 1
        images.append(1 - torch.stack(scores).mean())
    torch.testing.assert_close(make_loss("dice", MANY)(logits, hard(labels), valid), torch.stack(images).mean())
    wrong = 100 * hard((labels + 1) % (K - 1))
    assert make_loss("dice", MANY)(wrong, hard(labels), valid) > 0.97


def test_lovasz_is_smps_image_by_image(many: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, valid = many
    theirs = smp.losses.LovaszLoss("multiclass", ignore_index=VOID)
    expected = torch.stack([theirs(logits[i : i + 1], labels[i : i + 1]) for i in range(3)]).mean()
    torch.testing.assert_close(make_loss("lovasz", MANY)(logits, hard(labels), valid), expected)
    half = make_loss("lovasz", MANY)(logits.bfloat16(), hard(labels), valid)  # smp raises
    assert half.isfinite()


def test_two_classes_are_one_object_and_its_background() -> None:
    """softmax over (0, x) is the sigmoid of x, so cross-entropy, focal and boundary weights must agree."""
    two = Task(classes=["background", "object"])
    logits, share = torch.randn(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    both, shares = torch.cat([torch.zeros_like(logits), logits], 1), torch.cat([1 - share, share], 1)
    for one, other in (("bce", "ce"), ("focal", "focal"), ("boundary_bce", "boundary_ce")):
        torch.testing.assert_close(make_loss(other, two)(both, shares), make_loss(one)(logits, share))


@pytest.mark.parametrize("name", ["ce", "focal", "boundary_ce", "dice", "jaccard", "tversky"])
def test_on_soft_targets_a_loss_is_least_where_the_prediction_is_the_target(name: str) -> None:
    targets = torch.rand(2, K, 16, 16, generator=torch.Generator().manual_seed(1)).softmax(1)
    loss, best = make_loss(name, Task(classes=["a", "b", "c", "d", "e"])), targets.log()
    least = loss(best, targets)
    for changed in (best * 1.3, best * 0.7, best + torch.tensor([0.3, 0, 0, 0, 0])[None, :, None, None]):
        assert loss(changed, targets) > least


@pytest.mark.parametrize("name", OF_ONE)
def test_of_one_object_ignored_pixels_might_as_well_not_be_there(name: str) -> None:
    """The right half is ignored, so that the left half alone must give the same."""
    logits, truth = torch.randn(2, 1, 16, 32), (torch.rand(2, 1, 16, 32) > 0.5).float()
    valid = torch.ones_like(truth)
    valid[..., 16:] = 0
    loss = make_loss(name, ONE)
    left = loss(logits[..., :16], truth[..., :16], valid[..., :16])
    torch.testing.assert_close(loss(logits, truth * valid, valid), left)
    torch.testing.assert_close(left, make_loss(name)(logits[..., :16], truth[..., :16]))


def test_a_loss_of_the_other_kind_is_mapped() -> None:
    assert loss_for("bce + 0.5*boundary_bce + dice", "multiclass") == "ce + 0.5*boundary_ce + dice"
    assert loss_for("ce+dice", "binary") == "bce + dice"
    assert loss_for("dice+lovasz", "multiclass") == "dice+lovasz"
    assert [loss_for("auto", kind) for kind in ("binary", "multiclass", "multilabel")] == [
        "bce + dice", "ce + dice", "bce + dice",
    ]  # fmt: skip


def test_weights_are_normalised_within_an_image(many: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, valid = many
    for name in ("ce", "dice", "focal", "boundary_ce"):
        one, ten = (make_loss(name, MANY, class_weights=[scale * w for w in (1, 2, 3, 4, 5)]) for scale in (1.0, 10.0))
        torch.testing.assert_close(one(logits, hard(labels), valid), ten(logits, hard(labels), valid))


def test_a_loss_of_two_arguments_is_refused_where_values_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.losses, "_entries", {entry.name: entry for entry in registry.losses.registered()})
    carvana.register_loss("mine", lambda: lambda logits, targets: (logits - targets).abs().mean())
    with pytest.raises(ConfigError, match=r"'mine' .* takes logits and targets alone, and cannot leave out"):
        make_loss("ce + mine", MANY)
    carvana.register_loss("theirs", lambda: lambda logits, targets, alpha=0.25: alpha * (logits - targets).abs().mean())
    with pytest.raises(ConfigError, match=r"'theirs' .* takes logits and targets alone, and cannot leave out"):
        make_loss("theirs", ONE)
    assert make_loss("mine")(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)).item() == 1
    carvana.register_loss("ours", lambda: lambda logits, targets, valid: (logits - targets).abs().mul(valid).mean())
    assert make_loss("ours", ONE)(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).item() == 0


def test_weights_of_one_object_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.class_weights are for several classes, and this task is binary"):
        make_loss("bce", class_weights=[1.0])
