from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carvana.data.samples import Sample, find_samples
from carvana.data.split_report import describe_split
from carvana.data.splits import split_samples


def shares(samples: tuple[Sample, ...]) -> list[float]:
    return [float((np.asarray(Image.open(sample.mask)) > 0).mean()) for sample in samples]


@pytest.mark.parametrize("by", ["group", "image"])
def test_both_sides_are_counted(tiny_data: Path, by: str) -> None:
    split = split_samples(find_samples(tiny_data), by=by, val=0.4, seed=1)  # type: ignore[arg-type]
    report = describe_split(split)
    for side, samples in ((report.train, tuple(split.train)), (report.val, tuple(split.val))):
        assert side.images == len(samples)
        assert side.groups == len({sample.group for sample in samples})
        assert side.views == Counter(sample.view for sample in samples)
        assert side.foreground == pytest.approx(np.mean(shares(samples)))
        assert side.spread == pytest.approx(tuple(np.quantile(shares(samples), (0.1, 0.9))))
    assert set(report.shared) == {s.group for s in split.train} & {s.group for s in split.val}
    assert bool(report.shared) == (by == "image")
