"""Losses by name: each compares logits with coverage targets, image by image, and is least where they agree.

A loss is a callable ``loss(logits, targets)``: both (N, classes, H, W), targets float in [0, 1]; the result is a scalar
to minimise. Region losses (dice, jaccard, tversky) are smp's, but computed per image and averaged, as the
competition's metric is, where smp sums over the whole batch. They hold for soft targets: the usual product p * t is
largest at p = 1 for any t > 0, so smp writes the overlap with |p - t| (Wang et al., Dice Semimetric Losses, MICCAI
2023), which is the usual loss on hard targets and least at p = t on soft ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch.nn.functional as F  # noqa: N812 - its usual name
from segmentation_models_pytorch.losses._functional import soft_tversky_score
from torch import Tensor

from carvana.errors import CarvanaError, ConfigError, error_line
from carvana.registry import registry

Loss = Callable[[Tensor, Tensor], Tensor]

SMOOTH = 1.0
"""Pixels added to both sides of a ratio, so that an image without the object has a gradient too."""

_TERM = re.compile(r"\s*(?:(?P<weight>\d+(?:\.\d*)?|\.\d+)\s*\*\s*)?(?P<name>[A-Za-z][\w-]*)\s*")


def make_loss(expression: str) -> Loss:
    """Build a loss from registered names: ``dice``, ``bce + dice``, ``bce + 0.5*lovasz``.

    Raises:
        ConfigError: the expression is no sum of names.
        UnknownNameError: a name is not registered.
    """
    terms = [(weight, _made(name)) for weight, name in _parsed(expression)]
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]
    return lambda logits, targets: sum((weight * loss(logits, targets) for weight, loss in terms), logits.new_zeros(()))


def loss_names(expression: str) -> list[str]:
    """The names in an expression that :func:`make_loss` takes.

    >>> loss_names("bce + 0.5*lovasz")
    ['bce', 'lovasz']
    """
    return [name for _, name in _parsed(expression)]


def bce() -> Loss:
    """Binary cross-entropy, smp's; its targets may be soft."""
    return smp.losses.SoftBCEWithLogitsLoss(ignore_index=None)  # type: ignore[no-any-return]


def dice() -> Loss:
    """One minus the Dice coefficient of each image."""
    return _tversky(alpha=0.5, beta=0.5)


def jaccard() -> Loss:
    """One minus the intersection over union of each image."""
    return _tversky(alpha=1.0, beta=1.0)


def tversky() -> Loss:
    """Tversky's index with missed pixels weighing 0.7 and false ones 0.3 (Salehi et al., MLMI 2017)."""
    return _tversky(alpha=0.3, beta=0.7)


def focal() -> Loss:
    """Focal loss with gamma 2 (Lin et al., ICCV 2017), smp's: a growing function of bce, so soft targets are fine."""
    return smp.losses.FocalLoss("binary", gamma=2.0)  # type: ignore[no-any-return]


def lovasz() -> Loss:
    """Lovasz hinge per image (Berman et al., CVPR 2018), smp's, on hard labels: a coverage above half counts as 1."""
    hinge = smp.losses.LovaszLoss("binary", per_image=True)
    return lambda logits, targets: hinge(logits, (targets > 0.5).to(logits.dtype))


def boundary_bce() -> Loss:
    """Binary cross-entropy that weighs pixels near a boundary up to 6 times (Wei et al., F3Net, AAAI 2020).

    The weight is 1 + 5 |mean of the surroundings - target|, the surroundings being a square of 9% of the picture.
    """
    return _boundary_bce


def _tversky(*, alpha: float, beta: float) -> Loss:
    """One minus Tversky's index, TP / (TP + alpha FP + beta FN), of each image and class, averaged."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        pairs = logits.float().sigmoid().flatten(2), targets.float().flatten(2)
        scores: Tensor = soft_tversky_score(*pairs, alpha, beta, smooth=SMOOTH, dims=2)
        return (1 - scores).mean()

    return loss


def _made(name: str) -> Loss:
    entry = registry.losses.entry(name)
    where = f"the loss '{name}' (from {entry.source})"
    try:
        loss: Loss = entry.load()()
    except CarvanaError:
        raise
    except (Exception, SystemExit) as error:  # a factory of a plugin may raise anything
        raise ConfigError(
            f"{where} cannot be made by its target, which must be a factory without arguments: {error_line(error)}"
        ) from error
    if not callable(loss):
        raise ConfigError(f"the factory of {where} returned {loss!r:.60}, no loss")
    return loss


def _parsed(expression: str) -> list[tuple[float, str]]:
    terms = []
    for part in expression.split("+"):
        match = _TERM.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"loss {expression!r}: {part.strip()!r} is not a loss; expected a sum such as bce + 0.5*dice"
            )
        terms.append((float(match["weight"] or 1.0), match["name"]))
    return terms


def _boundary_bce(logits: Tensor, targets: Tensor) -> Tensor:
    side = max(3, round(0.09 * min(targets.shape[2:]))) | 1
    around = F.avg_pool2d(targets, side, stride=1, padding=side // 2, count_include_pad=False)
    weights = 1 + 5 * (around - targets).abs()
    pixelwise = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    per_image = (weights * pixelwise).sum((2, 3)) / weights.sum((2, 3))
    return per_image.mean()
