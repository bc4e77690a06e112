from __future__ import annotations

import broken_networks
import pytest
from torch import nn

from carvana.compare.scripts import importable_archs
from carvana.errors import ConfigError
from carvana.registry import registry


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    broken_networks.register(monkeypatch)


def test_architectures_of_plugins_need_no_word() -> None:
    assert importable_archs(["unet-ref", "unet/resnet18"]) == {}


def test_those_of_scripts_are_told_by_their_place() -> None:
    registry.archs.register("function", broken_networks.plain)
    assert importable_archs(["plain", "function"]) == {
        "plain": "broken_networks:plain",
        "function": "broken_networks:plain",
    }


def test_a_function_that_no_other_process_can_import_is_refused() -> None:
    registry.archs.register("lambda", lambda **_: nn.Identity())
    with pytest.raises(ConfigError, match=r"'lambda' is built by .*module of its own"):
        importable_archs(["lambda"])
