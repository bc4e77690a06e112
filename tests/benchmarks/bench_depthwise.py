"""What a CPU's bf16 training gains by fp32 gradients of depthwise convolutions, and by keeping freed memory.

By hand, nothing else running: ``python tests/benchmarks/bench_depthwise.py [--rounds N]``.

1. The backward pass of depthwise convolutions of EfficientNet-Lite0, images of 352 x 512, batch 8: bf16 as torch does
   it, and carvana's. The smallest of five.
2. A training step of unet/tu-tf_efficientnet_lite0 (forward, loss, backward, AdamW): as torch does it, with these
   gradients, with freed memory kept, with both. They take turns, a process each, since a process keeps its memory.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext

import torch
from torch import nn

from carvana.config import TrainConfig
from carvana.losses import make_loss
from carvana.models.segmenter import create_model
from carvana.training.optim import QuickDepthwise, make_optimizer
from carvana.utils.devices import describe, freed_memory_kept

LAYERS = [(96, 177, 257, 3, 2), (144, 88, 128, 3, 1), (144, 91, 131, 5, 2), (240, 44, 64, 5, 1), (672, 22, 32, 5, 1)]
"""Channels, rows, columns, kernel, stride."""

WAYS = ["torch", "gradients", "memory", "both"]
CPU = torch.device("cpu")
STEPS = 6


def least(work: Callable[[], object], times: int = 5) -> float:
    """The least seconds of some calls."""
    seconds = []
    for _ in range(times + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def backward_seconds(channels: int, height: int, width: int, kernel: int, stride: int, *, quick: bool) -> float:
    """Of one layer's backward pass."""
    layer = nn.Conv2d(channels, channels, kernel, stride, 0 if stride > 1 else kernel // 2, groups=channels, bias=False)
    images = torch.randn(8, channels, height, width).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = layer(images)
    gradient = torch.randn_like(value)
    with QuickDepthwise() if quick else nullcontext():
        return least(lambda: torch.autograd.grad(value, [images, layer.weight], gradient, retain_graph=True))


def step_seconds(way: str) -> float:
    """The median seconds of a training step."""
    torch.manual_seed(0)
    options = {"decoder_channels": [128, 64, 48, 32, 16]}
    model = create_model("unet/tu-tf_efficientnet_lite0", encoder_weights="none", options=options)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = torch.randint(0, 256, (8, 3, 352, 512), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    targets = torch.rand(8, 1, 352, 512)
    loss, optimizer = make_loss("bce + dice"), make_optimizer(model, TrainConfig())
    seconds = []
    with ExitStack() as held:
        if way in ("memory", "both"):
            held.enter_context(freed_memory_kept(CPU))
        for _ in range(STEPS + 1):
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            with QuickDepthwise() if way in ("gradients", "both") else nullcontext():
                loss(logits.float(), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(step_seconds(arguments.way))
        return
    print(f"{describe(CPU)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for layer in LAYERS:
        usual, quick = (1000 * backward_seconds(*layer, quick=quick) for quick in (False, True))
        print(f"backward of {layer}: {usual:.1f} ms, {quick:.1f} ms, {usual / quick:.1f} times as fast", flush=True)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way]
            seconds[way].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    for way in WAYS:
        ratios = [usual / own for usual, own in zip(seconds["torch"], seconds[way], strict=True)]
        print(
            f"step, {way}: {statistics.median(seconds[way]):.2f} s, {statistics.median(ratios):.2f} times as fast "
            f"({min(ratios):.2f} .. {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
