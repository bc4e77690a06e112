"""Model folders: ``model.safetensors``, ``config.json`` and a card. Read strictly, written atomically, no pickle."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from carvana.errors import ConfigError, ModelError
from carvana.models.model_card import CARD, SOURCE, THUMBNAIL, model_card
from carvana.models.spec import ModelSpec
from carvana.models.weight_files import difference, first_line, flaw, short
from carvana.registry import registry
from carvana.utils.files import atomic_path, read_json, write_json, write_text

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def save(
    folder: str | os.PathLike[str],
    network: nn.Module,
    spec: ModelSpec,
    *,
    metrics: Mapping[str, Any] | None = None,
    data: str = "",
    thumbnail: bool = False,
) -> None:
    """Write the three files; the weights first, so that a new config.json is never beside old weights.

    Args:
        folder: Made if it is missing.
        network: The network, whose weights are written.
        spec: The record for ``config.json``.
        metrics: Numbers to show on the card, by name.
        data: The name of the data on whose validation images they were measured.
        thumbnail: Whether the card shows the picture of the run.
    """
    folder = Path(folder)
    write_tensors(folder / WEIGHTS, network.state_dict())
    write_json(folder / CONFIG, spec.to_json())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    write_text(folder / CARD, model_card(spec, parameters, metrics or {}, data=data, thumbnail=thumbnail))


def locate(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The model folder of ``source``: itself, ``model/`` of a run, or a download from the hub."""
    folder = Path(source)
    if folder.is_dir():
        inner = folder / "model"
        return inner if not (folder / CONFIG).exists() and (inner / CONFIG).exists() else folder
    if folder.exists():
        raise ModelError(f"'{folder}' is a file: give the model folder or the run folder")
    name = os.fspath(source)
    if not could_be_repository(name) or folder.parent.is_dir():
        raise ModelError(f"there is no model folder '{name}'")
    return _download(name, revision)


def could_be_repository(name: str) -> bool:
    """Whether a name has the form of the hub's: ``owner/model``."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def read_spec(folder: Path) -> ModelSpec:
    """The record in ``config.json``."""
    path = folder / CONFIG
    for needed in (path, folder / WEIGHTS):
        if not needed.is_file():
            raise ModelError(f"'{folder}' is not a model folder: {needed.name} is missing")
    try:
        values = read_json(path)
    except ValueError as error:  # not JSON, not text, numbers of thousands of digits
        raise ModelError(f"'{path}' is not JSON: {error}") from None
    if isinstance(values, dict) and "arch" not in values:
        raise ModelError(f"'{path}' was not written by carvana: 'arch' is missing")
    try:
        return ModelSpec.from_json(values)
    except ModelError as error:
        raise ModelError(f"'{path}': {error}") from None


def check_installed(folder: Path, spec: ModelSpec) -> None:
    """Raise where the architecture is not registered here; the message names the package that adds it."""
    if spec.arch in registry.archs:
        return
    if spec.package in ("script", ""):
        raise ModelError(
            f"'{folder}' holds the weights of a network of your own, '{spec.arch}': pass that nn.Module,"
            " Segmenter.from_pretrained(folder, network=...), or register its factory with carvana.register_arch"
        )
    if spec.package == "carvana":
        raise ModelError(f"'{folder}' holds the architecture '{spec.arch}', which this carvana lacks: upgrade carvana")
    raise ModelError(
        f"'{folder}' holds the architecture '{spec.arch}', which is not registered here: install the package that"
        f" brings it, if you trust it: pip install {spec.package}"
    )


def load_weights(folder: Path, network: nn.Module) -> None:
    """Load ``model.safetensors`` into ``network``: exactly its tensors, each of its shape and finite."""
    path = folder / WEIGHTS
    found, expected = _read_tensors(path), network.state_dict()
    reason = difference(found, expected)
    if not reason and (unexpected := [name for name in found if name not in expected]):
        reason = f"{len(unexpected)} tensors are unknown to it, the first is {short(unexpected[0])}"
    if reason:
        raise ModelError(f"'{path}' does not fit the architecture: {reason}")
    for name, tensor in expected.items():
        if wrong := flaw(found[name], tensor):
            raise ModelError(f"'{path}' is damaged: '{name}' {wrong}")
    network.load_state_dict(found)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with open(path, "rb"):  # safetensors takes a file that may not be read for one that is not there
            tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:  # whatever its bytes lead to
        raise ModelError(f"'{path}' is not a readable safetensors file: {first_line(error)}") from None
    return tensors


def most_elements(folder: Path) -> int:
    """How many numbers a network can have that ``model.safetensors`` fills: each takes a byte of it or more.

    What a network is made of on its way, and what is not saved with it, comes on top.
    """
    return 2 * (folder / WEIGHTS).stat().st_size + 2**26


def push(
    repo_id: str,
    network: nn.Module,
    spec: ModelSpec,
    *,
    private: bool,
    token: str | None,
    run: str | os.PathLike[str] | None,
    thumbnail: bool,
) -> str:
    """Upload the folder that ``save`` writes, with the card of ``run`` if there is one."""
    from huggingface_hub import HfApi, ModelCard, hf_hub_url  # takes half a second, and is needed for the hub alone

    if thumbnail and run is None:
        raise ConfigError("thumbnail: the picture is a run's; name the run, as in push_to_hub(..., run='runs/first')")
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save(folder, network, spec)
        origin = folder if run is None else _same_model(locate(run), folder, spec)
        text = (origin / CARD).read_text(encoding="utf-8").replace(SOURCE, repo_id)
        picture = origin / THUMBNAIL
        if thumbnail:
            if not picture.is_file():
                raise ModelError(f"there is no '{picture}': runs of earlier versions have none; leave thumbnail out")
            shutil.copyfile(picture, folder / picture.name)
        else:
            text = re.sub(rf"!\[[^]]*\]\({re.escape(THUMBNAIL)}\)\n*", "", text)
        try:
            if thumbnail:
                card = ModelCard(text.replace(THUMBNAIL, picture.name))
                card.data["thumbnail"] = hf_hub_url(repo_id, picture.name, endpoint=api.endpoint)
                text = str(card)
            write_text(folder / CARD, text)
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"Upload {spec.arch}")
        except Exception as error:  # the client raises its own, its transport's and plain OSErrors
            raise ModelError(f"'{repo_id}' could not be pushed to the hub: {_why(error, None)}") from error
    return str(commit)


def _same_model(origin: Path, folder: Path, spec: ModelSpec) -> Path:
    """``origin``, if its card describes the model that was saved into ``folder``."""
    if not (origin / CARD).is_file():
        raise ModelError(f"'{origin}' has no model card: {CARD} is missing")
    theirs, ours = _read_tensors(origin / WEIGHTS), _read_tensors(folder / WEIGHTS)
    same = theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    if not same or read_spec(origin) != spec:
        raise ModelError(
            f"the card of '{origin}' describes another model than this one: leave run out, or save it anew"
        )
    return origin


def _download(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # see push

    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=[CONFIG, WEIGHTS], etag_timeout=5))
    except Exception as error:  # see push
        raise ModelError(
            f"there is no folder '{repo_id}' here, and the hub did not give a repository of that name:"
            f" {_why(error, revision)}"
        ) from error
    for needed in (CONFIG, WEIGHTS):
        if not (folder / needed).is_file():
            raise ModelError(f"the hub's repository '{repo_id}' holds no model of carvana: {needed} is missing")
    return folder


def _why(error: Exception, revision: str | None) -> str:
    """An error of the hub's client as half a line that says what to do, in place of many lines or a status code."""
    from huggingface_hub import constants, errors  # see push

    what = f"revision '{revision}'" if revision else "it"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"there is no revision '{revision or 'main'}' of it"
    if isinstance(error, errors.GatedRepoError):
        return f"its owner grants access one by one: ask for it on the repository's page, then {_LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"it is not there, or it is private: if it is yours to read, {_LOG_IN}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it"
    if isinstance(error, errors.LocalEntryNotFoundError):
        if constants.is_offline_mode():
            return f"{what} is not in the cache, and HF_HUB_OFFLINE is set: fetch it once without that"
        return f"{what} is not in the cache, and asking the hub failed: {first_line(error.__cause__ or error)}"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        said = (error.server_message or error.response.reason_phrase).rstrip(".")
        return f"{error.response.status_code}, {said}: {_LOG_IN} to a token that may do this"
    return first_line(error)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically.

    Raises:
        ModelError: the disk is full, or the folder cannot be written to.
    """
    try:
        with atomic_path(path) as temporary:
            save_file(_own_memory(tensors), temporary, metadata={"format": "pt"})
    except SafetensorError as error:
        raise ModelError(
            f"'{path}' cannot be written ({error}): is the disk full? the file that was there before is kept"
        ) from error


def _own_memory(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory: the format has no shared tensors; on reading both are filled."""
    seen: set[int] = set()
    tensors = {}
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen or tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return tensors
