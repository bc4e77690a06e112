"""Model files: exported files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from faults.models import refusal
from onnx import TensorProto, helper, numpy_helper

from carvana.inference.engines.onnx import OnnxEngine
from carvana.models.spec import ModelSpec


def elsewhere(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 3, 1, 1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "12"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def network(path: Path, weights: TensorProto, **spec: int) -> Path:
    ends = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 3, "h", "w"]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1, "h", "w"]),
    ]
    nodes = [helper.make_node("Cast", ["images"], ["f"], to=1), helper.make_node("Conv", ["f", "w"], ["logits"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializer=[weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(made, {"carvana": ModelSpec(arch="mine", **spec).model_dump_json()})
    path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.fault(
    done="an exported file whose weights are in another file: absolute, above its folder, a link, beside it",
    promised="refused in one line before it is passed to ONNX Runtime, which would read a file beside it",
    reaches="inference/engines/onnx.py: checked_source",
)
@pytest.mark.parametrize("location", ["/etc/passwd", "../" * 20 + "etc/passwd", "link", "weights"])
def test_weights_in_other_files_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(np.ones(3, np.float32).tobytes())
    (tmp_path / "link").symlink_to("/etc/passwd")
    path = network(tmp_path / "net.onnx", elsewhere(location))
    if location == "weights":
        onnxruntime.InferenceSession(path)  # it would
    assert "names another file for its weights" in refusal(lambda: OnnxEngine.load(path))


@pytest.mark.fault(
    done=("an exported file that claims a shape of 2^40, and one with more classes in its metadata than in its output"),
    promised="one line that names the file",
    reaches="inference/engines/onnx.py: _open; OnnxEngine, the form of the logits",
)
def test_claims_of_an_exported_file_are_checked(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "w")
    other = network(tmp_path / "other.onnx", weights, classes=5)
    line = refusal(lambda: OnnxEngine.load(other)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)))
    assert str(other) in line
    assert "(1, 5, 8, 8)" in line
    weights.dims[0] = 2**40
    assert "huge.onnx" in refusal(lambda: OnnxEngine.load(network(tmp_path / "huge.onnx", weights)))
