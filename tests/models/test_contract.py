from __future__ import annotations

import decoders
import pytest

from carvana.testing import check_arch

SMALL = {
    "unet": {"decoder_channels": [32, 16, 8, 8, 8]},
    "unetplusplus": {"decoder_channels": [32, 16, 8, 8, 8]},
    "manet": {"decoder_channels": [32, 16, 8, 8, 8], "decoder_pab_channels": 16},
    "fpn": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
    "pspnet": {"psp_out_channels": 64},
    "deeplabv3": {"decoder_channels": 32},
    "deeplabv3plus": {"decoder_channels": 32},
    "upernet": {"decoder_channels": 32},
    "segformer": {"decoder_segmentation_channels": 32},
    "dpt": {"decoder_intermediate_channels": [16, 32, 48, 64], "decoder_fusion_channels": 32},
}


@pytest.mark.slow
def test_the_reference_passes_the_contract_at_its_full_width():
    check_arch("unet-ref", size=(33, 47))


@pytest.mark.parametrize("options", [{}, {"bn_momentum": 0.1}])
def test_the_reference_passes_the_contract_with_options(options: dict):
    check_arch("unet-ref", options={"width": 8, **options})


@decoders.each(*decoders.QUICK)
def test_every_decoder_passes_the_contract(decoder: str):
    encoder = "tu-vit_tiny_patch16_224" if decoder == "dpt" else "resnet18"
    check_arch(f"{decoder}/{encoder}", options=SMALL.get(decoder))


@pytest.mark.parametrize(
    "name",
    [
        "fpn/mit_b0",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("linknet/tu-tf_efficientnet_lite0", "segformer/mobilenet_v2")
        ),
    ],
)
def test_other_kinds_of_encoders_pass_the_contract(name: str):
    check_arch(name)
