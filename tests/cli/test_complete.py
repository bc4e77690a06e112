"""What the shells offer: their own protocols, as the scripts that typer installs speak them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from carvana.config import configs


def complete(shell: str, *words: str) -> list[str]:
    """What is offered for the last word."""
    environment = {**os.environ, "_CARVANA_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_TEST_DISABLE_SHELL": "1"}
    if shell == "bash":
        environment |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    else:
        environment |= {"_TYPER_COMPLETE_ARGS": " ".join(words), "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    program = (
        "import sys; sys.argv = ['carvana']\n"
        "from carvana.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'timm', 'cv2'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "heavy" not in done.stderr
    return [line for line in done.stdout.splitlines() if line]


def offered(lines: list[str], word: str) -> bool:
    return any(word in line for line in lines)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_architectures_and_recipes_are_offered(shell: str) -> None:
    lines = complete(shell, "carvana", "fit", "--arch", "unet")
    assert offered(lines, "unet-ref")
    assert offered(lines, "unetplusplus/")
    assert not offered(lines, "fpn")
    lines = complete(shell, "carvana", "fit", "--arch", "fpn/mobilenet")
    assert offered(lines, "fpn/mobilenet_v2")
    lines = complete(shell, "carvana", "fit", "--config", "")
    assert all(offered(lines, name) for name in configs())
    lines = complete(shell, "carvana", "compare", "--config", "compare-f")
    assert offered(lines, "compare-full")
    assert not offered(lines, "compare-quick")


def test_a_single_family_is_opened_and_labels_are_kept() -> None:
    assert offered(complete("bash", "carvana", "archs", "segf"), "segformer/mit_b0")
    assert offered(complete("bash", "carvana", "compare", "small=unet/resnet1"), "small=unet/resnet18")
    assert offered(complete("bash", "carvana", "bench", "unet/t"), "unet/tu-")
    assert complete("bash", "carvana", "fit", "--arch", "nothing/x") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_that_is_installed_is_the_shells(shell: str) -> None:
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "carvana", "--show-completion", shell], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"complete_{shell}" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself_completes(tmp_path: Path) -> None:
    program = "import sys; sys.argv[0] = 'carvana'; from carvana.cli import main; main()"
    (tmp_path / "carvana").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    (tmp_path / "carvana").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "_CARVANA_COMPLETE": "source_bash"}
    script = subprocess.run(["carvana"], env=environment, capture_output=True, text=True, check=True).stdout
    ask = (
        f"{script}\n"
        "COMP_WORDS=(carvana fit --arch unet-r); COMP_CWORD=3; COMP_LINE='carvana fit --arch unet-r'\n"
        'function=$(complete -p carvana | sed "s/.*-F \\([^ ]*\\) .*/\\1/")\n'
        '"$function" carvana unet-r --arch; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    environment.pop("_CARVANA_COMPLETE")
    done = subprocess.run(["bash", "-c", ask], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["unet-ref"], done.stderr
