"""Full-size masks against MONAI's sliding window and against the bare network. By hand, nothing else running:

    CARVANA_DATA=real python tests/benchmarks/bench_tiling.py [ROUNDS]

1. ``tiles`` at 512, overlap 0.25, from array to mask, against ``sliding_window_inference`` of the same settings, which
   is given its best: channels_last, the same precision and threads, the quicker of batches of one and of four tiles.
   Then the same with the network that we fold BatchNorm into, which leaves the tiling alone to differ.
2. Our defaults against its defaults.
3. ``whole``, from array to mask, against the bare network on a padded, normalised tensor in memory.
4. The same output where both have the same grid (1280 x 1280).

All take turns in every round, so that a machine whose speed drifts slows all of them. Needs ``pip install monai``.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn

import carvana
from carvana.data.demo import draw_photo
from carvana.data.io.images import read_image
from carvana.models.fuse import for_inference
from carvana.utils.devices import autocast, describe, resolve_device, resolve_precision

TILE = 512
GAUSSIAN = {"overlap": 0.25, "mode": "gaussian"}
DEVICE = resolve_device()


def lively(model: carvana.Segmenter) -> carvana.Segmenter:
    """With statistics as a training leaves them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval().to(DEVICE, memory_format=torch.channels_last)


def monai_mask(
    network: nn.Module, photo: NDArray[np.uint8], precision: str, batch: int, **settings: object
) -> NDArray[np.uint8]:
    """What a user of MONAI writes, done well."""
    spec = model.spec
    mean, std = (torch.tensor(values, device=DEVICE).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode(), autocast(DEVICE, precision):
        images = torch.from_numpy(photo).to(DEVICE).permute(2, 0, 1)[None].float()
        images = ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        logits = sliding_window_inference(images, TILE, batch, network, **settings)
        return (logits[0, 0] > 0).to(torch.uint8).cpu().numpy()


def bare(network: nn.Module, images: Tensor, precision: str) -> Tensor:
    with torch.inference_mode(), autocast(DEVICE, precision):
        return network(images)


def seconds(action: Callable[[], object]) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    action()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def turns(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each action, all of them once a round, after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            took = seconds(action)
            if number:
                times[name].append(took)
    return times


def show(times: dict[str, list[float]], ours: str, theirs: str, wanted: str = "") -> None:
    ratios = [one / other for one, other in zip(times[ours], times[theirs], strict=True)]
    told = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})"
    print(f"  {ours} / {theirs}: {told}{wanted}", flush=True)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    quick = resolve_precision("auto", DEVICE)
    print(f"{describe(DEVICE)}, torch {torch.__version__}, {torch.get_num_threads()} threads, unet/resnet34")
    data = os.environ.get("CARVANA_DATA")
    photo = read_image(min(Path(data, "train").iterdir())) if data else draw_photo(0, 1)[0]
    folded = {name: for_inference(model, dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    padded = torch.rand(1, 3, 1280, 1920, device=DEVICE).contiguous(memory_format=torch.channels_last)
    defaults = carvana.Predictor(model, scale="native", precision=quick)
    for precision in dict.fromkeys((quick, "fp32")):
        like = {"scale": "native", "precision": precision}
        tiles = carvana.Predictor(model, mode="tiles", tile=TILE, overlap=0.25, **like)
        whole = carvana.Predictor(model, mode="whole", **like)
        actions: dict[str, Callable[[], object]] = {
            "tiles": lambda p=tiles: p.predict(photo).mask,
            "whole": lambda p=whole: p.predict(photo).mask,
            "MONAI 1": lambda p=precision: monai_mask(model.network, photo, p, 1, **GAUSSIAN),
            "MONAI 4": lambda p=precision: monai_mask(model.network, photo, p, 4, **GAUSSIAN),
            "MONAI folded": lambda p=precision: monai_mask(folded[p].network, photo, p, 1, **GAUSSIAN),
            "MONAI defaults": lambda p=precision: monai_mask(model.network, photo, p, 4, overlap=0.25),
            "MONAI defaults fp32": lambda: monai_mask(model.network, photo, "fp32", 4, overlap=0.25),
            "defaults": lambda: defaults.predict(photo).mask,
            "bare network": lambda p=precision: bare(model.network, padded, p),
            "bare folded": lambda p=precision: bare(folded[p].network, padded, p),
        }
        times = turns(actions, rounds)
        print(f"{precision}, an image of {photo.shape[0]} x {photo.shape[1]}, {len(tiles.plan(photo.shape[:2]))} tiles")
        for name, each in times.items():
            print(f"    {name:20s} {statistics.median(each):.3f} s (least {min(each):.3f})")
        best = min(("MONAI 1", "MONAI 4"), key=lambda name: statistics.median(times[name]))
        show(times, "tiles", best, "; at most 1.02 wanted")
        show(times, "tiles", "MONAI folded", "; the tiling alone")
        show(times, "whole", "MONAI defaults", "; at most 0.80 wanted")
        if precision != "fp32":
            show(times, "defaults", "MONAI defaults fp32", "; at most 0.40 wanted")
        show(times, "whole", "bare network", "; at most 1.05 wanted")
        show(times, "whole", "bare folded", "; what is ours around the network")

    square = torch.from_numpy(photo[:, :1280]).permute(2, 0, 1)[None].to(DEVICE)
    with torch.inference_mode():
        ours = carvana.tiled(model, square, tile=TILE, overlap=0.25, stride=32)
        theirs = sliding_window_inference(square / 255, TILE, 1, model, overlap=0.25, mode="gaussian")
        # Our own whole takes bytes, MONAI's padding needs floats: the network sees the same.
        print(f"largest difference on 1280 x 1280: {float((ours - theirs).abs().max()):.1e} of logits")


if __name__ == "__main__":
    torch.manual_seed(0)
    model = lively(carvana.create_model("unet/resnet34"))
    main()
