"""The decoders of smp for tests that build each of them: some in plain pytest, all twelve with ``--all``."""

from __future__ import annotations

import pytest

from carvana.builtins import DECODERS

QUICK = ("unet", "linknet", "deeplabv3plus")  # concatenation, addition, dilation with adaptive pooling


def each(*quick: str) -> pytest.MarkDecorator:
    """Each decoder, those in plain pytest that are named."""
    marked = [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in DECODERS]
    return pytest.mark.parametrize("decoder", marked)
