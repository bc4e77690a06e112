"""The Trainer with your own network, data set and callback.

The Trainer takes any ``nn.Module`` that maps normalised images to logits, and saves its weights in the run's
``model/``. The network is not in the registry, so it is passed as an argument when they are loaded.

    python own_network.py
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import carvana


class SmallNet(nn.Sequential):
    """Dilated convolutions, all at full size: (N, 3, H, W) to logits (N, 1, H, W)."""

    def __init__(self, width: int = 16) -> None:
        layers: list[nn.Module] = []
        for step, dilation in enumerate((1, 2, 4, 8, 4)):
            before = width if step else 3
            layers += [nn.Conv2d(before, width, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(width)]
            layers += [nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(width, 1, 1))


class ColouredWalls(carvana.SegmentationDataset):
    """Cars in front of walls of random colours. A colour depends only on the epoch and the index of the item."""

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Replace the background, blending at the boundary by the coverage."""
        image, coverage = super().__getitem__(key)
        wall = torch.from_numpy(np.random.default_rng(key).integers(60, 256, (3, 1, 1)))
        return (image * coverage + wall * (1 - coverage)).round().to(torch.uint8), coverage


class Printer(carvana.Callback):
    """Prints each epoch, and the evaluation at full size."""

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """Print one line for each epoch."""
        print(f"epoch {record['epoch']}: loss {record['train_loss']:.3f}, Dice {record['val_dice']:.3f}")

    def on_evaluation(self, numbers: Mapping[str, Any]) -> None:
        """Print the evaluation at the photos' own size."""
        print(f"at full size: Dice {numbers['dice']:.3f} on {numbers['images']} photos")


def main() -> None:
    """Train, evaluate, and load the model again."""
    torch.manual_seed(0)
    cars = carvana.write_demo("cars", cars=4, views=4, size=(160, 240), workers=1)
    split = carvana.split_samples(carvana.find_samples(cars))
    train = ColouredWalls(split.train, size=(64, 96), augment="seed")
    val = carvana.SegmentationDataset(split.val, size=(64, 96))
    trainer = carvana.Trainer(
        SmallNet(),
        train=train,
        val=val,
        out="runs/own",
        epochs=12,
        batch_size=4,
        lr=0.02,
        workers=0,
        callbacks=[Printer()],
    )
    trainer.fit()
    trainer.evaluate()

    model = carvana.Segmenter.from_pretrained("runs/own", network=SmallNet())
    prediction = carvana.Predictor(model).predict(split.val[0].image)
    print(f"a mask of {prediction.mask.shape}: {prediction.mask.mean():.1%} of the photo is car")


if __name__ == "__main__":
    main()
