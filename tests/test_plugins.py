from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path

import pytest

from carvana.plugins import GROUP, load_plugins, plugins
from carvana.registry import Registry

PLUGINS = {
    "carvana-good": (
        "good",
        "def register(registry):\n    registry.archs.register('good-net', 'good:build', summary='x')\n",
    ),
    "carvana_other": ("other", "def register(registry):\n    registry.losses.register('other', 'other:loss')\n"),
    "thief": (
        "thief",
        "def register(registry):\n"
        "    registry.losses.register('mine', 'm:x')\n"
        "    registry.archs.register('unet-ref', 'm:x')\n",
    ),
    "crash": ("crash", "import no_such_module_anywhere\n"),
    "quits": ("quits", "import sys\nsys.exit('I quit')\n"),
    "shapeless": ("shapeless", "register = 3\n"),
    "silent": ("silent", "raise RuntimeError('\\n\\n')\n"),
    "talkative": ("talkative", "print('hello')\ndef register(registry):\n    print('again')\n"),
    "malformed": ("malformed", ""),
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages, as pip would leave them."""
    for package, (module, code) in PLUGINS.items():
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{package.replace('-', '_')}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(
            f"[{GROUP}]\n{module} = {module if module != 'malformed' else '3 net'}:register\n"
        )
    return tmp_path


@pytest.fixture
def points(site: Path, monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delenv("CARVANA_PLUGINS", raising=False)
    installed: list[Distribution] = list(distributions(path=[str(site)]))
    return [point for distribution in reversed(installed) for point in distribution.entry_points]


def test_the_built_in_comes_first_and_through_the_same_door():
    first = plugins()[0]
    assert (first.name, first.package, first.error) == ("carvana", "carvana", None)
    assert "unet-ref" in first.adds["archs"]
    assert "bce" in first.adds["losses"]
    assert "studio" in first.adds["augments"]
    assert "folders" in first.adds["layouts"]


def test_plugins_load_in_a_fixed_order_and_broken_ones_are_listed(points: list[EntryPoint]):
    registry = Registry()
    loaded = load_plugins(registry, points)
    assert [plugin.name for plugin in loaded] == [
        "carvana", "good", "other", "crash", "malformed", "quits", "shapeless", "silent", "talkative", "thief",
    ]  # fmt: skip
    assert loaded == load_plugins(Registry(), list(reversed(points)))
    errors = {plugin.name: plugin.error for plugin in loaded if plugin.error}
    assert sorted(errors) == ["crash", "malformed", "quits", "shapeless", "silent", "thief"]
    assert "no_such_module_anywhere" in errors["crash"]
    assert "I quit" in errors["quits"]
    assert "not a function" in errors["shapeless"]
    assert errors["silent"] == "RuntimeError: without a message"
    assert "'3 net:register' must have the form 'module:function'" in errors["malformed"]
    assert "'unet-ref' is already registered by carvana" in errors["thief"]
    assert all("\n" not in error for error in errors.values())


def test_a_broken_plugin_leaves_nothing_behind_and_harms_no_other(points: list[EntryPoint]):
    registry = Registry()
    load_plugins(registry, points)
    assert "mine" not in registry.losses
    assert registry.archs.entry("unet-ref").source == "carvana"
    entry = registry.archs.entry("good-net")
    assert (entry.source, entry.version, entry.summary) == ("carvana-good", "2.5", "x")
    assert "other" in registry.losses


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("", ["carvana"]),
        (" , ", ["carvana"]),
        ("good", ["carvana", "good"]),
        ("Carvana.Good, carvana-other", ["carvana", "good", "other"]),
        ("carvana", ["carvana"]),
    ],
)
def test_a_selection_names_entry_points_or_packages(points: list[EntryPoint], selection: str, expected: list[str]):
    assert [plugin.name for plugin in load_plugins(Registry(), points, selection)] == expected


def test_the_variable_is_the_selection(points: list[EntryPoint], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CARVANA_PLUGINS", "other")
    assert [plugin.name for plugin in load_plugins(Registry(), points)] == ["carvana", "other"]


def test_a_selected_plugin_that_is_not_installed_is_listed_as_broken(points: list[EntryPoint]):
    missing = load_plugins(Registry(), points, "good,segnett")[1]
    assert missing.name == "segnett"
    assert missing.error is not None
    assert "no installed package" in missing.error


def test_installed_packages_are_found_without_being_told(site: Path):
    code = (
        "from carvana.registry import registry; from carvana.plugins import plugins;"
        "print(registry.archs.entry('good-net').source, [p.name for p in plugins() if p.error])"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    environment.pop("CARVANA_PLUGINS", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "carvana-good ['crash', 'malformed', 'quits', 'shapeless', 'silent', 'thief']"
    assert "hello" in done.stderr
    assert "the plugin 'thief' of thief is broken" in done.stderr


def test_a_package_without_metadata_harms_no_other(site: Path, monkeypatch: pytest.MonkeyPatch):
    (site / "carvana_good-2.5.dist-info" / "METADATA").unlink()
    monkeypatch.delenv("CARVANA_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(str(site))
    registry = Registry()
    load_plugins(registry)
    assert "other" in registry.losses
