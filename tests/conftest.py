"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

pytest_plugins = ["carvana.testing.fixtures", "faults.plugin"]  # tiny_data and the cache; --whole

# Each of pytest's processes gets its share of the machine, and no test reaches for a hub.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# Bits are compared, and networks are small: the CPU does it all. tests/test_gpu.py starts processes that see the GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Help is compared as text; typer colours it where one of these is set.
for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "COLUMNS"):
    os.environ.pop(name, None)
# What is installed beside this library, or chosen among it, is not what these tests are about.
os.environ["CARVANA_PLUGINS"] = ""
# A shell that starts pytest in the background has it ignore Ctrl-C, and so would every command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tiny_cache: Path) -> None:
    """Keep what is cached away from the user's own cache in every test."""


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
