from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path

import forkserver
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from carvana.errors import ModelError
from carvana.models.segmenter import Segmenter, create_model, normalised, padded_size, reflected
from carvana.models.spec import ModelSpec
from carvana.registry import registry


class Echo(nn.Module):
    """Gives its input back, so that what the Segmenter did to it can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.dial = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return images * self.dial


def echo(**values: object) -> Segmenter:
    plain = {"mean": (0, 0, 0), "std": (1, 1, 1), "classes": 3}
    return Segmenter(Echo(), ModelSpec.model_validate({"arch": "echo", **plain, **values}))


@pytest.fixture
def model() -> Segmenter:
    torch.manual_seed(0)
    return create_model("unet-ref", width=4).eval()


def test_pixels_are_normalised_with_the_mean_and_std_of_the_spec():
    model = echo(mean=(0.1, 0.2, 0.3), std=(0.5, 2, 4))
    images = torch.rand(2, 3, 4, 6)
    expected = torch.stack([(images[:, c] - m) / s for c, (m, s) in enumerate([(0.1, 0.5), (0.2, 2), (0.3, 4)])], dim=1)
    torch.testing.assert_close(model(images), expected)


def test_bytes_and_floats_of_one_photo_give_the_same_bits(model: Segmenter):
    images = torch.randint(0, 256, (2, 3, 37, 50), dtype=torch.uint8)
    assert torch.equal(model(images), model(images.float() / 255))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (5, 40), (16, 16), (31, 33)])
def test_padding_mirrors_behind_the_last_rows_and_columns(size: tuple[int, int]):
    model = echo(stride=8, min_size=16)
    images = torch.rand(1, 3, *size)
    logits = model(images)
    seen = model.network.seen
    assert seen.shape[-2:] == tuple(padded_size(side, 8, 16) for side in size)
    assert torch.equal(logits, images)

    # The mirrored continuation by its definition: walk to and fro.
    def walk(side: int, steps: int) -> list[int]:
        path, position, direction = [], 0, 1
        for _ in range(steps):
            path.append(position)
            if side > 1:
                if not 0 <= position + direction < side:
                    direction = -direction
                position += direction
        return path

    rows, columns = (walk(side, padded) for side, padded in zip(size, seen.shape[-2:], strict=True))
    assert torch.equal(seen, images[:, :, rows][:, :, :, columns])


def test_padding_agrees_with_that_of_torch_where_torch_can():
    images = torch.rand(2, 3, 29, 27)
    model = echo(stride=16)
    model(images)
    assert torch.equal(model.network.seen, nn.functional.pad(images, (0, 5, 0, 3), mode="reflect"))


@pytest.mark.parametrize(
    ("images", "hint"),
    [
        (torch.zeros(3, 8, 8), r"images\[None\]"),
        (torch.zeros(1, 8, 8, 3), "permute"),
        (torch.zeros(1, 4, 8, 8), r"\(1, 4, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "int64"),
        (torch.zeros(1, 3, 0, 8), "empty"),
        ("photo.jpg", "str"),
    ],
)
def test_wrong_images_are_one_clear_value_error(model: Segmenter, images: object, hint: str):
    with pytest.raises(ValueError, match=hint) as caught:
        model(images)
    assert "\n" not in str(caught.value)


def test_a_network_that_returns_something_else_is_told_so():
    with pytest.raises(ModelError, match=r"must return logits \(N, 1, 8, 8\)"):
        echo(classes=1)(torch.zeros(1, 3, 8, 8))


# In a process of its own: torch sets its handler of the signal once, and others' tests may have set theirs since.
LOSES_A_READER = """
import multiprocessing, os, signal, time, torch
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.utils.parallel import end_readers, tells_of_killed_reader

class KillsItsReader(torch.nn.Module):
    def forward(self, images):
        [reader] = multiprocessing.active_children()
        os.kill(reader.pid, signal.SIGKILL)
        time.sleep(60)  # the handler raises at the first chance
        return images

if __name__ == "__main__":
    model = Segmenter(KillsItsReader(), ModelSpec(arch="kills", mean=(0, 0, 0), std=(1, 1, 1), classes=3))
    loader = torch.utils.data.DataLoader(torch.zeros(64, 3, 8, 8), num_workers=1)
    batches = iter(loader)
    try:
        model(next(batches))
    except Exception as error:
        print(type(error).__name__, tells_of_killed_reader(error))
    end_readers(loader)
"""


def test_a_reader_that_is_killed_meanwhile_is_found_behind_the_networks_error(tmp_path: Path):
    (tmp_path / "loses.py").write_text(LOSES_A_READER)
    done = forkserver.run([sys.executable, tmp_path / "loses.py"], capture_output=True, text=True, check=True)
    assert done.stdout == "ModelError True\n"


def test_with_spec_changes_what_the_next_photo_sees():
    model = echo()
    assert model.with_spec(mean=(0.5, 0.5, 0.5), trained_size=(8, 9)) is model
    assert model.spec.trained_size == (8, 9)
    assert model(torch.full((1, 3, 2, 2), 0.5)).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_is_fed_in_it(dtype: torch.dtype):
    logits = (
        create_model("unet-ref", width=4).eval().to(dtype)(torch.randint(0, 256, (1, 3, 40, 40), dtype=torch.uint8))
    )
    assert logits.dtype == dtype


def test_it_works_under_autocast_and_channels_last(model: Segmenter):
    images = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)
    expected = model(images)
    model = model.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images.to(memory_format=torch.channels_last))
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)


def test_one_exported_graph_serves_every_size(model: Segmenter):
    dynamic = torch.export.Dim.DYNAMIC
    images = torch.rand(1, 3, 49, 70)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (images,), dynamic_shapes=({2: dynamic, 3: dynamic},)).module()
    for size in ((49, 70), (64, 64), (90, 37), (5, 9)):
        images = torch.rand(1, 3, *size)
        torch.testing.assert_close(program(images), model(images))


def test_it_compiles_into_one_graph(model: Segmenter):
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    for size in ((40, 64), (33, 50)):
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        torch.testing.assert_close(compiled(images), model(images))


def test_the_encoder_is_known_by_its_parameters_and_copies_keep_their_own(model: Segmenter):
    down = list(model.network.down.parameters())
    assert [id(p) for p in model.encoder_parameters()] == [id(p) for p in down]
    twin = copy.deepcopy(model)
    assert [id(p) for p in twin.encoder_parameters()] == [id(p) for p in twin.network.down.parameters()]
    assert echo().encoder_parameters() == []


def test_saved_and_read_back_it_is_the_same_to_the_bit(model: Segmenter, tmp_path: Path):
    model = model.with_spec(trained_size=(128, 192), threshold=0.42, init="run:first").to(
        memory_format=torch.channels_last
    )
    model.save_pretrained(tmp_path / "run" / "model", metrics={"dice": 0.98533, "dice_ci95": [0.9, 0.99], "note": {}})
    images = torch.randint(0, 256, (1, 3, 45, 61), dtype=torch.uint8)
    for source in (tmp_path / "run" / "model", str(tmp_path / "run")):
        twin = Segmenter.from_pretrained(source).to(memory_format=torch.channels_last)
        assert twin.spec == model.spec
        assert not twin.training
        assert torch.equal(twin(images), model(images))
        assert len(twin.encoder_parameters()) == len(model.encoder_parameters())
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: carvana\n")
    for part in ("unet-ref", "run:first", "128 x 192", "0.42", "0.98533", "0.90000 .. 0.99000"):
        assert part in card
    assert sorted(path.name for path in (tmp_path / "run" / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_saving_again_replaces_what_is_there(model: Segmenter, tmp_path: Path):
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(tmp_path)
    assert torch.equal(next(Segmenter.from_pretrained(tmp_path).parameters()), next(model.parameters()))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.second = nn.Conv2d(3, 3, 1)
        self.second.weight = self.first.weight
        self.register_buffer("part", torch.arange(10.0)[2:4])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(images))


def test_tied_and_sliced_tensors_are_saved_and_stay_tied(tmp_path: Path):
    model = Segmenter(Tied(), ModelSpec(arch="tied", classes=3))
    model.save_pretrained(tmp_path)
    twin = Segmenter.from_pretrained(tmp_path, network=Tied())
    assert twin.network.first.weight is twin.network.second.weight
    images = torch.rand(1, 3, 4, 4)
    assert torch.equal(model(images), twin(images))
    assert (tmp_path / "model.safetensors").stat().st_size < 1000


def test_your_own_module_is_read_back_with_network(tmp_path: Path):
    model = Segmenter(nn.Conv2d(3, 1, 3, padding=1), ModelSpec(arch="my-net", stride=4, package="script"))
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'my-net': pass that nn\.Module, .*network=") as caught:
        Segmenter.from_pretrained(tmp_path)
    assert "pip install" not in str(caught.value)
    card = (tmp_path / "README.md").read_text()
    assert "network=your_module" in card
    assert "pip install" not in card
    twin = Segmenter.from_pretrained(tmp_path, network=nn.Conv2d(3, 1, 3, padding=1))
    assert twin.spec.stride == 4
    with pytest.raises(ModelError, match=r"'weight' has shape \(1, 3, 3, 3\) and should have \(1, 3, 1, 1\)"):
        Segmenter.from_pretrained(tmp_path, network=nn.Conv2d(3, 1, 1))


def test_a_missing_plugin_is_named(tmp_path: Path):
    model = Segmenter(nn.Conv2d(3, 1, 1), ModelSpec(arch="segnet-far-away", package="carvana-segnet"))
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="pip install carvana-segnet"):
        Segmenter.from_pretrained(tmp_path)


def test_the_package_of_a_registered_architecture_travels_with_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry.archs, "_entries", {entry.name: entry for entry in registry.archs.registered()})
    assert create_model("unet-ref", width=2).spec.package == "carvana"
    registry.archs.register("script-net", lambda *, classes: nn.Conv2d(3, classes, 1))
    assert create_model("script-net").spec.package == "script"


def damage(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    state = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # not mapped from what is overwritten
    if how == "missing":
        state.pop("head.bias")
    elif how == "unexpected":
        state["surprise"] = torch.zeros(1)
    elif how == "shape":
        state["head.bias"] = torch.zeros(7)
    elif how == "kind":
        state["head.bias"] = torch.zeros(1, dtype=torch.int64)
    elif how == "nan":
        state["head.bias"] = torch.tensor([float("nan")])
    elif how == "pickle":
        torch.save(state, weights)
        return
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
        return
    elif how == "empty":
        weights.write_bytes(b"")
        return
    elif how == "no weights":
        weights.unlink()
        return
    elif how == "no config":
        (folder / "config.json").unlink()
        return
    elif how == "foreign config":
        (folder / "config.json").write_text('{"architectures": ["Bert"]}')
        return
    elif how == "not json":
        (folder / "config.json").write_text("arch: unet")
        return
    save_file(state, weights)


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("missing", "1 of .* tensors are missing, the first is 'head.bias'"),
        ("unexpected", "1 tensors are unknown to it, the first is 'surprise'"),
        ("shape", r"'head.bias' has shape \(7,\) and should have \(1,\)"),
        ("kind", "'head.bias' is torch.int64"),
        ("nan", "'head.bias' holds values that are not finite"),
        ("pickle", "not a readable safetensors file"),
        ("cut", "not a readable safetensors file"),
        ("empty", "not a readable safetensors file"),
        ("no weights", "model.safetensors is missing"),
        ("no config", "config.json is missing"),
        ("foreign config", "was not written by carvana"),
        ("not json", "is not JSON"),
    ],
)
def test_what_is_wrong_with_a_model_folder_is_one_clear_line(model: Segmenter, tmp_path: Path, how: str, line: str):
    model.save_pretrained(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(ModelError, match=line) as caught:
        Segmenter.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_no_folder_is_told_without_asking_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").touch()
    for name, line in [("runs/typo", "no model folder"), ("typo", "no model folder"), ("/no/where/at/all", "no model")]:
        with pytest.raises(ModelError, match=line):
            Segmenter.from_pretrained(name)
    with pytest.raises(ModelError, match="is a file"):
        Segmenter.from_pretrained("file")


def test_a_hub_that_cannot_be_reached_is_one_clear_line(model: Segmenter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="the hub did not give a repository of that name") as caught:
        Segmenter.from_pretrained("nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="'nobody/nothing' could not be pushed to the hub") as caught:
        model.push_to_hub("nobody/nothing")
    assert "\n" not in str(caught.value)


MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)
FORMS = [torch.contiguous_format, torch.channels_last]


def photos(form: torch.memory_format, *size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).contiguous(memory_format=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(7, 9), (1, 5), (1, 1), (8, 16)])
def test_padding_is_numpy_s_reflection_and_keeps_the_order_in_memory(
    form: torch.memory_format, size: tuple[int, int]
) -> None:
    images = photos(form, 2, 3, *size)
    padded = reflected(images, 24, 32)
    edges = ((0, 0), (0, 0), (0, 24 - size[0]), (0, 32 - size[1]))
    np.testing.assert_array_equal(padded.numpy(), np.pad(images.numpy(), edges, mode="reflect"))
    if size != (1, 1):  # one pixel has no order
        assert padded.is_contiguous(memory_format=form)


@pytest.mark.parametrize("form", FORMS)
def test_bytes_and_floats_are_normalised_to_the_same_bits_in_either_order(form: torch.memory_format) -> None:
    images = photos(form, 2, 3, 13, 17)
    before = images.clone()
    expected = (images.float() / 255 - MEAN) / STD
    assert torch.equal(normalised(images, MEAN, STD), expected)
    assert torch.equal(images, before)
    floats = images.float() / 255
    kept = floats.clone()
    assert torch.equal(normalised(floats, MEAN, STD), expected)
    assert torch.equal(floats, kept)
    assert normalised(images, MEAN, STD).is_contiguous(memory_format=form)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_the_photos(form: torch.memory_format) -> None:
    images = photos(form, 1, 3, 5, 6).float().requires_grad_()
    normalised(reflected(images, 8, 8), MEAN, STD).sum().backward()
    assert images.grad is not None
    assert float(images.grad.sum()) == pytest.approx(float(64 * (1 / STD).sum()), rel=1e-5)
