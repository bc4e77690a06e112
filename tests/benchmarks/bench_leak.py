"""How much a split by image flatters: ``CARVANA_DATA=images python tests/benchmarks/bench_leak.py OUT [PARTS]``.

The seed's recipe to the letter (``seed-128``: hard targets, a fifth of the images held out one by one) is scored on its
own validation images. The same images are then scored by networks that never saw the groups on them: the groups are
dealt into three parts, and for each part a network is trained by the same recipe on all images of all other groups,
which is as many images as the seed's split trains on. Everything is compared image by image, at full size and the
threshold 0.5, and the interval is a bootstrap over groups. Four trainings of ten epochs: over an hour of two cores.
PARTS takes fewer of the three parts, and compares on their groups alone. Runs that are there already are not trained
again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

import carvana
from carvana.data.splits import Split, split_samples, write_split
from carvana.evaluation.statistics import bootstrap_interval

PARTS = 3


def splits(samples: list[carvana.Sample], *, val: float, seed: int) -> dict[str, Split]:
    """The seed's split, and one for each part of the groups that it validates on."""
    leaking = split_samples(samples, by="image", val=val, seed=seed)
    cars = np.random.default_rng(seed).permutation(sorted({sample.group for sample in leaking.val}))
    found = {"leaking": leaking}
    for number, part in enumerate(np.array_split(cars, PARTS), start=1):
        unseen = set(part.tolist())
        found[f"unseen-{number}"] = Split(
            tuple(sample for sample in samples if sample.group not in unseen),
            tuple(sample for sample in leaking.val if sample.group in unseen),
        )
    return found


def fit(name: str, split: Split, data: str, out: Path) -> carvana.Run:
    """Train by the seed's recipe on one split, unless it was done before."""
    run = carvana.Run(out / name)
    if not run.evaluation_path.exists():
        write_split(out / f"{name}.csv", split)
        changes = {"data.root": data, "split.file": str(out / f"{name}.csv")}
        carvana.fit(carvana.load_config("seed-128", changes), out=run.path)
    return run


def main() -> None:
    data, out, parts = os.environ["CARVANA_DATA"], Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else PARTS
    out.mkdir(parents=True, exist_ok=True)
    recipe = carvana.load_config("seed-128").split
    scores: dict[str, dict[str, dict[str, float]]] = {"leaking": {}, "unseen": {}}
    wanted = splits(carvana.find_samples(data), val=recipe.val, seed=recipe.seed)
    for name, split in list(wanted.items())[: 1 + parts]:
        run = fit(name, split, data, out)
        leaks = f"{len(split.shared_groups())} groups on both sides"
        print(f"{name}: {len(split.train)} images train, {len(split.val)} validate, {leaks}", flush=True)
        side = scores[name.partition("-")[0]]
        side.update({photo["image"]: photo for photo in run.read_evaluation()["per_image"]})
    names = sorted(scores["unseen"])
    cars = [str(scores["unseen"][name]["group"]) for name in names]
    print(f"{len(names)} images of {len(set(cars))} groups")
    for key in ("dice_at_half", "pixel_accuracy"):
        leaking, unseen = (np.array([scores[side][name][key] for name in names]) for side in ("leaking", "unseen"))
        low, high = bootstrap_interval(list(leaking - unseen), cars) or (float("nan"), float("nan"))
        print(f"{key}: {leaking.mean():.5f} by image, {unseen.mean():.5f} where the group was never seen")
        print(f"  flattered by {np.mean(leaking - unseen):.5f} ({low:.5f} .. {high:.5f})")


if __name__ == "__main__":
    main()
