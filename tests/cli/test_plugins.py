"""``carvana plugins``, ``configs`` and ``new-plugin``, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import forkserver
import pytest
from typer.testing import CliRunner

from carvana.cli.app import app
from carvana.config import configs

LOSS = "def register(registry):\n    registry.losses.register('mine', 'good:loss', summary='x')\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two installed packages, one of which is broken."""
    folder = tmp_path / "site"
    for package, code in {"good": LOSS, "broken": "import nothing_of_this_name\n"}.items():
        info = folder / f"{package}-2.5.dist-info"
        info.mkdir(parents=True)
        (folder / f"{package}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(f"[carvana.plugins]\n{package} = {package}:register\n")
    return folder


def carvana(*words: str, site: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "CARVANA_PLUGINS": "good,broken", **variables}
    return forkserver.run(
        [sys.executable, "-m", "carvana", *words], env=environment, capture_output=True, text=True, check=False
    )


def test_plugins_are_listed_with_what_they_add_and_what_failed(site: Path) -> None:
    done = carvana("plugins", site=site)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("carvana ")
    assert "unet-ref" in lines[0]
    assert ["good", "2.5", "loss:", "mine"] in [line.split() for line in lines]
    (failed,) = [line for line in lines if line.startswith("broken 2.5")]
    assert "failed (broken): ModuleNotFoundError: No module named 'nothing_of_this_name'" in failed
    assert "No other package" not in done.stdout


def test_plugins_as_json(site: Path) -> None:
    done = carvana("plugins", "--json", site=site)
    records = {record["name"]: record for record in json.loads(done.stdout)}
    assert list(records) == ["carvana", "broken", "good"]
    assert records["good"] == {
        "name": "good", "package": "good", "version": "2.5", "adds": {"losses": ["mine"]}, "error": None,
    }  # fmt: skip
    assert "nothing_of_this_name" in records["broken"]["error"]
    assert records["broken"]["adds"] == {}


def test_the_variable_chooses_and_a_missing_one_is_told(site: Path) -> None:
    assert "good" not in carvana("plugins", site=site, CARVANA_PLUGINS="").stdout
    done = carvana("plugins", site=site, CARVANA_PLUGINS="good,segnett")
    assert "failed (segnett): CARVANA_PLUGINS names it, but no installed package brings it" in done.stdout
    assert "broken" not in done.stdout


def test_configs_are_listed_with_a_line_each() -> None:
    result = CliRunner().invoke(app, ["configs"])
    lines = result.stdout.splitlines()
    for name in configs():
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert len(line.removeprefix(name).strip()) > 20


def test_new_plugin_lists_what_it_wrote_and_says_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["new-plugin", "mine"])
    assert result.exit_code == 0
    assert {tmp_path / line for line in result.stdout.split()} == {p for p in tmp_path.rglob("*") if p.is_file()}
    assert "pip install './carvana-mine[test]' && pytest carvana-mine" in result.stderr
    again = CliRunner().invoke(app, ["new-plugin", "mine"])
    assert again.exit_code == 1
    assert again.stderr.startswith("error: carvana-mine: exists already")
