"""What a request asks for, and the files that answer it: those of ``carvana predict``, and some for programs."""

from __future__ import annotations

import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, cast
from urllib.parse import quote

import numpy as np

from carvana.data.io import rle
from carvana.data.io.display import over_white, parse_colour
from carvana.data.io.images import UInt8, encode_image
from carvana.data.io.masks import encode_mask
from carvana.errors import ConfigError, did_you_mean
from carvana.inference.base import checked_thresholds
from carvana.inference.outputs.coco import encode_document
from carvana.inference.outputs.cutout import Background
from carvana.inference.outputs.files import Outputs
from carvana.inference.outputs.postprocess import Cleaning
from carvana.inference.prediction import Prediction, Want, levels
from carvana.task import Task

OUTPUTS = {
    "mask": "the mask, or the label map, as `carvana predict` writes it",
    "labels": "the index of each pixel's class, as grey values",
    "prob": "probabilities in 8 bits; of several classes float16 in .npz, or with class= one of them in 8 bits",
    "cutout": "the object on a transparent ground, or on background=",
    "overlay": "the mask drawn on the image",
    "coco": "polygons, as COCO's JSON",
    "rle": "run lengths of each class, as JSON",
    "image": "the image as it was read: upright, in sRGB",
}
"""What may be asked for, and what it is."""

TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".zip": "application/zip",
    ".npz": "application/octet-stream",
}
"""Media types by suffix."""


class Answer(NamedTuple):
    """A file that answers a request."""

    name: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a request asks for.

    Attributes:
        task: of the network.
        outputs: some of ``OUTPUTS``; several come as one zip.
        of_class: the class that mask, probabilities or cut-out show, where there are several.
        threshold: in [0, 1], in place of the model's own.
        background: a CSS colour that cut-outs are laid onto.
        clean: whether small parts are removed and small holes filled.
        order: in which run lengths number pixels: row or column.

    Raises:
        ConfigError: a value is none of these, or does not go with the others.
    """

    task: Task
    outputs: tuple[str, ...] = ("mask",)
    of_class: str | None = None
    threshold: float | None = None
    background: str | None = None
    clean: bool = False
    order: str = "row"

    def __post_init__(self) -> None:
        known = ", ".join(OUTPUTS)
        if not self.outputs or len(set(self.outputs)) < len(self.outputs):
            raise ConfigError(f"output: expected some of {known}, each once")
        for output in self.outputs:
            if output not in OUTPUTS:
                raise ConfigError(f"output {output!r}: expected some of {known}{did_you_mean(output, OUTPUTS)}")
        if self.background is not None and "cutout" not in self.outputs:
            raise ConfigError("background: needs output=cutout")
        if "cutout" in self.outputs and self.of_class is None and self.task.kind != "binary":
            raise ConfigError(
                f"output 'cutout': shows one class of {len(self.task.classes)}; add class={self.task.names[-1]}"
            )
        if self.clean and self.task.kind == "multiclass" and "cutout" not in self.outputs:
            raise ConfigError("clean: of classes that exclude each other only a cut-out is cleaned; add output=cutout")
        if "labels" in self.outputs and self.task.kind == "multilabel":
            raise ConfigError("output 'labels': a pixel may have several classes here; take mask, or rle")
        rle.check_order(self.order)
        checked_thresholds(self.threshold, self.task, ())
        self._files  # noqa: B018 - its own checks

    @cached_property
    def _files(self) -> Outputs:
        """Those that ``carvana predict`` writes as well; the mask, where there is none of these."""
        kinds = tuple(each for each in self.outputs if each in ("mask", "prob", "cutout", "overlay", "coco"))
        background = None
        if self.background is not None:
            colour = parse_colour(self.background)
            background = Background(np.array(colour, np.uint8)[None, None], list(colour))
        cleaning = Cleaning() if self.clean else None
        return Outputs(kinds or ("mask",), cleaning, background, self.task, self.of_class)

    @property
    def needs_image(self) -> bool:
        """Whether the image's pixels are shown."""
        return self._files.need_image or "image" in self.outputs

    @property
    def needs_network(self) -> bool:
        """Whether the network is to run."""
        return self.outputs != ("image",)

    @property
    def want(self) -> Want:
        """The most that is read from a prediction."""
        if self.threshold is not None or (self._one_class and "prob" in self.outputs):
            return "probabilities"
        return self._files.want

    @property
    def _one_class(self) -> bool:
        return self.of_class is not None and self.task.kind != "binary"

    def answer(self, prediction: Prediction | None, image: UInt8 | None, name: str) -> Answer:
        """The file that answers the request; several in a zip.

        Args:
            prediction: of the image, made with :attr:`want`; None will do where the network is not needed.
            image: as :func:`carvana.data.io.display.read_shown` gives it, where :attr:`needs_image` is true.
            name: of the image.
        """
        if prediction is not None and self.threshold is not None:
            prediction.thresholds = checked_thresholds(self.threshold, self.task, ())
        stem = stem_of(name)
        answers = list(self._answers(prediction, image, stem, base_name(name) or f"{stem}.jpg"))
        if len(answers) == 1 and "/" not in answers[0].name:
            return answers[0]
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:  # what is in it is compressed already
            for each in answers:
                archive.writestr(zipfile.ZipInfo(each.name), each.data)
        return Answer(f"{stem}.zip", file.getvalue())

    def _answers(
        self, prediction: Prediction | None, image: UInt8 | None, stem: str, file_name: str
    ) -> Iterator[Answer]:
        if "image" in self.outputs:
            assert image is not None
            yield Answer(f"{stem}.jpg", encode_image(over_white(image), ".jpg", name=stem))
        if prediction is None:
            return
        names = {kind: name for kind, name in self._files.names(stem).items() if kind.split()[0] in self.outputs}
        if self._one_class:
            for kind in [kind for kind in names if kind.split()[0] in ("mask", "prob")]:
                del names[kind]
            yield from self._of_one_class(prediction, stem)
        if names.pop("coco", None):
            document = encode_document(partial(self._mask, prediction), prediction.size, self.task, file_name)
            yield Answer(f"{stem}_coco.json", document)
        for name, data in self._files.encode(names, prediction, image):
            if callable(data):
                data(file := io.BytesIO())
                data = file.getvalue()
            yield Answer(name, data)
        if "labels" in self.outputs:
            several = self.task.kind != "binary"
            labels = cast("UInt8", prediction.labels) if several else self._mask(prediction, self.task.names[0])
            yield Answer(f"{stem}_labels.png", encode_image(labels, ".png", name=stem))
        if "rle" in self.outputs:
            yield Answer(f"{stem}_rle.json", self._runs(prediction))

    def _of_one_class(self, prediction: Prediction, stem: str) -> Iterator[Answer]:
        assert self.of_class is not None
        if "mask" in self.outputs:
            yield Answer(f"{stem}_mask.png", encode_mask(self._mask(prediction, self.of_class), name=stem))
        if "prob" in self.outputs:
            probability = levels(prediction.probability_of(self.of_class))
            yield Answer(f"{stem}_prob.png", encode_image(probability, ".png", name=stem))

    def _mask(self, prediction: Prediction, of_class: str) -> UInt8:
        """The mask of a class; where classes exclude each other, it is not cleaned."""
        if self.task.kind == "multiclass":
            return prediction.mask_of(of_class)
        return self._files.mask(prediction, of_class)

    def _runs(self, prediction: Prediction) -> bytes:
        runs = [
            {"name": name, "runs": rle.encode(self._mask(prediction, name), order=self.order)}  # type: ignore[arg-type]
            for name in self.task.names
            if self.of_class in (None, name)
        ]
        return json.dumps({"size": prediction.size, "order": self.order, "classes": runs}).encode()


def stem_of(name: str) -> str:
    r"""What the names of answers begin with: that of the image, without what might surprise.

    >>> stem_of(r"C:\cars\my car.jpg"), stem_of("../../etc/passwd"), stem_of("автомобиль.png"), stem_of("")
    ('my_car', 'passwd', 'автомобиль', 'image')
    """
    last = unicodedata.normalize("NFC", base_name(name))
    plain = re.sub(r"[^\w.-]", "_", last.rpartition(".")[0] or last).strip("._-")
    return plain.encode()[:80].decode(errors="ignore") or "image"


def disposition(name: str) -> str:
    r"""The header that names a file (RFC 6266); a name beyond ASCII is given as UTF-8, too (RFC 8187).

    >>> disposition("a_mask.png"), disposition("é.png")
    ('inline; filename="a_mask.png"', 'inline; filename="_.png"; filename*=UTF-8\'\'%C3%A9.png')
    """
    plain = re.sub(r"[^\x20-\x7e]", "_", name)
    return f'inline; filename="{plain}"' + (f"; filename*=UTF-8''{quote(name)}" if plain != name else "")


def base_name(name: str) -> str:
    """The last part of a path, as any system writes it."""
    return re.split(r"[/\\]", name)[-1]


def accepted(accept: str) -> str | None:
    """The output that an Accept header prefers (RFC 9110, section 12.5.1); None if there is none of these types.

    >>> accepted("application/json, image/png;q=0.5"), accepted("image/png;q=0, */*"), accepted("text/html")
    ('coco', 'overlay', None)
    """
    if not accept.strip():
        return "mask"
    weights: dict[str, float] = {}
    for each in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in each.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weights[kind] = float(quality)
        except ValueError:
            weights[kind] = 0.0
    best: tuple[float, str | None] = (0.0, None)
    for kind, output in (("image/png", "mask"), ("image/jpeg", "overlay"), ("application/json", "coco")):
        known = (kind, f"{kind.partition('/')[0]}/*", "*/*")  # the most particular one counts
        weight = next((weights[each] for each in known if each in weights), 0.0)
        best = max(best, (weight, output), key=lambda pair: pair[0])
    return best[1]
