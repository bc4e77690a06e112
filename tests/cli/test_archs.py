from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from carvana.builtins import DECODERS
from carvana.cli.app import app


def archs(*words: str) -> str:
    done = CliRunner().invoke(app, ["archs", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_overview_shows_each_family_with_a_name_that_can_be_built():
    lines = archs().splitlines()
    assert lines[1].startswith("unet-ref ")
    for decoder in DECODERS:
        row = next(line for line in lines if line.startswith(f"{decoder}/*"))
        assert ("dpt/tu-vit_tiny_patch16_224" if decoder == "dpt" else f"{decoder}/resnet34") in row


def test_json_is_everything_and_nothing_else():
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
def test_a_pattern_lists_the_names_that_match(pattern: str, expected: list[str]):
    assert archs(pattern).split() == expected


def test_a_family_may_be_named_without_its_wildcard():
    assert archs("linknet") == archs("linknet/*")


@pytest.mark.parametrize(
    ("pattern", "line"), [("unet/resnet43", "did you mean 'unet/resnet34'"), ("zz*", "no architecture")]
)
def test_a_pattern_that_matches_nothing_is_one_line_and_exit_1(pattern: str, line: str):
    done = CliRunner().invoke(app, ["archs", pattern])
    assert (done.exit_code, done.stdout) == (1, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_listing_imports_neither_torch_nor_numpy_nor_smp_nor_timm():
    code = (
        "import sys; from carvana.cli.app import app\n"
        "for words in ([], ['unet/*'], ['--json']):\n"
        "    app(['archs', *words], standalone_mode=False)\n"
        "print(*sorted({'torch', 'numpy', 'timm', 'segmentation_models_pytorch'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
