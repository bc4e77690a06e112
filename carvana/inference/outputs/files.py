"""Encodes the files of a prediction: mask, probabilities, cut-out, overlay; and names them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from carvana.data.io.display import over_white
from carvana.data.io.images import UInt8, encode_image
from carvana.data.io.labels import encode_labels
from carvana.data.io.masks import encode_mask
from carvana.errors import ConfigError, did_you_mean
from carvana.inference.outputs.cutout import Background, compose, cutout, edge_softness
from carvana.inference.outputs.overlay import overlay, overlay_labels
from carvana.inference.outputs.postprocess import Cleaning, clean
from carvana.inference.prediction import Prediction, Want
from carvana.task import Task


@dataclass(frozen=True)
class Outputs:
    """The files to make of predictions.

    Attributes:
        kinds: some of mask, prob, cutout, overlay.
        cleaning: how masks are cleaned; None leaves them as they are. Cut-outs and overlays follow the mask,
            probabilities stay what the network gave.
        background: the background of cut-outs; None leaves them transparent.
        task: the task.
        of_class: the class that is cut out, and whose mask is cleaned, where there are several.
    """

    kinds: tuple[str, ...]
    cleaning: Cleaning | None = None
    background: Background | None = None
    task: Task = field(default_factory=Task.binary)
    of_class: str | None = None

    @classmethod
    def choose(
        cls,
        save: Sequence[str],
        *,
        cleaning: Cleaning | None = None,
        background: Background | None = None,
        task: Task | None = None,
        of_class: str | None = None,
    ) -> Self:
        """The outputs of these names, each once.

        Raises:
            ConfigError: a name is unknown or missing, a background is given and no cut-out wanted, or of several
                classes none is named to cut out.
        """
        task = task or Task.binary()
        if not save:
            raise ConfigError(f"nothing to save; expected some of {', '.join(_SUFFIXES)}")
        for kind in save:
            if kind not in _SUFFIXES:
                known = ", ".join(_SUFFIXES)
                raise ConfigError(f"cannot save {kind!r}; expected some of {known}{did_you_mean(kind, _SUFFIXES)}")
        if background is not None and "cutout" not in save:
            raise ConfigError("a background is for cut-outs, and none is saved; add cutout to --save")
        if of_class is not None:
            task.index(of_class)
        elif task.kind != "binary" and ("cutout" in save or cleaning is not None):
            what = "a cut-out shows" if "cutout" in save else "parts and holes are those of"
            raise ConfigError(
                f"{what} one class of {len(task.classes)}: name it with --class, as --class {task.names[-1]}"
            )
        return cls(tuple(dict.fromkeys(save)), cleaning, background, task, of_class)

    @property
    def need_image(self) -> bool:
        """Whether the image's pixels are needed again after the network has run."""
        return not {"cutout", "overlay"}.isdisjoint(self.kinds)

    @property
    def want(self) -> Want:
        """The most that is read from a prediction."""
        if self.task.kind != "binary" and "prob" in self.kinds:
            return "probabilities"
        return "probabilities" if "cutout" in self.kinds else "levels" if "prob" in self.kinds else "mask"

    def names(self, stem: str) -> dict[str, str]:
        """The file's name for each kind, given the image's stem."""
        suffixes = _SUFFIXES | ({"cutout": "_cutout.jpg"} if self.background is not None else {})
        suffixes |= {} if self.task.kind == "binary" else {"prob": "_prob.npz"}
        return {kind: stem + suffixes[kind] for kind in self.kinds}

    def settings(self) -> dict[str, Any]:
        """All that decides the files besides the predictor and the image, as JSON values; empty for plain outputs."""
        settings: dict[str, Any] = {}
        if self.cleaning is not None:
            settings["clean"] = asdict(self.cleaning)
        if self.background is not None:
            settings["background"] = self.background.settings()
        if self.task.kind != "binary":  # values and colours in the files
            settings["task"] = self.task.model_dump(mode="json")
        if self.of_class is not None:
            settings["class"] = self.of_class
        return settings

    def encode(
        self, names: Mapping[str, str], prediction: Prediction, image: UInt8 | None
    ) -> Iterator[tuple[str, bytes]]:
        """The name and the bytes of each file of one image.

        Args:
            names: as :meth:`names` gives them, or some of them.
            prediction: of the image.
            image: the image, uint8 (H, W, 3) RGB or (H, W, 4) RGBA, as :func:`carvana.data.io.display.read_shown` gives
                it; None will do where :attr:`need_image` is false.

        Raises:
            DataError: no file of that kind holds so many pixels.
        """
        background, task = self.background, self.task
        several, own = task.kind != "binary", self.of_class or task.names[0]

        @cache
        def cleaned() -> UInt8 | None:
            return None if self.cleaning is None else clean(prediction.mask_of(own), **vars(self.cleaning))

        def mask() -> UInt8:
            found = cleaned()
            return prediction.mask if found is None else found

        for kind, name in names.items():
            if kind == "mask":
                yield name, encode_labels(prediction.labels, task) if several else encode_mask(mask(), name=name)
                continue
            if kind == "prob" and several:
                yield name, encode_probabilities(prediction)
                continue
            if kind == "prob":
                pixels = prediction.levels
            elif kind == "overlay":
                assert image is not None
                shown = over_white(image)
                pixels = overlay_labels(shown, prediction.labels, task) if several else overlay(shown, mask())
            else:
                assert image is not None
                softness = edge_softness(prediction.size, prediction.network_probabilities.shape[-2:])
                threshold = 0.5 if several else prediction.threshold
                pixels = cutout(image, prediction.probability_of(own), threshold, softness=softness, cleaned=cleaned())
                pixels = pixels if background is None else compose(pixels, background)
            yield name, encode_image(pixels, Path(name).suffix, name=name)


def encode_probabilities(prediction: Prediction) -> bytes:
    """The bytes of an .npz file that holds an array for each class, by its name: its probabilities, float16 (H, W)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in prediction.task.names:
            array = io.BytesIO()
            np.save(array, prediction.probability_of(name).astype(np.float16))
            # With a time of its own, the same prediction would have other bytes each time.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), array.getvalue(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


_SUFFIXES = {"mask": "_mask.png", "prob": "_prob.png", "cutout": "_cutout.png", "overlay": "_overlay.jpg"}
