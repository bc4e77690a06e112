from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import carvana
from carvana.errors import CarvanaError, UnknownNameError
from carvana.losses import make_loss
from carvana.registry import Catalog, Registry, registry


def family_names(family: str, pattern: str) -> list[str]:
    return ["net/resnet18", "net/resnet34", "net/resnet101", "net/tu-*"]


@pytest.fixture
def catalog() -> Catalog:
    catalog = Catalog("architecture")
    catalog.register("plain", "math:pi", summary="one of its own")
    catalog.register("net/*", "math:tau", names=family_names, summary="a family")
    catalog.register("open/*", "math:e")
    return catalog


def test_a_target_is_imported_only_when_it_is_loaded():
    catalog = Catalog("thing")
    catalog.register("missing", "no_such_module:x")
    catalog.register("lacking", "math:no_such_attribute")
    assert catalog.names() == ["lacking", "missing"]
    with pytest.raises(CarvanaError, match=r"'missing' \(from script\) cannot be loaded .* No module named"):
        catalog.load("missing")
    with pytest.raises(CarvanaError, match="no_such_attribute"):
        catalog.load("lacking")


def test_a_callable_is_a_target_as_well():
    catalog = Catalog("thing")
    catalog.register("sum", sum)
    assert catalog.load("sum") is sum


def test_a_name_is_taken_once_unless_replaced(catalog: Catalog):
    with pytest.raises(CarvanaError, match="'plain' is already registered by script"):
        catalog.register("plain", "math:e")
    catalog.register("plain", "math:e", replace=True)
    assert catalog.load("plain") == pytest.approx(2.718281828)


@pytest.mark.parametrize("name", ["", "two words", "a*b", "*", "x/*/*", "a=b", "un[et"])
def test_what_cannot_be_a_name_is_refused(catalog: Catalog, name: str):
    with pytest.raises(CarvanaError, match="cannot be a name"):
        catalog.register(name, "math:pi")


@pytest.mark.parametrize("target", ["math.pi", "math:", "", 3, "a b:c"])
def test_what_cannot_be_a_target_is_refused(catalog: Catalog, target: object):
    with pytest.raises(CarvanaError, match="a target must be"):
        catalog.register("new", target)  # type: ignore[arg-type]


def test_names_come_in_natural_order(catalog: Catalog):
    assert catalog.names("net/*") == ["net/resnet18", "net/resnet34", "net/resnet101", "net/tu-*"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*34", ["net/resnet34"]),
        ("pl?in", ["plain"]),
        ("net/resnet1[08]*", ["net/resnet18", "net/resnet101"]),
        ("x*", []),
    ],
)
def test_names_are_chosen_with_wildcards(catalog: Catalog, pattern: str, expected: list[str]):
    assert catalog.names(pattern) == expected


def test_an_entry_tells_family_summary_and_source(catalog: Catalog):
    entry = catalog.entry("net/resnet34")
    assert (entry.name, entry.family, entry.summary, entry.source) == ("net/resnet34", "net/*", "a family", "script")
    assert catalog.entry("plain").family is None


def test_a_rule_and_an_open_family_know_names_that_nobody_listed(catalog: Catalog):
    assert catalog.entry("net/tu-anything.at_all").family == "net/*"
    assert catalog.entry("open/whatever").family == "open/*"
    assert catalog.names("open/*") == ["open/*"]


def test_a_name_of_its_own_wins_over_a_family(catalog: Catalog):
    catalog.register("net/special", "math:pi", summary="special")
    assert catalog.entry("net/special").family is None
    assert catalog.names("net/s*") == ["net/special"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("plian", "did you mean 'plain'"),
        ("PLAIN", "did you mean 'plain'"),
        ("net/resnet43", "did you mean 'net/resnet34'"),
        ("nett/resnet34", "did you mean 'net/resnet34'"),
        ("net", "needs a second half, such as 'net/resnet18'"),
        ("net/", "needs a second half, such as 'net/resnet18'"),
        ("net/*", "needs a second half, such as 'net/resnet18'"),
        ("open", "needs a second half"),
        ("zzzzzz", "there are plain, net/\\*, open/\\*"),
        ("", "there are plain"),
        ("net/tu-*", "no architecture is named"),
    ],
)
def test_a_wrong_name_answers_with_the_nearest(catalog: Catalog, wrong: str, right: str):
    with pytest.raises(UnknownNameError, match=right) as caught:
        catalog.entry(wrong)
    assert "\n" not in str(caught.value)
    assert wrong not in catalog


def test_an_empty_catalog_says_so():
    with pytest.raises(UnknownNameError, match="none are registered"):
        Catalog("thing").entry("x")


def test_an_error_undoes_what_a_source_registered():
    registry = Registry()
    registry.losses.register("kept", "math:pi")

    def register_and_fail() -> None:
        with registry.registering("bad", "1"):
            registry.losses.register("half", "math:e")
            registry.losses.register("kept", "math:e", replace=True)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        register_and_fail()
    assert registry.losses.names() == ["kept"]
    assert registry.losses.entry("kept").source == "script"
    registry.losses.register("later", "math:pi")
    assert registry.losses.entry("later").source == "script"


def test_what_a_source_registers_carries_its_name_and_version():
    registry = Registry()
    with registry.registering("good", "1.2") as added:
        registry.losses.register("a", "math:pi")
        registry.archs.register("b/*", "math:pi")
    assert added == {"losses": ("a",), "archs": ("b/*",)}
    assert (registry.losses.entry("a").source, registry.losses.entry("a").version) == ("good", "1.2")
    assert registry.archs.entry("b/x").source == "good"


def test_threads_that_come_while_the_registry_loads_see_all_of_it():
    calls = []

    def loader(registry: Registry) -> list:
        calls.append(registry.losses.names())  # a plugin may look up what is there
        registry.losses.register("a", "math:pi")
        time.sleep(0.2)
        registry.losses.register("b", "math:e")
        return []

    registry = Registry(loader)
    assert not calls
    together = threading.Barrier(4)

    def look_up(_: int) -> list[str]:
        together.wait()
        return registry.losses.names()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(look_up, range(4)))
    assert found == [["a", "b"]] * 4
    assert calls == [[]]


def test_a_load_that_was_interrupted_is_begun_anew():
    calls = []

    def loader(registry: Registry) -> list:
        registry.losses.register("a", "math:pi")
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        registry.losses.register("b", "math:e")
        return []

    registry = Registry(loader)
    with pytest.raises(KeyboardInterrupt):
        registry.losses.names()
    assert registry.losses.names() == ["a", "b"]


def test_an_error_undoes_nothing_that_was_loaded_meanwhile():
    def loader(registry: Registry) -> list:
        registry.losses.register("built-in", "math:pi")
        return []

    registry = Registry(loader)
    with pytest.raises(CarvanaError), registry.registering("bad", "1"):
        registry.losses.register("built-in", "math:e")
    assert registry.losses.names() == ["built-in"]


def test_a_script_cannot_take_a_built_in_name_unseen():
    with pytest.raises(CarvanaError, match=r"'unet-ref' is already registered by carvana"):
        registry.archs.register("unet-ref", "math:pi")


def test_a_listing_imports_nothing_heavy():
    code = (
        "import sys; from carvana.registry import registry; assert len(registry.archs.names()) > 700;"
        "registry.archs.entry('unet/tu-convnext_tiny'); registry.archs.entry('fpn/resnet18');"
        "heavy = {'torch', 'numpy', 'timm', 'segmentation_models_pytorch', 'pydantic', 'rich', 'typer'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_family_whose_listing_fails_harms_no_other_name(caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog("architecture")
    catalog.register("sound", "math:tau")

    def names(family: str, pattern: str) -> list[str]:
        raise RuntimeError("out of paper")

    catalog.register("printer/*", "math:tau", names=names)
    catalog.register("nothing/*", "math:tau", names=lambda family, pattern: None)
    assert catalog.names() == ["nothing/*", "printer/*", "sound"]
    assert "'printer/*' (from script) cannot be listed: RuntimeError: out of paper" in caplog.text
    with pytest.raises(UnknownNameError, match="did you mean 'sound'"):
        catalog.load("sund")


def test_what_a_script_registers_is_made_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for catalog in (registry.archs, registry.losses):
        monkeypatch.setattr(catalog, "_entries", {entry.name: entry for entry in catalog.registered()})
    carvana.register_arch("one-layer", lambda *, classes: torch.nn.Conv2d(3, classes, 3, padding=1))
    carvana.register_loss("squared", lambda: lambda logits, targets: (logits.sigmoid() - targets).square().mean())
    logits = carvana.create_model("one-layer")(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert make_loss("squared")(logits, torch.ones_like(logits)).item() > 0
    with pytest.raises(carvana.CarvanaError, match="one-layer"):
        carvana.register_arch("one-layer", lambda *, classes: None)
