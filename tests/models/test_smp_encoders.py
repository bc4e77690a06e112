from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from carvana.builtins import DECODERS
from carvana.errors import UnknownNameError
from carvana.models.smp_encoders import ENCODERS, names, normalisation, refusal
from carvana.registry import registry

# The same networks with the same weights in timm, which keeps their normalisation in its source.
TWINS = {
    "resnet34": "resnet34.tv_in1k",
    "dpn68": "dpn68.mx_in1k",
    "dpn107": "dpn107.mx_in1k",
    "vgg16_bn": "vgg16_bn.tv_in1k",
    "senet154": "legacy_senet154.in1k",
    "densenet121": "densenet121.tv_in1k",
    "inceptionresnetv2": "inception_resnet_v2.tf_in1k",
    "inceptionv4": "inception_v4.tf_in1k",
    "xception": "legacy_xception.tf_in1k",
    "timm-efficientnet-b0": "tf_efficientnet_b0.in1k",
    "timm-efficientnet-l2": "tf_efficientnet_l2.ns_jft_in1k",
    "timm-tf_efficientnet_lite0": "tf_efficientnet_lite0.in1k",
    "timm-tf_efficientnet_lite4": "tf_efficientnet_lite4.in1k",
    "timm-skresnet18": "skresnet18.ra_in1k",
    "mobileone_s0": "mobileone_s0.apple_in1k",
}


def test_the_table_is_that_of_the_installed_smp():
    assert set(ENCODERS) == set(smp.encoders.encoders)
    assert len(ENCODERS) == len(set(ENCODERS))


def test_the_decoders_are_those_of_smp():
    assert set(DECODERS) == set(smp.MODEL_ARCHITECTURES_MAPPING)


@pytest.mark.parametrize(("encoder", "twin"), TWINS.items())
def test_normalisation_is_that_of_the_same_network_in_timm(encoder: str, twin: str):
    config = timm.get_pretrained_cfg(twin)
    mean, std = normalisation(encoder)
    assert mean == pytest.approx(config.mean)
    assert std == pytest.approx(config.std)


def test_adversarially_trained_weights_have_a_normalisation_of_their_own():
    config = timm.get_pretrained_cfg("tf_efficientnet_b0.ap_in1k")
    assert normalisation("timm-efficientnet-b0", "advprop") == (tuple(config.mean), tuple(config.std))


KINDS = {entry["encoder"]: name for name, entry in reversed(smp.encoders.encoders.items())}


@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated")
@pytest.mark.parametrize("encoder", KINDS.values())
def test_what_smp_refuses_to_dilate_is_refused_by_name(encoder: str):
    refused = {refusal("deeplabv3plus", name) is not None for name in ENCODERS if _kind(name) is _kind(encoder)}
    try:
        with torch.device("cpu" if encoder == "mit_b0" else "meta"):  # mit_b0 reads a value while it is built
            smp.encoders.get_encoder(encoder, weights=None, output_stride=16)
    except ValueError:
        assert refused == {True}
    else:
        assert refused == {False}


def _kind(encoder: str) -> type:
    return smp.encoders.encoders[encoder]["encoder"]


@pytest.mark.parametrize("decoder", ["unetplusplus", "linknet"])
def test_what_smp_refuses_of_mit_is_refused_by_name(decoder: str):
    with pytest.raises(ValueError, match="mit_b0"):
        smp.MODEL_ARCHITECTURES_MAPPING[decoder]("mit_b0", encoder_weights=None)
    assert refusal(decoder, "mit_b0")
    assert [d for d in DECODERS if refusal(d, "mit_b0")] == ["unetplusplus", "linknet", "dpt"]


def test_a_listing_has_every_own_encoder_and_one_row_for_those_of_timm():
    assert len(registry.archs.names("unet/*")) == 76 + 1
    assert registry.archs.names("dpt/*") == ["dpt/tu-*"]
    assert len(registry.archs.names("linknet/*")) == 70 + 1
    assert "unet/tu-*" in registry.archs.names("unet/*")


def test_timm_is_listed_when_its_names_are_asked_for():
    found = registry.archs.names("*/tu-convnext_atto")
    assert "unet/tu-convnext_atto" in found
    assert len(found) == 11
    assert registry.archs.names("dpt/tu-vit_tiny_patch16_*")
    assert not registry.archs.names("unet/tu-vit_tiny*")
    known = set(timm.list_models())
    assert {name.removeprefix("dpt/tu-") for name in registry.archs.names("dpt/tu-*")} < known


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("unet/resnet43", "did you mean 'unet/resnet34'"),
        ("unett/resnet34", "did you mean 'unet/resnet34'"),
        ("unet", "needs a second half, such as 'unet/densenet121'"),
        ("dpt", "needs a second half, such as 'dpt/tu-"),
        ("dpt/resnet18", "plain vision transformers, such as 'dpt/tu-vit_tiny_patch16_224'"),
        ("pan/vgg16", "dilates its encoder"),
        ("linknet/mit_b2", "features at half size"),
        ("unet/convnext_tiny", "timm's models are written 'unet/tu-NAME'"),
        ("unet/tu-", "no architecture is named 'unet/tu-'"),
        ("unetref", "did you mean 'unet-ref'"),
    ],
)
def test_a_name_that_cannot_be_is_one_clear_line(name: str, line: str):
    with pytest.raises(UnknownNameError, match=line) as caught:
        registry.archs.entry(name)
    assert "\n" not in str(caught.value)


def test_a_pattern_of_another_decoder_costs_nothing():
    assert names("unet/*", "fpn/tu-*") == []
