"""What a file of Keras holds: its layers in order, each with its arrays and, where the file has them, its settings.

Read with h5py alone: nothing is unpickled or run, nothing is read from outside the file. Four layouts are known:

- ``.keras``, a ZIP archive with ``config.json`` and ``model.weights.h5``;
- ``.weights.h5`` of Keras 3: ``layers/conv2d_1/vars/0``, numbered within each class, whatever the layers' own names;
- ``.h5`` models of Keras 2 and 3: ``model_weights/NAME/NAME/kernel:0``, the order in the attribute ``layer_names``, the
  settings in the attribute ``model_config``;
- ``.h5`` weights of Keras 2: the same without ``model_weights`` and settings.
"""

from __future__ import annotations

import json
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
import numpy as np
from carvana.errors import ModelError

ARRAYS = {"Conv2D": ("kernel", "bias"), "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance")}
"""The arrays of the layers that have any, in Keras's order: ``.weights.h5`` numbers them only."""

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
    OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, AttributeError,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What h5py, zipfile and json raise, and code that reads what they give, where bytes are not what they should be."""

Arrays = dict[str, h5py.Dataset]


@dataclass(frozen=True)
class KerasLayer:
    """A layer.

    Attributes:
        name: As its author or Keras called it; in ``.weights.h5`` its group.
        kind: Its class, "Conv2D"; None where the file does not have it.
        arrays: By their names, "kernel"; not read yet.
        settings: What it was made with; None where the file does not have them.
        inputs: The names of the layers that it reads, where the file has them.
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
        layers: In the order of the network; those without arrays only where the file has their class.
        has_settings: Whether the file has the class, the settings and the inputs of all layers.
    """

    kind: str
    layers: list[KerasLayer]
    has_settings: bool


@contextmanager
def open_keras(path: str | os.PathLike[str]) -> Iterator[KerasFile]:
    """Open a file of Keras; an error while it is read, inside the block too, becomes one line.

    Raises:
        ModelError: there is no such file, Keras did not write it, or it is damaged.
    """
    path = Path(path)
    try:
        if _is_archive(path):
            with zipfile.ZipFile(path) as archive, tempfile.TemporaryFile() as unpacked:
                _unpack(archive, "model.weights.h5", unpacked)
                with h5py.File(unpacked, "r") as file:
                    _refuse_links(file)
                    yield _archive(archive, file)
        else:
            with h5py.File(path, "r") as file:
                _refuse_links(file)
                yield _weights(file) if _layers_group(file) else _legacy(file)
    except ModelError as error:
        raise ModelError(f"'{path}' {error}") from None
    except _DAMAGE as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"'{path}' is damaged or cut short: {line}") from error


def values_of(dataset: h5py.Dataset, where: str) -> np.ndarray:
    """The numbers of an array as float32; ``where`` is what an error calls it.

    Raises:
        ModelError: they are in another file, not all there, not floating-point numbers, or not finite.
    """
    if dataset.external or dataset.is_virtual:
        raise ModelError(f"is refused: {where} lies in another file")
    if dataset.dtype.kind != "f":
        raise ModelError(f"holds no plain numbers: {where} is of type {dataset.dtype}")
    if dataset.id.get_storage_size() < dataset.nbytes:  # Keras stores arrays whole; a few bytes may claim terabytes
        raise ModelError(f"is damaged: {where} is not stored in full")
    values = np.asarray(dataset[()], dtype=np.float32)
    if not np.isfinite(values).all():
        raise ModelError(f"is damaged: {where} holds values that are not finite")
    return values


def short(name: object) -> str:
    """A name from a file for a message: quoted, on one line, of bounded length."""
    return repr(str(name)[:100])


def _is_archive(path: Path) -> bool:
    """Whether it is a ZIP archive; otherwise it is HDF5."""
    if path.is_dir():
        raise ModelError("is a folder: give a .weights.h5, .keras or .h5 file of Keras")
    if not path.is_file():
        raise ModelError("does not exist")
    with open(path, "rb") as file:
        begin = file.read(4)
    if not begin:
        raise ModelError("is empty")
    if begin != b"PK\x03\x04" and not h5py.is_hdf5(path):
        raise ModelError("is neither HDF5 nor a .keras archive: give a .weights.h5, .keras or .h5 file of Keras")
    return begin == b"PK\x03\x04"


def _archive(archive: zipfile.ZipFile, file: h5py.File) -> KerasFile:
    root = _layers_group(file)
    if root is None:
        raise ModelError("holds no weights of layers where Keras keeps them")
    config, metadata = (_json_member(archive, name) for name in ("config.json", "metadata.json"))
    groups = _by_class(root)
    waiting = {kind: iter(groups.get(kind, [])) for kind in ARRAYS}  # in a file, layers of a class are in order

    def arrays(name: str, kind: str) -> Arrays:
        layer = next(waiting[kind], None) if kind in waiting else None
        return layer.arrays if layer else {}

    version = _version(metadata.get("keras_version"))
    return KerasFile(f"Keras {version} archive", _configured(config, arrays), has_settings=True)


def _weights(file: h5py.File) -> KerasFile:
    by_class = _by_class(_layers_group(file))
    pairs = zip_longest(by_class.pop("Conv2D", []), by_class.pop("BatchNormalization", []))
    alternating = [layer for pair in pairs for layer in pair if layer is not None]
    foreign = [layer for kind, layers in by_class.items() if kind not in _KINDS.values() for layer in layers]
    # The file does not have their place; in front they are what an error names.
    return KerasFile("Keras 3 weights", [*foreign, *alternating], has_settings=False)


def _legacy(file: h5py.File) -> KerasFile:
    root = file.get("model_weights", file)
    names = _names(root, "layer_names")
    if not names:
        raise ModelError("is an HDF5 file, but not one of Keras: it names no layers")
    version = _version(root.attrs.get("keras_version", file.attrs.get("keras_version")))
    config = file.attrs.get("model_config")

    def arrays(name: str, kind: str = "") -> Arrays:
        return _named_arrays(root[name]) if name in names else {}

    if config is None:
        layers = [KerasLayer(name, None, arrays(name)) for name in names]
        return KerasFile(f"Keras {version} weights", [layer for layer in layers if layer.arrays], has_settings=False)
    return KerasFile(f"Keras {version} model", _configured(_json(_text(config)), arrays), has_settings=True)


def _layers_group(file: h5py.File) -> Any:
    """The group of all layers in the layout of Keras 3; None in the older one, where a layer may have any name."""
    if any(name.startswith("layer_names") for name in file.attrs):
        return None
    return next((file[name] for name in _ROOTS if name in file), None)


def _by_class(root: h5py.Group) -> dict[str, list[KerasLayer]]:
    """The layers of each class in order: by number, since HDF5 lists conv2d_10 before conv2d_2."""
    found: dict[str, list[tuple[int, KerasLayer]]] = {}
    for name in root:
        match = re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", name, re.DOTALL)
        assert match is not None
        kind = _KINDS.get(match[1], match[1])
        values = root[name].get("vars", {})
        keys = sorted(values, key=lambda key: key.zfill(9))
        names = ARRAYS.get(kind, ())
        arrays = dict(zip(names if len(names) == len(keys) else keys, (values[key] for key in keys), strict=True))
        found.setdefault(kind, []).append((int(match[2] or 0), KerasLayer(name, kind, arrays)))
    return {kind: [layer for _, layer in sorted(layers, key=lambda pair: pair[0])] for kind, layers in found.items()}


def _named_arrays(group: h5py.Group) -> Arrays:
    """The arrays of a layer in the older layout: "conv2d_1/kernel:0" is its kernel."""
    arrays: Arrays = {}
    for path in _names(group, "weight_names"):
        name = path.rpartition("/")[2].partition(":")[0]
        arrays[path if name in arrays else name] = group[path]
    return arrays


def _refuse_links(file: h5py.File) -> None:
    """Refuse all links within a file, which may lead anywhere; Keras writes none."""
    link = file.visititems_links(lambda name, link: None if isinstance(link, h5py.HardLink) else name)
    if link is not None:
        raise ModelError(f"is refused: {short(link)} is a link to somewhere else")


def _configured(config: Mapping[str, Any], arrays: Callable[[str, str], Arrays]) -> list[KerasLayer]:
    """The layers as a model's config lists them, which is the order of the network."""
    inner = config.get("config")
    listed = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(listed, list):
        raise ModelError(
            f"holds a model of class {short(config.get('class_name'))}: only functional ones list their layers"
        )
    layers = []
    for entry in listed:
        settings = entry["config"]
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
            yield from chain.from_iterable(map(_sources, node.values()))
    elif isinstance(node, list):
        if len(node) > 2 and isinstance(node[0], str) and isinstance(node[1], int):
            yield node[0]
        else:
            yield from chain.from_iterable(map(_sources, node))


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names, which Keras splits into ``layer_names0``, ``layer_names1``, .. where it is long."""
    values = group.attrs.get(attribute)
    if values is None:
        values = []
        while f"{attribute}{len(values)}" in group.attrs:
            values.append(group.attrs[f"{attribute}{len(values)}"])
        values = list(chain.from_iterable(values))
    return [_text(value) for value in np.atleast_1d(values)]


def _text(value: Any) -> str:
    """A text, whether it was stored as bytes (Keras 2) or not."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _version(value: Any) -> str:
    text = _text(value)
    return text if re.fullmatch(r"\d[\w.+-]{0,30}", text) else "of unknown version"


def _json(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("its config is not a JSON object")
    return value


def _json_member(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    with tempfile.TemporaryFile() as unpacked:
        _unpack(archive, name, unpacked)
        unpacked.seek(0)
        return _json(unpacked.read().decode())


def _unpack(archive: zipfile.ZipFile, name: str, target: IO[bytes]) -> None:
    """Copy a member out to its end, so that its checksum is tested."""
    if name not in archive.namelist():
        raise ModelError(f"is a ZIP archive, but not one of Keras: it holds no {name}")
    member = archive.getinfo(name)
    assert archive.filename is not None
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelError(f"is refused: its {name} is compressed in a way that Keras never uses")
    if member.file_size > max(_UNPACKED, 10 * Path(archive.filename).stat().st_size):
        raise ModelError(f"is refused: its {name} would unpack to {member.file_size:,} bytes")
    with archive.open(member) as source:
        shutil.copyfileobj(source, target)
