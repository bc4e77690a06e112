"""Makes the files of a prediction: mask or labels, probabilities, cut-out, overlay, objects."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.display import over_white, overlay_classes
from carvana.data.io.geotiff import MapPlace, void_value, write_map
from carvana.data.io.images import UInt8, encode_image
from carvana.data.io.labels import Labels, encode_labels
from carvana.data.io.masks import encode_mask
from carvana.errors import ConfigError, did_you_mean
from carvana.inference.outputs.coco import OBJECTS, encode_objects
from carvana.inference.outputs.cutout import Background, compose, cutout, edge_softness
from carvana.inference.outputs.postprocess import Cleaning, clean
from carvana.inference.prediction import Prediction, Want
from carvana.task import Task

_FILES = {
    "mask": "{}_mask.png",
    "prob": "{}_prob.png",
    "cutout": "{}_cutout.png",
    "overlay": "{}_overlay.jpg",
    "coco": OBJECTS,
}


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise a ConfigError where nothing is to be saved, or something that is not made."""
    known = ", ".join(_FILES)
    if not kinds:
        raise ConfigError(f"nothing to save; expected some of {known}")
    for kind in kinds:
        if kind not in _FILES:
            raise ConfigError(f"cannot save {kind!r}; expected some of {known}{did_you_mean(kind, _FILES)}")


@dataclass(frozen=True)
class Outputs:
    """The files to make of predictions.

    Attributes:
        kinds: some of mask, prob, cutout, overlay, coco.
        cleaning: how masks are cleaned; None leaves them as they are. Cut-outs and overlays follow the mask,
            probabilities stay what the network gave. Of classes that exclude each other only the one that is cut out is
            cleaned.
        background: the background of cut-outs; None leaves them transparent.
        task: the task.
        of_class: the class that is cut out, where there are several.

    Raises:
        ConfigError: a name is unknown or missing, a background is given and no cut-out wanted, or of several classes
            none is named to cut out, or nothing is to be cleaned.
    """

    kinds: tuple[str, ...]
    cleaning: Cleaning | None = None
    background: Background | None = None
    task: Task = field(default_factory=Task.binary)
    of_class: str | None = None

    def __post_init__(self) -> None:
        check_kinds(self.kinds)
        if self.background is not None and "cutout" not in self.kinds:
            raise ConfigError("a background is for cut-outs, and none is saved; add cutout to --save")
        if self.task.kind == "multiclass" and self.cleaning is not None and "cutout" not in self.kinds:
            raise ConfigError("of several classes only a cut-out is cleaned, and none is saved; add cutout to --save")
        task = self.task
        if self.of_class is not None:
            task.index(self.of_class)
        elif task.kind != "binary" and "cutout" in self.kinds:
            raise ConfigError(
                f"a cut-out shows one class of {len(task.classes)}: name it with --class, as --class {task.names[-1]}"
            )

    @property
    def need_image(self) -> bool:
        """Whether the image's pixels are needed again after the network has run."""
        return not {"cutout", "overlay"}.isdisjoint(self.kinds)

    @property
    def want(self) -> Want:
        """The most that is read from a prediction."""
        if "cutout" in self.kinds or ("prob" in self.kinds and self.task.kind != "binary"):
            return "probabilities"
        return "levels" if "prob" in self.kinds else "mask"

    def names(self, stem: str, *, is_map: bool = False) -> dict[str, str]:
        """The file's name for each kind, given the image's stem; of classes that overlap ``mask CLASS`` is a kind.

        Masks, and the probabilities of one class, of images that lie on a map are TIFFs.
        """
        files = _FILES | ({"cutout": "{}_cutout.jpg"} if self.background is not None else {})
        files |= {} if self.task.kind == "binary" else {"prob": "{}_prob.npz"}
        if is_map:
            files |= {"mask": "{}_mask.tif"} | ({"prob": "{}_prob.tif"} if self.task.kind == "binary" else {})
        names = {kind: files[kind].format(stem) for kind in self.kinds}
        if self.task.kind == "multilabel" and (name := names.pop("mask", None)):
            folders = zip(self.task.names, self.task.folders, strict=True)
            names |= {f"mask {of_class}": f"{folder}/{name}" for of_class, folder in folders}
        return names

    def check_streamed(self) -> None:
        """Refuse what is not made of a raster that does not fit the memory.

        Raises:
            ConfigError: something else than masks is to be saved, or they are to be cleaned.
        """
        if self.kinds != ("mask",) or self.cleaning is not None:
            raise ConfigError("of a raster beyond memory only masks are written, and not cleaned: --save mask")

    def settings(self) -> dict[str, Any]:
        """All that decides the files besides the predictor and the image, as JSON values; empty for plain outputs."""
        settings: dict[str, Any] = {}
        if self.cleaning is not None:
            settings["clean"] = asdict(self.cleaning)
        if self.background is not None:
            settings["background"] = self.background.settings
        in_files = self.task.writes_value or ("coco" in self.kinds and not self.task.is_unnamed)
        if self.task.kind != "binary" or in_files:  # names, values and colours
            settings["task"] = self.task.model_dump(mode="json")
        if self.of_class is not None:
            settings["class"] = self.of_class
        return settings

    def encode(
        self,
        names: Mapping[str, str],
        prediction: Prediction,
        image: UInt8 | None,
        *,
        place: MapPlace | None = None,
        void: NDArray[np.bool_] | None = None,
    ) -> Iterator[tuple[str, bytes | Callable[[Path | BinaryIO], None]]]:
        """The name and the bytes of each file of one image; of large files what writes them, to a path or an open file.

        Args:
            names: as :meth:`names` gives them, or some of them.
            prediction: of the image.
            image: the image, uint8 (H, W, 3) RGB or (H, W, 4) RGBA, as :func:`carvana.data.io.display.read_shown` gives
                it; None will do where :attr:`need_image` is false.
            place: where TIFFs lie on the map.
            void: the pixels (H, W) of the image that have no value.

        Raises:
            DataError: no file of that kind holds so many pixels.
        """
        task, own = self.task, self.of_class or self.task.names[0]
        several = task.kind != "binary"
        cleaned = None if self.cleaning is None else clean(prediction.mask_of(own), **vars(self.cleaning))
        for kind, name in names.items():
            if name.endswith(".tif"):
                yield name, self._map(kind, prediction, cleaned, place, void)
                continue
            if kind == "mask":
                if several:
                    yield name, encode_labels(prediction.labels, task)
                    continue
                mask = prediction.mask if cleaned is None else cleaned
                yield name, encode_labels(mask, task) if task.writes_value else encode_mask(mask, name=name)
                continue
            if kind.startswith("mask "):
                yield name, encode_mask(self.mask(prediction, kind.removeprefix("mask ")), name=name)
                continue
            if kind == "coco":
                mask_of = prediction.mask_of if task.kind == "multiclass" else partial(self.mask, prediction)
                yield name, encode_objects(mask_of, prediction.size, task)
                continue
            if kind == "prob" and several:
                yield name, partial(write_probabilities, prediction)
                continue
            if kind == "prob":
                pixels = prediction.levels
            elif kind == "overlay":
                assert image is not None
                shown = over_white(image)
                if task.kind == "multilabel":
                    found: Labels = np.stack([self.mask(prediction, each) for each in task.names])
                elif several:
                    found = prediction.labels
                else:
                    found = prediction.mask if cleaned is None else cleaned
                pixels = overlay_classes(shown, found, task)
            else:
                assert image is not None
                softness = edge_softness(prediction.size, prediction.network_probabilities.shape[-2:])
                threshold = prediction.thresholds[task.index(own)] if prediction.thresholds else 0.5
                pixels = cutout(image, _share_of(prediction, own), threshold, softness=softness, cleaned=cleaned)
                pixels = pixels if self.background is None else compose(pixels, self.background)
            yield name, encode_image(pixels, Path(name).suffix, name=name)

    def _map(
        self, kind: str, prediction: Prediction, cleaned: UInt8 | None, place: MapPlace | None,
        void: NDArray[np.bool_] | None,
    ) -> Callable[[Path | BinaryIO], None]:  # fmt: skip
        if kind == "prob":
            return partial(
                write_map, rows=[prediction.levels], size=prediction.size, dtype="uint8", place=place or MapPlace()
            )
        if kind.startswith("mask "):
            labels: Labels = self.mask(prediction, kind.removeprefix("mask "))
        elif self.task.kind == "binary":
            labels = prediction.mask if cleaned is None else cleaned
        else:
            labels = prediction.labels
        return self.map_writer(
            kind, [(labels, void)], prediction.size, place=place, has_void=void is not None and bool(void.any())
        )

    def map_writer(
        self,
        kind: str,
        parts: Iterable[tuple[Labels, NDArray[np.bool_] | None]],
        size: tuple[int, int],
        *,
        place: MapPlace | None,
        has_void: bool,
    ) -> Callable[[Path | BinaryIO], None]:
        """What writes the labels of an image as a TIFF, in the values of the task's files.

        Args:
            kind: ``mask``, or ``mask CLASS``, which is 0 and 1.
            parts: from top to bottom the labels (h, W), and which of their pixels have no value.
            size: (H, W) of all.
            place: where it lies on the map.
            has_void: whether some pixels may have no value; they get the highest of the type, or of 16 bits where a
                class has that.
        """
        several = kind == "mask"
        values = self.task.decode(np.arange(len(self.task.classes) + (self.task.kind == "binary"), dtype=np.uint16))
        values = values if several else np.arange(2, dtype=np.uint8)
        dtype = "uint8" if values.max() < 256 - has_void else "uint16"
        palette = self.task.value_palette if several else np.array([[0] * 3, [255] * 3] + [[0] * 3] * 254, np.uint8)

        def rows() -> Iterator[Labels]:
            for labels, void in parts:
                found = (self.task.decode(labels) if several else labels).astype(dtype)
                if void is not None:
                    found[void] = void_value(dtype)
                yield found

        return partial(
            write_map, rows=rows(), size=size, dtype=dtype, place=place or MapPlace(), palette=palette,
            nodata=void_value(dtype) if has_void else None,
        )  # fmt: skip

    def mask(self, prediction: Prediction, of_class: str) -> UInt8:
        """The mask of a class, cleaned if masks are."""
        mask = prediction.mask_of(of_class)
        return mask if self.cleaning is None else clean(mask, **vars(self.cleaning))


def _share_of(prediction: Prediction, name: str) -> NDArray[np.float32]:
    """A class's probability (H, W); of classes that exclude each other its share of its own and the likeliest other's.

    So it is above one half where the label map has the class.
    """
    own = prediction.probability_of(name)
    if prediction.task.kind != "multiclass":
        return own
    other = np.zeros_like(own)
    for each in prediction.task.names:
        if each != name:
            np.maximum(other, prediction.probability_of(each), out=other)
    share: NDArray[np.float32] = own / np.maximum(own + other, np.finfo(np.float32).tiny)
    return share


def write_probabilities(prediction: Prediction, file: Path | BinaryIO) -> None:
    """Write an .npz file that holds an array for each class, by its name: its probabilities, float16 (H, W).

    One class is enlarged, compressed and written at a time, so that memory holds one map at the image's size.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in prediction.task.names:
            # Opened by its name, a member has no time of its own: the same prediction has the same bytes each time.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                array = prediction.probability_of(name).astype(np.float16)
                np.lib.format.write_array(member, array, allow_pickle=False)  # in pieces of 16 MB
