"""A package that adds an architecture, installed, used and taken away again: plugins/carvana-segnet as it is.

Its own tests are in its folder; .ci/run installs it and runs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import forkserver
import installed
import pytest

PROJECT = Path(__file__).parents[1] / "plugins" / "carvana-segnet"
SMALL = ["--set", "model.options.width=4", "--set", "data.size=[32,48]", "--set", "data.workers=0"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed.install(PROJECT, tmp_path_factory.mktemp("sites") / "site")


@pytest.fixture(scope="module")
def run(site: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    words = ["fit", "--arch", "segnet", "--data", tiny_data, "--out", "run", "--set", "train.epochs=1", *SMALL]
    done = installed.run(["-m", "carvana", *words], site, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def carvana(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command where the plugin is not installed, whatever is in the tests' own environment."""
    environment = os.environ | {"CARVANA_PLUGINS": ""}
    command = [sys.executable, "-m", "carvana", *map(str, words)]
    return forkserver.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)


def test_installed_it_is_listed_with_its_package_and_version(site: Path, tmp_path: Path) -> None:
    assert re.search(r"^carvana-segnet 0\.1\.0 +architecture: segnet$", listing(site, tmp_path), re.MULTILINE)
    archs = installed.run(["-m", "carvana", "archs", "segnet", "--json"], site, cwd=tmp_path)
    (entry,) = json.loads(archs.stdout)
    assert (entry["source"], entry["version"]) == ("carvana-segnet", "0.1.0")


def listing(site: Path, cwd: Path) -> str:
    return installed.run(["-m", "carvana", "plugins"], site, cwd=cwd).stdout


def test_a_run_with_it_predicts(run: Path, site: Path, tiny_data: Path, tmp_path: Path) -> None:
    done = installed.run(["-m", "carvana", "predict", run, tiny_data / "train", "--out", "m"], site, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "m").iterdir())) >= 20


def test_taken_away_its_name_is_gone_and_a_run_says_what_it_needs(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    gone = carvana("fit", "--arch", "segnet", "--data", tiny_data, cwd=tmp_path)
    assert gone.returncode == 1
    assert "no architecture is named 'segnet'" in gone.stderr
    photo = next((tiny_data / "train").iterdir())
    for words in (
        ["evaluate", run],
        ["predict", run, photo, "--out", "m"],
        ["fit", "--resume", run, "--set", "train.epochs=2"],
        ["fit", "--init", run, "--data", tiny_data],
    ):
        done = carvana(*words, cwd=tmp_path)
        assert done.returncode == 1
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, lines
        assert "'segnet'" in lines[0]
        if "--init" not in words:
            assert "pip install carvana-segnet" in lines[0]
