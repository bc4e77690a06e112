"""Where predictions wait for their threshold, which is known only after the last image."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.masks import write_mask
from carvana.data.samples import Sample
from carvana.errors import DataError, cause
from carvana.inference.inputs import refuse_equal_stems
from carvana.inference.pipeline import ordered_map
from carvana.thresholds import threshold_index
from carvana.utils.files import scratch_folder
from carvana.utils.progress import Reporter, track


def mask_path(folder: str | os.PathLike[str], sample: Sample) -> Path:
    """The file of an image's predicted mask in a folder of them: ``<stem>_mask.png``, in the image's sub-folders."""
    return Path(folder) / f"{sample.stem}_mask.png"


class Spool:
    """Predictions waiting on disk to become masks in a folder.

    They wait in 8 bits a pixel and packed, which holds the mask of every threshold of the grid exactly, so the memory
    does not grow with the number of images.
    """

    def __init__(self, masks_dir: Path, waiting: Path) -> None:
        self._masks_dir = masks_dir
        self._waiting = waiting

    @classmethod
    @contextmanager
    def opened(cls, masks_dir: str | os.PathLike[str] | None, samples: Sequence[Sample]) -> Iterator[Spool | None]:
        """A shelf for the length of a block, or none where no masks are wanted.

        Raises:
            DataError: two images would write the same mask, or the folder cannot be written to.
        """
        if masks_dir is None:
            yield None
            return
        refuse_equal_stems([sample.image for sample in samples], [sample.stem for sample in samples])
        folder = Path(masks_dir)
        try:
            with scratch_folder(folder) as waiting:
                yield cls(folder, waiting)
        except BrokenPipeError:  # whoever reads our output has gone
            raise
        except OSError as error:  # images that cannot be read are a DataError already
            raise DataError(f"{masks_dir}: cannot be written to: {cause(error)}") from error

    def put(self, sample: Sample, graded: NDArray[np.uint8]) -> None:
        """Keep one image's levels (H, W): see :func:`carvana.thresholds.levels`. Safe in any thread."""
        shape = np.array(graded.shape, np.int64).tobytes()
        self._place(sample).write_bytes(shape + zlib.compress(np.ascontiguousarray(graded).data, 1))

    def write_masks(self, samples: Sequence[Sample], threshold: float, workers: int | None, reporter: Reporter) -> None:
        """Write all masks at a threshold of the grid."""
        least = threshold_index(threshold) + 1  # the level of what is just above the threshold

        def write(sample: Sample) -> None:
            data = self._place(sample).read_bytes()
            shape = np.frombuffer(data[:16], np.int64)
            graded = np.frombuffer(zlib.decompress(data[16:]), np.uint8).reshape(shape)
            write_mask(mask_path(self._masks_dir, sample), graded >= least)

        for _ in track(ordered_map(write, samples, workers=workers), reporter, "writing masks", len(samples)):
            pass

    def _place(self, sample: Sample) -> Path:
        place = self._waiting / sample.stem
        if sample.depth:
            place.parent.mkdir(parents=True, exist_ok=True)
        return place
