"""The decoders of smp for tests that build each of them: three in plain pytest, all twelve with ``--all``."""

from __future__ import annotations

import pytest

from carvana.builtins import DECODERS

QUICK = ("unet", "linknet", "deeplabv3plus")  # concatenation, addition, dilation with adaptive pooling
EACH = pytest.mark.parametrize(
    "decoder", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in DECODERS]
)
