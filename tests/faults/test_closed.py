"""Closed: no network, no writing elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from comparing import recipe
from faults.commands import carvana

import carvana as library
from carvana.cli.app import COMMANDS
from carvana.cli.data import app as data_app

ROOT = Path(__file__).parents[2]
SILENCE = Path(__file__).with_name("silence")
RECIPE = [
    "--set", "model.options={width: 4}", "--set", "data.size=[32, 48]", "--set", "split.val=1",
    "--set", "train.epochs=1",
    "--set", "train.batch_size=4", "--set", "train.precision=fp32", "--set", "data.augment=studio",
    "--set", "data.workers=2", "--set", "data.cache_gb=0",
]  # fmt: skip
LINES: dict[str, list[str]] = {
    "plugins": ["plugins"],
    "data show": ["data", "show", "DATA", "--out", "OUT.png", "--count", "1", "--augment", "studio", "--size", "32x48"],
    "archs": ["archs", "unet/*"],
    "configs": ["configs"],
    "new-plugin": ["new-plugin", "mine", "--out", "OUT"],
    "data check": ["data", "check", "DATA"],
    "data split": ["data", "split", "DATA", "--out", "OUT.csv"],
    "data demo": ["data", "demo", "OUT", "--cars", "1"],
    "fit": ["fit", "--arch", "unet-ref", "--data", "DATA", "--out", "OUT", "--device", "cpu", *RECIPE],
    "evaluate": ["evaluate", "RUN", "--json", "OUT.json"],
    "predict": ["predict", "RUN", "DATA/train", "--out", "OUT", "--save", "mask,prob,cutout,overlay"],
    "submit": ["submit", "RUN", "DATA/train", "--out", "OUT.csv", "--workers", "1"],
    "serve": ["serve", "RUN", "--port", "0", "--device", "cpu"],
    "export": ["export", "RUN", "--to", "onnx", "--out", "OUT.onnx"],
    "bench": ["bench", "RUN", "--size", "32x48", "--seconds", "0"],
    "compare": ["compare", "unet-ref", "--data", "DATA", "--out", "OUT", "--device", "cpu", *RECIPE],
}
"""A command line of each command, that does all of its work."""


@pytest.fixture(scope="session")
def places(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """What the command lines name: a run, made once."""
    folder = tmp_path_factory.mktemp("closed")
    library.fit(recipe(tiny_data, train__epochs=1), out=folder / "run", device="cpu")
    return {"DATA": tiny_data, "RUN": folder / "run"}


@pytest.fixture
def short_temp() -> Iterator[Path]:
    """A temporary folder whose path leaves room for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def words_of(command: str, places: Mapping[str, Path], out: Path) -> list[str]:
    words = []
    for word in LINES[command]:
        for name, place in {**places, "OUT": out}.items():
            word = re.sub(rf"\b{name}\b", str(place), word)
        words.append(word)
    return words


def heard(command: str, places: Mapping[str, Path], folder: Path, offline: str) -> list[str]:
    """What the command's processes asked for."""
    log = folder / "log"
    words = words_of(command, places, folder / "out")
    env = {
        "PYTHONPATH": str(SILENCE), "CARVANA_SILENCE": str(log), "HF_HUB_OFFLINE": offline,
        "CARVANA_CACHE": str(folder / "cache"),
    }  # fmt: skip
    if command == "serve":
        assert (
            ask_and_end(words, env | {"CARVANA_SILENCE_LISTENS": "1"}, next((places["DATA"] / "train").glob("*.jpg")))
            == 0
        )
    else:
        done = carvana(*words, cwd=folder, fork=False, env=env)
        assert done.code == 0, done
    lines = log.read_text().splitlines()
    assert "begun" in lines
    return [line for line in lines if line != "begun"]


def ask_and_end(words: list[str], env: Mapping[str, str], image: Path) -> int:
    """Serve, ask for a mask and for the page, and end; the exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "carvana", *words], env=os.environ | env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        headers = {"content-type": "image/jpeg"}
        for request in (urllib.request.Request(f"{address}predict", image.read_bytes(), headers), address):
            for _ in range(100):
                try:
                    assert urllib.request.urlopen(request).status == 200
                    break
                except urllib.error.URLError:
                    time.sleep(0.1)
        process.terminate()
        return process.wait(60)
    finally:
        process.kill()


@pytest.mark.fault(
    done="all commands of the command line are listed",
    promised="each has a line in the two cases below, or this one fails",
    reaches="cli/app.py: COMMANDS",
)
def test_all_commands_are_covered() -> None:
    assert all(command.callback for command in data_app.registered_commands)
    inner = {command.name or command.callback.__name__ for command in data_app.registered_commands if command.callback}
    assert set(LINES) == set(COMMANDS) - {"push"} | {f"data {name}" for name in inner}  # push: tests/models/test_hub.py


@pytest.mark.fault(
    done="each command does its work with HF_HUB_OFFLINE=1, where any socket but a local one, and any look-up, raises",
    promised="exit code 0, and no connection from any of its processes; albumentations' update check is off",
    reaches="data/augment.py: _albumentations; huggingface_hub, timm, torch and matplotlib on import",
    quick=2,
)
@pytest.mark.parametrize("command", LINES)
def test_no_command_needs_the_network(
    command: str, places: Mapping[str, Path], tmp_path: Path, came_out: Callable[..., None]
) -> None:
    found = heard(command, places, tmp_path, offline="1")
    assert [line for line in found if line != "albumentations 1"] == []
    if command in ("fit", "compare", "data show"):
        assert found  # they augment


@pytest.mark.fault(
    done="each command does its work without HF_HUB_OFFLINE, on networks that need no hub, where any socket raises",
    promised="exit code 0, and no connection: no telemetry, no check for updates",
    reaches="models/encoders.py: resolve, which asks for an encoder's weights alone",
    quick=0,
)
@pytest.mark.parametrize("command", LINES)
def test_no_command_tells_anybody(command: str, places: Mapping[str, Path], tmp_path: Path) -> None:
    assert [line for line in heard(command, places, tmp_path, offline="") if line != "albumentations 1"] == []


@pytest.mark.fault(
    done="a socket is opened while connections are recorded",
    promised="it is recorded, even if the code catches the exception: so the two cases above can fail",
    reaches="tests/faults/silence/sitecustomize.py",
)
def test_the_watch_hears_who_asks(tmp_path: Path) -> None:
    code = "import contextlib, socket\nwith contextlib.suppress(Exception): socket.getaddrinfo('localhost', 80)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SILENCE), "CARVANA_SILENCE": str(tmp_path / "log")},
        check=False,
    )
    assert done.returncode == 0
    assert "network socket.getaddrinfo" in (tmp_path / "log").read_text()


OURS = ("metrics.jsonl", "times.jsonl", "manifest.jsonl", ".lock")
"""What files.py writes under its own name: logs that it appends to, and locks, which stay empty."""
THEIRS = re.compile(r"events\.out\.tfevents\..*")
"""TensorBoard's."""


@pytest.mark.fault(
    done="files that fit, evaluate, predict, submit and export open for writing are recorded",
    promised="in the output folder under names of files.py alone, but for TensorBoard's; elsewhere the cache and temp",
    reaches="files.py: atomic_path, scratch_folder, append_json_line and lock, by way of Python's audit event open",
    quick=1,
)
@pytest.mark.parametrize("command", ["predict", "fit", "evaluate", "submit", "export"])
def test_every_write_goes_through_one_door(
    command: str, places: Mapping[str, Path], tmp_path: Path, short_temp: Path, came_out: Callable[..., None]
) -> None:
    home, here, out = (tmp_path / name for name in ("home", "here", "results"))
    for folder in (home, here, out):
        folder.mkdir()
    temp = short_temp
    before = {path: path.stat().st_mtime_ns for path in sorted(places["DATA"].rglob("*"))}
    done = carvana(
        *words_of(command, places, out / "out"), cwd=here, fault={"writes": str(tmp_path / "writes")},
        env={
            "HOME": str(home), "TMPDIR": str(temp), "CARVANA_CACHE": str(home / ".cache" / "carvana"),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )  # fmt: skip
    assert done.code == 0, done
    opened = [here / line for line in (tmp_path / "writes").read_text().splitlines()]
    inside = [path for path in opened if path.is_relative_to(out) or path.is_relative_to(places["RUN"])]
    assert inside
    theirs = [path for path in inside if THEIRS.fullmatch(path.name)]
    assert [path for path in inside if path not in theirs and not through_files(path)] == []
    allowed = (out, places["RUN"], home / ".cache", home / ".config" / "matplotlib", temp, Path("/dev"))
    assert [path for path in opened if not any(path.is_relative_to(place) for place in allowed)] == []
    assert list(here.iterdir()) == []  # whoever wrote, libraries in C too
    assert {path.name for path in home.iterdir()} <= {".cache", ".config"}
    assert {path: path.stat().st_mtime_ns for path in sorted(places["DATA"].rglob("*"))} == before
    assert [path for path in out.rglob("*") if path.name.startswith(".part-")] == []
    came_out(f"{command}: {len(inside)} files, {len(theirs)} of them TensorBoard's")


def through_files(path: Path) -> bool:
    unfinished = any(part.startswith(".part-") for part in path.parts)
    return unfinished or path.name in OURS or (path.name == "lock" and path.parent.name.endswith(".parts"))


@pytest.mark.fault(
    done="the linter's rules about security (S) over carvana/, and each exception to them",
    promised="they are on, only assert is excepted everywhere, and each other exception gives a reason",
    reaches="pyproject.toml: tool.ruff",
)
def test_the_rules_about_security_hold(came_out: Callable[..., None]) -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    ignored = {"**": lint["ignore"], **lint["per-file-ignores"]}
    broad = {(where, rule) for where, rules in ignored.items() for rule in rules if re.fullmatch(r"S\d*", rule)}
    assert broad == {("**", "S101"), ("tests/**", "S")}
    check = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    found = subprocess.run(
        [*check, "--select", "S", "--ignore", "S101", "carvana"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout
    words = [*check, "--stdin-filename", "carvana/models/x.py", "-"]
    bad = subprocess.run(words, input="eval(input())\n", cwd=ROOT, capture_output=True, text=True, check=False)
    assert "S307" in bad.stdout
    excepted = 0
    for path in sorted((ROOT / "carvana").rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{path}:{number}: {line.strip()}"
            assert "ruff: noqa" not in line, where
            if "noqa" in line:
                match = re.search(r"# noqa: ([A-Z]+\d+(?:, [A-Z]+\d+)*)(.*)$", line)
                assert match, where
                if re.search(r"\bS\d", match[1]):
                    assert re.match(r" - \S", match[2]), where
                    excepted += 1
    came_out(f"{excepted} single exceptions")
