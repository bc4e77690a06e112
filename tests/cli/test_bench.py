from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.inference.engines.choice import installed
from carvana.models.segmenter import create_model
from carvana.registry import registry


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.mark.slow
def test_networks_are_measured_whole_and_in_tiles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("unet-ref", width=2).with_spec(trained_size=(32, 48))
    model.save_pretrained(tmp_path / "model")
    words = ["--size", "128x160", "--tile", 64, "--seconds", 0, "--device", "cpu"]
    result = call("bench", tmp_path / "model", *words, "--json", "-")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["size"] == [128, 160]
    assert "torch" in told["machine"]
    computed = {(row["engine"], row["precision"]) for row in told["rows"]}
    assert {engine for engine, _ in computed} == {"torch", "onnx"} | ({"openvino"} if installed("openvino") else set())
    assert len(told["rows"]) == 3 * len(computed)  # at the trained size there is nothing to divide
    ways = {(str(row["scale"]), row["mode"]) for row in told["rows"]}
    assert ways == {("[32, 48]", "whole"), ("native", "whole"), ("native", "tiles")}
    for row in told["rows"]:
        assert (row["kind"], row["classes"]) == ("binary", 1)
        assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert row["ms"] >= row["network_ms"] > 0
        assert row["first_ms"] > 0
        if (row["engine"], row["precision"]) == ("torch", "fp32"):
            assert row["difference"] is None
        else:
            assert row["difference"] < (1e-4 if row["precision"] == "fp32" else 0.05)
            assert row["differing"] < 0.05
        assert min(row["images_per_s"], row["files_per_s"], row["peak_memory_mb"], row["gflops"]) > 0

    file = Path(__file__).parents[1] / "fixtures" / "format-1" / "model.onnx"
    told = json.loads(call("bench", file, *words, "--engine", "onnx", "--json", "-").stdout)
    found = {(row["engine"], row["precision"], row["parameters"], row["difference"]) for row in told["rows"]}
    assert found == {("onnx", "fp32", None, None)}

    table = call("bench", tmp_path / "model", *words, "--engine", "torch")
    assert "native, 9 tiles" in table.stdout
    assert "classes" in table.stdout
    assert "image of 128x160" in table.stdout


def test_architectures_are_measured_with_as_many_classes_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.archs, "_entries", {entry.name: entry for entry in registry.archs.registered()})
    registry.archs.register("a-layer", lambda *, classes: nn.Conv2d(3, classes, 1))
    words = [
        "bench",
        "a-layer",
        "--classes",
        5,
        "--size",
        "32x48",
        "--seconds",
        0,
        "--device",
        "cpu",
        "--engine",
        "torch",
    ]
    rows = json.loads(call(*words, "--json", "-").stdout)["rows"]
    assert {(row["kind"], row["classes"], row["parameters"]) for row in rows} == {("multiclass", 5, 5 * 3 + 5)}
    assert "5 multiclass" in " ".join(call(*words).stdout.split())


def test_an_unknown_network_is_one_line() -> None:
    result = call("bench", "unet/resnet43", "--seconds", 0)
    assert result.exit_code == 1
    assert "did you mean" in result.stderr
