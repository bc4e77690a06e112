"""The contracts of architectures and of losses."""

from __future__ import annotations

import copy
import itertools
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from carvana.errors import ModelError
from carvana.losses import Loss, make_loss
from carvana.models.segmenter import Segmenter, create_model
from carvana.registry import registry
from carvana.testing.data import contract, expect

_ATTEMPTS = 4
_NUDGE = 1e-2
_SHAPE = (3, 1, 24, 32)
"""Of the logits and targets that losses are tried on."""


def check_arch(name: str, *, options: Mapping[str, Any] | None = None, size: tuple[int, int] = (45, 61)) -> None:
    """Check that an architecture does what the rest of the library relies on.

    Logits have the size of the images, whatever that is; gradients reach every trainable parameter; evaluation gives
    the same each time, whatever else is in the batch; a model that is saved reads back to the same bits; foreign
    weights are refused.

    Args:
        name: An architecture of the registry; register your own first.
        options: Options for its factory, such as a small width that makes the check fast.
        size: Height and width in pixels of the images that it trains on here, in batches of two.

    Raises:
        AssertionError: what is broken, in one line.

    Example:
        >>> import carvana.testing
        >>> carvana.testing.check_arch("unet-ref", options={"width": 4})
    """
    options = dict(options or {})
    with contract(registry.archs, name):
        torch.manual_seed(0)
        model = create_model(name, options=options)
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        _check_sizes(model, size)
        logits = _run(create_model(name, classes=3, options=options).eval(), images[:1])
        expect(logits.shape[1] == 3, f"classes=3 gives {logits.shape[1]} channels")
        _check_gradients(name, options, model, images)
        _check_evaluation(model, images)
        _check_saving(model, images)


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
    with contract(registry.losses, name):
        loss = make_loss(name)
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(_SHAPE, generator=generator)
        soft = torch.rand(_SHAPE, generator=generator)
        for what, targets in (("soft", soft), ("hard", soft.round()), ("empty", soft * 0), ("full", soft * 0 + 1)):
            for scale in (1.0, 40.0):
                _check_loss_gradient(loss, scale * logits, targets, f"{what} masks and logits up to {4 * scale:g}")
        _check_loss_falls(loss, soft.round())
        _check_loss_is_mean(loss, logits, soft)


def _check_sizes(model: Segmenter, size: tuple[int, int]) -> None:
    spec = model.spec
    small = (max(1, spec.min_size // 2 - 1), max(1, spec.min_size - 1))
    model.eval()
    for height, width in (size, (1, 1), small, (spec.min_size + 1, spec.min_size + spec.stride + 3)):
        images = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        logits = _run(model, images)
        expect(tuple(logits.shape) == (1, spec.classes, height, width), f"{height}x{width} gives {logits.shape}")
        expect(bool(logits.isfinite().all()), f"{height}x{width} gives logits that are not finite")
    same = torch.equal(logits, _run(model, images / 255))
    expect(same, "floats in [0, 1] give other logits than bytes of the same image")


def _check_gradients(name: str, options: dict[str, Any], model: Segmenter, images: Tensor) -> None:
    known = {id(parameter) for parameter in model.parameters()}
    expect(all(id(p) in known for p in model.encoder_parameters()), "its encoder is not part of it")
    still = _without_gradient(model, images)
    for attempt in range(1, _ATTEMPTS):
        if not still:
            return
        torch.manual_seed(attempt)  # a ReLU may be dead by chance; what another start reaches can learn
        other = create_model(name, options=options)
        with torch.no_grad():  # layers that begin at zero, as many blocks do, let no gradient through at the very start
            for parameter in other.parameters():
                parameter.add_(_NUDGE * torch.randn_like(parameter))
        still &= _without_gradient(other, images)
    expect(not still, f"no gradient reaches {len(still)} trainable parameters, such as '{min(still, default='')}'")


def _without_gradient(model: Segmenter, images: Tensor) -> set[str]:
    """Parameters that training twice does not move: once as in training, once with BatchNorm's statistics fixed.

    Both, since BatchNorm over one pixel takes the gradient from the bias before it.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    expect(bool(trainable), "it has no trainable parameter")
    for training in (True, False):
        model.train(training)
        logits = model(images)
        expect(logits.requires_grad, "no gradient comes back from its logits")
        (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in trainable.items():
        message = f"'{name}' is trainable and no gradient ever reaches it: use it, drop it or freeze it"
        expect(parameter.grad is not None, message)
    reached = {name for name, parameter in trainable.items() if parameter.grad is not None and parameter.grad.any()}
    model.zero_grad(set_to_none=True)
    return set(trainable) - reached


def _check_evaluation(model: Segmenter, images: Tensor) -> None:
    model.eval()
    logits = _run(model, images)
    expect(torch.equal(logits, _run(model, images)), "evaluation is random: the same images give other logits")
    other = torch.stack([images[0], 255 - images[1]])
    torch.manual_seed(1)
    close = torch.allclose(logits[0], _run(model, other)[0], rtol=1e-4, atol=1e-5)
    expect(close, "the logits of an image depend on the other images of its batch")
    alone = _run(model, images[:1])
    scale = float(logits[0].abs().max())
    close = torch.allclose(logits[0], alone[0], rtol=1e-3, atol=1e-3 * scale + 1e-6)
    expect(close, "the logits of an image differ between a batch of one and of two")
    twin = copy.deepcopy(model)
    expect(torch.equal(logits, _run(twin, images)), "a copy gives other logits")


def _check_saving(model: Segmenter, images: Tensor) -> None:
    logits = _run(model.eval(), images)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        twin = Segmenter.from_pretrained(folder)
        expect(twin.spec == model.spec, "the spec changes when it is saved and read back")
        expect(torch.equal(logits, _run(twin, images)), "a model that is saved and read back gives other logits")
        weights = Path(folder, "model.safetensors")
        state = {name: tensor.clone() for name, tensor in load_file(weights).items()}
        first = next(name for name, tensor in state.items() if tensor.is_floating_point())
        foreign = {
            "lacks a tensor": {name: tensor for name, tensor in state.items() if name != first},
            "has a tensor too many": state | {"foreign": torch.zeros(1)},
            "has a tensor of another shape": state | {first: torch.zeros(*state[first].shape, 2)},
            "has a tensor that is not finite": state | {first: torch.full_like(state[first], float("nan"))},
        }
        for what, tensors in foreign.items():
            save_file(tensors, weights)
            try:
                Segmenter.from_pretrained(folder, network=copy.deepcopy(model.network))
            except ModelError:
                continue
            raise AssertionError(f"a file of weights that {what} is accepted")


def _run(model: Segmenter, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits


def _check_loss_gradient(loss: Loss, logits: Tensor, targets: Tensor, what: str) -> None:
    logits = logits.clone().requires_grad_()
    before = targets.clone()
    try:
        value = loss(logits, targets)
    except Exception as error:  # whatever it raises
        raise AssertionError(f"it fails for {what}: {type(error).__name__}: {error}") from error
    is_tensor = isinstance(value, Tensor)
    found = f"a tensor of shape {tuple(value.shape)}" if is_tensor else repr(value)
    expect(is_tensor and value.shape == (), f"it must return a scalar tensor, got {found}")
    expect(math.isfinite(value.item()), f"it is {value.item()} for {what}")
    expect(torch.equal(targets, before), "it changes the masks that it is given")
    expect(value.requires_grad, "no gradient comes back from it")
    (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
    expect(gradient is not None, "no gradient comes back from it")
    expect(bool(gradient.isfinite().all()), f"its gradient is not finite for {what}")


def _check_loss_falls(loss: Loss, targets: Tensor) -> None:
    right = 4 * (2 * targets - 1)
    values = [loss(share * right, targets).item() for share in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    falls = all(worse >= better for worse, better in itertools.pairwise(values))  # a hinge is 0 from some margin on
    shown = ", ".join(f"{value:.4g}" for value in values)
    expect(falls and values[0] > values[-1], f"it does not fall from wrong to right logits: {shown}")


def _check_loss_is_mean(loss: Loss, logits: Tensor, targets: Tensor) -> None:
    # Images of which the object covers little, half and all: alike ones would hide a sum over the whole batch.
    targets = targets * torch.tensor([0.02, 0.5, 1.0]).view(3, 1, 1, 1)
    alone = [loss(logits[i : i + 1], targets[i : i + 1]).item() for i in range(len(logits))]
    mean, together = sum(alone) / len(alone), loss(logits, targets).item()
    close = math.isclose(mean, together, rel_tol=1e-4, abs_tol=1e-6)
    expect(close, f"of a batch it is {together:.6g}, and {mean:.6g} in the mean over the batch's images")
