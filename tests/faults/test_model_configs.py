"""Model files: config.json."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.commands import carvana
from faults.models import CONFIG, configure, refusal, save_model

from carvana.models.segmenter import Segmenter


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


BAD: list[Any] = [
    None,
    [],
    {"a": 1},
    "x\x1b[2J\n",
    "1",
    -1,
    0.5,
    True,
    10**30,
    float("nan"),
    float("inf"),
    [[1]],
    [True] * 3,
]
FITS: dict[str, list[Any]] = {
    "trained_size": [None],
    "threshold": [0.5],
    "arch": [],
    "init": ["x\x1b[2J\n", "1"],  # a text that is shown nowhere in a message
    "package": ["1"],
}


@pytest.mark.fault(
    done=("each key of config.json with 13 values of other types, out of range, or with control characters"),
    promised="one line that names the file, the key and the value, with control characters escaped",
    reaches="models/spec.py: ModelSpec.from_json",
)
@pytest.mark.parametrize(
    "key", ["arch", "options", "classes", "stride", "min_size", "mean", "std", "trained_size", "threshold", "init",
            "package", "format_version"],
)  # fmt: skip
def test_each_key_of_a_configuration_is_checked(key: str, model: Path, came_out: Callable[..., None]) -> None:
    for bad in [bad for bad in BAD if not any(bad is fits or bad == fits for fits in FITS.get(key, []))]:
        if key == "arch" and bad == "1":
            continue  # a name like any other
        configure(model, **{key: bad})
        line = refusal(lambda: Segmenter.from_pretrained(model))
        assert str(model) in line or (key == "options" and "unet-ref" in line)
        assert key in line or "format" in line or (key == "options" and "'a'" in line)
    came_out(times=len(BAD))


@pytest.mark.fault(
    done=(
        "config.json that is empty, nested 200,000 deep, has a number of 5,000 digits, is not UTF-8, is "
        "of a later format"
    ),
    promised="one line that names the file, and what to do about a later format",
    reaches="models/serialization.py: read_spec on what is no JSON object",
)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b'{"arch":' * 200_000, "is not JSON"),
        (b'{"arch": "unet-ref", "classes": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"\xff\xfe{\x00}\x00", "is not JSON"),
        (b"[1, 2]", "must be a JSON object"),
        (b'{"arch": "unet-ref", "threshold": NaN}', "thresholds = nan"),
        (b'{"arch": "unet-ref", "surprise": 1}', "surprise: unknown key"),
        (b'{"arch": "unet-ref", "format_version": 3, "news": 1}', "reads up to 2; upgrade carvana"),
    ],
)
def test_a_configuration_that_is_none_is_refused(content: bytes, words: str, model: Path) -> None:
    (model / CONFIG).write_bytes(content)
    line = refusal(lambda: Segmenter.from_pretrained(model))
    assert words in line
    assert str(model / CONFIG) in line


@pytest.mark.fault(
    done="config.json that names a module, a path, weights on the hub, a command for pip, dunder options",
    promised="refused in one line; nothing is imported, no socket is opened, no command is shown",
    reaches="registry.py: names are looked up; models/encoders.py: check_timm; models/build.py: check_options",
)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "stranger:build"}, "this carvana lacks"),
        ({"arch": "stranger.build", "package": "stranger"}, "if you trust it: pip install stranger"),
        ({"arch": "stranger", "options": {"target": "stranger:build"}}, "this carvana lacks"),
        ({"arch": "../../model"}, "this carvana lacks"),
        ({"arch": "/etc/passwd"}, "this carvana lacks"),
        ({"arch": "unet/*"}, "this carvana lacks"),
        ({"arch": "unet/../../model"}, "this carvana lacks"),
        ({"arch": "unet/tu-hf-hub:stranger/model"}, "timm has no model"),
        ({"arch": "unet/tu-local-dir:/tmp"}, "timm has no model"),
        ({"arch": "nowhere", "package": "x; rm -rf ~"}, "must be the name of a package"),
        ({"arch": "nowhere", "package": "--index-url"}, "must be the name of a package"),
        ({"arch": "nowhere", "package": "git+https://example.org/x"}, "must be the name of a package"),
        ({"options": {"__class__": "stranger:build"}}, "has no option '__class__'"),
        ({"options": {"__init__": 1, "width": 2}}, "has no option '__init__'"),
        ({"options": {"encoder_weights": "stranger.pt"}}, "is not an option of"),
        ({"options": {"known_sizes": [1, 1]}}, "is not an option of"),
        ({"options": {"bn_momentum": "0.1"}}, "must be a number, got '0.1'"),
        ({"options": {"width": [2]}}, "must be a whole number"),
        ({"arch": "unet/resnet18", "options": {"encoder_name": "resnet34"}}, "has no option 'encoder_name'"),
        ({"arch": "unet/resnet18", "options": {"decoder_channels": "os.system"}}, "cannot be built with"),
        ({"arch": "unet/resnet18", "options": {"encoder_depth": {"__reduce__": []}}}, "cannot be built with"),
    ],
)
def test_a_configuration_leads_nowhere(
    changes: dict[str, Any], words: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a socket"))
    configure(model, **changes)
    assert words in refusal(lambda: Segmenter.from_pretrained(model))
    assert "stranger" not in sys.modules


PEAK = (
    "import atexit, resource, sys\nfrom carvana.cli import main\n"
    "atexit.register(lambda: print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))\n"
    "main()"
)


@pytest.mark.fault(
    done="a model of 150 kB whose options or classes name a network of 8 GB, 300 GB, terabytes, in predict",
    promised="exit code 1, one line, under 2 GB of memory in all",
    reaches="models/build.py: AllocationLimit, more numbers than the file can hold",
    quick=1,
)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": {"width": 10**9}}, "holds too little for its options"),
        ({"options": {"width": 3000}}, "holds too little for its options"),
        ({"options": {"width": 500}}, "holds too little for its options"),
        ({"arch": "unet/resnet18", "options": {"decoder_channels": [10**6] * 5}}, "holds too little for its options"),
        ({"arch": "fpn/resnet18", "options": {"decoder_pyramid_channels": 10**6}}, "holds too little for its options"),
        ({"classes": 10**9}, "classes = 1000000000"),
        ({"min_size": 10**9}, "min_size = 1000000000"),
        ({"trained_size": [10**9, 10**9]}, "trained_size = 1000000000"),
    ],
)
def test_a_giant_network_takes_no_memory(
    changes: dict[str, Any], words: str, model: Path, tiny_data: Path, tmp_path: Path, came_out: Callable[..., None]
) -> None:
    configure(model, **changes)
    done = carvana("predict", model, tiny_data / "train", "--out", tmp_path / "out", program=("-c", PEAK))
    assert words in done.error
    (peak,) = (int(line.split()[1]) for line in done.err.splitlines() if line.startswith("peak "))
    assert peak < 2_000_000
    came_out("under 2 GB, of which 1 is the libraries' own")
