"""Your own loss and data layout: registered in a script, then used in a fit.

The photos lie in a folder for each car, ``album/CAR/front.jpg`` beside ``album/CAR/front.mask.png``; the layout finds
them. The loss weighs missed pixels twice. To use both in other scripts and commands, put them into a package:
``carvana new-plugin``.

    python own_loss_and_layout.py
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

import carvana


def careful() -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy in which a false negative costs twice as much as a false positive."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits and coverage, both (N, 1, H, W)."""
        return F.binary_cross_entropy_with_logits(logits, targets, weight=1 + targets)

    return loss


def album(root: Path) -> Iterator[carvana.Sample] | None:
    """The photos of an album, or None if the folder has another layout."""
    masks = sorted(root.glob("*/*.mask.png"))
    if not masks:
        return None
    names = [(mask, mask.name.removesuffix(".mask.png")) for mask in masks]
    return (carvana.Sample(mask.with_name(f"{name}.jpg"), mask, group=mask.parent.name) for mask, name in names)


def make_album(root: Path) -> None:
    """Draw cars and sort them into an album."""
    for sample in carvana.find_samples(carvana.write_demo("cars", cars=4, views=4, size=(160, 240), workers=1)):
        assert sample.mask is not None
        (root / sample.group).mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.image, root / sample.group / sample.name)
        carvana.write_mask(root / sample.group / f"{sample.image.stem}.mask.png", carvana.read_mask(sample.mask))


def main() -> None:
    """Register both, fit, and print the result."""
    make_album(Path("album"))
    carvana.register_layout("album", album, summary="a folder for each car")
    carvana.register_loss("careful", careful, summary="missed pixels count twice")
    changes = {
        "arch": "linknet/resnet18", "model.encoder_weights": "none",
        "data.root": "album", "data.size": [64, 96], "data.workers": 0,
        "train.loss": "careful + dice", "train.batch_size": 4, "train.lr": 0.004,
    }  # fmt: skip
    config = carvana.load_config("default", changes)
    run = carvana.fit(config, out="runs/album")
    numbers = run.read_evaluation()
    print(f"{run.path}: fitted with {run.read_config().train.loss}")
    print(f"Dice {numbers['dice']:.3f} on {numbers['images']} photos of {numbers['groups']} car(s)")


if __name__ == "__main__":
    main()
