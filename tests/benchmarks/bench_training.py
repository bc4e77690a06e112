"""Training speed, two ratios in one run each. By hand: ``python tests/benchmarks/bench_training.py``.

1. The training steps of ``fit`` (reading, augmenting, moving, learning-rate schedule, clipping, records, all of it)
   against the bare forward + backward + step on tensors that lie in memory, in the same precision. The two take
   turns, ``ROUNDS`` times, so that a machine whose speed drifts slows both.
2. ``precision: auto`` against fp32 in the usual memory layout (NCHW), both bare.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

import carvana
from carvana.config import TrainConfig
from carvana.data.demo import write_demo
from carvana.losses import make_loss
from carvana.training.optim import make_optimizer
from carvana.training.trainer import Trainer
from carvana.utils.devices import autocast, describe, resolve_device, resolve_precision

BATCH = 8
STEPS = 12
ROUNDS = 4


def bare_seconds(model: torch.nn.Module, precision: str, *, channels_last: bool) -> float:
    """Seconds a step: forward, loss, backward and AdamW on one batch in memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    device = resolve_device()
    model = model.to(device, memory_format=layout).train()
    images = torch.randint(0, 256, (BATCH, 3, 128, 128), dtype=torch.uint8, device=device).to(memory_format=layout)
    targets = torch.rand(BATCH, 1, 128, 128, device=device)
    loss, optimizer = make_loss("bce + dice"), make_optimizer(model, TrainConfig())
    began = time.perf_counter()
    for step in range(STEPS + 2):
        if step == 2:  # two steps to warm up
            _wait(device)
            began = time.perf_counter()
        with autocast(device, precision):
            logits = model(images)
        loss(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    _wait(device)
    return (time.perf_counter() - began) / STEPS


def fit_seconds(data: Path, workers: str) -> tuple[float, float]:
    """Seconds a step of fit's own epoch, and the share of them spent waiting for data."""
    samples = carvana.find_samples(data)[: BATCH * STEPS]
    train = carvana.SegmentationDataset(samples, (128, 128), augment="seed")
    trainer = Trainer(carvana.create_model("unet-ref"), train=train, batch_size=BATCH, workers=workers, epochs=3)
    trainer.train_epoch(0)  # starts the readers and warms up
    numbers = trainer.train_epoch(1)
    return BATCH / numbers["images_per_s"], numbers["data_wait"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    device = resolve_device()
    precision = resolve_precision("auto", device)
    print(f"{describe(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        data = os.environ.get("CARVANA_DATA") or write_demo(Path(folder), cars=6)
        pairs, waits = [], []
        for _ in range(ROUNDS):
            bare = bare_seconds(carvana.create_model("unet-ref"), precision, channels_last=True)
            fitted, wait = fit_seconds(Path(data), "auto")
            pairs.append((fitted, bare))
            waits.append(wait)
            print(f"  fit {fitted:.3f} s a step, bare {bare:.3f} s, ratio {fitted / bare:.3f}, waiting {wait:.1%}")
        ratio = statistics.median(fitted / bare for fitted, bare in pairs)
        print(f"fit / bare in {precision}: {ratio:.3f} (median of {ROUNDS}; at most 1.10 wanted)")

        model = carvana.create_model("unet-ref")
        speedups = []
        for _ in range(ROUNDS):
            slow = bare_seconds(model, "fp32", channels_last=False)
            fast = bare_seconds(model, precision, channels_last=True)
            speedups.append(slow / fast)
            print(f"  fp32 NCHW {slow:.3f} s a step, {precision} channels_last {fast:.3f} s, {slow / fast:.2f} times")
        print(f"auto is {statistics.median(speedups):.2f} times as fast as fp32 NCHW (at least 1.8 wanted)")


if __name__ == "__main__":
    main()
