"""smp's encoders and what its decoders take of them, so that a listing imports neither torch nor smp nor timm.

tests/models/test_smp_encoders.py compares this with the installed smp. timm's encoders are not in it: their names
are ``<decoder>/tu-<any model of timm>``.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterable

from carvana.errors import UnknownNameError, did_you_mean

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_HALF: Triple = (0.5, 0.5, 0.5)
_DPN_MEAN: Triple = (124 / 255, 117 / 255, 104 / 255)
_DPN_STD: Triple = (1 / (0.0167 * 255),) * 3

DILATING = ("deeplabv3", "deeplabv3plus", "pan")
"""Decoders that replace the encoder's last strides by dilation."""

ENCODERS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d",
    "resnext101_32x48d",
    "dpn68", "dpn68b", "dpn92", "dpn98", "dpn107", "dpn131",
    "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    "senet154", "se_resnet50", "se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d",
    "densenet121", "densenet169", "densenet201", "densenet161",
    "inceptionresnetv2", "inceptionv4",
    "efficientnet-b0", "efficientnet-b1", "efficientnet-b2", "efficientnet-b3", "efficientnet-b4", "efficientnet-b5",
    "efficientnet-b6", "efficientnet-b7",
    "mobilenet_v2",
    "xception",
    "timm-efficientnet-b0", "timm-efficientnet-b1", "timm-efficientnet-b2", "timm-efficientnet-b3",
    "timm-efficientnet-b4", "timm-efficientnet-b5", "timm-efficientnet-b6", "timm-efficientnet-b7",
    "timm-efficientnet-b8", "timm-efficientnet-l2",
    "timm-tf_efficientnet_lite0", "timm-tf_efficientnet_lite1", "timm-tf_efficientnet_lite2",
    "timm-tf_efficientnet_lite3", "timm-tf_efficientnet_lite4",
    "timm-skresnet18", "timm-skresnet34", "timm-skresnext50_32x4d",
    "mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5",
    "mobileone_s0", "mobileone_s1", "mobileone_s2", "mobileone_s3", "mobileone_s4",
)  # fmt: skip

DPT_EXAMPLE = "dpt/tu-vit_tiny_patch16_224"

_POOLED = ("vgg", "densenet", "inception", "xception")  # they shrink by pooling, which cannot be dilated


# Of timm's modules: plain transformers that dpt takes; others with features of one scale, for no decoder here; and
# those that take images of one size only. The rest gives features of several scales, for all decoders but dpt.
_PLAIN_VIT = (
    "deit", "eva", "naflexvit", "qwen3_vit", "vision_transformer", "vision_transformer_hybrid",
    "vision_transformer_sam", "vitamin",
)  # fmt: skip
_ONE_SCALE = (
    "beit", "cait", "convit", "convmixer", "crossvit", "csatv2", "deepseek_vit", "efficientvim", "efficientvit_msra",
    "gemma4_vit", "levit", "mlp_mixer", "pit", "sequencer", "shvit", "tnt", "visformer",
    "vision_transformer_relpos", "volo", "xcit",
)  # fmt: skip
_ONE_SIZE = ("coat", "efficientformer", "efficientformer_v2", "gcvit", "hiera", "nest")


def names(family: str, pattern: str) -> Iterable[str]:
    """The names of one decoder's family that may match ``pattern``, for ``Catalog``.

    timm is imported only for patterns with ``tu-`` and wildcards; otherwise one row, such as ``unet/tu-*``, stands for
    all its encoders.

    Raises:
        UnknownNameError: the pattern is a single name of this decoder, and there is no such encoder.

    >>> [name for name in names("fpn/*", "fpn/mobile*") if "mobile" in name][:2]
    ['fpn/mobilenet_v2', 'fpn/mobileone_s0']
    """
    decoder = family.removesuffix("/*")
    head, slash, encoder = pattern.partition("/")
    if slash and not fnmatch.fnmatchcase(decoder, head):
        return []
    if slash and head == decoder and not any(sign in encoder for sign in "*?["):
        check(decoder, encoder)
        return [pattern]
    own = _own_names(decoder)
    if "tu-" in pattern:
        return own + [f"{decoder}/tu-{name}" for name in _timm_names(decoder == "dpt")]
    return [*own, f"{decoder}/tu-*"]


def check(decoder: str, encoder: str) -> None:
    """Refuse ``decoder/encoder`` where it cannot be built; names of timm are checked later, by timm.

    Raises:
        UnknownNameError: there is no such encoder, or the decoder does not take it.
    """
    if encoder.startswith("tu-") and encoder != "tu-":
        return
    reason = refusal(decoder, encoder)
    if reason:
        raise UnknownNameError(f"'{decoder}/{encoder}' cannot be built: {reason}")
    if encoder not in ENCODERS:
        hint = did_you_mean(f"{decoder}/{encoder}", _own_names(decoder))
        raise UnknownNameError(
            f"no architecture is named '{decoder}/{encoder}'{hint or '; there is no such encoder'}"
            f" (timm's models are written '{decoder}/tu-NAME')"
        )


def refusal(decoder: str, encoder: str) -> str | None:
    """Why ``decoder`` does not take an encoder of smp's own; None if it does.

    >>> refusal("linknet", "mit_b0")
    'linknet needs features at half size, which mit_b* encoders lack; take unet, or another encoder'
    """
    if decoder == "dpt":
        return f"dpt takes only timm's plain vision transformers, such as '{DPT_EXAMPLE}'"
    if decoder in ("unetplusplus", "linknet") and encoder.startswith("mit_b"):
        return f"{decoder} needs features at half size, which mit_b* encoders lack; take unet, or another encoder"
    if decoder in DILATING and encoder.startswith(_POOLED):
        return f"{decoder} dilates its encoder, which {encoder} does not allow; take fpn, or another encoder"
    return None


def normalisation(encoder: str, weights: str = "imagenet") -> tuple[Triple, Triple]:
    """Mean and standard deviation, for pixels in [0, 1], that an encoder of smp's own was trained with.

    >>> normalisation("xception")
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    if encoder.startswith("dpn"):
        return _DPN_MEAN, _DPN_STD
    if weights == "advprop" or encoder.startswith(("inception", "xception", "timm-tf_efficientnet_lite")):
        return _HALF, _HALF
    return IMAGENET_MEAN, IMAGENET_STD


def _own_names(decoder: str) -> list[str]:
    return [f"{decoder}/{name}" for name in ENCODERS if not refusal(decoder, name)]


@functools.cache
def _timm_names(is_dpt: bool) -> list[str]:
    import timm  # two seconds, and torch: only for a listing of timm's names

    if is_dpt:
        return [name for name in timm.list_models(module=list(_PLAIN_VIT)) if "patch14" not in name]
    others = [*_PLAIN_VIT, *_ONE_SCALE, *_ONE_SIZE]
    return [name for name in timm.list_models() if not timm.models.is_model_in_modules(name, others)]
