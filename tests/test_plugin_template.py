"""What ``carvana new-plugin`` writes can be installed, is found, and passes its own tests."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import installed
import pytest

from carvana.errors import CarvanaError
from carvana.plugins import write_plugin


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plugin("My-net", tmp_path_factory.mktemp("projects") / "carvana-My-net")[0].parent


def test_every_place_is_filled_and_every_file_is_what_its_name_says(project: Path) -> None:
    files = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert files == {
        "pyproject.toml", "README.md", "LICENSE", "carvana_my_net/__init__.py", "carvana_my_net/net.py",
        "carvana_my_net/py.typed", "tests/test_my_net.py",
    }  # fmt: skip
    for path in project.rglob("*.*"):
        text = path.read_text()
        assert "$" not in text
        if path.suffix == ".py":
            ast.parse(text)
    settings = tomllib.loads((project / "pyproject.toml").read_text())
    assert settings["project"]["name"] == "carvana-My-net"
    assert settings["project"]["entry-points"]["carvana.plugins"] == {"My-net": "carvana_my_net:register"}


def test_what_is_written_is_clean_by_this_projects_own_rules(project: Path) -> None:
    top = Path(__file__).parents[1] / "pyproject.toml"
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--config", str(top), str(project / "carvana_my_net")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_installed_it_is_listed_and_its_own_tests_pass(project: Path, tmp_path: Path) -> None:
    site = installed.install(project, tmp_path / "site")
    listed = installed.run(["-m", "carvana", "plugins"], site, cwd=tmp_path)
    assert "carvana-My-net 0.1.0" in listed.stdout
    assert "architecture: My-net" in listed.stdout
    done = installed.run(["-m", "pytest", "-q", "-p", "no:cacheprovider", project], site, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


@pytest.mark.parametrize("name", ["", "3d", "a b", "a/b", "net_", "ünet", "a*"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CarvanaError, match="new-plugin"):
        write_plugin(name, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_names_and_folders_that_are_taken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CarvanaError, match="an architecture of this name exists already"):
        write_plugin("unet-ref", tmp_path / "x")
    with pytest.raises(CarvanaError, match="an architecture of this name exists already"):
        write_plugin("fpn", tmp_path / "x")  # carvana archs fpn lists the family
    (tmp_path / "x").mkdir()
    with pytest.raises(CarvanaError, match="nothing was written"):
        write_plugin("mine", tmp_path / "x")
    assert not list((tmp_path / "x").iterdir())


def test_the_prefix_may_be_written_or_left_out(tmp_path: Path) -> None:
    [first, *_], [second, *_] = write_plugin("carvana-mine", tmp_path / "a"), write_plugin("mine", tmp_path / "b")
    assert first.read_text() == second.read_text()
