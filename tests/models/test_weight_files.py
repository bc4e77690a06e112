from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from carvana.errors import ModelError
from carvana.models.weight_files import match_weights, read_weights


def net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, width, 1), nn.Linear(width, 2))


STATE = net().state_dict()
HEAD = {"3.weight", "3.bias"}


def renamed(state: dict) -> dict:
    return {f"tensor_{i}": value for i, value in enumerate(state.values())}


def same(matched: dict, expected: dict) -> bool:
    plain = {name: tensor for name, tensor in expected.items() if not name.endswith("num_batches_tracked")}
    return matched.keys() == plain.keys() and all(torch.equal(matched[name], plain[name]) for name in plain)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_files_of_tensors_are_read(tmp_path: Path, suffix: str):
    path = tmp_path / f"weights{suffix}"
    save_file(STATE, path) if suffix == ".safetensors" else torch.save(STATE, path)
    assert same({n: t for n, t in read_weights(path).items() if "tracked" not in n}, STATE)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_checkpoint_that_wraps_the_tensors_is_unwrapped(tmp_path: Path, wrapper: str):
    torch.save({wrapper: STATE, "epoch": 3}, tmp_path / "x.pth")
    assert read_weights(tmp_path / "x.pth").keys() == STATE.keys()


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path):
    torch.save(net(), tmp_path / "module.pth")
    with pytest.raises(ModelError, match="cannot be read as weights") as caught:
        read_weights(tmp_path / "module.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("none.pth", None, "no such file of weights"),
        ("weights.h5", b"x", "must end with .safetensors or .pth"),
        ("cut.safetensors", b"x" * 50, "cannot be read"),
        ("empty.pth", b"", "cannot be read"),
        ("list.pth", [1, 2], "holds no named tensors"),
        ("mixed.pth", {"a": torch.zeros(1), "b": 3}, "other things than tensors"),
    ],
)
def test_what_is_no_file_of_weights_is_one_clear_line(tmp_path: Path, name: str, content: object, line: str):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ModelError, match=line) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_names_decide_where_they_fit_whatever_the_order():
    shuffled = dict(reversed(STATE.items()))
    assert same(match_weights(shuffled, STATE), STATE)
    assert same(match_weights({f"module.{name}": tensor for name, tensor in STATE.items()}, STATE), STATE)


def test_other_tensors_of_the_file_and_another_classifier_are_left_out():
    other = STATE | {"classifier": torch.zeros(9), "3.weight": torch.zeros(7, 4), "3.bias": torch.zeros(7)}
    matched = match_weights(other, STATE, HEAD)
    assert same(matched, {name: tensor for name, tensor in STATE.items() if name not in HEAD})


def test_order_decides_where_names_differ_and_all_shapes_agree():
    without_counters = {name: tensor for name, tensor in STATE.items() if "tracked" not in name}
    assert same(match_weights(renamed(without_counters), STATE), STATE)
    headless = {name: tensor for name, tensor in without_counters.items() if name not in HEAD}
    assert same(match_weights(renamed(headless), STATE, HEAD), headless)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({n: t for n, t in STATE.items() if n != "2.bias"}, "1 of 10 tensors are missing, the first is '2.bias'"),
        (STATE | {"2.bias": torch.zeros(9)}, r"'2.bias' has shape \(9,\) and should have \(4,\)"),
        (
            renamed(net(5).state_dict()),
            r"tensor 1 is 'tensor_0' \(5, 3, 3, 3\), where '0.weight' \(4, 3, 3, 3\) belongs",
        ),
        ({"a": torch.zeros(4, 3, 3, 3)}, "it holds 1 tensors and the encoder has 10"),
    ],
)
def test_the_first_difference_is_named(found: dict, line: str):
    with pytest.raises(ModelError, match=line):
        match_weights(found, STATE)
