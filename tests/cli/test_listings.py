"""``carvana archs``, ``configs``, ``plugins`` and ``new-plugin``, and commands of plugins, as a user types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import forkserver
import pytest
from typer.testing import CliRunner

from carvana.builtins import DECODERS
from carvana.cli.app import app
from carvana.config import configs

LOSS = "def register(registry):\n    registry.losses.register('mine', 'good:loss', summary='x')\n"


COMMAND = """
def register(registry):
    registry.commands.register("greet", "greeting:greet", summary="Greet somebody, or several.")
"""
GREETING = '''
from typing import Annotated
import typer

def greet(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Whom.")],
    loud: Annotated[bool, typer.Option(help="In capitals.")] = False,
) -> None:
    """Greet somebody, or several."""
    from carvana.errors import DataError

    if "nobody" in names:
        raise DataError("nobody is there")
    words = f"hello {' and '.join(names)}"
    typer.echo(words.upper() if loud else words)
'''


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two installed packages, one of which is broken."""
    return install(tmp_path / "site", {"good": LOSS, "broken": "import nothing_of_this_name\n"})


@pytest.fixture
def greeting(tmp_path: Path) -> Path:
    """Packages with commands: one works, one takes the name of a command that there is, one is not there any more."""
    takes = COMMAND.replace('"greet"', '"fit"')
    site = install(tmp_path / "site", {"good": COMMAND, "broken": takes, "late": COMMAND.replace("greet", "late")})
    (site / "greeting.py").write_text("print('imported')\n" + GREETING)
    return site


def install(folder: Path, packages: dict[str, str]) -> Path:
    for package, code in packages.items():
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


def test_a_command_of_a_plugin_is_listed_and_called(greeting: Path) -> None:
    listed = carvana("--help", site=greeting)
    assert listed.returncode == 0
    assert re.search(r"\bgreet +Greet somebody, or several\.", listed.stdout)
    assert "imported" not in listed.stdout + listed.stderr
    called = carvana("greet", "--loud", "Ann", "Bob", site=greeting)
    assert (called.returncode, called.stdout, called.stderr.splitlines()[-1]) == (0, "HELLO ANN AND BOB\n", "imported")
    assert "--loud" in carvana("greet", "--help", site=greeting).stdout
    assert carvana("greet", "--quiet", "Ann", site=greeting).stdout == "hello Ann\n"
    failed = carvana("greet", "nobody", site=greeting)
    assert (failed.returncode, failed.stderr.splitlines()[-1]) == (1, "error: nobody is there")
    assert carvana("greet", "--lowd", "Ann", site=greeting).returncode == 2


def test_a_command_that_is_gone_is_one_line(greeting: Path) -> None:
    gone = carvana("late", "x", site=greeting, CARVANA_PLUGINS="late")
    assert gone.returncode == 1
    assert "error: 'late' (from late) cannot be loaded from 'lateing:late': ModuleNotFoundError" in gone.stderr
    assert "Traceback" not in gone.stderr


def test_no_plugin_takes_the_name_of_a_command_of_carvana(greeting: Path) -> None:
    done = carvana("plugins", site=greeting)
    assert ["good", "2.5", "command:", "greet"] in [line.split() for line in done.stdout.splitlines()]
    assert "failed (broken): CarvanaError: 'fit' is a command of carvana itself" in done.stdout
    assert "greeting" not in carvana("fit", "--print-config", site=greeting).stderr
    records = {record["name"]: record for record in json.loads(carvana("plugins", "--json", site=greeting).stdout)}
    assert records["good"]["adds"] == {"commands": ["greet"]}


def test_a_command_of_a_plugin_is_completed(greeting: Path) -> None:
    def offered(*words: str) -> list[str]:
        line = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1), "_CARVANA_COMPLETE": "complete_bash"}
        path = os.pathsep.join([str(greeting), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "CARVANA_PLUGINS": "good", **line}
        program = "import sys; sys.argv = ['carvana']; from carvana.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        return done.stdout.split()

    assert offered("carvana", "gr") == ["greet"]
    assert "--loud" in offered("carvana", "greet", "--l")


def test_without_its_plugin_import_keras_says_how_to_get_it(site: Path) -> None:
    done = carvana("import-keras", "seed.h5", "--out", "seed", site=site, CARVANA_PLUGINS="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: import-keras is in the plugin carvana-keras: pip install ./plugins/carvana-keras\n"


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


def archs(*words: str) -> str:
    done = CliRunner().invoke(app, ["archs", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_overview_shows_each_family_with_a_name_that_can_be_built() -> None:
    lines = archs().splitlines()
    assert lines[1].startswith("unet-ref ")
    for decoder in DECODERS:
        row = next(line for line in lines if line.startswith(f"{decoder}/*"))
        assert ("dpt/tu-vit_tiny_patch16_224" if decoder == "dpt" else f"{decoder}/resnet34") in row


def test_json_is_everything_and_nothing_else() -> None:
    records = json.loads(archs("--json"))
    assert all(set(record) == {"name", "summary", "source", "version"} for record in records)
    names = [record["name"] for record in records]
    assert {"unet-ref", "unet/resnet34", "fpn/tu-*", "dpt/tu-*"} <= set(names)
    assert len(names) == len(set(names)) > 700
    assert all(record["summary"] and record["version"] for record in records if record["source"] == "carvana")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("unet/resnet1*", ["unet/resnet18", "unet/resnet101", "unet/resnet152"]),
        ("unet-ref", ["unet-ref"]),
        ("mobilenet_v2", [f"{d}/mobilenet_v2" for d in sorted(DECODERS) if d != "dpt"]),
        ("fpn/tu-convnext_atto_*", ["fpn/tu-convnext_atto_ols", "fpn/tu-convnext_atto_rms"]),
        ("unet/tu-convnext_atto", ["unet/tu-convnext_atto"]),
    ],
)
def test_a_pattern_lists_the_names_that_match(pattern: str, expected: list[str]) -> None:
    assert archs(pattern).split() == expected


def test_a_family_may_be_named_without_its_wildcard() -> None:
    assert archs("linknet") == archs("linknet/*")


@pytest.mark.parametrize(
    ("pattern", "line"), [("unet/resnet43", "did you mean 'unet/resnet34'"), ("zz*", "no architecture")]
)
def test_a_pattern_that_matches_nothing_is_one_line_and_exit_1(pattern: str, line: str) -> None:
    done = CliRunner().invoke(app, ["archs", pattern])
    assert (done.exit_code, done.stdout) == (1, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_listing_imports_neither_torch_nor_numpy_nor_smp_nor_timm() -> None:
    code = (
        "import sys; from carvana.cli.app import app\n"
        "for words in ([], ['unet/*'], ['--json']):\n"
        "    app(['archs', *words], standalone_mode=False)\n"
        "print(*sorted({'torch', 'numpy', 'timm', 'segmentation_models_pytorch'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
