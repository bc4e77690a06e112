"""The contract that every architecture passes."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from carvana.errors import ModelError
from carvana.models.create import create_model
from carvana.models.segmenter import Segmenter
from carvana.registry import registry
from carvana.testing.broken import broken

_ATTEMPTS = 4
_NUDGE = 1e-2


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
    registry.archs.entry(name)  # an unregistered name is the caller's mistake
    try:
        torch.manual_seed(0)
        model = create_model(name, options=options)
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        _check_sizes(model, size)
        _check_classes(name, options, images)
        _check_gradients(name, options, model, images)
        _check_evaluation(model, images)
        _check_saving(model, images)
    except Exception as error:  # whatever a network raises, an assertion of its own too
        raise broken(f"'{name}'", error) from error


def _check_sizes(model: Segmenter, size: tuple[int, int]) -> None:
    spec = model.spec
    small = (max(1, spec.min_size // 2 - 1), max(1, spec.min_size - 1))
    model.eval()
    for height, width in (size, (1, 1), small, (spec.min_size + 1, spec.min_size + spec.stride + 3)):
        images = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        logits = _run(model, images)
        _expect(
            model, tuple(logits.shape) == (1, spec.classes, height, width), f"{height}x{width} gives {logits.shape}"
        )
        _expect(model, bool(logits.isfinite().all()), f"{height}x{width} gives logits that are not finite")
    same = torch.equal(logits, _run(model, images / 255))
    _expect(model, same, "floats in [0, 1] give other logits than bytes of the same image")


def _check_classes(name: str, options: dict[str, Any], images: Tensor) -> None:
    model = create_model(name, classes=3, options=options).eval()
    logits = _run(model, images[:1])
    _expect(model, logits.shape[1] == 3, f"classes=3 gives {logits.shape[1]} channels")


def _check_gradients(name: str, options: dict[str, Any], model: Segmenter, images: Tensor) -> None:
    known = {id(parameter) for parameter in model.parameters()}
    _expect(model, all(id(p) in known for p in model.encoder_parameters()), "its encoder is not part of it")
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
    _expect(
        model, not still, f"no gradient reaches {len(still)} trainable parameters, such as '{min(still, default='')}'"
    )


def _without_gradient(model: Segmenter, images: Tensor) -> set[str]:
    """Parameters that training twice does not move: once as in training, once with BatchNorm's statistics fixed.

    Both, since BatchNorm over one pixel takes the gradient from the bias before it.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    _expect(model, bool(trainable), "it has no trainable parameter")
    for training in (True, False):
        model.train(training)
        logits = model(images)
        _expect(model, logits.requires_grad, "no gradient comes back from its logits")
        (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in trainable.items():
        message = f"'{name}' is trainable and no gradient ever reaches it: use it, drop it or freeze it"
        _expect(model, parameter.grad is not None, message)
    reached = {name for name, parameter in trainable.items() if parameter.grad is not None and parameter.grad.any()}
    model.zero_grad(set_to_none=True)
    return set(trainable) - reached


def _check_evaluation(model: Segmenter, images: Tensor) -> None:
    model.eval()
    logits = _run(model, images)
    _expect(model, torch.equal(logits, _run(model, images)), "evaluation is random: the same images give other logits")
    other = torch.stack([images[0], 255 - images[1]])
    torch.manual_seed(1)
    close = torch.allclose(logits[0], _run(model, other)[0], rtol=1e-4, atol=1e-5)
    _expect(model, close, "the logits of an image depend on the other images of its batch")
    alone = _run(model, images[:1])
    scale = float(logits[0].abs().max())
    close = torch.allclose(logits[0], alone[0], rtol=1e-3, atol=1e-3 * scale + 1e-6)
    _expect(model, close, "the logits of an image differ between a batch of one and of two")
    twin = copy.deepcopy(model)
    _expect(model, torch.equal(logits, _run(twin, images)), "a copy gives other logits")


def _check_saving(model: Segmenter, images: Tensor) -> None:
    logits = _run(model.eval(), images)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        twin = Segmenter.from_pretrained(folder)
        _expect(model, twin.spec == model.spec, "the spec changes when it is saved and read back")
        _expect(
            model, torch.equal(logits, _run(twin, images)), "a model that is saved and read back gives other logits"
        )
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
            _expect(model, _refuses(folder, copy.deepcopy(model.network)), f"a file of weights that {what} is accepted")


def _refuses(folder: str, network: nn.Module) -> bool:
    try:
        Segmenter.from_pretrained(folder, network=network)
    except ModelError:
        return True
    return False


def _run(model: Segmenter, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits


def _expect(model: Segmenter, holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"'{model.spec.arch}': {otherwise}")
