from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import carvana
from carvana.errors import ConfigError, ModelError
from carvana.inference.engines.choice import installed
from carvana.inference.engines.convert import Answer, onnx_bytes
from carvana.inference.engines.export import export_onnx, export_openvino
from carvana.inference.engines.exported import is_exported
from carvana.inference.engines.onnx import OnnxEngine
from carvana.inference.engines.openvino import OpenVinoEngine, openvino_package
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec

if not installed("openvino"):
    pytest.skip("OpenVINO is not installed", allow_module_level=True)


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    task = carvana.Task(classes=["sky", "road", "car"])
    spec = ModelSpec(arch="tiny", stride=8, min_size=16, classes=3, task=task, trained_size=(64, 96))
    return Segmenter(network, spec).eval()


@pytest.fixture(scope="module")
def folder(model: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_openvino(model, tmp_path_factory.mktemp("exported") / "tiny").path


@pytest.fixture(scope="module")
def file(model: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("exported") / "tiny.onnx").path


@pytest.mark.parametrize("shape", [(1, 3, 5, 13), (2, 3, 45, 31), (3, 3, 64, 96)])
def test_folder_and_onnx_file_give_what_the_segmenter_gives(
    model: Segmenter, folder: Path, file: Path, shape: tuple[int, ...]
) -> None:
    seen = images(*shape).to(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = model(seen)
    for source in (folder, folder / "model.xml", file, file.read_bytes()):
        engine = OpenVinoEngine.load(source, precision="fp32")
        found = engine(seen)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        engine(seen.flip(-1))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)  # no memory of the next call
        assert engine.spec == model.spec
        assert engine.precision == "fp32"


def test_the_folder_knows_what_tiling_needs_as_the_file_does(folder: Path, file: Path) -> None:
    one, other = OpenVinoEngine.load(folder), OnnxEngine.load(file)
    assert one.receptive_field() == other.receptive_field() == 8
    assert one.bytes_per_pixel() == other.bytes_per_pixel() > 1
    assert is_exported(folder)
    assert one.digest() != OpenVinoEngine.load(file).digest() == other.digest()


def test_threads_get_answers_of_their_own() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 64, 7, padding=3), nn.ReLU(), nn.Conv2d(64, 1, 7, padding=3))
    spec = ModelSpec(arch="slow")
    data = onnx_bytes(Answer(Segmenter(network, spec).eval().requires_grad_(False)))
    engine = OpenVinoEngine.load(data, precision="fp32")
    seen = [torch.full((1, 3, 128, 128), 60 * number, dtype=torch.uint8) for number in range(4)]
    wanted = [engine(each) for each in seen]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, each in zip(pool.map(engine, seen), wanted, strict=True):
                assert torch.equal(found, each)


def test_it_computes_in_bf16_where_the_processor_does(model: Segmenter, folder: Path) -> None:
    engine = OpenVinoEngine.load(folder, precision="bf16")
    seen = images(1, 3, 64, 96)
    with torch.no_grad():
        wanted = model(seen)
    assert engine.precision in ("bf16", "fp32")
    torch.testing.assert_close(engine(seen), wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("device", "precision", "line"),
    [("cuda", "auto", "runs on CPUs; take --device cpu"), ("cpu", "fp16", "needs a GPU"), ("cpu", "fp8", "is unknown")],
)
def test_other_devices_and_precisions_are_refused(folder: Path, device: str, precision: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        OpenVinoEngine.load(folder, device=torch.device(device), precision=precision)


def test_damaged_missing_and_foreign_files_are_refused_in_one_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    openvino = openvino_package()
    opset13 = openvino.opset13

    def refused(source: Path, line: str) -> None:
        with pytest.raises(ModelError, match=line) as raised:
            OpenVinoEngine.load(source)
        assert "\n" not in str(raised.value)

    refused(tmp_path / "nowhere.onnx", "there is no file")
    refused(tmp_path / "nowhere", r"there is no file '.*model\.xml'")
    for name in ("model.xml", "model.bin"):
        copied = Path(shutil.copytree(folder, tmp_path / f"without-{name}"))
        (copied / name).write_bytes((copied / name).read_bytes()[:100] if name == "model.xml" else b"")
        refused(copied, "cannot be read by OpenVINO|cannot be compiled by OpenVINO")
        (copied / name).unlink()
        refused(copied, f"there is no file '.*{name}'")
    parameter = opset13.parameter([1, 3, 8, 8], name="images")
    openvino.save_model(openvino.Model([opset13.relu(parameter)], [parameter]), tmp_path / "foreign" / "model.xml")
    refused(tmp_path / "foreign", "was not written by carvana export")
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_folder_of_the_user_keeps_its_files(model: Segmenter, tmp_path: Path) -> None:
    model = copy.deepcopy(model)
    (tmp_path / "mine.txt").write_text("mine")
    made = export_openvino(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "model.xml", "model.bin"}
    assert made.size == sum((tmp_path / name).stat().st_size for name in ("model.xml", "model.bin"))
    before = (tmp_path / "model.bin").read_bytes()
    with pytest.raises(ConfigError, match=r"model\.xml: exists already; name another folder"):
        export_openvino(model, tmp_path)
    assert (tmp_path / "model.bin").read_bytes() == before
    export_openvino(model, tmp_path, replace=True)
    with pytest.raises(ConfigError, match="is two files; name a folder"):
        export_openvino(model, tmp_path / "model.onnx")
    model.save_pretrained(tmp_path / "run" / "model")
    for place in (tmp_path / "run", tmp_path / "run" / "model"):
        with pytest.raises(ConfigError, match="is a run or a model folder"):
            export_openvino(model, place)
    shutil.copy(tmp_path / "model.xml", tmp_path / "run")
    assert not is_exported(tmp_path / "run")  # a stray file does not take the place of the run
    nn.init.constant_(model.network[0].bias, torch.nan)
    with pytest.raises(ModelError, match="gives NaN"):
        export_openvino(model, tmp_path / "nan")
    assert not (tmp_path / "nan").exists()


def test_the_folder_names_no_place_of_this_machine(folder: Path) -> None:
    written = (folder / "model.xml").read_text(encoding="utf-8")
    assert '"arch": "tiny"' in written.replace("&quot;", '"')
    for place in (Path(carvana.__file__).parent.parent, Path(torch.__file__).parent, folder):
        assert str(place) not in written


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"engine openvino needs .*pip install 'carvana\[openvino\]'"):
        export_openvino(model, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_signal_does_no_harm_after_another_thread_dropped_the_network(file: Path) -> None:
    program = (
        "import os, signal, sys, threading\n"
        "from carvana.inference.engines.openvino import OpenVinoEngine\n"
        "held = [OpenVinoEngine.load(sys.argv[1])]\n"
        "thread = threading.Thread(target=held.clear)\n"
        "thread.start(), thread.join()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('received'))\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "received\n"), done.stderr


def test_its_telemetry_stays_off(file: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from carvana.inference.engines.openvino import OpenVinoEngine\n"
        "OpenVinoEngine.load(sys.argv[1])\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])\n"
        "import openvino_telemetry\n"  # others can import it afterwards
    )
    kept = {name: value for name, value in os.environ.items() if name != "CI"}  # where it sends nothing
    homes = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], env=kept | homes, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr
    assert not (tmp_path / "intel").exists()  # where its telemetry counts
