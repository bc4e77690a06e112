"""Model files: model.safetensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.commands import carvana
from faults.hostile import safetensors, taken_apart
from faults.models import FIRST, WEIGHTS, refusal, save_model
from safetensors.torch import load_file, save_file

from carvana.models.segmenter import Segmenter, create_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Sound files of other tensors."""

    def write(path: Path) -> None:
        state = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(state)
        save_file(state, path)

    return write


def header(change: Callable[[dict[str, Any], int], object]) -> Callable[[Path], None]:
    """Files whose header says other things of the same bytes."""

    def write(path: Path) -> None:
        told, body = taken_apart(path.read_bytes())
        change(told, len(body))
        path.write_bytes(safetensors(told, body))

    return write


def bytes_of(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def of_type(dtype: torch.dtype) -> Callable[[Path], None]:
    return tensors(lambda state: state.update({FIRST: state[FIRST].to(dtype)}))


def value(number: float) -> Callable[[Path], None]:
    return tensors(lambda state: state[FIRST].view(-1).__setitem__(3, number))


def nothing(place: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [0], "data_offsets": [place, place]}


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.unlink()
        make(path)

    return write


SECOND = "down.0.3.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (bytes_of(lambda data: b""), "not a readable safetensors"),
    "7 bytes": (bytes_of(lambda data: data[:7]), "not a readable safetensors"),
    "the length alone": (bytes_of(lambda data: data[:8]), "not a readable safetensors"),
    "half a header": (bytes_of(lambda data: data[:500]), "not a readable safetensors"),
    "half": (bytes_of(lambda data: data[: len(data) // 2]), "not a readable safetensors"),
    "a byte less": (bytes_of(lambda data: data[:-1]), "not a readable safetensors"),
    "a byte more": (bytes_of(lambda data: data + b"x"), "not a readable safetensors"),
    "a header of 2^60 bytes": (bytes_of(lambda data: safetensors({}, data[8:], 2**60)), "header too large"),
    "a header of 99 MB": (bytes_of(lambda data: safetensors({}, data[8:], 99_000_000)), "invalid header length"),
    "a header of brackets": (bytes_of(lambda data: safetensors(b"[" * 100_000, b"")), "not a readable safetensors"),
    "a list for a header": (bytes_of(lambda data: safetensors([], b"")), "not a readable safetensors"),
    "overlapping offsets": (
        header(lambda told, size: told[FIRST].update(data_offsets=told[SECOND]["data_offsets"])), "invalid",
    ),
    "offsets beyond the end": (header(lambda told, size: told[FIRST].update(data_offsets=[0, 2**63])), "invalid"),
    "negative offsets": (header(lambda told, size: told[FIRST].update(data_offsets=[-8, 0])), "invalid"),
    "a shape of 2^80": (header(lambda told, size: told[FIRST].update(shape=[2**40, 2**40])), "overflow"),
    "an unknown type": (header(lambda told, size: told[FIRST].update(dtype="F4096")), "unknown variant"),
    "a name that clears the screen": (
        header(lambda told, size: told.update({"\x1b[2J\n": nothing(size)})),
        r"the first is '\x1b[2J\n'",
    ),
    "a name of 100 kB": (
        header(lambda told, size: told.update({"y" * 10**5: nothing(size)})),
        "the first is 'yyy",
    ),
    "one tensor less": (tensors(lambda state: state.pop(FIRST)), f"missing, the first is '{FIRST}"),
    "one tensor more": (tensors(lambda state: state.update(extra=torch.zeros(3))), "the first is 'extra'"),
    "another shape": (tensors(lambda state: state.update({FIRST: torch.zeros(2, 3, 3, 2)})), "has shape (2, 3, 3, 2)"),
    "a shape that broadcasts": (tensors(lambda state: state.update({FIRST: torch.zeros(1)})), "has shape (1,)"),
    "other classes": (
        tensors(lambda state: state.update({"head.weight": torch.zeros(5, 2, 1, 1), "head.bias": torch.zeros(5)})),
        "'head.weight' has shape (5, 2, 1, 1) and should have (1, 2, 1, 1)",
    ),
    "another width": (
        lambda path: save_file(create_model("unet-ref", width=3).network.state_dict(), path), "has shape (3, 3, 3, 3)",
    ),
    "NaN": (value(float("nan")), f"'{FIRST}' holds values that are not finite"),
    "infinity": (value(float("-inf")), "not finite"),
    "1e300, which fp32 has not": (
        tensors(lambda state: state.update({FIRST: state[FIRST].double() + 1e300})), "not finite",
    ),
    "whole numbers": (of_type(torch.int32), "is torch.int32 and should be torch.float32"),
    "truth values": (of_type(torch.bool), "is torch.bool and should be torch.float32"),
    "complex numbers": (of_type(torch.complex64), "is torch.complex64 and should be torch.float32"),
    "8-bit numbers": (of_type(torch.float8_e4m3fn), "is torch.float8_e4m3fn and should be torch.float32"),
    "a complex counter": (
        tensors(lambda state: state.update({"down.0.1.num_batches_tracked": torch.tensor(1j)})),
        "is torch.complex64 and should be torch.int64",
    ),
    "a link to a text": (instead(lambda path: path.symlink_to("/etc/passwd")), "not a readable safetensors"),
    "a link to a device": (instead(lambda path: path.symlink_to("/dev/zero")), "model.safetensors is missing"),
    "a link to itself": (instead(lambda path: path.symlink_to(path)), "model.safetensors is missing"),
    "a named pipe": (instead(os.mkfifo), "model.safetensors is missing"),
    "a folder": (instead(Path.mkdir), "model.safetensors is missing"),
}  # fmt: skip


@pytest.mark.fault(
    done="model.safetensors cut, with a header that lies, with other tensors, shapes, types, classes, NaN, as a link",
    promised="one line that names the file, and the tensor where it is one; nothing of a linked file is shown",
    reaches="models/serialization.py: load_weights; models/weight_files.py: difference and flaw",
)
@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_weights_are_refused(how: str, model: Path) -> None:
    damage, words = DAMAGES[how]
    damage(model / WEIGHTS)
    line = refusal(lambda: Segmenter.from_pretrained(model))
    assert words in line
    assert str(model) in line
    assert "root:" not in line


@pytest.mark.fault(
    done="model.safetensors with NaN, and with a BatchNorm whose variance is below zero, for predict",
    promised="exit code 1, one line, no mask",
    reaches="inference/predictor.py: what a network gives that is no number",
    quick=0,
)
@pytest.mark.parametrize(("how", "words"), [("weight", "not finite"), ("variance", "no number")])
def test_a_network_that_gives_no_numbers_writes_no_mask(
    how: str, words: str, model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    damage = {
        "weight": value(float("nan")),
        "variance": tensors(lambda state: state["up.3.1.running_var"].fill_(-5)),
    }
    damage[how](model / WEIGHTS)
    done = carvana("predict", model, tiny_data / "train", "--out", tmp_path / "out")
    assert words in done.error or "NaN" in done.error
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.fault(
    done="model.safetensors and the model folder as links to where the real ones are",
    promised="followed, because the hub's cache consists of links; the file must fit the model",
    reaches="models/serialization.py: locate and load_weights through a link",
)
def test_links_to_sound_weights_are_followed(model: Path, tmp_path: Path) -> None:
    saved = save_model(tmp_path / "saved")
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).symlink_to(saved / WEIGHTS)
    (tmp_path / "link").symlink_to(model)
    state = Segmenter.from_pretrained(tmp_path / "link").network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(saved / WEIGHTS).items())
