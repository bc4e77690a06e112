from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import carvana
from carvana.errors import ConfigError, ModelError
from carvana.inference.engines import choice
from carvana.inference.engines.choice import KeptNetwork, engine_of, engine_of_file, installed
from carvana.inference.engines.export import export_onnx, export_openvino
from carvana.inference.ensemble import load_predictor
from carvana.inference.predict_folder import Summary, predict_folder
from carvana.utils.progress import Reporter

if not installed("openvino"):
    pytest.skip("OpenVINO is not installed", allow_module_level=True)


class Lines(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.started: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    warn = info

    def start(self, task: str, total: int | None) -> None:
        self.started.append(task)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds ``tiny()``."""
    folder = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARVANA_CACHE", str(folder))
        engine_of(tiny(), "onnx", device="cpu", reporter=Lines())
    return folder


@pytest.fixture
def cache(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept networks in a copy of that cache."""
    shutil.copytree(converted, tmp_path / "cache")
    monkeypatch.setenv("CARVANA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CARVANA_ENGINE")
    return tmp_path / "cache" / "networks"


def tiny(classes: int = 1, seed: int = 0) -> carvana.Segmenter:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, classes, 1))
    task = carvana.Task(classes=["car", *map(str, range(1, classes))])
    spec = carvana.ModelSpec(arch="tiny", stride=8, min_size=16, classes=classes, task=task, trained_size=(32, 48))
    return carvana.Segmenter(network, spec).eval()


def timed(monkeypatch: pytest.MonkeyPatch, torch_s: float, openvino_s: float) -> list[list[str]]:
    """Let each measurement end so; returns the engines of each."""
    asked: list[list[str]] = []

    def seconds(engines: list[Any], images: torch.Tensor) -> list[float]:
        asked.append([engine.name for engine in engines])
        return [torch_s, openvino_s]

    monkeypatch.setattr(choice, "_seconds", seconds)
    return asked


IMAGE = np.random.default_rng(0).integers(0, 256, (70, 110, 3)).astype(np.uint8)


@pytest.mark.parametrize(("openvino_s", "taken"), [(0.5, "openvino"), (0.97, "torch"), (2.0, "torch")])
def test_auto_measures_once_and_keeps_to_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, openvino_s: float, taken: str
) -> None:
    asked = timed(monkeypatch, 1.0, openvino_s)
    said = Lines()
    for _ in range(3):
        assert engine_of(tiny(), "auto", device="cpu", reporter=said).name == taken
    assert asked == [["torch", "openvino"]]
    assert said.started == []
    assert len(said.lines) == 1
    assert said.lines[0].startswith("OpenVINO runs tiny: 500 ms, and 1000 ms by torch" if openvino_s < 0.9 else "torch")
    [record] = cache.glob("*.json")
    [kept] = json.loads(record.read_text())["choices"].values()
    assert kept == {"openvino": taken == "openvino", "torch_s": 1.0, "openvino_s": openvino_s}
    torch.set_num_threads(2)
    try:
        engine_of(tiny(), "auto", device="cpu", reporter=said)
    finally:
        torch.set_num_threads(1)
    assert len(asked) == 2  # another number of threads


def test_processes_of_several_machines_take_torch(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, 1.0, 0.5)
    for machines, taken in ((2, "torch"), (1, "openvino")):
        monkeypatch.setenv("WORLD_SIZE", str(2 * machines))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert engine_of(tiny(), "auto", device="cpu", reporter=Lines()).name == taken
    assert len(asked) == 1


@pytest.mark.parametrize(("reason", "asked_again"), [("std::bad_alloc", True), ("an unknown operation", False)])
def test_what_openvino_cannot_run_is_kept_unless_memory_was_short(
    cache: Path, monkeypatch: pytest.MonkeyPatch, reason: str, asked_again: bool
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ModelError(f"it cannot be compiled by OpenVINO: {reason}")

    with monkeypatch.context() as patch:
        patch.setattr(choice.OpenVinoEngine, "load", fail)
        assert engine_of(tiny(), "auto", device="cpu", reporter=Lines()).name == "torch"
    asked = timed(monkeypatch, 1.0, 0.5)
    assert engine_of(tiny(), "auto", device="cpu", reporter=Lines()).name == ("openvino" if asked_again else "torch")
    assert bool(asked) == asked_again


def test_torch_runs_where_memory_is_too_short_to_measure(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    said = Lines()
    with monkeypatch.context() as patch:
        patch.setattr(choice, "_seconds", fail)
        assert engine_of(tiny(), "auto", device="cpu", reporter=said).name == "torch"
    assert said.lines == ["torch runs tiny, since memory is too short to measure OpenVINO"]
    timed(monkeypatch, 1.0, 0.5)
    assert engine_of(tiny(), "auto", device="cpu", reporter=said).name == "openvino"


def test_few_pixels_are_measured_however_large_the_training_was() -> None:
    for trained in ((2048, 3072), (640, 960)):
        *_, height, width = choice._typical(tiny().with_spec(trained_size=trained)).shape
        assert height * width <= 1.1 * 2**18
        assert (height % 8, width % 8, min(height, width) >= 16) == (0, 0, True)
    assert choice._typical(tiny()).shape == (170, 3, 32, 48)


def test_it_is_measured_for_real(cache: Path) -> None:
    name = engine_of(tiny(), "auto", device="cpu", reporter=Lines()).name
    [record] = cache.glob("*.json")
    [kept] = json.loads(record.read_text())["choices"].values()
    assert kept["torch_s"] > 0
    assert (kept["openvino_s"] < choice.WORTH * kept["torch_s"]) == kept["openvino"] == (name == "openvino")


def test_auto_is_torch_where_openvino_is_missing_or_cannot(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Lines()

    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :1] * float(images.sum())

    spec = carvana.ModelSpec(arch="odd")
    for _ in range(2):
        assert engine_of(carvana.Segmenter(Odd(), spec), "auto", device="cpu", reporter=said).name == "torch"
    assert len(said.lines) == 1
    assert said.lines[0].startswith("torch runs odd, since OpenVINO cannot: 'odd' cannot be exported")
    monkeypatch.setattr(choice, "installed", lambda name: False)
    assert engine_of(tiny(), "auto", device="cpu", reporter=said).name == "torch"
    assert len(said.lines) == 1


def test_a_kept_network_is_checked_and_made_again_where_it_was_changed(cache: Path) -> None:
    said = Lines()
    first = engine_of(tiny(), "openvino", device="cpu", precision="fp32", reporter=said)
    [file] = cache.glob("*.onnx")
    whole = file.read_bytes()
    assert said.started == []
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert engine_of(tiny(), "openvino", device="cpu", precision="fp32", reporter=said).digest() == first.digest()
    assert len(file.read_bytes()) == len(whole)
    file.with_suffix(".json").write_text("{")
    engine_of(tiny(), "openvino", device="cpu", reporter=said)
    assert len(said.started) == 2
    engine_of(tiny(), "onnx", device="cpu", reporter=said)  # the same file serves both
    assert len(said.started) == 2
    assert said.lines == []


def test_other_layers_and_other_tasks_of_the_same_weights_are_told_apart(cache: Path) -> None:
    said = Lines()
    model = tiny(3)
    engine_of(model, "openvino", device="cpu", precision="fp32", reporter=said)
    assert model.spec.task is not None
    both = tiny(3).with_spec(task=carvana.Task(kind="multilabel", classes=model.spec.task.names))
    made = engine_of(both, "openvino", device="cpu", precision="fp32", reporter=said)
    assert made.spec == both.spec
    model.network[1] = nn.Tanh()
    engine = engine_of(model, "openvino", device="cpu", precision="fp32", reporter=said)
    seen = torch.from_numpy(IMAGE).permute(2, 0, 1)[None]
    with torch.no_grad():
        torch.testing.assert_close(engine(seen), model(seen), rtol=1e-4, atol=1e-5)


def test_what_openvino_would_do_otherwise_is_refused(cache: Path) -> None:
    model = tiny()
    nn.init.constant_(model.network[0].bias, torch.nan)
    with pytest.raises(ModelError, match="gives NaN"):  # OpenVINO hides it
        engine_of(model, "openvino", device="cpu", reporter=Lines())
    assert engine_of(model, "auto", device="cpu", reporter=Lines()).name == "torch"


@pytest.mark.slow
def test_what_was_used_longest_ago_goes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Lines()
    for file in cache.iterdir():
        file.unlink()
    for seed in range(3):
        KeptNetwork(tiny(seed=seed), str(seed)).data(said)
    files = sorted(cache.glob("*.onnx"), key=lambda path: path.stat().st_mtime)
    size = files[0].stat().st_size
    for age, file in enumerate(files):
        os.utime(file, (1e9 + age, 1e9 + age))
    assert KeptNetwork(tiny(seed=0), "0").data(said)  # used again
    monkeypatch.setattr(choice, "LIMIT", int(2.5 * size))
    KeptNetwork(tiny(seed=3), "3").data(said)
    assert len(list(cache.glob("*.onnx"))) == 2
    assert len(said.started) == 4
    KeptNetwork(tiny(seed=0), "0").data(said)
    assert len(said.started) == 4
    assert len(list(cache.glob("*.json"))) == 2


def test_where_nothing_can_be_kept_it_is_said_and_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("CARVANA_CACHE", str(tmp_path / "file"))
    said = Lines()
    assert (
        engine_of(tiny(), "onnx", device="cpu", reporter=said)(torch.zeros(1, 3, 9, 9, dtype=torch.uint8)).shape[-1]
        == 9
    )
    assert len(said.lines) == 1
    assert "cannot be kept there" in said.lines[0]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": "native", "mode": "tiles", "tile": 48, "overlap": 0.5},
        {"scale": "native", "mode": "tiles", "tile": 64, "join": "exact"},
        {"tta": True},
    ],
)
def test_every_engine_covers_images_as_torch_does(
    cache: Path, engine: str, classes: int, settings: dict[str, Any]
) -> None:
    fp32 = {"device": "cpu", "precision": "fp32", **settings}
    expected = carvana.Predictor(tiny(classes), **fp32)
    found = carvana.Predictor(tiny(classes), engine=engine, **fp32)
    np.testing.assert_allclose(found.predict(IMAGE).probabilities, expected.predict(IMAGE).probabilities, atol=1e-5)
    assert found.weights_digest == expected.weights_digest
    assert found.settings() == expected.settings() | {"engine": engine}  # so folders of masks are never mixed


def test_a_folder_of_masks_is_never_of_two_engines(cache: Path, tiny_data: Path, tmp_path: Path) -> None:
    photos = sorted((tiny_data / "train").iterdir())[:3]

    def predict(engine: str) -> Summary:
        made = carvana.Predictor(tiny(), engine=engine, device="cpu", precision="fp32")
        return predict_folder(made, photos, out=tmp_path / "masks", reporter=Lines())

    assert [predict(engine).written for engine in ("torch", "torch", "openvino", "openvino")] == [3, 0, 3, 0]


@pytest.mark.slow
def test_ensembles_and_second_looks_take_it_too(tmp_path: Path) -> None:
    for number in range(2):
        torch.manual_seed(number)
        carvana.create_model("unet-ref", width=2).with_spec(trained_size=(32, 48)).save_pretrained(
            tmp_path / str(number)
        )
    names = [tmp_path / "0", tmp_path / "1"]
    for settings in ({}, {"mode": "refine", "refine_with": names[1]}):
        found = [
            load_predictor(names[: 1 if settings else 2], engine=engine, device="cpu", precision="fp32", **settings)
            for engine in ("torch", "openvino")
        ]
        one, other = (predictor.predict(IMAGE).probabilities for predictor in found)
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert json.dumps(found[1].settings()).count('"engine": "openvino"') == 2
        assert "engine" not in json.dumps(found[0].settings())


def test_files_run_by_what_they_are_for_or_by_openvino(tmp_path: Path) -> None:
    file = export_onnx(tiny(), tmp_path / "tiny.onnx").path
    folder = export_openvino(tiny(), tmp_path / "tiny").path
    assert engine_of_file(file, None).name == "onnx"
    assert engine_of_file(file, "auto").name == "onnx"
    assert engine_of_file(folder, "auto").name == engine_of_file(folder, "openvino").name == "openvino"
    for source, name, line in ((file, "torch", "take onnx or openvino"), (folder, "onnx", "take openvino")):
        with pytest.raises(ConfigError, match=f"engine {name} does not run .*{line}"):
            engine_of_file(source, name)
    wanted = carvana.Predictor(tiny(), device="cpu", precision="fp32").predict(IMAGE).probabilities
    for source, settings in ((file, {}), (file, {"engine": "openvino"}), (folder, {})):
        made = carvana.Predictor.from_pretrained(source, device="cpu", precision="fp32", **settings)
        np.testing.assert_allclose(made.predict(IMAGE).probabilities, wanted, atol=1e-5)
        assert made.settings().get("engine") == (None if made.engine.name == "onnx" else "openvino")


@pytest.mark.slow
def test_probabilities_serve_as_logits_do_and_labels_are_refused(tmp_path: Path) -> None:
    for classes in (1, 3):
        model = tiny(classes)
        made = export_onnx(model, tmp_path / f"{classes}.onnx", output="probabilities").path
        wanted = carvana.Predictor(model, device="cpu", precision="fp32").predict(IMAGE).probabilities
        found = carvana.Predictor.from_pretrained(made, device="cpu").predict(IMAGE).probabilities
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    labels = export_openvino(tiny(3), tmp_path / "labels", output="labels").path
    with pytest.raises(ModelError, match="gives labels, which can be neither resized nor joined"):
        carvana.Predictor.from_pretrained(labels)


def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_of(tiny(), "auto", reporter=Lines()).name == "torch"  # see conftest.py
    monkeypatch.setenv("CARVANA_ENGINE", "openvno")
    with pytest.raises(ConfigError, match=r"CARVANA_ENGINE 'openvno' is unknown.*'openvino'"):
        engine_of(tiny(), "auto", reporter=Lines())
    assert engine_of(tiny(), None, reporter=Lines()).name == "torch"


def test_mistakes_are_one_line() -> None:
    for settings, line in (
        ({"engine": "openvno"}, "did you mean 'openvino'"),
        ({"engine": "onnx", "precision": "bf16"}, "the engine onnx computes in fp32"),
        ({"engine": "openvino", "device": "mps"}, "mps"),
    ):
        with pytest.raises(ConfigError, match=line):
            carvana.Predictor(tiny(), **settings)
    made = carvana.Predictor(tiny(), engine="onnx", device="cpu").engine
    with pytest.raises(ConfigError, match="this is one of onnx already"):
        carvana.Predictor(made, engine="torch")
