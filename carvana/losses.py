"""Losses by name: each compares logits with coverage targets, image by image, and is least where they agree.

A loss is a callable ``loss(logits, targets, valid=None)``. Logits and targets are (N, K, H, W); targets, float in
[0, 1], are the share of a pixel that each class covers; ``valid`` (N, 1, H, W) is the share of a pixel that counts,
where a task ignores values. What is ignored is 0 in all targets. The result is a scalar to minimise: each image's mean
over what counts in it, then the mean over images, to which an image that is ignored as a whole adds 0.

Region losses (dice, jaccard, tversky) are smp's, but computed per image and averaged, as the competition's metric is,
where smp sums over the whole batch; and of several classes that exclude each other, those that an image holds count,
where smp divides by all. They hold for soft targets: the usual product p * t is largest at p = 1 for any t > 0, so smp
writes the overlap with |p - t| (Wang et al., Dice Semimetric Losses, MICCAI 2023), which is the usual loss on hard
targets and least at p = t on soft ones.

Of classes that overlap (multilabel) a loss is that of one object, of each class alone, and the mean over classes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from segmentation_models_pytorch.losses._functional import soft_tversky_score
from torch import Tensor, nn

from carvana.errors import CarvanaError, ConfigError, error_line
from carvana.registry import registry
from carvana.task import Kind, Task

Loss = Callable[..., Tensor]

SMOOTH = 1.0
"""Pixels added to both sides of a ratio, so that an image without the object has a gradient too."""

AUTO: dict[Kind, str] = {"binary": "bce + dice", "multiclass": "ce + dice", "multilabel": "bce + dice"}
"""The loss "auto" of each kind of task."""

_OF_ONE, _OF_MANY = {"ce": "bce", "boundary_ce": "boundary_bce"}, {"bce": "ce", "boundary_bce": "boundary_ce"}

_TERM = re.compile(r"\s*(?:(?P<weight>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE]-?\d+)?)\s*\*\s*)?(?P<name>[A-Za-z][\w-]*)\s*")


def make_loss(
    expression: str,
    task: Task | None = None,
    *,
    class_weights: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
) -> Loss:
    """Build a loss from registered names: ``dice``, ``bce + dice``, ``ce + 0.5*lovasz``.

    Args:
        expression: A sum of names, or "auto"; names of the other kind of task are understood: see :func:`loss_for`.
        task: The task; None means one object against the background.
        class_weights: The weight of each class, at least 0, for tasks of several classes. They are normalised within
            each image.
        device: Where it is computed.

    Raises:
        ConfigError: the expression is no sum of names, a loss cannot leave out what the task ignores, no loss takes
            class weights, or they are not one of at least 0 for each class.
        UnknownNameError: a name is not registered.
    """
    task = task or Task.binary()
    expression = loss_for(expression, task.kind)
    if class_weights is not None and task.kind == "binary":
        raise ConfigError(f"train.class_weights are for several classes, and this task is {task.kind}; leave them out")
    count = len(task.classes)
    if class_weights is not None and (
        len(class_weights) != count or not any(class_weights) or not all(weight >= 0 for weight in class_weights)
    ):
        raise ConfigError(
            f"train.class_weights = {list(class_weights)}: expected {count} weights of at least 0, one for each class, "
            "and one of them above 0"
        )
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32, device=device)
    terms = [(float(weight or 1), _made(name, task, weights, device)) for weight, name in _parsed(expression)]
    loss = terms[0][1] if len(terms) == 1 and terms[0][0] == 1.0 else _WeightedSum(terms)
    if task.kind == "multilabel":
        return _EachClass(loss, class_weights)
    if weights is not None and not any(_takes(name, "class_weights") for _, name in _parsed(expression)):
        raise ConfigError(f"train.class_weights: no part of the loss {expression!r} weighs classes; add ce")
    return loss


def loss_for(expression: str, kind: Kind) -> str:
    """The expression for a kind of task: "auto" becomes its usual loss, and bce becomes ce for several classes.

    >>> loss_for("bce + 0.5*lovasz", "multiclass"), loss_for("auto", "binary")
    ('ce + 0.5*lovasz', 'bce + dice')
    """
    if expression.strip() == "auto":
        return AUTO[kind]
    other = _OF_MANY if kind == "multiclass" else _OF_ONE
    if not any(name in other for _, name in _parsed(expression)):
        return expression
    terms = [(_shortest(weight or "1"), other.get(name, name)) for weight, name in _parsed(expression)]
    return " + ".join(name if weight == "1" else f"{weight}*{name}" for weight, name in terms)


def _shortest(number: str) -> str:
    """A number in six digits, as configs have it so far; as it is written if it has more."""
    short = f"{float(number):g}"
    return short if float(short) == float(number) and "+" not in short else number


def loss_names(expression: str) -> list[str]:
    """The names in an expression that :func:`make_loss` takes.

    >>> loss_names("bce + 0.5*lovasz")
    ['bce', 'lovasz']
    """
    return [name for _, name in _parsed(expression)]


def bce() -> Loss:
    """Binary cross-entropy, smp's; its targets may be soft."""
    return _Pixelwise(smp.losses.SoftBCEWithLogitsLoss(ignore_index=None), lambda loss: loss)


def ce(*, class_weights: Tensor | None = None) -> Loss:
    """Cross-entropy of classes that exclude each other; its targets may be soft."""
    return CrossEntropy(class_weights=class_weights)


def dice(*, kind: Kind = "binary", class_weights: Tensor | None = None) -> Loss:
    """One minus the Dice coefficient of each image; of several classes, the mean over those that it holds."""
    return Tversky(alpha=0.5, beta=0.5, kind=kind, class_weights=class_weights)


def jaccard(*, kind: Kind = "binary", class_weights: Tensor | None = None) -> Loss:
    """One minus the intersection over union of each image; of several classes, the mean over those that it holds."""
    return Tversky(alpha=1.0, beta=1.0, kind=kind, class_weights=class_weights)


def tversky(*, kind: Kind = "binary", class_weights: Tensor | None = None) -> Loss:
    """Tversky's index with missed pixels weighing 0.7 and false ones 0.3 (Salehi et al., MLMI 2017)."""
    return Tversky(alpha=0.3, beta=0.7, kind=kind, class_weights=class_weights)


def focal(*, kind: Kind = "binary", class_weights: Tensor | None = None) -> Loss:
    """Focal loss, gamma 2 (Lin et al., ICCV 2017): a growing function of cross-entropy, so soft targets are fine."""
    if kind == "multiclass":
        return CrossEntropy(class_weights=class_weights, gamma=2.0)
    return _Pixelwise(smp.losses.FocalLoss("binary", gamma=2.0), lambda loss: _focal(loss, 2.0))


def lovasz(*, kind: Kind = "binary") -> Loss:
    """Lovasz hinge, or softmax, per image (Berman et al., CVPR 2018), smp's; on hard labels: the largest share."""
    if kind == "multiclass":
        return _lovasz_softmax
    hinge = smp.losses.LovaszLoss("binary", per_image=True, ignore_index=_IGNORED)

    def loss(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
        labels = (targets > 0.5).to(logits.dtype)
        if valid is None:
            result: Tensor = hinge(logits, labels)
            return result
        labels = (targets > 0.5 * valid).to(logits.dtype).masked_fill(valid <= 0.5, _IGNORED)
        return _mean_of_images(hinge, logits, labels, (valid > 0.5).flatten(1).any(1))

    return loss


def boundary_bce() -> Loss:
    """Binary cross-entropy that weighs pixels near a boundary up to 6 times (Wei et al., F3Net, AAAI 2020).

    The weight is 1 + 5 |mean of the surroundings - target|, the surroundings being a square of 9% of the picture.
    """
    return _boundary_bce


def boundary_ce(*, class_weights: Tensor | None = None) -> Loss:
    """Cross-entropy of classes that exclude each other, weighing pixels near a boundary up to 6 times as boundary_bce.

    The difference from the surroundings is half the sum over all classes, which for two is that of one.
    """
    return CrossEntropy(class_weights=class_weights, boundary=True)


class CrossEntropy(nn.Module):
    """Cross-entropy of classes that exclude each other, over what counts of each image.

    Args:
        class_weights: (K,), at least 0.
        gamma: Of the focal loss; 0 for none.
        boundary: Whether pixels near a boundary weigh more.
    """

    def __init__(self, *, class_weights: Tensor | None = None, gamma: float = 0.0, boundary: bool = False) -> None:
        super().__init__()
        self.class_weights = class_weights
        self.gamma = gamma
        self.boundary = boundary

    def forward(self, logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
        """The loss of logits and targets, both (N, K, H, W); what counts is the sum of the targets."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = targets.to(logits.dtype)
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        pixelwise = F.cross_entropy(logits, targets, weight=weights, reduction="none")
        counts = targets.sum(1) if weights is None else (targets * weights[:, None, None]).sum(1)
        if self.gamma:
            plain = F.cross_entropy(logits, targets, reduction="none") / targets.sum(1).clamp(min=_TINY)
            pixelwise = pixelwise * (1 - torch.exp(-plain)) ** self.gamma
        if self.boundary:
            near = _boundary_weights(targets, targets.sum(1, keepdim=True))
            pixelwise, counts = pixelwise * near, counts * near
        return _ratio(pixelwise.sum((1, 2)), counts.sum((1, 2))).mean()


class Tversky(nn.Module):
    """One minus Tversky's index, TP / (TP + alpha FP + beta FN), of each image and class, averaged.

    Args:
        alpha: The weight of false positives.
        beta: The weight of false negatives.
        kind: Of the task. Of classes that exclude each other, those that an image holds count.
        class_weights: (K,), of such classes.
    """

    def __init__(
        self, *, alpha: float, beta: float, kind: Kind = "binary", class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.kind = kind
        self.class_weights = class_weights

    def forward(self, logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
        """The loss of logits and targets, both (N, K, H, W)."""
        exclusive = self.kind == "multiclass"
        probabilities = logits.float().softmax(1) if exclusive else logits.float().sigmoid()
        valid = targets.sum(1, keepdim=True) if exclusive else valid
        if valid is not None:
            probabilities = probabilities * valid
        scores: Tensor = soft_tversky_score(
            probabilities.flatten(2), targets.float().flatten(2), self.alpha, self.beta, smooth=SMOOTH, dims=2
        )
        if not exclusive:
            return (1 - scores).mean()
        weights = (targets.flatten(2).sum(2) > 0).float()
        if self.class_weights is not None:
            weights = weights * self.class_weights.to(logits.device)
        return _ratio((weights * (1 - scores)).sum(1), weights.sum(1)).mean()


class _Pixelwise(nn.Module):
    """A loss of single pixels and classes: smp's where all count, else the mean over what counts.

    Args:
        smp_loss: The mean over all pixels.
        of_entropy: The same loss as a function of the binary cross-entropy.
    """

    def __init__(self, smp_loss: nn.Module, of_entropy: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.smp_loss = smp_loss
        self.of_entropy = of_entropy

    def forward(self, logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
        if valid is None:
            result: Tensor = self.smp_loss(logits, targets)
            return result
        entropy = F.binary_cross_entropy_with_logits(logits, targets / valid.clamp(min=_TINY), reduction="none")
        losses = (self.of_entropy(entropy) * valid).sum((1, 2, 3))
        return _ratio(losses, logits.shape[1] * valid.sum((1, 2, 3))).mean()


_TINY = 1e-6
_IGNORED = 65535  # in labels, for smp; no index of a class


def _made(name: str, task: Task, class_weights: Tensor | None, device: torch.device | str) -> Loss:
    entry = registry.losses.entry(name)
    exclusive = task.kind == "multiclass"
    given: dict[str, Any] = {"kind": task.kind if exclusive else "binary"}
    given["class_weights"] = class_weights if exclusive else None
    try:
        loss: Loss = entry.load()(**{key: value for key, value in given.items() if _takes(name, key)})
    except TypeError as error:
        raise ConfigError(
            f"the loss '{name}' (from {entry.source}) is registered as something else than a factory without arguments"
            f" that returns the loss: {error}"
        ) from error
    except CarvanaError:
        raise
    except (Exception, SystemExit) as error:  # a factory of a plugin may raise anything
        raise ConfigError(f"the loss '{name}' (from {entry.source}) cannot be made: {error_line(error)}") from error
    if not callable(loss):
        raise ConfigError(f"the factory of the loss '{name}' (from {entry.source}) returned {loss!r:.60}, no loss")
    if isinstance(loss, nn.Module):
        loss = loss.to(device)
    if task.ignore and not _takes_valid(loss):
        raise ConfigError(
            f"the loss '{name}' (from {entry.source}) takes logits and targets alone, and cannot leave out what "
            "task.ignore names; take another, or give it a third argument, valid"
        )
    return loss


def _takes(name: str, argument: str) -> bool:
    """Whether the factory of a loss has an argument of this name."""
    try:
        return argument in inspect.signature(registry.losses.load(name)).parameters
    except (TypeError, ValueError):  # what is no function is refused when it is called
        return False


def _takes_valid(loss: Loss) -> bool:
    """Whether the third argument of a loss is what counts, and not a setting of its own that may be left out."""
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
        third = signature.parameters[list(signature.bind(None, None, None).arguments)[-1]]
    except (TypeError, ValueError):
        return False
    return third.name == "valid" or third.default is third.empty


def _parsed(expression: str) -> list[tuple[str | None, str]]:
    """The weights, as they are written, and the names of a sum."""
    terms = []
    for part in expression.split("+"):
        match = _TERM.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"loss {expression!r}: {part.strip()!r} is not a loss; expected a sum such as bce + 0.5*dice"
            )
        terms.append((match["weight"], match["name"]))
    return terms


class _WeightedSum(nn.Module):
    def __init__(self, terms: list[tuple[float, Loss]]) -> None:
        super().__init__()
        self.terms = terms

    def forward(self, logits: Tensor, targets: Tensor, *valid: Tensor) -> Tensor:
        total = logits.new_zeros(())
        for weight, loss in self.terms:
            total = total + weight * loss(logits, targets, *valid)
        return total


class _EachClass(nn.Module):
    """A loss of one object, taken of each class as if there were no other: the mean over classes.

    Args:
        loss: The loss of logits (N, 1, H, W).
        class_weights: The weight of each class in that mean; None for equal ones.
    """

    def __init__(self, loss: Loss, class_weights: Sequence[float] | None) -> None:
        super().__init__()
        self.loss = loss
        self.class_weights = class_weights

    def forward(self, logits: Tensor, targets: Tensor, *valid: Tensor) -> Tensor:
        if self.class_weights is None:  # each class of an image is an image: the mean is over these
            repeated = (each.repeat_interleave(logits.shape[1], dim=0) for each in valid)
            return self.loss(*(each.reshape(-1, 1, *each.shape[2:]) for each in (logits, targets)), *repeated)
        total = logits.new_zeros(())
        for index, weight in enumerate(self.class_weights):
            one = (each[:, index : index + 1] for each in (logits, targets))
            total = total + weight / sum(self.class_weights) * self.loss(*one, *valid)
        return total


def _focal(entropy: Tensor, gamma: float) -> Tensor:
    return (1 - torch.exp(-entropy)) ** gamma * entropy


def _lovasz_softmax(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    softmax = smp.losses.LovaszLoss("multiclass", per_image=True, ignore_index=_IGNORED)
    void = targets.sum(1) <= 0.5
    labels = targets.argmax(1).masked_fill(void, _IGNORED)
    return _mean_of_images(softmax, logits.float(), labels, ~void.flatten(1).all(1))


def _mean_of_images(loss: nn.Module, logits: Tensor, labels: Tensor, some: Tensor) -> Tensor:
    """The mean of smp's loss over images, 0 where nothing counts, on which smp fails."""
    if not bool(some.any()):
        return logits.sum() * 0
    result: Tensor = loss(logits[some], labels[some]) * some.float().mean()
    return result


def _ratio(part: Tensor, of: Tensor) -> Tensor:
    """A quotient, 0 where nothing counts."""
    return torch.where(of > 0, part / of.clamp(min=_TINY), part * 0)


def _boundary_bce(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    if valid is None:
        side = _surroundings(targets)
        around = F.avg_pool2d(targets, side, stride=1, padding=side // 2, count_include_pad=False)
        weights = 1 + 5 * (around - targets).abs()
        pixelwise = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        per_image = (weights * pixelwise).sum((2, 3)) / weights.sum((2, 3))
        return per_image.mean()
    shares = targets / valid.clamp(min=_TINY)
    weights = valid * (1 + 5 * (_mean_around(targets, valid) - shares).abs())
    pixelwise = F.binary_cross_entropy_with_logits(logits, shares, reduction="none")
    return _ratio((weights * pixelwise).sum((2, 3)), weights.sum((2, 3))).mean()


def _boundary_weights(targets: Tensor, valid: Tensor) -> Tensor:
    """The weight (N, H, W) of each pixel in boundary_ce."""
    shares = targets / valid.clamp(min=_TINY)
    return 1 + 2.5 * (_mean_around(targets, valid) - shares).abs().sum(1)


def _mean_around(targets: Tensor, valid: Tensor) -> Tensor:
    """The mean of the targets over what counts in each pixel's surroundings."""
    side = _surroundings(targets)
    parts, counts = (
        F.avg_pool2d(x, side, stride=1, padding=side // 2, count_include_pad=False) for x in (targets, valid)
    )
    return parts / counts.clamp(min=_TINY)


def _surroundings(targets: Tensor) -> int:
    """The side of the square around a pixel, an odd number."""
    return max(3, round(0.09 * min(targets.shape[2:]))) | 1
