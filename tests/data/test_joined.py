from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from carvana.data.joined import JoinedSamples
from carvana.data.samples import Sample


def test_joined_lists_are_as_one() -> None:
    samples = [Sample(Path(str(number)), None, "a") for number in range(5)]
    for cuts in ([0, 5], [0, 2, 5], [0, 0, 3, 3, 5, 5]):
        joined = JoinedSamples([samples[start:stop] for start, stop in itertools.pairwise(cuts)])
        assert len(joined) == 5
        assert list(joined) == samples
        assert [joined[index] for index in range(-5, 5)] == samples * 2
        assert list(joined[1:4]) == samples[1:4]
        for index in (-6, 5):
            with pytest.raises(IndexError):
                joined[index]
    assert list(JoinedSamples([])) == []
