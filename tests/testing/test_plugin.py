"""Packages that are installed, each in a folder of its own, and what their contract says of them."""

from __future__ import annotations

from pathlib import Path

import installed
import pytest

SOUND_LOSS = 'registry.losses.register("odd", "odd_loss:build", summary="squares")'
LOSS = """
def build():
    return lambda logits, targets: (logits.sigmoid() - targets).square().mean()
"""
NETWORK = """
from torch import nn
def build(name, *, classes):
    return nn.Conv2d(3, classes, 3, padding=1)
"""
FAMILY = 'registry.archs.register("qf/*", "odd_net:build", summary="a family")'


def checked(folder: Path, register: str, *, before: str = "", arguments: str = "") -> str:
    """What check_plugin says of a package "odd": its last line of errors, or "passes"."""
    site = folder / "site"
    facts = site / "odd-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[carvana.plugins]\nodd = odd:register\n")
    (site / "odd.py").write_text(f"{before}\ndef register(registry):\n    {register}\n")
    (site / "odd_loss.py").write_text(LOSS)
    (site / "odd_net.py").write_text(NETWORK)
    code = f"import carvana.testing; carvana.testing.check_plugin('odd'{arguments})"
    done = installed.run(["-c", code], site, cwd=folder)
    return done.stderr.strip().splitlines()[-1] if done.returncode else "passes"


COMMAND = 'registry.commands.register("odd", "odd_loss:build", summary="prints")'


@pytest.mark.parametrize(
    "before",
    [
        "print('hello from stdout')",
        "import os; os.write(1, b'no end of the line, and torch')",  # as a library in C does
        "import atexit; atexit.register(print, 'bye')",
    ],
)
def test_a_plugin_may_print_when_it_is_imported(before: str, tmp_path: Path) -> None:
    assert checked(tmp_path, SOUND_LOSS, before=before) == "passes"


def test_what_a_plugin_imports_for_its_names_is_told_behind_what_it_prints(tmp_path: Path) -> None:
    line = checked(tmp_path, SOUND_LOSS, before="import cv2; print('hello')")
    assert line.startswith("AssertionError: 'odd' imports cv2 when names are listed")


def test_a_plugin_that_ends_python_is_told_in_one_line(tmp_path: Path) -> None:
    line = checked(tmp_path, SOUND_LOSS, before="import os, sys\nif 'torch' not in sys.modules: os._exit(0)")
    assert line == "AssertionError: 'odd' cannot be listed: Python ended without a message"


def test_of_a_family_that_lists_nothing_the_names_to_check_are_asked_for(tmp_path: Path) -> None:
    assert "pass options={'qf/NAME': {}}" in checked(tmp_path / "a", FAMILY)
    assert checked(tmp_path / "b", FAMILY, arguments=", options={'qf/small': {}}") == "passes"


def test_a_command_is_called_for_its_help(tmp_path: Path) -> None:
    assert checked(tmp_path / "a", COMMAND) == "passes"
    line = checked(tmp_path / "b", COMMAND.replace("odd_loss:build", "odd_loss:missing"))
    assert "the command 'odd' has no help: error: 'odd' (from odd) cannot be loaded from 'odd_loss:missing'" in line
    assert "'odd' has no summary" in checked(tmp_path / "c", COMMAND.replace(', summary="prints"', ""))
