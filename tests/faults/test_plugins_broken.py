"""Plugins that are broken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from faults.commands import carvana
from faults.packages import add_package, beside, forget

from carvana.config import FitConfig
from carvana.errors import RunError
from carvana.plugins import load_plugins
from carvana.registry import Registry
from carvana.run import Run
from carvana.training.setup import check_packages

REGISTER = "def register(registry):\n"
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "raises": ({"code": "raise RuntimeError('not today')"}, "RuntimeError: not today"),
    "quits": ({"code": "raise SystemExit(3)"}, "SystemExit: 3"),
    "based": ({"code": "class Odd(BaseException): pass\nraise Odd('x')"}, "Odd: x"),
    "wordless": (
        {"code": "class Odd(Exception):\n def __str__(self): raise SystemExit\nraise Odd()"}, "Odd: without a message",
    ),
    "endless": ({"code": "raise RuntimeError('\\x1b[2J' + 'y' * 100000)"}, "RuntimeError: \\x1b[2Jyyy"),
    "cut": ({"code": "def ("}, "SyntaxError: invalid syntax (cut.py, line 1)"),
    "lacks": ({"code": ""}, "has no attribute 'register'"),
    "nowhere": ({"code": "", "target": "no_such_module.at_all:register"}, "No module named 'no_such_module'"),
    "shapeless": ({"code": "register = 3"}, "is not a function that takes the registry"),
    "closed": ({"code": "def register(): pass"}, "takes 0 positional arguments"),
    "thief": (
        {"code": REGISTER + " registry.losses.register('mine', 'm:x')\n registry.archs.register('unet-ref', 'm:x')"},
        "the architecture 'unet-ref' is already registered by carvana",
    ),
    "nameless": ({"code": REGISTER + " registry.archs.register(3, 'm:x')"}, "3 cannot be a name"),
    "spaced": ({"code": REGISTER + " registry.archs.register('a net', 'm:x')"}, "'a net' cannot be a name"),
    "aimless": ({"code": REGISTER + " registry.archs.register('net', 'os.system')"}, "must be 'module:attribute'"),
    "summary": ({"code": REGISTER + " registry.archs.register('net', 'm:x', summary=5)"}, "must be a text"),
    "saws": ({"code": REGISTER + " registry.archs = None"}, "AttributeError"),
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield tmp_path / "site"
    forget({path.stem for path in (tmp_path / "site").glob("*.py")})


def load(site: Path, filled: Registry) -> dict[str, str | None]:
    points = [point for installed in distributions(path=[str(site)]) for point in installed.entry_points]
    return {plugin.name: plugin.error for plugin in load_plugins(filled, points, None)}


@pytest.mark.fault(
    done=(
        "plugins that raise on import, end the process, have no function, take a built-in name, register invalid values"
    ),
    promised="listed with what failed in one line; nothing of it stays, a plugin beside it works",
    reaches="plugins.py: _load; registry.py: registering, undone; errors.py: error_line",
)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_undone_and_listed(name: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARVANA_PLUGINS")
    package, words = BROKEN[name]
    add_package(site, name, **package)
    add_package(site, "works", REGISTER + " registry.archs.register('works', 'works:build')")
    filled = Registry()
    errors = load(site, filled)
    line = errors[name]
    assert line is not None
    assert words in line
    assert line.isprintable()
    assert len(line) < 400
    assert errors["works"] is None
    assert filled.archs.entry("unet-ref").source == "carvana"
    entries = [entry for catalog in filled.catalogs.values() for entry in catalog.registered()]
    assert {entry.source for entry in entries} == {"carvana", "works"}


@pytest.mark.fault(
    done=(
        "all of these plugins installed at once, with other commands; for plugins and archs also one "
        "without valid entry points"
    ),
    promised="exit code 0, JSON alone on stdout, a line for each broken one on stderr",
    reaches="plugins.py: _installed, package by package; cli/listings.py",
    quick=2,
)
@pytest.mark.parametrize(
    "command",
    [
        ["plugins", "--json"],
        ["archs", "--json"],
        ["archs", "unet-ref"],
        ["configs"],
        ["fit", "--print-config"],
        ["plugins"],
    ],
)
def test_commands_work_beside_broken_plugins(command: list[str], tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name, (package, _) in BROKEN.items():
        add_package(site, name, **package)
    add_package(site, "prints", "print('hello')\n" + REGISTER + " print('again')")
    lists = command[0] in ("plugins", "archs")
    if lists:  # pydantic, which reads recipes, looks for plugins of its own and falls over this one
        add_package(site, "scrawl", REGISTER + " pass", entry="[carvana.plugins]\njust words\n")
    add_package(site, "anonymous", REGISTER + " pass", metadata="Metadata-Version: 2.1\n")
    done = carvana(*command, **beside(site))
    assert done.code == 0, done
    assert "Traceback" not in done.err
    if command[-1] == "--json":
        records = json.loads(done.out)
        if command[0] == "plugins":
            failed = {record["name"] for record in records if record["error"]}
            assert failed == {*BROKEN, "scrawl"}
    if command == ["plugins"]:
        assert all(f"failed ({name})" in done.out for name in (*BROKEN, "scrawl"))
    if lists:
        assert all(f"'{name}'" in done.err for name in BROKEN)


@pytest.mark.fault(
    done="a plugin that raises KeyboardInterrupt on import",
    promised=(
        "ends the command like Ctrl-C, from which it cannot be distinguished; CARVANA_PLUGINS excludes the plugin"
    ),
    reaches="plugins.py: _load, an interrupt",
    quick=0,
)
def test_an_interrupt_of_a_plugin_is_one(tmp_path: Path) -> None:
    add_package(tmp_path, "stops", "raise KeyboardInterrupt")
    done = carvana("plugins", **beside(tmp_path))
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err
    assert carvana("plugins", env={"PYTHONPATH": str(tmp_path), "CARVANA_PLUGINS": ""}).code == 0


@pytest.mark.fault(
    done="two plugins that register one name, and two packages whose entry points have one name",
    promised=(
        "the first by package name gets it, the second is listed with the name of the first; both entry "
        "points are listed"
    ),
    reaches="registry.py: Catalog.register, a name that is taken",
)
def test_two_plugins_with_one_name(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARVANA_PLUGINS")
    for name in ("second", "first"):
        add_package(site, name, REGISTER + f" registry.archs.register('net', '{name}:build')")
    for name in ("left", "right"):
        add_package(site, name, REGISTER + " pass", entry=f"[carvana.plugins]\nsame = {name}:register\n")
    filled = Registry()
    points = [point for installed in distributions(path=[str(site)]) for point in installed.entry_points]
    loaded = load_plugins(filled, points, None)
    assert [(plugin.package, plugin.name) for plugin in loaded[1:]] == [
        ("first", "first"), ("left", "same"), ("right", "same"), ("second", "second"),
    ]  # fmt: skip
    assert filled.archs.entry("net").source == "first"
    assert loaded[-1].error == (
        "CarvanaError: the architecture 'net' is already registered by first 2.5: choose another name, or pass"
        " replace=True"
    )


@pytest.mark.fault(
    done="families whose function for names raises, ends the process, gives numbers, is not there; all names listed",
    promised="the family is listed by its pattern, with one warning; all other names are listed",
    reaches="registry.py: Catalog._members",
)
@pytest.mark.parametrize("names", ["lambda *_: 1 / 0", "lambda *_: exit(3)", "lambda *_: [1, None]", "'m:no'"])
def test_a_family_that_cannot_be_listed(
    names: str, site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CARVANA_PLUGINS")
    register = REGISTER + f" registry.archs.register('mine/*', 'family:build', names={names})"
    add_package(site, "family", register)
    filled = Registry()
    assert load(site, filled)["family"] is None
    for _ in range(2):
        listed = filled.archs.names()
        assert "mine/*" in listed
        assert "unet-ref" in listed
    assert filled.archs.entry("unet-ref").source == "carvana"
    assert len([record for record in caplog.records if "cannot be listed" in record.message]) == 1


LATE = """
print("imported")
from torch import nn
def build(*, classes=1, **options):
    print("built")
    return nn.Conv2d(3, classes, 3, padding=1)
"""


@pytest.mark.fault(
    done="an architecture whose module, and whose factory, print to stdout, for bench --json -",
    promised="stdout is JSON alone; what was printed is on stderr",
    reaches="registry.py: resolve; models/build.py: _call, around imports and factories",
    quick=0,
)
def test_what_an_architecture_prints_is_not_in_the_json(tmp_path: Path) -> None:
    add_package(tmp_path, "late", REGISTER + " registry.archs.register('late', 'late_net:build')")
    (tmp_path / "late_net.py").write_text(LATE)
    done = carvana("bench", "late", "--size", "32x48", "--seconds", "0", "--json", "-", **beside(tmp_path))
    assert done.code == 0, done
    assert json.loads(done.out)["rows"][0]["name"] == "late"
    assert "imported" in done.err
    assert "built" in done.err


@pytest.mark.fault(
    done="an architecture whose module is missing, raises, ends the process, or lacks the factory, for fit",
    promised="exit code 1, one line that names the architecture, its package and its module; no folder is left",
    reaches="registry.py: resolve, an import that fails",
    quick=0,
)
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        (None, "ModuleNotFoundError: No module named 'late_net'"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("def built(): pass", "has no attribute 'build'"),
    ],
)
def test_an_architecture_that_cannot_be_imported(code: str | None, words: str, tiny_data: Path, tmp_path: Path) -> None:
    add_package(tmp_path / "site", "late", REGISTER + " registry.archs.register('late', 'late_net:build')")
    if code is not None:
        (tmp_path / "site" / "late_net.py").write_text(code)
    done = carvana("fit", "--arch", "late", "--data", tiny_data, "--out", tmp_path / "run", **beside(tmp_path / "site"))
    assert words in done.error
    assert "'late' (from late) cannot be loaded from 'late_net:build'" in done.error
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(
    done="run.json whose table of packages is a list, a text, or names something that is not a package",
    promised="one line that names the file; no pip command with text from the file",
    reaches="training/setup.py: check_packages",
)
@pytest.mark.parametrize("told", [["mine"], "mine", {"mine": 3}, {"mine": "x; rm -rf ~"}, {"mine": "--index-url"}])
def test_a_record_of_packages_that_is_none(told: object, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_record({"plugins": told})
    with pytest.raises(RunError) as caught:
        check_packages(run, FitConfig(arch="mine"))
    assert str(run.record_path) in str(caught.value)
    assert "pip install" not in str(caught.value)
