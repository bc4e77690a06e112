"""Files of encoder weights, matched to an encoder's tensors by name or by order."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from carvana.errors import ModelError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a ``.safetensors`` file, or of a ``.pth`` file that holds only tensors.

    Raises:
        ModelError: there is no such file, it is of another kind, or it holds other things than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no such file of weights: '{path}'")
    if path.suffix not in SUFFIXES:
        raise ModelError(f"'{path}' must end with {' or '.join(SUFFIXES)}")
    if path.suffix != ".safetensors":
        return _tensors(_unpickled(path), path)
    try:
        return {name: tensor.clone() for name, tensor in load_file(path).items()}  # not mapped from the file
    except Exception as error:  # the reader may raise anything on damaged bytes
        raise ModelError(f"'{path}' cannot be read as weights: {first_line(error)}") from None


def match_weights(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: Set[str] = frozenset()
) -> dict[str, Tensor]:
    """The tensors of a file under the names that a network expects.

    By name where every expected one is there with its shape (others, such as a classifier, are left out), else in order
    where both have equally many and all shapes agree; counters of batches are left out of it.

    Args:
        found: The tensors of the file.
        expected: The tensors of the network.
        optional: Expected names that may be missing from the file, such as those of the classifier.

    Raises:
        ModelError: neither works, or a tensor is of another type or not finite; the message names the first difference.

    >>> weights = match_weights({"a": torch.ones(2), "b": torch.ones(3)}, {"x": torch.zeros(2), "y": torch.zeros(3)})
    >>> sorted(weights)
    ['x', 'y']
    """
    found = {name.removeprefix("module."): tensor for name, tensor in found.items() if not _is_counter(name)}
    expected = {name: tensor for name, tensor in expected.items() if not _is_counter(name)}
    needed = {name: tensor for name, tensor in expected.items() if name not in optional}
    by_name = {name: found[name] for name in expected if name in found and found[name].shape == expected[name].shape}
    matched = by_name if needed.keys() <= by_name.keys() else _in_order(found, expected) or _in_order(found, needed)
    if not matched:
        raise ModelError(_why_not_matched(found, needed))
    for name, tensor in matched.items():
        if wrong := flaw(tensor, expected[name]):
            raise ModelError(f"'{name}' {wrong}")
    return matched


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Which of the expected names are missing, or have another shape, in half a line; None if none."""
    missing = [name for name in expected if name not in found]
    if missing:
        return f"{len(missing)} of {len(expected)} tensors are missing, the first is '{missing[0]}'"
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            return f"'{name}' has shape {tuple(found[name].shape)} and should have {tuple(tensor.shape)}"
    return None


def flaw(tensor: Tensor, expected: Tensor) -> str | None:
    """Why a tensor of the right shape cannot replace another, as half a sentence; None if it can.

    Any floating-point numbers serve for others, as long as they are finite in the type that they will have.
    """
    if tensor.dtype != expected.dtype and not {tensor.dtype, expected.dtype} <= set(_FLOATS):
        return f"is {tensor.dtype} and should be {expected.dtype}"
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor.to(expected.dtype)).all()):
        return "holds values that are not finite"
    return None


def short(name: object) -> str:
    """A name from a file, made safe for an error message: quoted, on one line, of bounded length.

    >>> short("conv2d_1"), short("x" * 1000) == short("x" * 100)
    ("'conv2d_1'", True)
    """
    return repr(str(name)[:100])


def first_line(error: BaseException | None) -> str:
    """The first line of an error's message, or its class where the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _in_order(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors of a file under the expected names, in order; None where number or shapes differ."""
    if [tensor.shape for tensor in found.values()] != [tensor.shape for tensor in expected.values()]:
        return None
    return dict(zip(expected, found.values(), strict=True))


def _why_not_matched(found: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> str:
    """Why the tensors of a file match by neither name nor order."""
    were_meant_to = 2 * len(needed.keys() & found.keys()) >= len(needed)
    if were_meant_to and (reason := difference(found, needed)):
        return reason
    for position, (name, other) in enumerate(zip(needed, found, strict=False), start=1):
        if found[other].shape != needed[name].shape:
            return (
                f"neither names nor order agree: tensor {position} is {short(other)} {tuple(found[other].shape)},"
                f" where '{name}' {tuple(needed[name].shape)} belongs"
            )
    return f"neither names nor order agree: it holds {len(found)} tensors and the encoder has {len(needed)}"


def _unpickled(path: Path) -> Any:
    """The content of a torch file, read with ``weights_only``, which runs no code."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > path.stat().st_size:  # torch does not compress: a small file could claim terabytes
                raise ModelError(
                    f"'{path}' is refused: it would unpack to {unpacked:,} bytes, which torch never writes"
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception:  # torch's own message advises to load such files unsafely
        raise ModelError(
            f"'{path}' cannot be read as weights: it is damaged, or holds other things than tensors, which might run"
            " code and are never unpickled; save the model's state_dict, best as .safetensors"
        ) from None


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"'{path}' holds no named tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) != len(content):
        raise ModelError(f"'{path}' holds other things than tensors: save the model's state_dict alone")
    return tensors


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
