from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime import get_available_providers
from torch import nn

from carvana.errors import ConfigError, ModelError
from carvana.inference.engines.export import export_onnx
from carvana.inference.engines.exported import is_exported
from carvana.inference.engines.onnx import OnnxEngine, onnx_device
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.utils.files import file_digest


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    spec = ModelSpec(arch="tiny", stride=8, min_size=16, classes=2, threshold=0.3, trained_size=(64, 96))
    return Segmenter(nn.Conv2d(3, 2, 3, padding=1), spec).eval()


@pytest.fixture(scope="module")
def file(model: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("exported") / "tiny.onnx").path


def test_it_gives_what_the_segmenter_gives_in_any_memory_format(model: Segmenter, file: Path) -> None:
    exported = OnnxEngine.load(file)
    images = torch.randint(0, 256, (2, 3, 45, 31), dtype=torch.uint8)
    rows = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not rows.is_contiguous()
    with torch.no_grad():
        wanted = model(images)
    for same in (images, rows, images.to(memory_format=torch.channels_last)):
        logits = exported(same)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    flipped = images.flip(-1)
    torch.testing.assert_close(exported(flipped), model(flipped).detach(), rtol=1e-4, atol=1e-5)


def test_it_knows_the_record_and_the_digest_of_its_file(model: Segmenter, file: Path) -> None:
    exported = OnnxEngine.load(file)
    assert exported.spec == model.spec
    assert exported.digest() == file_digest(file)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 0, 8, dtype=torch.uint8),
        torch.zeros(0, 3, 8, 8, dtype=torch.uint8),
    ],
)
def test_other_tensors_are_refused(file: Path, images: torch.Tensor) -> None:
    with pytest.raises(ModelError, match=r"must be uint8 \(N, 3, H, W\)"):
        OnnxEngine.load(file)(images)


def changed(file: Path, path: Path, key: str, value: str) -> Path:
    """A copy of the file with other metadata."""
    stored = onnx.load(file)
    del stored.metadata_props[:]
    helper.set_model_props(stored, {key: value})
    onnx.save(stored, path)
    return path


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("other", "{}", "was not written by carvana export"),
        ("carvana", "{", "is damaged: its metadata 'carvana' is not JSON"),
        ("carvana", '{"arch": "tiny", "format_version": 99}', "format version 99, .*upgrade carvana"),
        ("carvana", '{"arch": "tiny", "threshold": 7}', "not valid: threshold"),
    ],
)
def test_files_without_a_record_that_can_be_read_are_refused_in_one_line(
    file: Path, tmp_path: Path, key: str, value: str, line: str
) -> None:
    with pytest.raises(ModelError, match=line) as raised:
        OnnxEngine.load(changed(file, tmp_path / "changed.onnx", key, value))
    assert "changed.onnx" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_foreign_network_is_refused_even_under_our_record(model: Segmenter, tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in ("images", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["logits"])], "foreign", ends[:1], ends[1:])
    foreign = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(foreign, {"carvana": model.spec.model_dump_json()})
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ModelError, match="was not written by carvana export"):
        OnnxEngine.load(tmp_path / "foreign.onnx")


def test_damaged_files_are_refused_in_one_line(file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = file.read_bytes()
    for damaged in (b"", b"no network", data[: len(data) // 2], data[:-3]):
        (tmp_path / "damaged.onnx").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"damaged\.onnx' cannot be read by ONNX Runtime") as raised:
            OnnxEngine.load(tmp_path / "damaged.onnx")
        assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match=r"no file '.*nowhere\.onnx'"):
        OnnxEngine.load(tmp_path / "nowhere.onnx")
    assert capfd.readouterr() == ("", "")


def test_weights_outside_of_the_file_are_refused(file: Path, tmp_path: Path) -> None:
    stored = onnx.load(file)
    onnx.save(stored, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(ModelError, match="names another file for its weights"):
        OnnxEngine.load(tmp_path / "model.onnx")


def test_a_gpu_that_onnx_runtime_does_not_know_is_told(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"'cuda:0'.* no CUDAExecutionProvider; take --device cpu.*onnxruntime-gpu"):
        OnnxEngine.load(file, device=torch.device("cuda", 0))


def test_it_is_known_by_its_suffix(tmp_path: Path) -> None:
    assert is_exported("car.onnx")
    assert is_exported(tmp_path / "CAR.ONNX")
    assert not is_exported("runs/onnx")


@pytest.mark.slow
def test_a_lack_of_memory_is_pythons_own_error_and_smaller_photos_go_on(file: Path) -> None:
    program = (
        "import resource, sys, torch\n"
        "from carvana.inference.engines.onnx import OnnxEngine\n"
        "model = OnnxEngine.load(sys.argv[1])\n"
        "large, small = (torch.zeros(1, 3, side, side, dtype=torch.uint8) for side in (4000, 90))\n"
        "model(small)\n"
        "with open('/proc/self/status') as file:\n"
        "    taken = next(1024 * int(line.split()[1]) for line in file if line.startswith('VmSize'))\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26,) * 2)\n"
        "try: model(large)\n"
        "except MemoryError as error: print('too large', '\\n' in str(error))\n"
        "print(tuple(model(small).shape))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    assert done.stdout == "too large False\n(1, 2, 90, 90)\n", done.stderr
    assert done.stderr == ""


def test_auto_leaves_an_apple_gpu_to_torch_and_by_name_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.onnx"
    path.touch()
    assert onnx_device("auto").type in ("cpu", "cuda")
    monkeypatch.setattr("carvana.inference.engines.onnx.resolve_device", lambda name: torch.device("mps"))
    assert onnx_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device 'mps': .* take --device cpu"):
        OnnxEngine.load(path, device=onnx_device("mps"))


@pytest.mark.skipif("CUDAExecutionProvider" in get_available_providers(), reason="ONNX Runtime runs on GPUs here")
def test_auto_is_the_cpu_where_onnx_runtime_has_no_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.onnx"
    path.touch()
    monkeypatch.setattr("carvana.inference.engines.onnx.resolve_device", lambda name: torch.device("cuda", 0))
    assert onnx_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device 'cuda:0': .* no CUDAExecutionProvider; take --device cpu"):
        OnnxEngine.load(path, device=onnx_device("cuda"))
