"""The Segmenter, which wraps every architecture: images of any size to logits of that size.

Images are padded to a size that the network takes, and normalised. Both keep the memory format. In channels_last the
three channels of a pixel lie side by side, and torch is slow where its innermost loop has three steps; there, whole
rows of pixels are processed at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from carvana.errors import CarvanaError, ModelError, error_line
from carvana.image_spec import RGB, channel_names
from carvana.models import serialization
from carvana.models.build import AllocationLimit, build_network
from carvana.models.spec import ModelSpec
from carvana.task import Task
from carvana.utils.devices import is_out_of_memory
from carvana.utils.progress import Reporter, default_reporter

_OF_DEVICE = re.compile("cuda|cudnn|cublas", re.IGNORECASE)  # errors that are not the network's


def create_model(
    name: str,
    *,
    classes: int = 1,
    task: Task | None = None,
    channels: int | str | Sequence[str] = RGB,
    encoder_weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    **more_options: Any,
) -> Segmenter:
    """Build an architecture of the registry, ready to train.

    Args:
        name: An architecture, such as ``"unet-ref"`` or ``"unet/resnet34"``; ``carvana archs`` lists them.
        classes: Channels of the logits; 1 for foreground against background. More of them, without a task, have no
            known meaning: the model gives logits only.
        task: The task; its classes are the channels of the logits.
        channels: Of an image: their names, their number, ``"rgb"`` or ``"gray"``. Published weights of an encoder are
            adapted to them.
        encoder_weights: Where the encoder's weights come from: None or ``"none"`` (random), ``"imagenet"`` or another
            name that smp publishes, ``"auto"`` (pretrained if cached or if the hub answers within 3 s, else random with
            a warning), or a file (.safetensors, .pth). What happened is in ``spec.init``.
        options: Passed on to the architecture's factory; plain JSON values, since they travel with the weights.
        reporter: Warned where ``"auto"`` had to start from random weights; by default the log is.
        more_options: The same as ``options``, as keywords; they win over them.

    Raises:
        UnknownNameError: no such architecture.
        ConfigError: an option or a value that the architecture does not take.
        ModelError: the architecture cannot be built, or the weights are not available.

    >>> model = create_model("unet-ref", width=4)
    >>> model.spec.stride, model.spec.init
    (16, 'random')
    """
    network, spec = build_network(
        name, classes=classes if task is None else len(task.classes), channels=channel_names(channels),
        encoder_weights=encoder_weights, options={**(options or {}), **more_options},
    )  # fmt: skip
    if spec.init.startswith("auto: random "):
        reason = spec.init.removeprefix("auto: random ")
        (reporter or default_reporter()).warn(f"{name} starts from random weights {reason}")
    model = Segmenter(network.module, spec, encoder=network.encoder)
    return model if task is None else model.with_spec(task=task)


class Segmenter(nn.Module):
    """A network and its ModelSpec: an ``nn.Module`` with padding and normalisation inside.

    Args:
        network: Normalised float images (N, channels, H, W), H and W multiples of ``spec.stride`` and at least
            ``spec.min_size``, to logits (N, ``spec.classes``, H, W).
        spec: The record that travels with the weights.
        encoder: The part of ``network`` that ``encoder_lr`` and ``freeze_encoder`` apply to.

    >>> model = Segmenter(nn.Conv2d(3, 1, 1), ModelSpec(arch="mine", stride=8))
    >>> model(torch.zeros(1, 3, 5, 13, dtype=torch.uint8)).shape
    torch.Size([1, 1, 5, 13])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: ModelSpec, *, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        self._encoder = _path_of(encoder, network)
        # Not in the state: they are in the spec, and the weights must load into the bare network.
        self.register_buffer("mean", torch.zeros(1, len(spec.channels), 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(1, len(spec.channels), 1, 1), persistent=False)
        self._set_spec(spec)

    @property
    def spec(self) -> ModelSpec:
        """The record that travels with the weights."""
        return self._spec

    def with_spec(self, **changes: Any) -> Self:
        """Change values of the spec in place and return this model.

        Raises:
            ModelError: a value is unknown or out of its range.

        >>> Segmenter(nn.Conv2d(3, 1, 1), ModelSpec(arch="mine")).with_spec(threshold=0.4).spec.threshold
        0.4
        """
        self._set_spec(self._spec.changed(**changes))
        return self

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The parameters of the encoder; empty if the architecture does not name that part."""
        return [] if self._encoder is None else list(self.network.get_submodule(self._encoder).parameters())

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits.

        Args:
            images: (N, channels, H, W), usually RGB, uint8 or float in [0, 1], any H and W.

        Returns:
            Logits (N, classes, H, W), of the network's precision.

        Raises:
            ValueError: the tensor is not of that form.
            ModelError: the network fails, or gives something else than logits.
        """
        _check_images(images, len(self._spec.channels))
        height, width = images.shape[-2:]
        sides = (padded_size(side, self._spec.stride, self._spec.min_size) for side in (height, width))
        padded = normalised(reflected(images, *sides), self.mean, self.std)
        if torch.compiler.is_compiling():
            return self._crop(self.network(padded), height, width)
        logits = self._logits(padded)
        _check_logits(logits, self._spec, padded)
        if self.training and torch.is_grad_enabled() and not logits.requires_grad:
            _check_frozen(self.network, self._spec)
        return self._crop(logits, height, width)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        metrics: Mapping[str, Any] | None = None,
        data: str = "",
        thumbnail: bool = False,
    ) -> None:
        """Write ``model.safetensors``, ``config.json`` and a model card into ``folder``, each atomically.

        Args:
            folder: Made if it is missing; files of these names in it are replaced.
            metrics: Numbers to show on the card, by name; ``per_class``, as in evaluation.json, in a table of classes.
            data: The name of the data on whose validation images they were measured; with it, the card's front matter
                holds them for hubs.
            thumbnail: Whether the card shows ``../pictures/thumbnail.jpg``, which a run has.
        """
        serialization.save(folder, self.network, self._spec, metrics=metrics, data=data, thumbnail=thumbnail)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        network: nn.Module | None = None,
        revision: str | None = None,
    ) -> Self:
        """Read a model, in evaluation mode, from a model folder, a run folder or a repository of the Hugging Face hub.

        Nothing is unpickled, and a local folder is read without the network.

        Args:
            source: The folder, or a repository such as ``"name/model"``.
            network: Your own module to load the weights into, for an architecture that is not in the registry.
            revision: Branch, tag or commit of the repository.

        Raises:
            ModelError: files are missing or foreign, weights do not fit exactly or are not finite, or the architecture
                is not installed.
        """
        folder = serialization.locate(source, revision)
        spec = serialization.read_spec(folder)
        encoder = None
        if network is None:
            serialization.check_installed(folder, spec)
            sizes = (spec.stride, spec.min_size)
            with AllocationLimit(
                serialization.most_elements(folder), f"'{folder}' holds too little for its options: '{spec.arch}'"
            ):
                built, _ = build_network(
                    spec.arch, classes=spec.classes, channels=spec.channels, options=spec.options, known_sizes=sizes
                )
            network, encoder = built.module, built.encoder
        serialization.load_weights(folder, network)
        return cls(network, spec, encoder=encoder).eval()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        run: str | os.PathLike[str] | None = None,
        thumbnail: bool = False,
    ) -> str:
        """Upload the model and its card to the Hugging Face hub, making the repository if need be.

        Args:
            repo_id: The repository, such as ``"name/model"``.
            private: Whether a new repository is private.
            token: Of the hub; None for the one that is logged in.
            run: The run, or model folder, of this model: its card is uploaded, with its scores and your changes. None
                makes a card without scores.
            thumbnail: Whether the run's picture, which shows validation images, is uploaded, too.

        Returns:
            The address of the commit.

        Raises:
            ConfigError: a thumbnail is asked for, and no run is named.
            ModelError: the run's model is another one, or it has no card or picture; the hub refuses or does not
                answer.
        """
        return serialization.push(
            repo_id, self.network, self._spec, private=private, token=token, run=run, thumbnail=thumbnail
        )

    def _set_spec(self, spec: ModelSpec) -> None:
        self._spec = spec
        self.mean.copy_(torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.std.copy_(torch.tensor(spec.std).view(1, -1, 1, 1))

    def _logits(self, images: Tensor) -> Any:
        """The network's output; what it raises becomes one line, except for a lack of memory, which callers handle."""
        try:
            return self.network(images)
        except (CarvanaError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, RuntimeError) and (is_out_of_memory(error) or _OF_DEVICE.search(str(error))):
                raise
            if len(images) == 1 and "more than 1 value per channel" in str(error):
                raise ModelError(
                    f"'{self._spec.arch}' cannot train on one image at a time: its BatchNorm would see one value a"
                    " channel; take batches of at least 2"
                ) from None
            raise ModelError(
                f"the network of '{self._spec.arch}' fails on images of shape {tuple(images.shape)}: "
                f"{error_line(error)}"
            ) from error

    def _crop(self, logits: Tensor, height: int, width: int) -> Tensor:
        if torch.compiler.is_exporting():  # a slice would fix in the graph whether there was anything to cut off
            rows, columns = (torch.arange(side, device=logits.device) for side in (height, width))
            return logits.index_select(2, rows).index_select(3, columns)
        return logits[..., :height, :width]


def round_up(length: int, stride: int) -> int:
    """The next multiple of the stride."""
    # ONNX rounds quotients towards zero, so an exported graph is right where none is negative.
    return (length + stride - 1) // stride * stride


def padded_size(size: int, stride: int, min_size: int) -> int:
    """The height, or width, after padding of an image with height, or width, ``size``.

    >>> padded_size(1918, 32, 64), padded_size(5, 32, 64)
    (1920, 64)
    """
    return round_up(max(size, min_size), stride)


def reflection(size: int, padded: int, device: torch.device) -> Tensor:
    """Indices 0, 1, .., size - 1, size - 2, .., that bounce off both ends as often as it takes to reach ``padded``.

    Rows and columns are added only after the last ones, so that the network's grid begins at the image's corner.
    """
    last = size - 1
    steps = torch.arange(padded, device=device)
    phase = steps % torch.full_like(steps, max(2 * last, 1))  # by a tensor: ONNX takes no remainder by a symbol
    return last - (phase - last).abs()


def reflected(images: Tensor, height: int, width: int) -> Tensor:
    """Pad images (N, C, h, w) at the lower and right edge by reflection."""
    if torch.compiler.is_exporting():  # an exported graph holds for all sizes: no branch there
        for axis, side in ((2, height), (3, width)):
            images = images.index_select(axis, reflection(images.shape[axis], side, images.device))
        return images
    form = (
        torch.channels_last if _channels_last(images) else torch.contiguous_format
    )  # torch.cat keeps it if all have it
    for axis, side in ((2, height), (3, width)):
        size = images.shape[axis]
        if side != size:
            beyond = images.index_select(axis, reflection(size, side, images.device)[size:])
            images = torch.cat([images, beyond.contiguous(memory_format=form)], axis)
    return images


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Subtract ``mean`` and divide by ``std``, (1, C, 1, 1) each, from pixels in [0, 1], or in 0..255 if of uint8."""
    count, channels, height, width = images.shape
    pixels = images.to(mean.dtype)
    if torch.compiler.is_exporting() or not _channels_last(pixels):
        return ((pixels / 255 if images.dtype == torch.uint8 else pixels) - mean) / std
    rows = pixels.permute(0, 2, 3, 1).reshape(count, height, width * channels)
    mean, std = (values.flatten().repeat(width) for values in (mean, std))
    # uint8 was copied above, so the copy may be changed in place; floats are the caller's tensor.
    rows = rows.div_(255).sub_(mean) if images.dtype == torch.uint8 else rows - mean
    return rows.div_(std).reshape(count, height, width, channels).permute(0, 3, 1, 2)


def _check_images(images: Tensor, channels: int) -> None:
    expected = f"images must be a tensor (N, {channels}, H, W) of uint8, or of float in [0, 1]"
    if not isinstance(images, Tensor):
        raise ModelError(f"{expected}, got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != channels:
        last = images.ndim == 4 and images.shape[-1] == channels
        hint = f"; this looks like (N, H, W, {channels}): permute it" if last else ""
        hint = "; add the first axis with images[None]" if images.ndim == 3 else hint
        raise ModelError(f"{expected}, got shape {tuple(images.shape)}{hint}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ModelError(f"{expected}, got {images.dtype}")
    if 0 in images.shape[-2:]:
        raise ModelError(f"{expected}, got an empty image of shape {tuple(images.shape)}")


def _check_logits(logits: Any, spec: ModelSpec, images: Tensor) -> None:
    size = list(images.shape[-2:])
    expected = [len(images), spec.classes, *size]
    found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found == expected and not logits.is_floating_point():
        raise ModelError(f"the network of '{spec.arch}' must return floating-point logits, got {logits.dtype}")
    if found != expected:
        raise ModelError(
            f"the network of '{spec.arch}' must return logits (N, {', '.join(str(side) for side in expected[1:])})"
            f" for {len(images)} images of height and width {size}, got {found}"
        )


def _check_frozen(network: nn.Module, spec: ModelSpec) -> None:
    if any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelError(
            f"the network of '{spec.arch}' cannot be trained: its logits depend on no trainable parameter, or"
            " forward leaves the graph (detach, numpy, torch.no_grad)"
        )


def _path_of(module: nn.Module | None, network: nn.Module) -> str | None:
    """The dotted name of a part: unlike the part itself, it stays right in a copy of the whole."""
    if module is None:
        return None
    paths: dict[nn.Module, str] = {part: path for path, part in network.named_modules()}
    if module not in paths:
        raise ModelError("the encoder must be a part of the network")
    return paths[module]


def _channels_last(images: Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last)
