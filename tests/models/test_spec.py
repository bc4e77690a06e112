from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from carvana.errors import ModelError
from carvana.models.spec import FORMAT_VERSION, ModelSpec

SPEC = ModelSpec(
    arch="unet/resnet34",
    options={"decoder_channels": [64, 32], "deep": {"a": None}},
    stride=32,
    min_size=64,
    trained_size=(128, 192),
    threshold=0.4,
    init="file:x.safetensors",
)


def test_a_spec_survives_json():
    text = json.dumps(SPEC.to_json(), allow_nan=False)
    assert ModelSpec.from_json(json.loads(text)) == SPEC


def test_a_spec_cannot_be_changed_in_place():
    with pytest.raises(ValidationError):
        SPEC.threshold = 0.1  # type: ignore[misc]


def test_changed_checks_like_the_original():
    assert SPEC.changed(trained_size=(64, 64)).trained_size == (64, 64)
    with pytest.raises(ModelError, match="thresholt"):
        SPEC.changed(thresholt=0.1)


def test_tuples_in_options_become_what_json_gives_back():
    assert ModelSpec(arch="x", options={"channels": (1, 2)}).options == {"channels": [1, 2]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"trained_size": [0, 5]},
        {"trained_size": [5]},
        {"trained_size": [5, 5, 5]},
        {"threshold": 1.5},
        {"classes": 0},
        {"stride": 0},
        {"min_size": -1},
        {"std": [1, 0, 1]},
        {"mean": [1, float("nan"), 1]},
        {"arch": ""},
        {"surprise": 1},
        {"options": {"f": object()}},
        {"task": "car"},
        {"task": [1]},
    ],
)
def test_a_value_out_of_range_is_one_clear_line(wrong: dict):
    with pytest.raises(ModelError, match=next(iter(wrong))) as caught:
        ModelSpec.from_json(SPEC.to_json() | wrong)
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_refused_before_its_new_keys_are():
    with pytest.raises(ModelError, match=r"format version 3, .* upgrade carvana"):
        ModelSpec.from_json({"format_version": FORMAT_VERSION + 1, "new": 1})


def test_a_range_may_hold_any_numbers_of_float32():
    spec = SPEC.changed(range=((-2e38, 5_000_000.0),) * len(SPEC.channels))
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("foreign", [[], "x", None, 3])
def test_what_is_not_an_object_is_refused(foreign: object):
    with pytest.raises(ModelError, match="JSON object"):
        ModelSpec.from_json(foreign)
