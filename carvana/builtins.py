"""Registers this library's own architectures, losses, augmentations and layouts, by strings, without importing them."""

from __future__ import annotations

from carvana.registry import Registry

DECODERS = {
    "unet": "U-Net: skips joined by concatenation; takes any encoder and is hard to beat",
    "unetplusplus": "U-Net++: nested, dense skips; sharper, about twice the work",
    "manet": "MA-Net: U-Net with attention over positions and channels",
    "linknet": "LinkNet: skips joined by addition; light and fast",
    "fpn": "Feature Pyramid Network: all scales summed at a quarter of the size",
    "pspnet": "PSPNet: pooled pyramid over shallow features; fast, coarse boundaries",
    "deeplabv3": "DeepLabV3: dilated convolutions over features at an eighth of the size; slow",
    "deeplabv3plus": "DeepLabV3+: dilated convolutions and one skip at a quarter of the size",
    "pan": "Pyramid Attention Network: global attention guides the upsampling; light",
    "upernet": "UPerNet: pooled pyramid and feature pyramid together; made for transformers",
    "segformer": "SegFormer: a decoder of 1x1 convolutions; made for mit_b encoders",
    "dpt": "Dense Prediction Transformer: for plain vision transformers (tu-vit_*) only",
}

_LOSSES = {
    "bce": "binary cross-entropy; for several classes it becomes ce",
    "ce": "cross-entropy of several classes",
    "dice": "1 - Dice, mean over images: what the competition measures",
    "focal": "cross-entropy that looks away from easy pixels",
    "lovasz": "Lovasz hinge: a convex surrogate of IoU",
    "tversky": "Dice with separate prices for misses and false alarms",
    "jaccard": "1 - IoU, mean over images",
    "boundary_bce": "binary cross-entropy that weighs the boundary more",
    "boundary_ce": "cross-entropy of several classes that weighs boundaries more",
}

_AUGMENTS = {
    "flip": "left and right exchanged in half of the images; no pixel is interpolated",
    "turns": "mirror images and quarter turns, for satellites and microscopes; no pixel is interpolated",
    "seed": "flip and rotation of up to 8 degrees: as the notebook did",
    "studio": "scale, shift, perspective, colour, light, blur, JPEG and noise as a studio varies them",
    "scene": "flip, scale from 0.75 to 1.6, shift, small rotation, colour, light: streets, landscapes, rooms",
    "none": "nothing: images as they are",
}

_LAYOUTS = {  # the last one is tried first; annotations come behind all that have files of masks
    "annotations:yolo": "images/ and labels/ with YOLO's polygons, of parts also; names in data.yaml or classes.txt",
    "annotations:labelme": "images with a JSON file of labelme for each, beside it or in annotations/",
    "annotations:coco": "COCO's JSON: as Roboflow, CVAT, Label Studio and COCO itself arrange it",
    "layouts:split-folders": (
        "train/ and trainannot/, train/images and train/masks, img_dir/train and ann_dir/train, or images/train and"
        " labels/train, with val and test likewise"
    ),
    "layouts:voc": "JPEGImages/ and SegmentationClass/, with lists of their images in ImageSets/Segmentation/",
    "layouts:cityscapes": "leftImg8bit/ and gtFine/, each with train, val and test, a folder for each city",
    "layouts:carvana": "train/ and train_masks/, named CAR_VIEW.jpg and CAR_VIEW_mask.gif",
    "layouts:folders": "images/ and masks/, matched by name",
}


def register(registry: Registry) -> None:
    """Fill the registry with this library's own architectures, losses, augmentations and layouts."""
    registry.archs.register(
        "unet-ref", "carvana.models.unet_ref:build", summary="The notebook's U-Net, layer by layer: 34.5 M parameters"
    )
    for name, summary in DECODERS.items():
        registry.archs.register(
            f"{name}/*", "carvana.models.smp:build", summary=summary, names="carvana.models.smp_encoders:names"
        )
    for name, summary in _LOSSES.items():
        registry.losses.register(name, f"carvana.losses:{name}", summary=summary)
    for name, summary in _AUGMENTS.items():
        registry.augments.register(name, f"carvana.data.augment:{name}", summary=summary)
    for place, summary in _LAYOUTS.items():
        module, name = place.split(":")
        function = f"{name.replace('-', '_')}_layout"
        registry.layouts.register(name, f"carvana.data.{module}:{function}", summary=summary)
