"""The network alone: ``carvana.create_model`` in an ordinary PyTorch training loop.

The model is an ``nn.Module``. It maps uint8 images (N, 3, H, W) of any height and width to logits of the same height
and width; normalisation, padding and cropping are inside. Everything else, the loop, the loss and the reading of files,
is plain PyTorch. The photos are drawn cars.

    python plain_loop.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

import carvana


def read_folder(root: Path) -> tuple[Tensor, Tensor]:
    """All photos as uint8 (N, 3, H, W), and their masks (N, 1, H, W) of 0 and 1."""
    photos = sorted((root / "train").glob("*.jpg"))
    masks = [root / "train_masks" / f"{photo.stem}_mask.gif" for photo in photos]
    images = np.stack([np.asarray(Image.open(photo).convert("RGB")) for photo in photos])
    targets = np.stack([np.asarray(Image.open(mask).convert("L")) > 127 for mask in masks])
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(targets)[:, None].float()


def dice(logits: Tensor, targets: Tensor) -> float:
    """The mean Dice of a batch."""
    masks = (logits > 0).float()
    return float((2 * (masks * targets).sum((1, 2, 3)) / (masks + targets).sum((1, 2, 3))).mean())


def main() -> None:
    """Train on two cars, evaluate on a third one, save the model and load it again."""
    images, targets = read_folder(carvana.write_demo("cars", cars=3, views=4, size=(64, 96), workers=1))
    torch.manual_seed(0)
    model = carvana.create_model("linknet/resnet18", encoder_weights=None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(1, 21):
        for batch in torch.randperm(8).split(4):
            loss = F.binary_cross_entropy_with_logits(model(images[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % 10 == 0:
            print(f"epoch {epoch}: loss {loss.item():.3f}")

    model.eval()
    with torch.no_grad():
        logits = model(images[8:])
        print(f"Dice on the third car: {dice(logits, targets[8:]):.3f}")
        model.save_pretrained("car-model")
        again = carvana.Segmenter.from_pretrained("car-model")
        print(f"loaded from car-model, the same logits: {torch.equal(again(images[8:]), logits)}")


if __name__ == "__main__":
    main()
