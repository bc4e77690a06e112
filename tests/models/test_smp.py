from __future__ import annotations

import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

from carvana.errors import CarvanaError, ConfigError, ModelError, UnknownNameError
from carvana.models import encoders
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.smp import option_names
from carvana.utils.progress import LogReporter


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing cached, and a hub that refuses connections at once."""
    monkeypatch.setattr(encoders.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(encoders.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(encoders.constants, "HF_HUB_OFFLINE", False)


def test_the_network_is_smps_own():
    torch.manual_seed(0)
    model = create_model("unet/resnet18", decoder_channels=[32, 16, 8, 8, 8]).eval()
    torch.manual_seed(0)
    peer = smp.Unet("resnet18", encoder_weights=None, decoder_channels=[32, 16, 8, 8, 8]).eval()
    peer.load_state_dict(model.network.state_dict())
    photos = torch.rand(1, 3, 64, 96)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.spec.mean, model.spec.std))
    torch.testing.assert_close(model(photos), peer((photos - mean) / std))


@pytest.mark.parametrize(
    ("name", "stride", "min_size"),
    [
        ("unet/resnet18", 32, 64),
        ("pspnet/resnet18", 8, 32),
        ("deeplabv3plus/resnet18", 16, 32),
        ("pan/resnet18", 16, 128),
        ("dpt/tu-vit_tiny_patch16_224", 32, 64),
        ("fpn/tu-swin_tiny_patch4_window7_224", 32, 64),
    ],
)
def test_stride_and_smallest_size_are_found(name: str, stride: int, min_size: int):
    spec = create_model(name).spec
    assert (spec.stride, spec.min_size) == (stride, min_size)


@pytest.mark.parametrize("name", ["pspnet/resnet18", "pan/resnet18", "dpt/tu-vit_tiny_patch16_224"])
def test_a_saved_model_is_built_alike_without_trying_sizes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    model = create_model(name)
    model.save_pretrained(tmp_path)
    tried = []
    monkeypatch.setattr("carvana.models.smp._try", lambda module, channels, size: tried.append(size))
    twin = Segmenter.from_pretrained(tmp_path)
    assert not tried
    assert twin.spec == model.spec
    assert list(twin.state_dict()) == list(model.state_dict())
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]
    create_model("fpn/resnet18")
    assert tried


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_model_is_loaded_where_nobody_asks_for_gradients(context: type, tmp_path: Path):
    create_model("unet/resnet18", encoder_weights="none").save_pretrained(tmp_path)
    with context():
        loaded = Segmenter.from_pretrained(tmp_path)
        created = create_model("unet/resnet18", encoder_weights="none")
    for model in (loaded, created):
        model.train()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_what_never_learns_is_not_counted():
    pspnet = create_model("pspnet/resnet18").network
    whole = smp.PSPNet("resnet18", encoder_weights=None)
    unused = sum(p.numel() for part in (whole.encoder.layer3, whole.encoder.layer4) for p in part.parameters())
    assert sum(p.numel() for p in pspnet.parameters()) == sum(p.numel() for p in whole.parameters()) - unused
    dpt = dict(create_model("dpt/tu-vit_tiny_patch16_224").network.named_parameters())
    assert not [name for name in dpt if name.startswith(("encoder.model.norm.", "encoder.model.head."))]


def test_building_leaves_statistics_and_gradients_untouched():
    network = create_model("unet/resnet18").network
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.encoder.bn1.num_batches_tracked == 0
    assert not network.encoder.bn1.running_mean.any()


@pytest.mark.parametrize("name", ["deeplabv3/resnet18", "pan/resnet18"])
def test_a_batch_of_one_that_cannot_train_is_told_so(name: str):
    model = create_model(name)
    with pytest.raises(ModelError, match="batches of at least 2"):
        model.train()(torch.zeros(1, 3, 128, 128))
    assert model(torch.zeros(2, 3, 128, 128)).shape == (2, 1, 128, 128)


def test_options_are_those_of_smp_and_an_unknown_one_is_one_clear_line():
    assert create_model("fpn/resnet18", options={"decoder_dropout": 0.0}).network.decoder.dropout.p == 0
    with pytest.raises(
        ConfigError, match=r"no option 'decoder_chanels'; did you mean 'decoder_channels'.* it takes enc"
    ):
        create_model("unet/resnet18", decoder_chanels=[1])
    for reserved in ("activation", "in_channels", "aux_params", "encoder_name"):
        with pytest.raises(ConfigError, match=f"no option '{reserved}'"):
            create_model("unet/resnet18", options={reserved: "sigmoid"})
        assert reserved not in option_names("unet")
    with pytest.raises(ConfigError, match="'name' is not an option"):
        create_model("unet/resnet18", options={"name": "x"})


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("unet/resnet18", {"decoder_channels": [8, 8]}, r"cannot be built with \{'decoder_channels': \[8, 8\]\}"),
        ("unet/tu-vit_tiny_patch16_224", {}, "features of several scales"),
        ("unet/tu-coat_lite_tiny", {}, "does not take images of any size|features_only not implemented"),
        ("pan/tu-pvt_v2_b0", {}, "dilates its encoder, which this one does not allow"),
        ("deeplabv3/tu-vgg11", {}, "dilates its encoder, which this one does not allow"),
        ("dpt/tu-resnet18", {}, "only plain vision transformers"),
        ("dpt/tu-vit_small_patch14_dinov2", {}, "patches of 8, 16 or 32"),
        ("unet/tu-resnet43", {}, "timm has no model 'resnet43'; did you mean 'resnet34'"),
        ("unet/tu-resnet18.a1_in2k", {}, "no weights 'resnet18.a1_in2k'; did you mean 'resnet18.a1_in1k'"),
        ("unet/tu-hf-hub:somebody/resnet", {}, "timm has no model"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(name: str, options: dict, line: str):
    with pytest.raises(CarvanaError, match=line) as caught:
        create_model(name, options=options)
    assert isinstance(caught.value, ModelError | UnknownNameError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "decoder", "how"),
    [
        ("tf_efficientnet_lite0", "unet", "name"),
        ("tf_efficientnet_lite0", "unet", "order"),
        ("resnet18", "fpn", "headless"),
        ("vit_tiny_patch16_224", "dpt", "order"),
        ("vit_tiny_patch16_224", "dpt", "headless"),
    ],
)
def test_a_file_of_timms_weights_becomes_the_encoder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: str, decoder: str, how: str
):
    torch.manual_seed(3)
    whole = timm.create_model(model).eval()
    state = whole.state_dict()
    if how == "order":
        state = {f"{i:04d}": tensor for i, (name, tensor) in enumerate(state.items()) if "tracked" not in name}
    elif how == "headless":
        state = {name: tensor for name, tensor in state.items() if not name.startswith(("classifier.", "fc.", "head."))}
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    built = create_model(f"{decoder}/tu-{model}", encoder_weights=path)
    assert built.spec.init == "file:weights.safetensors"
    assert not caplog.records
    photos = torch.rand(1, 3, 224, 224)
    encoder = built.eval().network.encoder
    with torch.no_grad():
        if decoder == "dpt":
            expected = whole.forward_intermediates(photos, indices=4, intermediates_only=True)[-1]
            found = encoder(photos)[0][-1]
        else:
            peer = timm.create_model(model, features_only=True)
            peer.load_state_dict({n: t for n, t in whole.state_dict().items() if n in peer.state_dict()})
            expected, found = peer.eval()(photos)[-1], encoder(photos)[-1]
    torch.testing.assert_close(found, expected)
    assert not any("state_dict" in (getattr(part, "pretrained_cfg", None) or {}) for part in built.modules())


def test_a_file_of_torchvisions_weights_becomes_an_own_encoder(tmp_path: Path):
    from torchvision.models import resnet18

    torch.manual_seed(3)
    whole = resnet18()
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    encoder = create_model("unet/resnet18", encoder_weights=tmp_path / "resnet18.pth").network.encoder
    assert torch.equal(encoder.layer4[1].conv2.weight, whole.layer4[1].conv2.weight)
    with pytest.raises(ModelError, match=r"resnet18.pth' does not fit mobilenet_v2: neither names nor order agree"):
        create_model("unet/mobilenet_v2", encoder_weights=tmp_path / "resnet18.pth")


def test_a_model_that_began_with_a_file_loads_without_it(tmp_path: Path):
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    model = create_model("pspnet/tu-resnet18", encoder_weights=str(path)).eval()
    model.save_pretrained(tmp_path / "model")
    path.unlink()
    twin = Segmenter.from_pretrained(tmp_path / "model")
    photos = torch.rand(1, 3, 40, 40)
    assert torch.equal(model(photos), twin(photos))
    assert twin.spec.init == "file:weights.pth"


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        (
            "imagenett",
            "no weights 'imagenett' for dpn92; did you mean 'imagenet\\+5k'.* there are imagenet\\+5k, auto, none",
        ),
        ("imagenet", "there are imagenet\\+5k"),
        ("no/such/file.pth", "no such file"),
        ("", "must be imagenet, none, auto or a file"),
        (3, "must be imagenet, none, auto or a file"),
    ],
)
def test_weights_that_there_are_not_are_one_clear_line(weights: object, line: str):
    with pytest.raises(CarvanaError, match=line):
        create_model("unet/dpn92", encoder_weights=weights)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["unet/resnet18", "unet/tu-resnet18"])
def test_auto_starts_at_random_with_a_warning_where_no_hub_answers(
    no_hub: None, name: str, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, "carvana"):
        model = create_model(name, encoder_weights="auto")
    assert model.spec.init == "auto: random (the hub did not answer within 3 s)"
    assert caplog.messages == [f"{name} starts from random weights (the hub did not answer within 3 s)"]
    with pytest.raises(ModelError, match="the hub did not answer within 3 s; use auto, none or a file"):
        create_model(name, encoder_weights="imagenet")


def test_auto_does_not_wait_for_a_hub_that_hangs(no_hub: None, monkeypatch: pytest.MonkeyPatch):
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(encoders.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(encoders, "PATIENCE", 0.3)
        began = time.monotonic()
        init = create_model("unet/resnet18", encoder_weights="auto").spec.init
        assert time.monotonic() - began < 3
    assert init == "auto: random (the hub did not answer within 0.3 s)"


@pytest.mark.parametrize("name", ["pspnet/resnet18", "pspnet/tu-resnet18"])
def test_auto_starts_at_random_where_a_hub_answers_and_gives_nothing(
    no_hub: None, monkeypatch: pytest.MonkeyPatch, name: str
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
        init = create_model(name, encoder_weights="auto").spec.init
        assert init.startswith("auto: random (")
        assert "did not answer" not in init
        with pytest.raises(ModelError, match="cannot be built") as caught:
            create_model(name, encoder_weights="imagenet")
        assert "\n" not in str(caught.value)
    finally:
        server.shutdown()
        server.server_close()


def test_auto_is_random_where_nothing_is_published():
    unpublished = next(n for n in ("test_vit", "resnet18d", "skresnet50d") if not timm.models.is_model_pretrained(n))
    assert encoders.resolve(f"tu-{unpublished}", "auto").init == "auto: random (none are published)"


def test_cached_weights_are_used_without_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cache as huggingface_hub leaves it, a process that is told to stay offline."""
    monkeypatch.setattr(encoders.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(encoders.constants, "HF_HUB_OFFLINE", True)
    settings = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    torch.manual_seed(5)
    state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    snapshot = tmp_path / f"models--{settings['repo_id'].replace('/', '--')}" / "snapshots" / settings["revision"]
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    save_file(state, snapshot / "model.safetensors")
    for wanted in ("auto", "imagenet"):
        model = create_model("pspnet/resnet18", encoder_weights=wanted)
        assert model.spec.init == "imagenet"
        assert torch.equal(model.network.encoder.conv1.weight, state["conv1.weight"])
    other = create_model("pspnet/resnet34", encoder_weights="auto")
    assert other.spec.init == "auto: random (HF_HUB_OFFLINE is set and they are not cached)"


def test_who_listens_is_warned_instead_of_the_log(no_hub: None, caplog: pytest.LogCaptureFixture):
    class Listener(LogReporter):
        heard: ClassVar[list[str]] = []

        def warn(self, message: str) -> None:
            self.heard.append(message)

    create_model("unet/resnet18", encoder_weights="auto", reporter=Listener())
    create_model("unet/resnet18", encoder_weights="none", reporter=Listener())
    assert len(Listener.heard) == 1
    assert "random weights" in Listener.heard[0]
    assert not caplog.messages
