"""Configs that are not YAML, or malicious YAML."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.commands import carvana
from faults.saying import said

from carvana.config import FitConfig, load_config


def bomb(levels: int = 30) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int = 30) -> str:
    lines = ["a0: &a0 {b: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], c{n}: 1}}" for n in range(1, levels)]
    return "\n".join(lines)


EVIL: dict[str, str | bytes] = {
    "aliases": bomb(),
    "aliases in a key that takes anything": "model:\n  options:\n" + "\n".join("    " + x for x in bomb().split("\n")),
    "merges": merges(),
    "merges below a key": "model:\n  options:\n" + "\n".join("    " + x for x in merges().split("\n")),
    "itself": "model: &a\n  options: *a\n",
    "itself in a list": "model:\n  options: {x: &a [*a]}\n",
    "itself merged": "train: &a\n  <<: *a\n  epochs: 3\n",
    "merge of a list": "train:\n  <<: [1, 2]\n",
    "merge of a word": "train:\n  <<: word\n",
    "deep": "model: {options: " + "[" * 100_000,
    "deep and closed": "model: {options: {x: " + "[" * 5000 + "]" * 5000 + "}}",
    "deep by lines": "\n".join(" " * n + "a:" for n in range(1500)),
    "twice": "train:\n  epochs: 1\n  epochs: 2\n",
    "a mapping as key": "{{a: 1}: 2}\n",
    "a list as key": "? [1]\n: 2\n",
    "python object": "train: !!python/object/apply:os.system ['touch {trap}']\n",
    "python name": "arch: !!python/name:os.system\n",
    "python module": "arch: !!python/module:os\n",
    "own tag": "arch: !mine x\n",
    "set": "train: !!set {a, b}\n",
    "pairs": "train: !!omap [a: 1]\n",
    "timestamp": "arch: 2020-01-01\n",
    "impossible date": "arch: 2020-13-45\n",
    "a huge number": "train: {epochs: " + "9" * 100_000 + "}\n",
    "a sexagesimal number": "train: {epochs: " + "1:" * 4000 + "1}\n",
    "two documents": "arch: a\n---\narch: b\n",
    "a list": "- arch\n",
    "a word": "arch\n",
    "random bytes": bytes(range(256)) * 8,
    "UTF-16 without a mark": "arch: unet-ref\n".encode("utf-16-le"),
    "UTF-16": "arch: unet-ref\n".encode("utf-16"),
    "NUL": b"arch: a\0b\n",
    "Latin-1": b"arch: \xe9\n",
    "a control character": b"arch: \x1b[31m\n",
    "undefined alias": "arch: *a\n",
    "tabs": "train:\n\tepochs: 1\n",
}


@pytest.mark.fault(
    done=(
        "malicious YAML: aliases and merge keys that grow exponentially, 100,000 levels, tags that name "
        "Python objects, keys twice, mappings as keys, other encodings, binary"
    ),
    promised="one short line that names the file, nothing executed, under 200 MB",
    reaches="utils/yaml_files.py: read_yaml",
)
@pytest.mark.parametrize("name", EVIL)
def test_harmful_yaml_is_one_line(name: str, tmp_path: Path) -> None:
    path, trap = tmp_path / "evil.yaml", tmp_path / "trap"
    text = EVIL[name]
    path.write_bytes(text if isinstance(text, bytes) else text.replace("{trap}", str(trap)).encode())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = said(lambda: load_config(path))
    assert line.startswith(f"{path}: ")
    assert not trap.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(10**12)


def scalar(path: Path) -> None:
    path.write_text("arch: " + "x" * 10**8)


def many_lines(path: Path) -> None:
    path.write_text("# nothing\n" * 10**7)


def forever(path: Path) -> None:
    path.symlink_to("/dev/zero")


PLACES: dict[str, Callable[[Path], None]] = {
    "a folder": lambda path: path.mkdir(),
    "a FIFO": lambda path: os.mkfifo(path),
    "a device without end": forever,
    "a link to itself": lambda path: path.symlink_to(path),
    "a scalar of 100 MB": scalar,
    "comments of 100 MB": many_lines,
    "a terabyte of nothing": sparse,
}


@pytest.mark.fault(
    done=("no file, or one of 100 MB or a terabyte, in a config's place: a folder, a FIFO, a device without end"),
    promised="one line that names it, at once, under 200 MB",
    reaches="config.py: find_config, utils/yaml_files.py: read_yaml: the bound on a file's size",
)
@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_recipe_file_is_one_line_with_bounded_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    PLACES[name](path)
    code = (
        "import resource, sys\nfrom carvana.config import load_config\nfrom carvana.errors import ConfigError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: load_config(sys.argv[1])\nexcept ConfigError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120, check=True)
    line, megabytes = done.stdout.splitlines()
    assert str(path) in line
    assert int(megabytes) < 200


@pytest.mark.fault(
    done="an empty config, one of comments alone, one whose sections are empty",
    promised="the config `default`",
    reaches="config.py: sections without keys",
)
@pytest.mark.parametrize("text", ["", "# nothing\n", "train:\ndata:\n", "---\n", "\ufeffarch: unet-ref\n"])
def test_an_empty_recipe_is_the_default(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_config(path) == FitConfig()


@pytest.mark.fault(
    done=("`carvana fit` with a bomb of aliases as its config, an unknown key with --set, a tag that names os.system"),
    promised="exit code 1 and one line, nothing written",
    reaches="cli/fit.py: what a recipe's mistake becomes",
    quick=1,
)
@pytest.mark.parametrize("case", ["bomb", "set", "tag"])
def test_the_command_says_one_line(case: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(bomb() if case == "bomb" else f"train: !!python/object/apply:os.system ['touch {tmp_path}/trap']\n")
    words = ["--set", "train.epoch=3"] if case == "set" else ["--config", path]
    done = carvana("fit", *words, "--out", tmp_path / "run", cwd=tmp_path)
    assert ("train.epoch" if case == "set" else str(path)) in done.error
    assert {entry.name for entry in tmp_path.iterdir()} == {"evil.yaml"}
