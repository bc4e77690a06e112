"""Model files: pickles, and weights for encoders."""

from __future__ import annotations

import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.commands import carvana
from faults.hostile import KINDS, Trap, torch_zip
from faults.models import WEIGHTS, refusal, save_model
from safetensors.torch import save_file

from carvana.errors import ModelError
from carvana.inference.engines.onnx import OnnxEngine
from carvana.inference.ensemble import load_predictor
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.weight_files import read_weights


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def as_folder(path: Path) -> object:
    """In the place of a model's weights."""
    shutil.copy(path, path.parent / "model" / WEIGHTS)
    return Segmenter.from_pretrained(path.parent / "model")


def as_encoder(path: Path) -> object:
    last: object = None
    for suffix in (".pt", ".pth", ".bin", ".ckpt", ".safetensors"):
        named = path.with_name(f"encoder{suffix}")
        shutil.copy(path, named)
        line = refusal(lambda named=named: create_model("unet/resnet18", encoder_weights=named))  # type: ignore[misc]
        assert str(named) in line
        assert "weights_only" not in line  # torch advises to load such files all the same
        last = named
    return create_model("unet/resnet18", encoder_weights=last)  # type: ignore[arg-type]


def as_onnx(path: Path) -> object:
    shutil.copy(path, path.with_suffix(".onnx"))
    return OnnxEngine.load(path.with_suffix(".onnx"))


DOORS: dict[str, Callable[[Path], object]] = {
    "model.safetensors": as_folder,
    "the folder": Segmenter.from_pretrained,
    "a run to predict with": load_predictor,
    "encoder_weights": as_encoder,
    "an exported file": as_onnx,
}


@pytest.mark.fault(
    done=(
        "a pickle that makes a folder when it is unpickled, in 5 kinds of file, passed to 5 functions of the library"
    ),
    promised="refused in one line, nothing is unpickled",
    reaches="models/weight_files.py: _unpickled; models/serialization.py: locate and load_weights on foreign bytes",
    quick=8,
)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_pickle_is_read(kind: str, door: str, model: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    trap = Trap(marker)
    pickle.loads(pickle.dumps(trap))  # it would
    marker.rmdir()
    path = tmp_path / "weights.pt"
    path.write_bytes(KINDS[kind](trap))
    refusal(lambda: DOORS[door](path))
    assert not marker.exists()


COMMANDS: dict[str, list[str]] = {
    "fit, its first weights": ["fit", "--arch", "unet-ref", "--init", "FILE", "--data", "DATA", "--out", "OUT"],
    "fit, its encoder": [
        "fit", "--arch", "unet/resnet18", "--set", "model.encoder_weights=FILE", "--data", "DATA", "--out", "OUT",
    ],
    "predict": ["predict", "FILE", "DATA/train", "--out", "OUT"],
    "predict, renamed weights": ["predict", "MODEL", "DATA/train", "--out", "OUT"],
    "predict, an exported file": ["predict", "ONNX", "DATA/train", "--out", "OUT"],
    "evaluate": ["evaluate", "MODEL", "--data", "DATA"],
    "submit": ["submit", "MODEL", "DATA/train", "--out", "OUT.csv"],
    "export": ["export", "MODEL", "--to", "onnx", "--out", "OUT.onnx"],
    "bench": ["bench", "MODEL", "--size", "32x48", "--seconds", "0"],
}  # fmt: skip


@pytest.mark.fault(
    done="such a pickle as the weights of fit, predict, evaluate, submit, export and bench",
    promised="exit code 1, one error line, nothing is unpickled and nothing written",
    reaches="the commands' own ways to weights: training/setup.py: build_model; inference/ensemble.py: load_predictor",
    quick=1,
)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_reads_a_pickle(command: str, model: Path, tiny_data: Path, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "marker")
    files = {"FILE": tmp_path / "weights.pt", "ONNX": tmp_path / "weights.onnx", "MODEL": model / WEIGHTS}
    for path in files.values():
        path.write_bytes(torch_zip(trap))
    places = {**files, "MODEL": model, "DATA": tiny_data, "OUT": tmp_path / "out"}
    words = []
    for word in COMMANDS[command]:
        for name, path in places.items():
            word = word.replace(name, str(path))
        words.append(word)
    line = carvana(*words).error
    assert any(str(path) in line for path in (*files.values(), model))
    assert "weights_only" not in line
    assert not trap.marker.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []


@pytest.mark.fault(
    done="files of torch, new and old, with 1 to 3 bytes changed, or without their end",
    promised=("tensors, or one line that names the file; never torch's advice to load it without safety checks"),
    reaches="models/weight_files.py: _unpickled, whatever torch's reader raises",
    quick=2,
)
@pytest.mark.parametrize("seed", range(10))
def test_changed_files_of_torch_are_read_or_refused(seed: int, tmp_path: Path, came_out: Callable[..., None]) -> None:
    draw, path, read, times = random.Random(seed), tmp_path / "weights.pth", 0, 200
    lines: set[str] = set()
    state = {f"layer.{number}": torch.ones(number + 1, 5) for number in range(3)}
    files = []
    for new in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=new)
        files.append(path.read_bytes())
    for _ in range(times):
        data = bytearray(draw.choice(files))
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.2 else data)
        try:
            assert all(isinstance(tensor, torch.Tensor) for tensor in read_weights(path).values())
            read += 1
        except ModelError as error:
            lines.add(str(error))
    came_out(times=times)
    assert 0 < read < times
    assert all(line.startswith(f"'{path}'") and line.isprintable() and "weights_only" not in line for line in lines)


@pytest.mark.fault(
    done="a file of torch of 200 kB that unpacks to 200 MB",
    promised="refused in one line before it is unpacked",
    reaches="models/weight_files.py: _unpickled, what an archive would unpack to",
)
def test_a_packed_file_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(50_000_000)}, tmp_path / "plain.pth")
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for member in plain.infolist():
            file.writestr(member.filename, plain.read(member))
    assert packed.stat().st_size < 1_000_000
    assert "would unpack to 200,000," in refusal(lambda: read_weights(packed))


@pytest.mark.fault(
    done="an old file of torch whose pickle says that its tensor has 2^40 numbers",
    promised="refused in one line",
    reaches="models/weight_files.py: _unpickled, torch's lack of memory",
)
def test_a_file_of_torch_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(12345)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    claimed = data.replace(b"M90", b"\x8a\x06" + (2**40).to_bytes(6, "little")).replace(
        (12345).to_bytes(8, "little"), (2**40).to_bytes(8, "little")
    )
    assert claimed != data
    path.write_bytes(claimed)
    assert str(path) in refusal(lambda: read_weights(path))


@pytest.mark.fault(
    done="encoder_weights=FILE with NaN, infinity, whole or complex numbers, cut, another encoder's",
    promised="one line that names the file, and the tensor where it is one",
    reaches="models/weight_files.py: match_weights, by name and in order",
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nan", "holds values that are not finite"), ("inf", "holds values that are not finite"),
        ("int", "is torch.int32 and should be"), ("complex", "is torch.complex64 and should be"),
        ("cut", "cannot be read as weights"), ("in order", "holds values that are not finite"), ("other", "resnet18"),
    ],
)  # fmt: skip
def test_damaged_encoder_weights_are_refused(how: str, words: str, suffix: str, tmp_path: Path) -> None:
    from segmentation_models_pytorch.encoders import get_encoder

    name = "mobilenet_v2" if how == "other" else "resnet18"
    state = {key: tensor.clone() for key, tensor in get_encoder(name, weights=None).state_dict().items()}
    first = next(iter(state))
    change: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "nan": lambda tensor: tensor * float("nan"),
        "in order": lambda tensor: tensor * float("nan"),
        "inf": lambda tensor: tensor + float("inf"),
        "int": lambda tensor: tensor.to(torch.int32),
        "complex": lambda tensor: tensor.to(torch.complex64),
    }
    if how in change:
        state[first] = change[how](state[first])
    if how == "in order":
        state = {f"tensor_{number:04}": tensor for number, tensor in enumerate(
            tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked"))}  # fmt: skip
    path = tmp_path / f"encoder{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    line = refusal(lambda: create_model("unet/resnet18", encoder_weights=path))
    assert words in line
    assert str(path) in line
