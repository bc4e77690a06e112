"""The data alone: a data set for any PyTorch loop, a split by car, and the competition's run-length table.

No network is built. Masks are written row by row into a table in the competition's format, and read again.

    python data_only.py
"""

import csv
import gzip

import numpy as np
from torch.utils.data import DataLoader

import carvana
from carvana.data.io import rle

SIZE = 160, 240  # (height, width)


def main() -> None:
    """Find photos, split them, load a batch, write a table and check it."""
    samples = carvana.find_samples(carvana.write_demo("cars", cars=4, views=4, size=SIZE, workers=1))
    print(f"{len(samples)} photos of {len({sample.group for sample in samples})} cars")

    split = carvana.split_samples(samples, val=0.25, seed=0)
    print(f"{len(split.train)} train, {len(split.val)} validate, cars on both sides: {len(split.shared_groups())}")

    data = carvana.SegmentationDataset(split.train, size=(64, 96), augment="seed")
    sampler = carvana.EpochSampler(len(data), seed=0)  # another order and augmentation in each epoch
    sampler.set_epoch(1)
    images, coverage = next(iter(DataLoader(data, batch_size=4, sampler=sampler)))
    between = ((coverage > 0) & (coverage < 1)).float().mean().item()
    print(f"a batch: {images.dtype} {tuple(images.shape)}, {coverage.dtype} {tuple(coverage.shape)}")
    print(f"pixels that the car covers in part: {between:.1%}")

    with gzip.open("submission.csv.gz", "wt", newline="") as file:
        file.write("img,rle_mask\n")
        for sample in samples:
            assert sample.mask is not None
            file.write(f"{sample.name},{rle.encode(carvana.read_mask(sample.mask))}\n")

    with gzip.open("submission.csv.gz", "rt", newline="") as file:
        rows = {row["img"]: rle.decode(row["rle_mask"], SIZE) for row in csv.DictReader(file)}
    equal = sum(np.array_equal(rows[sample.name], carvana.read_mask(sample.mask)) for sample in samples if sample.mask)
    print(f"submission.csv.gz: {len(rows)} rows, {equal} equal to their masks")


if __name__ == "__main__":
    main()
