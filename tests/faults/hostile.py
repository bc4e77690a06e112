"""Files that a stranger could send: pickles that run something when they are read, and safetensors made by hand."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Trap:
    """Makes an empty file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def raw_pickle(trap: Trap) -> bytes:
    return pickle.dumps({"head.weight": torch.zeros(2), "x": trap})


def torch_zip(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"head.weight": torch.zeros(2), "x": trap}, buffer)
    return buffer.getvalue()


def torch_legacy(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"head.weight": torch.zeros(2), "x": trap}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def numpy_archive(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([trap], dtype=object))
    return buffer.getvalue()


def torchscript(_: Trap) -> bytes:
    """A program; it has no way to make a file when it is read, so nothing shows that it was not."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


KINDS: dict[str, Callable[[Trap], bytes]] = {
    "a pickle": raw_pickle,
    "a file of torch": torch_zip,
    "an old file of torch": torch_legacy,
    "an archive of NumPy": numpy_archive,
    "a TorchScript archive": torchscript,
}


def safetensors(header: Any, body: bytes, length: int | None = None) -> bytes:
    """The format by its definition: the header's length in 8 bytes, the header as JSON, the tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def taken_apart(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the body of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]
