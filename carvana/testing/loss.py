"""The contract that every loss passes."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from carvana.losses import Loss, loss_names, make_loss
from carvana.registry import registry
from carvana.testing.broken import broken

_SHAPE = (3, 1, 24, 32)


def check_loss(name: str) -> None:
    """Check that a loss can train a network here.

    It is a finite scalar with finite gradients, also where masks are empty or full and logits are large; it is less
    for better logits; and the loss of a batch is the mean over its images, on which accumulated batches and trainings
    in several processes rely. Its inputs are left as they are.

    Args:
        name: A loss of the registry; register your own first.

    Raises:
        AssertionError: what is broken, in one line.

    Example:
        >>> import carvana.testing
        >>> carvana.testing.check_loss("dice")
    """
    registry.losses.entry(name)  # an unregistered name is the caller's mistake
    try:
        _check(name)
    except Exception as error:  # whatever a factory or a loss raises
        raise broken(f"the loss '{name}'", error) from error


def _check(name: str) -> None:
    _expect(name, loss_names(name) == [name], "no config could name it: use letters, digits, - and _, a letter first")
    loss = make_loss(name)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(_SHAPE, generator=generator)
    soft = torch.rand(_SHAPE, generator=generator)
    for what, targets in (("soft", soft), ("hard", soft.round()), ("empty", soft * 0), ("full", soft * 0 + 1)):
        for scale in (1.0, 40.0):
            _check_gradient(name, loss, scale * logits, targets, f"{what} masks and logits up to {4 * scale:g}")
    _check_direction(name, loss, soft.round())
    _check_mean(name, loss, logits, soft)


def _check_gradient(name: str, loss: Loss, logits: Tensor, targets: Tensor, what: str) -> None:
    logits = logits.clone().requires_grad_()
    before = targets.clone()
    try:
        value = loss(logits, targets)
    except Exception as error:  # whatever it raises
        raise AssertionError(f"the loss '{name}': it fails for {what}: {type(error).__name__}: {error}") from error
    _expect(
        name,
        isinstance(value, Tensor) and value.shape == (),
        f"it must return a scalar tensor, got {_describe(value)}",
    )
    _expect(name, math.isfinite(value.item()), f"it is {value.item()} for {what}")
    _expect(name, torch.equal(targets, before), "it changes the masks that it is given")
    _expect(name, value.requires_grad, "no gradient comes back from it")
    (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
    _expect(name, gradient is not None, "no gradient comes back from it")
    _expect(name, bool(gradient.isfinite().all()), f"its gradient is not finite for {what}")


def _check_direction(name: str, loss: Loss, targets: Tensor) -> None:
    right = 4 * (2 * targets - 1)
    values = [loss(share * right, targets).item() for share in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    falls = all(worse >= better for worse, better in itertools.pairwise(values))  # a hinge is 0 from some margin on
    _expect(
        name,
        falls and values[0] > values[-1],
        f"it does not fall from wrong to right logits: {', '.join(f'{v:.4g}' for v in values)}",
    )


def _check_mean(name: str, loss: Loss, logits: Tensor, targets: Tensor) -> None:
    # Images of which the object covers little, half and all: alike ones would hide a sum over the whole batch.
    targets = targets * torch.tensor([0.02, 0.5, 1.0]).view(3, 1, 1, 1)
    alone = [loss(logits[i : i + 1], targets[i : i + 1]).item() for i in range(len(logits))]
    mean, together = sum(alone) / len(alone), loss(logits, targets).item()
    close = math.isclose(mean, together, rel_tol=1e-4, abs_tol=1e-6)
    _expect(name, close, f"of a batch it is {together:.6g}, and {mean:.6g} in the mean over the batch's images")


def _expect(name: str, holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"the loss '{name}': {otherwise}")


def _describe(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
