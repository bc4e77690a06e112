"""The contracts of architectures and of losses."""

from __future__ import annotations

import copy
import itertools
import math
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from carvana.errors import ConfigError, ModelError
from carvana.losses import Loss, make_loss
from carvana.models.segmenter import Segmenter, create_model
from carvana.registry import registry
from carvana.task import Task
from carvana.testing.data import contract, expect

_ATTEMPTS = 4
_NUDGE = 1e-2
_SIZE = (24, 32)
"""Of the logits and targets that losses are tried on, of three images."""
_NAMES = ["sky", "road", "car", "pole"]


def check_arch(name: str, *, options: Mapping[str, Any] | None = None, size: tuple[int, int] = (45, 61)) -> None:
    """Check that an architecture does what the rest of the library relies on.

    Logits have the size of the images, whatever that is, and a channel for each class; gradients reach every trainable
    parameter; evaluation gives the same each time, whatever else is in the batch; a model that is saved reads back to
    the same bits, with its classes; foreign weights are refused.

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
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        for task in (Task.binary(), Task(classes=_NAMES, ignore=[255])):
            model = create_model(name, task=task, options=options)
            if task.kind == "binary":
                _check_sizes(model, size)
            else:
                _check_classes(model, images[:1])
            _check_gradients(name, options, model, images)
            _check_reading_back(model, images)
            if task.kind == "binary":
                _check_evaluation(model, images)
                _check_refusals(model)


def check_loss(name: str) -> None:
    """Check that a loss can train a network here.

    Of one object and of several classes it is a finite scalar with finite gradients, also where masks are empty or full
    and logits are large; it is less for better logits; and the loss of a batch is the mean over its images, on which
    accumulated batches and trainings in several processes rely. Its inputs are left as they are. With an argument
    ``valid`` it leaves out what counts for nothing, and is 0 for an image of which nothing counts. Equal class weights,
    where its factory takes some, change nothing.

    A factory with an argument ``kind`` may refuse a kind of task with a ConfigError; that kind is not checked.

    Args:
        name: A loss of the registry; register your own first.

    Raises:
        AssertionError: what is broken, in one line.

    Example:
        >>> import carvana.testing
        >>> carvana.testing.check_loss("dice")
    """
    with contract(registry.losses, name):
        refusals = []
        for classes in ({"object": 1}, _NAMES):
            try:
                make_loss(name, task := Task(classes=classes))
            except ConfigError as error:
                refusals.append(error)
            else:
                _check_loss_of(name, task)
        if len(refusals) == 2:
            raise refusals[0]


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


def _check_classes(model: Segmenter, images: Tensor) -> None:
    """A channel for each class, which can differ from the others: not one channel that is repeated."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # layers that begin at zero give equal channels
            parameter.add_(_NUDGE * torch.randn_like(parameter))
    logits = _run(model, images)
    expect(logits.shape[1] == len(_NAMES), f"classes={len(_NAMES)} gives {logits.shape[1]} channels")
    alike = any(torch.equal(*logits[0, list(pair)]) for pair in itertools.combinations(range(len(_NAMES)), 2))
    expect(not alike, f"classes={len(_NAMES)} gives the same logits for two classes")


def _check_gradients(name: str, options: dict[str, Any], model: Segmenter, images: Tensor) -> None:
    known = {id(parameter) for parameter in model.parameters()}
    expect(all(id(p) in known for p in model.encoder_parameters()), "its encoder is not part of it")
    still = _without_gradient(model, images)
    for attempt in range(1, _ATTEMPTS):
        if not still:
            return
        torch.manual_seed(attempt)  # a ReLU may be dead by chance; what another start reaches can learn
        other = create_model(name, task=model.spec.task, options=options)
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


def _check_reading_back(model: Segmenter, images: Tensor) -> None:
    logits = _run(model.eval(), images)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        twin = Segmenter.from_pretrained(folder)
        expect(twin.spec == model.spec, "the spec changes when it is saved and read back")
        expect(torch.equal(logits, _run(twin, images)), "a model that is saved and read back gives other logits")


def _check_refusals(model: Segmenter) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
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


def _check_loss_of(name: str, task: Task) -> None:
    """The contract for one kind of task; the messages name it where there are several classes."""
    several = task.kind == "multiclass"
    of = f" of {len(_NAMES)} classes" if several else ""
    loss = make_loss(name, task)
    generator = torch.Generator().manual_seed(0)
    logits, soft = torch.randn(3, len(task.classes), *_SIZE, generator=generator), _shares(task, generator)
    hard = functional.one_hot(soft.argmax(1), len(task.classes)).movedim(3, 1).float() if several else soft.round()
    full = functional.one_hot(torch.zeros(3, *_SIZE, dtype=torch.long), len(task.classes)).movedim(3, 1).float()
    empty = full.roll(1, 1) if several else 0 * full  # of several classes the next one is everywhere
    masks = {"soft": soft, "hard": hard, "empty": empty, "full": full}
    for what, targets in masks.items():
        for scale in (1.0, 40.0):
            _check_loss_gradient(loss, scale * logits, (targets,), f"{what} masks{of} and logits up to {4 * scale:g}")
    _check_loss_falls(loss, hard, of)
    # Images of which the object covers little, half and all: alike ones would hide a sum over the whole batch.
    covered = torch.tensor([0.02, 0.5, 1.0]).view(3, 1, 1, 1) * soft
    if several:
        covered[:, 0] += 1 - covered.sum(1)
    _check_loss_is_mean(loss, logits, (covered,), of)
    with suppress(ConfigError):  # it cannot leave out pixels, or takes no weights
        _check_void(make_loss(name, Task(classes=task.classes, ignore=[255])), loss, logits, covered, of)
    with suppress(ConfigError):
        weighing = make_loss(name, task, class_weights=[3.0] * len(task.classes))
        message = f"weights that are equal for all classes change it{of}"
        expect(_close(weighing(logits, soft), loss(logits, soft)), message)
        _check_loss_gradient(
            make_loss(name, task, class_weights=[0.0, 1.0, 2.0, 3.0]), logits, (soft,), "class weights"
        )


def _shares(task: Task, generator: torch.Generator) -> Tensor:
    """Soft targets (3, K, h, w); of classes that exclude each other they sum to 1."""
    drawn = torch.rand(3, len(task.classes), *_SIZE, generator=generator)
    return (4 * drawn).softmax(1) if task.kind == "multiclass" else drawn


def _check_void(loss: Loss, plain: Loss, logits: Tensor, targets: Tensor, of: str) -> None:
    """With ``valid``: what counts for nothing has no say, and an image of which nothing counts is 0."""
    valid = torch.ones(3, 1, *_SIZE)
    expect(
        _close(loss(logits, targets, valid), plain(logits, targets)), f"where all pixels count, valid changes it{of}"
    )
    valid[:2, ..., ::3], valid[2] = 0, 0  # of the third image nothing counts
    targets = targets * valid
    for scale in (1.0, 40.0):
        _check_loss_gradient(loss, scale * logits, (targets, valid), f"masks{of} with ignored pixels")
    other = torch.where(valid > 0, logits, 9 - 3 * logits)
    expect(_close(loss(other, targets, valid), loss(logits, targets, valid)), f"pixels that are ignored change it{of}")
    nothing = loss(logits[2:], targets[2:], valid[2:]).item()
    expect(nothing == 0, f"it is {nothing:.6g}, and not 0, for an image{of} that is ignored as a whole")
    _check_loss_gradient(loss, 40 * logits[2:], (targets[2:], valid[2:]), f"an image{of} that is ignored as a whole")
    _check_loss_is_mean(loss, logits, (targets, valid), of)


def _check_loss_gradient(loss: Loss, logits: Tensor, targets: tuple[Tensor, ...], what: str) -> None:
    logits = logits.clone().requires_grad_()
    before = [each.clone() for each in targets]
    try:
        value = loss(logits, *targets)
    except Exception as error:  # whatever it raises
        raise AssertionError(f"it fails for {what}: {type(error).__name__}: {error}") from error
    is_tensor = isinstance(value, Tensor)
    found = f"a tensor of shape {tuple(value.shape)}" if is_tensor else repr(value)
    expect(is_tensor and value.shape == (), f"it must return a scalar tensor, got {found}")
    expect(math.isfinite(value.item()), f"it is {value.item()} for {what}")
    expect(all(map(torch.equal, targets, before)), "it changes the masks that it is given")
    expect(value.requires_grad, "no gradient comes back from it")
    (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
    expect(gradient is not None, "no gradient comes back from it")
    expect(bool(gradient.isfinite().all()), f"its gradient is not finite for {what}")


def _check_loss_falls(loss: Loss, targets: Tensor, of: str) -> None:
    right = 4 * (2 * targets - 1)
    values = [loss(share * right, targets).item() for share in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    falls = all(worse >= better for worse, better in itertools.pairwise(values))  # a hinge is 0 from some margin on
    shown = ", ".join(f"{value:.4g}" for value in values)
    expect(falls and values[0] > values[-1], f"it does not fall from wrong to right logits{of}: {shown}")
    for index in range(targets.shape[1]):
        worse = right.clone()
        worse[:, index] *= -1
        found = loss(worse, targets).item()
        expect(found > values[-1], f"it is no larger where class {index}{of} is wrong: {found:.4g}")


def _check_loss_is_mean(loss: Loss, logits: Tensor, targets: tuple[Tensor, ...], of: str) -> None:
    alone = [loss(logits[i : i + 1], *(each[i : i + 1] for each in targets)).item() for i in range(len(logits))]
    mean, together = sum(alone) / len(alone), loss(logits, *targets).item()
    expect(
        math.isclose(mean, together, rel_tol=1e-4, abs_tol=1e-6),
        f"of a batch{of} it is {together:.6g}, and {mean:.6g} in the mean over the batch's images",
    )


def _close(one: Tensor, other: Tensor) -> bool:
    return math.isclose(one.item(), other.item(), rel_tol=1e-4, abs_tol=1e-6)
