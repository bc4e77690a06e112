from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

import carvana
from carvana.errors import CarvanaError, ConfigError, ModelError, UnknownNameError
from carvana.models import encoders
from carvana.models.encoders import create_encoder
from carvana.models.segmenter import create_model
from carvana.models.smp_encoders import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing cached, and a hub that refuses connections at once."""
    monkeypatch.setattr(encoders.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(encoders.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(encoders.constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18", "mit_b0", "tu-resnet18",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg16_bn", "tu-swin_tiny_patch4_window7_224")),
    ],
)  # fmt: skip
def test_an_encoder_gives_the_features_that_smps_own_gives(name: str):
    encoder = create_encoder(name)
    peer = smp.encoders.get_encoder(name, weights=None, **({"img_size": (64, 96)} if "swin" in name else {}))
    state = encoder.module.state_dict()
    if "swin" not in name:  # smp cannot free it from its size by itself, so only the shapes can be compared
        peer.load_state_dict(dict(state))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found, expected = encoder.module.eval()(images), peer.eval()(images)
    assert [tuple(feature.shape) for feature in found] == [tuple(feature.shape) for feature in expected]
    assert [feature.shape[1] for feature in found] == list(encoder.module.out_channels)
    assert 64 // found[-1].shape[-2] == encoder.module.output_stride == 32
    if "swin" not in name:
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weights", [None, "none", "None"])
def test_without_weights_it_is_random_on_the_record_and_in_training_mode(weights: str | None):
    torch.manual_seed(0)
    first = create_encoder("resnet18", weights=weights)
    assert isinstance(first, carvana.Encoder)
    second = create_encoder("resnet18", weights=weights)
    assert first.init == "random"
    assert first.is_random
    assert first.module.training
    assert not torch.equal(first.module.conv1.weight, second.module.conv1.weight)


def test_mean_and_std_are_those_of_the_weights():
    assert create_encoder("resnet18").mean == IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert create_encoder("resnet18").std == IMAGENET_STD == (0.229, 0.224, 0.225)
    lite, config = create_encoder("tu-tf_efficientnet_lite0"), timm.get_pretrained_cfg("tf_efficientnet_lite0")
    assert (lite.mean, lite.std) == (config.mean, config.std) == ((0.5,) * 3, (0.5,) * 3)


def test_a_file_of_torchvisions_weights_becomes_an_encoder_of_smp(tmp_path: Path):
    from torchvision.models import resnet18

    torch.manual_seed(3)
    whole = resnet18().eval()
    features = torch.nn.Sequential(*list(whole.children())[:-2])
    file = tmp_path / "resnet.safetensors"
    save_file({name: tensor for name, tensor in whole.state_dict().items() if not name.startswith("fc.")}, file)
    images = torch.rand(1, 3, 64, 32)
    for weights in (file, str(file)):
        encoder = create_encoder("resnet18", weights=weights)
        assert (encoder.init, encoder.is_random) == ("file:resnet.safetensors", False)
        with torch.no_grad():
            torch.testing.assert_close(encoder.module.eval()(images)[-1], features(images), rtol=0, atol=0)


def test_a_file_of_timms_weights_becomes_an_encoder_of_timm_that_keeps_no_second_copy(tmp_path: Path):
    torch.manual_seed(3)
    whole = timm.create_model("resnet18").eval()
    file = tmp_path / "weights.pth"
    torch.save(whole.state_dict(), file)
    encoder = create_encoder("tu-resnet18", weights=file)
    assert encoder.init == "file:weights.pth"
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.module.eval()(images)[-1], whole.forward_features(images))
    assert not any("state_dict" in (getattr(part, "pretrained_cfg", None) or {}) for part in encoder.module.modules())


def test_a_decoder_of_the_library_starts_from_the_same_encoder(tmp_path: Path):
    torch.manual_seed(3)
    file = tmp_path / "weights.pth"
    torch.save(smp.encoders.get_encoder("resnet18", weights=None).state_dict(), file)
    encoder = create_encoder("resnet18", weights=file)
    model = create_model("unet/resnet18", encoder_weights=file)
    assert (model.spec.init, model.spec.mean, model.spec.std) == (encoder.init, encoder.mean, encoder.std)
    found, expected = model.network.encoder.state_dict(), encoder.module.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_weights_in_the_cache_are_used_without_a_hub(empty_cache: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoders.constants, "HF_HUB_OFFLINE", True)
    settings = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    torch.manual_seed(5)
    state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    cache = Path(encoders.constants.HF_HUB_CACHE)
    snapshot = cache / f"models--{settings['repo_id'].replace('/', '--')}" / "snapshots" / settings["revision"]
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    save_file(state, snapshot / "model.safetensors")
    for wanted in ("auto", "imagenet"):
        encoder = create_encoder("resnet18", weights=wanted)
        assert (encoder.init, encoder.is_random) == ("imagenet", False)
        assert torch.equal(encoder.module.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("name", ["mobilenet_v2", "tu-resnet18"])
def test_auto_is_random_with_the_reason_where_no_hub_answers_and_imagenet_is_an_error(empty_cache: None, name: str):
    encoder = create_encoder(name, weights="auto")
    assert encoder.init == "auto: random (the hub did not answer within 3 s)"
    assert encoder.is_random
    with pytest.raises(ModelError, match="the hub did not answer within 3 s; use auto, none or a file"):
        create_encoder(name, weights="imagenet")


@pytest.mark.parametrize("name", ["mobilenet_v2", "tu-resnet18"])
def test_auto_is_random_where_a_hub_answers_and_gives_nothing(
    empty_cache: None, monkeypatch: pytest.MonkeyPatch, name: str
):
    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(encoders.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(encoders.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    try:
        encoder = create_encoder(name, weights="auto")
        assert encoder.is_random
        assert "did not answer" not in encoder.init
        with pytest.raises(ModelError, match=f"the encoder '{name}' cannot be built") as caught:
            create_encoder(name, weights="imagenet")
        assert "\n" not in str(caught.value)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("name", "weights", "kind", "line"),
    [
        ("resnet43", None, UnknownNameError, "no encoder is named 'resnet43'; did you mean 'resnet34'"),
        ("unet/resnet34", None, UnknownNameError, "no encoder is named 'unet/resnet34'"),
        ("tu-", None, UnknownNameError, "timm has no model ''"),
        ("tu-resnet43", None, UnknownNameError, "timm has no model 'resnet43'; did you mean 'resnet34'"),
        ("tu-resnet18.a1_in2k", None, UnknownNameError, "no weights 'resnet18.a1_in2k'; did you mean"),
        ("tu-hf-hub:somebody/resnet", None, UnknownNameError, "timm has no model"),
        ("tu-vit_tiny_patch16_224", None, ModelError, "cannot be built: it gives no features of several scales"),
        ("vgg16_bn", "imagenett", ConfigError, "no weights 'imagenett' for vgg16_bn; did you mean 'imagenet'"),
        ("vgg16_bn", "no/such.pth", ModelError, "no such file"),
    ],
)
def test_what_cannot_be_had_is_one_clear_line(name: str, weights: str | None, kind: type[CarvanaError], line: str):
    with pytest.raises(kind, match=line) as caught:
        create_encoder(name, weights=weights)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_networks_weights_is_refused(tmp_path: Path):
    file = tmp_path / "resnet.pth"
    torch.save(smp.encoders.get_encoder("resnet18", weights=None).state_dict(), file)
    with pytest.raises(ModelError, match=r"resnet.pth' does not fit vgg16_bn: neither names nor order agree"):
        create_encoder("vgg16_bn", weights=file)


def test_the_usual_weights_are_imagenets_where_smp_publishes_them():
    for name, entry in smp.encoders.encoders.items():
        published = encoders._published(name)
        assert set(published) == set(entry["pretrained_settings"])
        assert published[0] == "imagenet" or "imagenet" not in published
