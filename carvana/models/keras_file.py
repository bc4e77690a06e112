"""What a file of Keras holds: its layers in order, each with its arrays and, where the file tells, its settings.

Read with h5py alone: nothing is unpickled or run, nothing is followed out of the file. Four layouts are known:

- ``.keras``, a ZIP archive with ``config.json`` and ``model.weights.h5``;
- ``.weights.h5`` of Keras 3: ``layers/conv2d_1/vars/0``, numbered within each class, whatever the layers' own names;
- ``.h5`` models of Keras 2 and 3: ``model_weights/NAME/NAME/kernel:0``, the order in the attribute ``layer_names``, the
  settings in the attribute ``model_config``;
- ``.h5`` weights of Keras 2: the same without ``model_weights`` and settings.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, Any

import h5py

from carvana.errors import ModelError
from carvana.models.keras_hdf5 import array_at, as_text, group_at, has, names_at
from carvana.models.weight_files import first_line, short
from carvana.utils.files import parse_json

ARRAYS = {"Conv2D": ("kernel", "bias"), "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance")}
"""The arrays of the layers that have any, in Keras's order, which is all that ``.weights.h5`` tells of their names."""

_KINDS = {
    "conv2d": "Conv2D",
    "batch_normalization": "BatchNormalization",
    "input_layer": "InputLayer",
    "activation": "Activation",
    "re_lu": "ReLU",
    "max_pooling2d": "MaxPooling2D",
    "up_sampling2d": "UpSampling2D",
    "concatenate": "Concatenate",
}
_ROOTS = ("layers", "_layer_checkpoint_dependencies")  # the second is what Keras 2.12 to 2.15 call it
_UNPACKED = 64 * 2**20
"""Bytes that a member of an archive may always unpack to; larger ones, to ten times the archive: weights are noise."""
_DAMAGE = (
    OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What h5py, zipfile and json raise over bytes that are not what they should be."""

Arrays = dict[str, h5py.Dataset]


@dataclass(frozen=True)
class KerasLayer:
    """A layer.

    Attributes:
        name: As its author or Keras called it; in ``.weights.h5`` its group.
        kind: Its class, "Conv2D"; None where the file does not tell.
        arrays: By their names, "kernel"; read by nobody yet.
        settings: What it was made with; None where the file does not tell.
        inputs: The names of the layers that it reads, where the file tells.
    """

    name: str
    kind: str | None
    arrays: Arrays
    settings: Mapping[str, Any] | None = None
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class KerasFile:
    """A file, open as long as ``open_keras`` holds it.

    Attributes:
        kind: What wrote it, for people.
        layers: In the order of the network; those without arrays only where the file tells their class.
        has_settings: Whether all layers tell their class, their settings and their inputs.
    """

    kind: str
    layers: list[KerasLayer]
    has_settings: bool


@contextmanager
def open_keras(path: str | os.PathLike[str]) -> Iterator[KerasFile]:
    """Open a file of Keras; what goes wrong while it is read, inside the block too, is one line.

    Raises:
        ModelError: there is no such file, it is none of Keras's, or it is damaged.
    """
    path = Path(path)
    is_archive = _check(path)
    try:
        if is_archive:
            with zipfile.ZipFile(path) as archive, tempfile.TemporaryFile() as unpacked:
                _unpack(archive, "model.weights.h5", unpacked)
                with h5py.File(unpacked, "r") as file:
                    yield _archive(archive, file)
        else:
            with h5py.File(path, "r") as file:
                yield _weights(file) if _root(file) is not None else _legacy(file)
    except ModelError as error:
        raise ModelError(f"'{path}' {error}") from None
    except _DAMAGE as error:
        raise ModelError(f"'{path}' is damaged or cut short: {first_line(error)}") from error


def _check(path: Path) -> bool:
    """Whether it is a ZIP archive; otherwise it is HDF5."""
    if path.is_dir():
        raise ModelError(f"'{path}' is a folder: give a .weights.h5, .keras or .h5 file of Keras")
    if not path.is_file():
        raise ModelError(f"there is no file '{path}'")
    if path.stat().st_size == 0:
        raise ModelError(f"'{path}' is empty")
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if not is_archive and not h5py.is_hdf5(path):
        raise ModelError(
            f"'{path}' is neither HDF5 nor a .keras archive: give a .weights.h5, .keras or .h5 file of Keras"
        )
    return is_archive


def _archive(archive: zipfile.ZipFile, file: h5py.File) -> KerasFile:
    root = _root(file)
    if root is None:
        raise ModelError("holds no weights of layers where Keras keeps them")
    config, metadata = (_json_member(archive, name) for name in ("config.json", "metadata.json"))
    groups = _by_class(root)
    waiting = {kind: iter(groups.get(kind, [])) for kind in ARRAYS}  # in a file, layers of a class are in order

    def arrays(name: str, kind: str) -> Arrays:
        layer = next(waiting[kind], None) if kind in waiting else None
        return layer.arrays if layer is not None else {}

    version = _version(metadata.get("keras_version"))
    return KerasFile(f"Keras {version} archive", _configured(config, arrays), has_settings=True)


def _weights(file: h5py.File) -> KerasFile:
    root = _root(file)
    assert root is not None
    by_class = _by_class(root)
    pairs = zip_longest(by_class.pop("Conv2D", []), by_class.pop("BatchNormalization", []))
    alternating = [layer for pair in pairs for layer in pair if layer is not None]
    foreign = [layer for kind, layers in by_class.items() if kind not in _KINDS.values() for layer in layers]
    # Their place is not told; in front they are what an error names.
    return KerasFile("Keras 3 weights", [*foreign, *alternating], has_settings=False)


def _legacy(file: h5py.File) -> KerasFile:
    root = group_at(file, "model_weights") if has(file, "model_weights") else file
    names = names_at(root, "layer_names")
    if not names:
        raise ModelError("is an HDF5 file, but not one of Keras: it names no layers")
    version = _version(root.attrs.get("keras_version", file.attrs.get("keras_version")))
    config = _model_config(file)
    if config is None:
        layers = [KerasLayer(name, None, _named_arrays(group_at(root, name))) for name in names]
        told = [layer for layer in layers if layer.arrays]
        return KerasFile(f"Keras {version} weights", told, has_settings=False)

    def arrays(name: str, kind: str) -> Arrays:
        return _named_arrays(group_at(root, name)) if name in names else {}

    return KerasFile(f"Keras {version} model", _configured(config, arrays), has_settings=True)


def _root(file: h5py.File) -> h5py.Group | None:
    """The group of all layers in the layout of Keras 3."""
    if any(name.startswith("layer_names") for name in file.attrs):
        return None  # the older layout, where a layer may have any name
    return next((group_at(file, name) for name in _ROOTS if has(file, name)), None)


def _by_class(root: h5py.Group) -> dict[str, list[KerasLayer]]:
    """The layers of each class in order: by number, for HDF5 lists conv2d_10 before conv2d_2."""
    found: dict[str, list[tuple[int, KerasLayer]]] = {}
    for name in root:
        match = re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", name, re.DOTALL)
        assert match is not None
        kind = _KINDS.get(match[1], match[1])
        group = group_at(root, name)
        values = group_at(group, "vars") if has(group, "vars") else {}
        keys = sorted(values, key=lambda key: key.zfill(9))
        names = ARRAYS.get(kind, ())
        arrays = dict(
            zip(names if len(names) == len(keys) else keys, (array_at(values, key) for key in keys), strict=True)
        )
        found.setdefault(kind, []).append((int(match[2] or 0), KerasLayer(name, kind, arrays)))
    return {kind: [layer for _, layer in sorted(layers, key=lambda pair: pair[0])] for kind, layers in found.items()}


def _named_arrays(group: h5py.Group) -> Arrays:
    """The arrays of a layer in the older layout: "conv2d_1/kernel:0" is its kernel."""
    arrays: Arrays = {}
    for path in names_at(group, "weight_names"):
        name = path.rpartition("/")[2].partition(":")[0]
        arrays[path if name in arrays else name] = array_at(group, path)
    return arrays


def _configured(config: Mapping[str, Any], arrays: Callable[[str, str], Arrays]) -> list[KerasLayer]:
    """The layers as a model's configuration lists them, which is the order of the network."""
    inner = config.get("config")
    listed = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(listed, list):
        raise ModelError(
            f"holds a model of class {short(config.get('class_name'))}: only functional ones list their layers"
        )
    layers = []
    for entry in listed:
        settings = entry.get("config") if isinstance(entry, dict) else None
        if not isinstance(settings, dict):
            raise ModelError("is damaged: its configuration lists a layer without settings")
        name = str(entry.get("name", settings.get("name")))
        kind = re.sub(r"V\d$", "", str(entry.get("class_name")))  # TensorFlow 1 wrote BatchNormalizationV1
        inputs = tuple(_sources(entry.get("inbound_nodes")))
        layers.append(KerasLayer(name, kind, arrays(name, kind), settings, inputs))
    return layers


def _sources(node: Any) -> Iterator[str]:
    """The layers that a layer reads: ``["conv2d_1", 0, 0, {}]`` in Keras 2, a tensor with its history in Keras 3."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            yield str(node["config"]["keras_history"][0])
        else:
            yield from chain.from_iterable(_sources(part) for part in node.values())
    elif isinstance(node, list):
        if len(node) > 2 and isinstance(node[0], str) and isinstance(node[1], int):
            yield node[0]
        else:
            yield from chain.from_iterable(_sources(part) for part in node)


def _model_config(file: h5py.File) -> dict[str, Any] | None:
    value = file.attrs.get("model_config")
    if value is None:
        return None
    config = parse_json(as_text(value))
    if not isinstance(config, dict):
        raise ModelError("is damaged: its configuration is no JSON object")
    return config


def _json_member(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    with tempfile.TemporaryFile() as unpacked:
        _unpack(archive, name, unpacked)
        unpacked.seek(0)
        value = parse_json(unpacked.read().decode())
    if not isinstance(value, dict):
        raise ModelError(f"is damaged: its {name} is no JSON object")
    return value


def _unpack(archive: zipfile.ZipFile, name: str, target: IO[bytes]) -> None:
    """Copy a member out to its end, so that its checksum is looked at."""
    try:
        member = archive.getinfo(name)
    except KeyError:
        raise ModelError(f"is a ZIP archive, but not one of Keras: it holds no {name}") from None
    assert archive.filename is not None
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelError(f"is refused: its {name} is compressed in a way that Keras never uses")
    if member.file_size > max(_UNPACKED, 10 * Path(archive.filename).stat().st_size):
        raise ModelError(f"is refused: its {name} would unpack to {member.file_size:,} bytes")
    with archive.open(member) as source:
        shutil.copyfileobj(source, target)


def _version(value: Any) -> str:
    text = as_text(value)
    return text if re.fullmatch(r"\d[\w.+-]{0,30}", text) else "of unknown version"
