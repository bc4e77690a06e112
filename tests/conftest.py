"""Fixtures that several folders of tests share."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import forkserver
import numpy as np
import pytest

pytest_plugins = ["faults.plugin"]  # --whole

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
os.environ["CARVANA_ENGINE"] = "torch"  # converting a network for OpenVINO takes seconds
# A shell that starts pytest in the background has it ignore Ctrl-C, and so would every command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="the slow tests as well, which .ci/run runs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked slow, unless it is asked for: with --all or --whole, or by its node id."""
    if config.getoption("--all") or config.getoption("--whole") or any("::" in word for word in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_configure(config: pytest.Config) -> None:
    """Start the fork server, once for all of pytest's processes: see forkserver.py."""
    config.addinivalue_line("markers", "slow: left out by plain pytest; pytest --all runs it")
    worker = hasattr(config, "workerinput")
    if worker or not config.getoption("numprocesses", None):  # the process that hands out tests needs no torch
        config.pluginmanager.import_plugin("carvana.testing.fixtures")  # tiny_data and the cache
    if worker or config.option.collectonly or not hasattr(os, "fork"):
        return
    stack = contextlib.ExitStack()
    stack.enter_context(forkserver.server(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carvana-")))))
    config.add_cleanup(stack.close)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tiny_cache: Path) -> None:
    """Keep what is cached away from the user's own cache in every test."""


@pytest.fixture(scope="session", autouse=True)
def _forked_workers() -> None:
    """Begin the processes of a comparison as forks; tests/leaderboard/test_worker_pool.py has new interpreters."""
    forkserver.fork_workers()


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on ``tiny_data``; nobody writes into it."""
    from carvana.config import FitConfig
    from carvana.training.fit import fit

    config = FitConfig(
        model={"options": {"width": 4}},
        data={"root": tiny_data, "size": (32, 48), "workers": 0},
        train={"epochs": 1, "precision": "fp32"},
    )
    return fit(config, out=tmp_path_factory.mktemp("runs") / "tiny", device="cpu").path


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    """No pictures of runs, which take longer than a tiny training."""
    with pytest.MonkeyPatch.context() as patch:
        forkserver.hide_pictures(patch)
        yield


@pytest.fixture
def no_pictures_in_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures of the runs that a test makes; the fixtures of its module have them."""
    forkserver.hide_pictures(monkeypatch)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
