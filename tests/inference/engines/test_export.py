from __future__ import annotations

import copy
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import decoders
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import carvana
from carvana.config import configs, load_config
from carvana.errors import ConfigError, ModelError
from carvana.inference.engines.choice import installed
from carvana.inference.engines.convert import adaptive_average, pool_at_any_size
from carvana.inference.engines.export import TOLERANCE, check_shapes, difference, export_onnx
from carvana.inference.engines.exported import ExportedEngine
from carvana.inference.engines.onnx import OnnxEngine
from carvana.inference.engines.openvino import OpenVinoEngine
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec

# Few stages and channels: most of the time goes into tracing each layer.
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
    "unetplusplus": {"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
    "manet": {"encoder_depth": 3, "decoder_channels": [16, 8, 8], "decoder_pab_channels": 8},
    "linknet": {"encoder_depth": 3},
    "fpn": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
    "pspnet": {"psp_out_channels": 16},
    "deeplabv3": {"encoder_depth": 3, "decoder_channels": 16},
    "deeplabv3plus": {"encoder_depth": 3, "decoder_channels": 16},
    "pan": {"encoder_depth": 3, "decoder_channels": 16},
    "upernet": {"encoder_depth": 3, "decoder_channels": 16},
    "segformer": {"encoder_depth": 3, "decoder_segmentation_channels": 16},
    "dpt": {"decoder_intermediate_channels": [16, 16, 16, 16], "decoder_fusion_channels": 16},
}


SHIPPED = ("best-small", "best-gpu", "unet-resnet34-512", "tiny-cpu", "unet-ref-128", "few-images")


def tiny(network: nn.Module | None = None, **spec: Any) -> Segmenter:
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    return Segmenter(network, ModelSpec(**({"arch": "tiny", "stride": 8, "min_size": 16} | spec)))


def photos(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def expected(model: Segmenter, images: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images)


@decoders.each("unet")
def test_every_decoder_gives_what_pytorch_gives_at_sizes_that_the_export_did_not_try(
    tmp_path: Path, decoder: str
) -> None:
    torch.manual_seed(0)
    encoder = "tu-vit_tiny_patch16_224" if decoder == "dpt" else "resnet18"
    model = create_model(f"{decoder}/{encoder}", options=SMALL[decoder])
    export_onnx(model, tmp_path / "model.onnx")
    exported = OnnxEngine.load(tmp_path / "model.onnx")
    side = model.spec.min_size
    for shape in ((1, 3, 1, 1), (3, 3, side, side), (1, 3, 150, 333)):
        wanted = expected(model, photos(*shape))
        error = (exported(photos(*shape)) - wanted).abs().max()
        assert error <= 1e-4 * wanted.abs().max(), shape


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_network_of_each_shipped_config_is_exported(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    model = create_model(config.arch, options=config.model.options).eval()
    made = export_onnx(model, tmp_path / "model.onnx")
    seen = photos(1, 3, 150, 223)
    engines: list[ExportedEngine] = [OnnxEngine.load(made.path)]
    if installed("openvino"):
        engines.append(OpenVinoEngine.load(made.path, precision="fp32"))
    for engine in engines:
        assert difference(expected(model, seen), engine(seen)) <= TOLERANCE


def test_those_are_all_networks_of_configs_that_train() -> None:
    trained = [load_config(name) for name in configs() if not name.startswith("compare")]
    named = [load_config(name) for name in SHIPPED]
    known = {(config.arch, str(config.model.options)) for config in named}
    assert {(config.arch, str(config.model.options)) for config in trained} == known


def several(kind: str, **spec: Any) -> Segmenter:
    task = carvana.Task(kind=kind, classes=["sky", "road", "car"])
    network = nn.Conv2d(3, 3, 3, padding=1)
    return tiny(network, classes=3, task=task, **spec)


@pytest.mark.parametrize("output", ["probabilities", "labels"])
def test_a_file_gives_probabilities_or_labels_by_a_plain_session(output: str, tmp_path: Path) -> None:
    seen = photos(2, 3, 45, 31)
    for model, form in (
        (tiny(threshold=0.4), (2, 45, 31)),
        (several("multiclass"), (2, 45, 31)),
        (several("multilabel", thresholds=(0.3, 0.5, 0.6)), (2, 3, 45, 31)),
    ):
        task, logits = model.spec.task, expected(model, seen)
        assert task is not None
        made = export_onnx(model, tmp_path / f"{task.kind}.onnx", output=output)
        [found] = onnxruntime.InferenceSession(made.path).run([output], {"images": seen.numpy()})
        if output == "probabilities":
            np.testing.assert_allclose(found, task.probabilities(logits), atol=1e-5)
        else:
            thresholds = torch.tensor(model.spec.thresholds).view(-1, 1, 1) if model.spec.thresholds else None
            wanted = logits.argmax(1) if thresholds is None else (logits.sigmoid() > thresholds).squeeze(1)
            assert found.dtype == np.uint8
            assert found.shape == form
            assert 0 < (found > 0).mean() < 1
            assert (found == wanted.numpy()).mean() > 0.999
            assert made.size < 40_000


def test_outputs_that_there_are_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"output 'label' is unknown.*did you mean 'labels'"):
        export_onnx(tiny(), tmp_path / "model.onnx", output="label")
    with pytest.raises(ModelError, match="has no task, so it gives logits only"):
        export_onnx(tiny(nn.Conv2d(3, 2, 1), classes=2), tmp_path / "model.onnx", output="labels")
    assert not list(tmp_path.iterdir())


def test_a_plain_session_of_onnx_runtime_needs_nothing_of_carvana(tmp_path: Path) -> None:
    model = tiny(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)), classes=3)
    export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(end.name, end.type, end.shape) for end in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["batch", 3, "height", "width"])
    ]
    assert [(end.name, end.type, end.shape) for end in session.get_outputs()] == [
        ("logits", "tensor(float)", ["batch", 3, "height", "width"])
    ]
    images = photos(2, 3, 77, 51)
    (logits,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(logits, expected(model, images).numpy(), rtol=1e-3, atol=1e-6)


def test_the_record_of_the_model_is_in_the_file_and_the_folders_of_the_machine_are_not(tmp_path: Path) -> None:
    model = tiny(trained_size=(128, 192), threshold=0.41, mean=(0.5, 0.4, 0.3))
    made = export_onnx(model, tmp_path / "model.onnx")
    stored = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(stored, full_check=True)
    assert json.loads({entry.key: entry.value for entry in stored.metadata_props}["carvana"]) == model.spec.to_json()
    assert stored.producer_name == "carvana"
    data = (tmp_path / "model.onnx").read_bytes()
    assert made.size == len(data)
    assert b".py" not in data
    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]


def test_a_model_in_training_on_other_memory_and_precision_is_exported_and_stays_as_it_is(tmp_path: Path) -> None:
    model = tiny().to(torch.bfloat16).to(memory_format=torch.channels_last).train()
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    export_onnx(model, tmp_path / "model.onnx")
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(parameter.requires_grad and parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    assert model.network[0].weight.is_contiguous(memory_format=torch.channels_last)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    images = photos(1, 3, 40, 30)
    wanted = expected(copy.deepcopy(model).float(), images)
    torch.testing.assert_close(OnnxEngine.load(tmp_path / "model.onnx")(images), wanted, rtol=1e-4, atol=1e-5)


def test_an_export_says_nothing_of_its_workings_and_leaves_logs_and_warnings_as_they_were(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    level = logging.getLogger("torch").level
    with warnings.catch_warnings(record=True) as heard, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        export_onnx(tiny(), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert not heard
    assert {record.name for record in caplog.records} <= {"carvana"}
    assert logging.getLogger("torch").level == level


def test_files_are_compared_at_three_sizes_that_ask_for_padding(tmp_path: Path) -> None:
    for stride, min_size in ((8, 16), (32, 64), (16, 128), (32, 32)):
        shapes = check_shapes(stride, min_size)
        assert {shape[0] for shape in shapes} == {1, 2}
        assert min(min(shape[2:]) for shape in shapes) < min_size
        for _, _, height, width in shapes:
            assert height != width
            assert height % stride
            assert width % stride
    made = export_onnx(tiny(), tmp_path / "model.onnx")
    assert [check.shape for check in made.checks] == check_shapes(8, 16)
    assert 0 <= made.difference < 1e-5


class ByWidth(nn.Module):
    """What it computes depends on how wide the image is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) * (2 if images.shape[-1] > 30 else 1)


class OtherWhenExported(nn.Module):
    """Its graph is a little off."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 1, 1)
        self.error = error

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) + (self.error if torch.compiler.is_exporting() else 0)


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (ByWidth(), "takes images of every size: at .* the file differs from PyTorch"),
        (OtherWhenExported(0.1), r"at 1 x 7x27 pixels the file differs from PyTorch by 0\.\d+, above 0.001"),
        (nn.Sequential(nn.Conv2d(3, 1, 1), nn.LayerNorm(32)), "'tiny'"),
    ],
)
def test_what_is_not_the_same_at_every_size_is_one_line_and_no_file(
    tmp_path: Path, network: nn.Module, line: str
) -> None:
    with pytest.raises(ModelError, match=line) as raised:
        export_onnx(tiny(network), tmp_path / "model.onnx")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_network_that_gives_nan_is_not_exported(tmp_path: Path) -> None:
    model = tiny()
    nn.init.constant_(model.network[0].bias, float("nan"))
    with pytest.raises(ModelError, match="gives NaN"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_the_difference_sees_small_logits_large_ones_and_nan() -> None:
    base = torch.tensor([[-1.0, 0.0, 2.0]])
    assert difference(base, base.clone()) == 0
    assert difference(base, base + torch.tensor([0, 0.01, 0])) == pytest.approx(0.005)
    assert difference(1e-3 * base, 1e-3 * base + 1e-4) == pytest.approx(0.05)
    assert difference(10 * base, 10 * base + torch.tensor([0, 0.01, 0])) == pytest.approx(0.0025, rel=1e-3)
    assert not difference(base, base + float("nan")) <= TOLERANCE


def test_weights_that_one_file_cannot_hold_are_refused_at_once(tmp_path: Path) -> None:
    model = tiny()
    model.network.register_buffer("large", torch.zeros(1).expand(2**29))  # 2 GiB that are one number in memory
    with pytest.raises(ModelError, match=r"its 2\.1 GB of weights exceed ONNX's 2 GB"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_is_never_overwritten_and_is_known_by_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export_onnx(tiny(), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"must end in \.onnx.*take '.*model\.pt\.onnx'"):
        export_onnx(tiny(), tmp_path / "model.pt")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what makes Python's import fail
    with pytest.raises(ModelError, match=rf"package {package}, .*pip install 'carvana\[onnx\]'"):
        export_onnx(tiny(), tmp_path / "model.onnx")


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (6, 6), (13, 7), (48, 50)])
@pytest.mark.parametrize("parts", [(1, 1), (2, 2), (3, 5), (6, 6)])
def test_it_is_torchs_pooling_where_parts_divide_the_size_and_where_not(
    size: tuple[int, int], parts: tuple[int, int]
) -> None:
    features = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(adaptive_average(features, parts), nn.functional.adaptive_avg_pool2d(features, parts))


@pytest.mark.parametrize("network", [nn.AdaptiveAvgPool2d(3), nn.Upsample((4, 5), mode="area")])
def test_a_program_pools_at_sizes_that_it_was_not_traced_at(network: nn.Module) -> None:
    class Pool(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return network(images)

    free = ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    program = torch.export.export(Pool(), (torch.rand(1, 2, 20, 30),), dynamic_shapes=free)
    graph = pool_at_any_size(program)
    assert not [node for node in graph.graph.nodes if "adaptive" in str(node.target)]
    for size in ((20, 30), (11, 64)):
        images = torch.rand(1, 2, *size)
        torch.testing.assert_close(graph.module()(images), network(images))


def test_a_program_without_pyramids_stays_as_it_is() -> None:
    program = torch.export.export(nn.AdaptiveAvgPool2d(1), (torch.rand(1, 2, 8, 8),))
    assert pool_at_any_size(program) is program
