from __future__ import annotations

from carvana.errors import CarvanaError, did_you_mean, nearest


def test_the_nearest_names_come_first() -> None:
    names = ["unet/resnet34", "unet/resnet18", "fpn/resnet34", "segnet"]
    assert nearest("unet/resent34", names)[0] == "unet/resnet34"
    assert nearest("UNET/ResNet18", names, 1) == ["unet/resnet18"]
    assert nearest("zebra", names) == []


def test_a_hint_is_a_half_sentence_or_nothing() -> None:
    assert did_you_mean("dcie", ["dice"]) == "; did you mean 'dice'?"
    assert did_you_mean("zebra", ["dice"]) == ""


def test_errors_are_value_errors() -> None:
    assert issubclass(CarvanaError, ValueError)
