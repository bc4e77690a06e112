from __future__ import annotations

import doctest
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras_models
import numpy as np
import pytest
import torch
from carvana import Segmenter, find_samples, read_image
from carvana.errors import ConfigError, ModelError, RunError
from carvana.models.unet_ref import UNetRef
from keras2 import old_file

import carvana_keras.weights
from carvana_keras.weights import KerasImport, import_keras, read_keras

pytest_plugins = ["carvana.testing.fixtures"]

FORMATS = (".keras", ".h5", ".weights.h5")


@pytest.fixture(scope="module")
def network() -> UNetRef:
    torch.manual_seed(1)
    return UNetRef(width=1).eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that Keras filled. In a process of its own: importing it here would change torch for other tests."""
    folder = tmp_path_factory.mktemp("keras")
    done = subprocess.run([sys.executable, keras_models.__file__, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Log:
    """A reporter that keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self.warnings.append(args[0]) if name == "warn" else None


def read(path: Path, **arguments: Any) -> KerasImport:
    return read_keras(path, input_range=1, **arguments)


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_keras(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def assert_same_as_keras(model: Segmenter, outputs: Path) -> None:
    """Logits and probabilities within 1e-4, where they are large enough for that to mean something."""
    keras = np.load(outputs)
    assert keras["logits"].std() > 0.05
    with torch.no_grad():
        logits = model(torch.from_numpy(keras["images"]).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.numpy(), keras["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits.sigmoid().numpy(), keras["probabilities"], rtol=0, atol=1e-4)


def test_the_seeds_network_computes_what_it_computes_in_keras(made: Path, tmp_path: Path) -> None:
    found = import_keras(made / "full.keras", tmp_path / "model", input_range=1)
    assert (found.layers, found.parameters) == (45, 34_540_737)
    saved = Segmenter.from_pretrained(tmp_path / "model")
    assert_same_as_keras(saved, made / "full.npz")
    assert saved.spec.options == {}
    assert saved.spec.init == "keras:full.keras"
    assert (saved.spec.trained_size, saved.spec.threshold, saved.spec.classes) == ((128, 128), 0.5, 1)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", ["small", "named", "relu", "compiled"])
def test_every_format_of_keras_3_is_read_whatever_layers_are_called(made: Path, name: str, suffix: str) -> None:
    found = read(made / f"{name}{suffix}")
    assert_same_as_keras(found.model, made / f"{name}.npz")
    assert found.source.startswith("Keras 3")
    assert found.model.spec.options == {"width": 3}
    assert found.has_settings == (suffix != ".weights.h5")


@pytest.mark.parametrize("suffix", FORMATS[:2])
def test_batchnorms_epsilon_is_the_files(made: Path, suffix: str) -> None:
    found = read(made / f"epsilon{suffix}")
    assert found.model.spec.options == {"width": 3, "bn_eps": 0.1}
    assert_same_as_keras(found.model, made / "epsilon.npz")


@pytest.mark.parametrize(("name", "kind"), [("old", "model"), ("old-weights", "weights")])
def test_files_of_keras_2_are_read(made: Path, name: str, kind: str) -> None:
    """``small`` in the older layout; that Keras 3 computes the same from it is asserted where it is written."""
    found = read(made / f"{name}.h5")
    assert found.source == f"Keras 2.1.6 {kind}"
    assert_same_as_keras(found.model, made / "small.npz")
    assert found.has_settings == (kind == "model")


def test_the_size_that_it_was_trained_at_is_the_files_or_else_the_notebooks(made: Path) -> None:
    sizes = {name: read(made / name).model.spec.trained_size for name in ("small.keras", "small.h5", "old.h5")}
    assert set(sizes.values()) == {keras_models.SIZE}
    for name in ("small.weights.h5", "old-weights.h5", "named.keras"):  # the last takes any size
        assert read(made / name).model.spec.trained_size == (128, 128)


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("kernels", r"layer 2, 'conv2d\w*', has a kernel of shape \(5, 5, 3, 3\), .* has \(3, 3, 3, 3\) there"),
        ("classes", r"layer 80, 'conv2d\w*', has a kernel of shape \(1, 1, 3, 2\), .* has \(1, 1, 3, 1\) there"),
        ("no-norm", r"layer 3, 'activation\w*', is of class 'Activation', .* has 'BatchNormalization' there"),
        ("norm-without-scale", r"layer 3, 'batch_norm\w*', holds '0' and '1' and '2', .* 'gamma' and 'beta'"),
        ("joined", r"layer 37, 'concatenate\w*', reads 'up_s\w*' and 'activation\w*', .* 'activation\w*' and 'up_s"),
        ("dropout", r"layer 80, 'dropout', is of class 'Dropout', .* has 'Conv2D' there"),
        ("transposed", r"layer 36, 'conv2d_transpose', is of class 'Conv2DTranspose', .* has 'UpSampling2D' there"),
        ("leaky", r"layer 4, 'leaky_re_lu', is of class 'LeakyReLU', .* has 'Activation' there"),
        ("bilinear", r"layer 36, 'up_sampling2d\w*', has interpolation 'bilinear', .* has 'nearest' there"),
        ("classifier", r"layer 2, 'dense', is of class 'Dense', unet-ref has 'Conv2D' there"),
    ],
)
def test_another_network_is_refused_with_the_first_layer_that_differs(made: Path, name: str, difference: str) -> None:
    with pytest.raises(ModelError, match=rf"{name}\.keras' is not the reference U-Net: {difference}"):
        read_keras(made / f"{name}.keras")


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("kernels", r"layer 'conv2d' has a kernel of shape \(5, 5, 3, 3\), .* has \(3, 3, 3, 3\) there"),
        ("classes", r"layer 'conv2d_22' has a kernel of shape \(1, 1, 3, 2\), .* has \(1, 1, 3, 1\) there"),
        ("no-norm", r"layer 'conv2d_1' is of class 'Conv2D', .* has 'BatchNormalization' there"),
        ("dropout", r"layer 'dropout' is of class 'dropout'"),
        ("transposed", r"layer 'conv2d_transpose' is of class 'conv2d_transpose'"),
        ("leaky", r"layer 'leaky_re_lu' is of class 'leaky_re_lu'"),
        ("classifier", r"layer 'dense' is of class 'dense'"),
    ],
)
def test_weights_alone_of_another_network_are_refused_too(made: Path, name: str, difference: str) -> None:
    with pytest.raises(ModelError, match=rf"{name}\.weights\.h5' is not the reference U-Net: {difference}"):
        read_keras(made / f"{name}.weights.h5")


def trained_on(photos: torch.Tensor) -> UNetRef:
    """A network whose first BatchNorm remembers these images, as a training leaves it."""
    torch.manual_seed(2)
    network = UNetRef(width=8, bn_momentum=1.0).train()
    torch.nn.init.normal_(network.down[0][0].bias)
    with torch.no_grad():
        network(photos)
    return network.eval()


@pytest.mark.parametrize("white", [1, 255])
def test_the_range_of_the_training_photos_is_judged_by_the_first_batchnorm(
    tiny_data: Path, tmp_path: Path, white: int
) -> None:
    pictures = np.stack([read_image(sample.image) for sample in find_samples(tiny_data)[:4]])
    photos = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    network = trained_on(photos * (white / 255))
    log = Log()
    found = read_keras(old_file(tmp_path / "x.h5", network), reporter=log)
    assert (found.input_range, log.warnings) == (white, [])
    assert found.brightness == pytest.approx(photos.float().mean().item() * white / 255, rel=0.15)
    with torch.no_grad():
        # From uint8, as the Predictor feeds it, to what the network makes of the pixels that it was trained on.
        torch.testing.assert_close(found.model(photos), network(photos * (white / 255)), rtol=1e-3, atol=1e-3)


def test_the_range_may_be_given_and_untrained_weights_are_told(tmp_path: Path, network: UNetRef) -> None:
    path, log = old_file(tmp_path / "x.h5", network), Log()
    assert read_keras(path, reporter=log).input_range == 1
    assert [("mean pixel of 0.000" in line, "untrained" in line) for line in log.warnings] == [(True, True)]
    given = read_keras(path, input_range=255, reporter=log)
    assert (given.input_range, given.model.spec.std, len(log.warnings)) == (255, (1 / 255,) * 3, 1)
    with pytest.raises(ConfigError, match="1 or 255"):
        read_keras(path, input_range=2)


def test_a_folder_that_holds_anything_is_left_alone(tmp_path: Path, network: UNetRef) -> None:
    path = old_file(tmp_path / "x.h5", network)
    with pytest.raises(RunError, match="--out"):
        import_keras(path, tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    import_keras(path, tmp_path / "new" / "deep")
    assert {file.name for file in (tmp_path / "new" / "deep").iterdir()} == {
        "model.safetensors", "config.json", "README.md",
    }  # fmt: skip


def test_a_refused_file_leaves_no_folder(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        import_keras(made / "leaky.keras", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_are_one_clear_line(tmp_path: Path, made: Path) -> None:
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.h5").write_text("weights")
    (tmp_path / "tensor.pth").write_bytes((made / "small.keras").read_bytes()[:3])
    (tmp_path / "cut.keras").write_bytes((made / "small.keras").read_bytes()[:5000])
    (tmp_path / "cut.h5").write_bytes((made / "small.h5").read_bytes()[:-5000])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.ones(3)
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("photo.txt", "x")
    with zipfile.ZipFile(tmp_path / "npz.keras", "w") as archive:
        archive.write(tmp_path / "other.h5", "model.weights.h5")
    lines = {
        "missing.h5": "does not exist",
        ".": "is a folder",
        "empty.h5": "is empty",
        "text.h5": "is neither HDF5 nor a .keras archive",
        "tensor.pth": "is neither HDF5 nor a .keras archive",
        "cut.keras": "is damaged or cut short: File is not a zip file",
        "cut.h5": "is damaged or cut short: .*truncated file",
        "other.h5": "not one of Keras: it names no layers",
        "other.keras": "not one of Keras: it holds no model.weights.h5",
        "npz.keras": "holds no weights of layers",
    }
    for name, line in lines.items():
        with pytest.raises(ModelError, match=line):
            read_keras(tmp_path / name)
        refusal(tmp_path / name)


def test_an_archive_that_would_fill_the_disk_is_refused_unopened(made: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w") as member:
            for _ in range(66):
                member.write(bytes(2**20))
    assert "would unpack to 69,206,016 bytes" in refusal(bomb)


def test_an_archive_that_was_compressed_again_is_read(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.keras"
    with zipfile.ZipFile(made / "small.keras") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert_same_as_keras(read(path).model, made / "small.npz")


@pytest.mark.parametrize("name", ["config.json", "metadata.json"])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"config": 3}', b'{"config": {"layers": [3]}}']
)
def test_a_damaged_configuration_is_one_clear_line(made: Path, tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(made / "small.keras") as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            new.writestr(member, content if member == name else old.read(member))
    if name == "metadata.json" and content.startswith(b'{"'):
        assert read(path).source == "Keras of unknown version archive"
    else:
        refusal(path)


@pytest.mark.parametrize("name", ["small.keras", "small.h5", "small.weights.h5", "old.h5", "old-weights.h5"])
def test_a_file_that_ends_early_anywhere_is_one_clear_line(made: Path, tmp_path: Path, name: str) -> None:
    whole = (made / name).read_bytes()
    for length in np.random.default_rng(3).integers(1, len(whole), 15):
        (tmp_path / name).write_bytes(whole[:length])
        refusal(tmp_path / name)


def test_an_archive_with_other_bytes_in_it_is_one_clear_line(made: Path, tmp_path: Path) -> None:
    """Its checksums tell, wherever they are; those of HDF5 cover a part of it only."""
    rng = np.random.default_rng(4)
    whole = np.frombuffer((made / "small.keras").read_bytes(), np.uint8)
    for start in rng.integers(4, len(whole) - 100, 15):
        broken = whole.copy()
        broken[start : start + 100] = rng.integers(0, 256, 100)
        (tmp_path / "x.keras").write_bytes(broken.tobytes())
        refusal(tmp_path / "x.keras")


def test_the_example_gives_what_it_says() -> None:
    assert doctest.testmod(carvana_keras.weights).failed == 0


def test_reading_imports_no_keras(made: Path) -> None:
    read(made / "small.keras")
    assert not {"keras", "tensorflow"} & set(sys.modules)
