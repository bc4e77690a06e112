"""The tiling alone: ``carvana.tiled`` around two networks of torchvision, with random weights.

Any callable from images (N, C, H, W) to maps of the same height and width can be run in tiles. An image of 2000 x 3000
pixels goes through LRASPP in tiles and whole. The tiles take less memory and give nearly the same logits; not exactly,
because LRASPP pools over its whole input. FCN has a limited receptive field: if each pixel is taken from a tile that
contains it (``halo``), the tiles give the same as the whole image.

    python tiled_torchvision.py
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import resnet18, segmentation
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.segmentation.fcn import FCN, FCNHead

import carvana


def logits(network: torch.nn.Module, images: Tensor) -> Tensor:
    """The logits of uint8 images: networks of torchvision take floats and return a dictionary."""
    found: Tensor = network(images.float() / 255)["out"]
    return found


def peak_memory() -> float:
    """The peak memory of this process so far, in GB, read from Linux."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1e6


def difference(one: Tensor, other: Tensor) -> str:
    """The largest difference of two maps, relative to the largest value of the second."""
    return f"{float((one - other).abs().max() / other.abs().max()):.1e}"


@torch.inference_mode()
def main() -> None:
    """Compare tiles with the whole image."""
    torch.manual_seed(0)
    (sample,) = carvana.find_samples(carvana.write_demo("cars", cars=1, views=1, size=(500, 750), workers=1))
    small = torch.from_numpy(carvana.read_image(sample.image)).permute(2, 0, 1)[None]
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)

    lraspp = partial(
        logits, segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1).eval()
    )
    before = peak_memory()
    in_tiles = carvana.tiled(lraspp, large, tile=512, overlap=0.25)
    print(f"LRASPP, 2000 x 3000, tiles of 512: {peak_memory() - before:.2f} GB more, {tuple(in_tiles.shape)}")
    at_once = lraspp(large)
    print(f"LRASPP, whole: {peak_memory() - before:.2f} GB more; the tiles differ by {difference(in_tiles, at_once)}")

    backbone = create_feature_extractor(resnet18(weights=None), {"layer4": "out"})
    fcn = partial(logits, FCN(backbone, FCNHead(512, 1)).eval())
    part = large[..., 600:1080, 900:1924]
    whole = fcn(part)
    blended = carvana.tiled(fcn, part, tile=512, overlap=0.25, stride=32)
    exact = carvana.tiled(fcn, part, tile=832, halo=320, stride=32)
    print(f"FCN, 480 x 1024, tiles of 512 blended: they differ by {difference(blended, whole)}")
    print(f"FCN, tiles of 832 with a halo of 320: they differ by {difference(exact, whole)}")


if __name__ == "__main__":
    main()
