"""What scripts register, in worker processes: beside test_worker_pool.py, whose processes must not import torch."""

from __future__ import annotations

from typing import Any

import broken_networks
import pytest
from torch import nn

from carvana.errors import ConfigError
from carvana.leaderboard.worker_pool import register_targets, script_targets
from carvana.registry import registry


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    broken_networks.register(monkeypatch)
    monkeypatch.setattr(registry.losses, "_entries", dict(registry.losses._entries))


def test_architectures_of_plugins_need_no_word() -> None:
    assert not {"unet-ref", "unet/*"} & set(script_targets(["unet-ref", "unet/resnet18"])["archs"])


def test_those_of_scripts_are_told_by_their_place() -> None:
    registry.archs.register("function", broken_networks.plain)
    registry.losses.register("mine", broken_networks.plain)
    targets = script_targets(["plain", "function"])
    assert targets["archs"]["plain"] == targets["archs"]["function"] == "broken_networks:plain"
    assert targets["losses"]["mine"] == "broken_networks:plain"


@pytest.mark.parametrize("target", [lambda **_: nn.Identity(), "__main__:build"])
def test_a_function_that_no_other_process_can_import_is_refused(target: Any) -> None:
    registry.archs.register("here", target)
    with pytest.raises(ConfigError, match=r"'here' is built by .*module of its own"):
        script_targets(["here"])
    assert "here" not in script_targets(["plain"])["archs"]  # nobody needs it


def test_another_process_registers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = script_targets(["plain"])
    monkeypatch.setattr(registry.archs, "_entries", {k: v for k, v in registry.archs._entries.items() if k != "plain"})
    register_targets(targets)
    assert registry.archs.load("plain") is broken_networks.plain
    register_targets(targets)  # as a module does that registers itself when it is imported
    register_targets({"archs": {"gone": "no_such_module:build"}})  # of no use to anybody but who asks for it


def test_families_stay_families(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.archs.register("mine/*", "broken_networks:plain")
    targets = script_targets(["mine/one"])
    entries = {key: value for key, value in registry.archs._entries.items() if key != "mine/*"}
    monkeypatch.setattr(registry.archs, "_entries", entries)
    register_targets(targets)
    assert registry.archs.entry("mine/one").family == "mine/*"
