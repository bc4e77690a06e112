"""Ways into an HDF5 file that nobody vouches for: no link is followed, nothing is taken for what it is not."""

from __future__ import annotations

from itertools import chain
from typing import Any

import h5py
import numpy as np

from carvana.errors import ModelError
from carvana.models.weight_files import short


def has(parent: h5py.Group, name: str) -> bool:
    """Whether a group holds that name. h5py's ``in`` would follow links to find out."""
    return bool(parent.id.links.exists(name.encode()))


def group_at(parent: h5py.Group, path: str) -> h5py.Group:
    """The group of that path.

    Raises:
        ModelError: it is missing, no group, or reached through a link.
    """
    child = _child(parent, path)
    if not isinstance(child, h5py.Group):
        raise ModelError(f"is damaged: {short(path)} is no group")
    return child


def array_at(parent: h5py.Group, path: str) -> h5py.Dataset:
    """The array of that path, not read yet.

    Raises:
        ModelError: it is missing, no array, or its values are elsewhere.
    """
    child = _child(parent, path)
    if not isinstance(child, h5py.Dataset):
        raise ModelError(f"is damaged: {short(path)} is no array")
    if child.external or child.is_virtual:
        raise ModelError(f"is refused: {short(path)} lies in another file")
    return child


def values_of(dataset: h5py.Dataset, where: str) -> np.ndarray:
    """The numbers of an array as float32; ``where`` is what an error calls it.

    Raises:
        ModelError: they are not all there, no floating-point numbers, or not finite.
    """
    if dataset.dtype.kind != "f":
        raise ModelError(f"holds no plain numbers: {where} is of type {dataset.dtype}")
    if dataset.id.get_storage_size() < dataset.nbytes:  # Keras stores arrays whole; a few bytes may claim terabytes
        raise ModelError(f"is damaged: {where} is not stored in full")
    values = np.asarray(dataset[()], dtype=np.float32)
    if not np.isfinite(values).all():
        raise ModelError(f"is damaged: {where} holds values that are not finite")
    return values


def names_at(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names, which Keras splits into ``layer_names0``, ``layer_names1``, .. where it is long."""
    values = group.attrs.get(attribute)
    if values is None:
        values = []
        while f"{attribute}{len(values)}" in group.attrs:
            values.append(group.attrs[f"{attribute}{len(values)}"])
        values = list(chain.from_iterable(values))
    return [as_text(value) for value in np.atleast_1d(values)]


def as_text(value: Any) -> str:
    """A text, whether it was stored as bytes (Keras 2) or not."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _child(parent: h5py.Group, path: str) -> Any:
    child: Any = parent
    for part in path.split("/"):
        if not isinstance(child, h5py.Group) or not has(child, part):
            raise ModelError(f"is damaged: {short(path)} is missing")
        if child.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:  # others may lead anywhere
            raise ModelError(f"is refused: {short(path)} is a link to somewhere else")
        child = child[part]
    return child
