"""What the pages presume to be there: a data folder, photos to predict, the competition's own, the seed's weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from keras2 import old_file

from carvana.data.demo import write_demo
from carvana.models.unet_ref import UNetRef

SIZE = 96, 144


def make(root: Path) -> None:
    """``photos/``, ``holiday/``, ``test/``, ``sample_submission.csv`` and ``seed.weights.h5``, small."""
    write_demo(root / "photos", cars=5, views=4, size=SIZE, workers=1)
    for name, seed in (("holiday", 1), ("test", 2)):
        write_demo(root / "drawn", cars=1, views=3, seed=seed, size=SIZE, workers=1)
        shutil.move(root / "drawn" / "train", root / name)
        shutil.rmtree(root / "drawn")
    rows = [f"{photo.name},1 1" for photo in sorted((root / "test").iterdir())]
    (root / "sample_submission.csv").write_text("\n".join(["img,rle_mask", *rows]) + "\n")
    old_file(root / "seed.weights.h5", UNetRef(width=4))
