"""Training speed, two ratios in one run each. By hand: ``python tests/benchmarks/bench_training.py``.

1. The training steps of ``fit`` (reading, augmenting, moving, learning-rate schedule, clipping, records, all of it)
   against the bare forward + backward + step on tensors that lie in memory, in the same precision. The two take
   turns, ``ROUNDS`` times, so that a machine whose speed drifts slows both.
2. ``precision: auto`` against fp32 in the usual memory layout (NCHW), both bare.

Of several classes: ``CARVANA_CAMVID=FOLDER python tests/benchmarks/bench_training.py --classes``, on CamVid's folders
``train`` and ``trainannot``, at 180 x 240 from the cache, with 11 classes and void.

3. An epoch of ``fit`` against as many bare steps, as in 1.
4. ``evaluate`` on images at full size, from reading to counting, against the network alone on the same prepared images
   in the same batches, one half of them before it and the other one behind.

``--steps N`` and ``--rounds N`` make all of it shorter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import carvana
from carvana.config import TrainConfig
from carvana.data.cache import build_caches
from carvana.data.demo import write_demo
from carvana.data.samples import Sample
from carvana.data.target import unpack
from carvana.evaluation.evaluate import evaluate
from carvana.inference.predictor import Predictor
from carvana.losses import make_loss
from carvana.task import Task
from carvana.training.optim import make_optimizer
from carvana.training.trainer import Trainer
from carvana.utils.devices import autocast, describe, resolve_device, resolve_precision

BATCH = 8
STEPS = 12
ROUNDS = 4

CAMVID = Task(
    classes=[
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ],
    ignore=[11],
)  # fmt: skip
CAMVID_SIZE = (180, 240)
Batch = tuple[torch.Tensor, tuple[torch.Tensor, ...]]


def drawn() -> Batch:
    """A batch of one object: noise."""
    return torch.randint(0, 256, (BATCH, 3, 128, 128), dtype=torch.uint8), (torch.rand(BATCH, 1, 128, 128),)


def bare_seconds(
    model: torch.nn.Module, precision: str, *, channels_last: bool, batch: Batch, steps: int, loss: str = "bce + dice"
) -> float:
    """Seconds a step: forward, loss, backward and AdamW on one batch in memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    device = resolve_device()
    model = model.to(device, memory_format=layout).train()
    images = batch[0].to(device, memory_format=layout)
    targets = [each.to(device) for each in batch[1]]
    task = CAMVID if targets[0].shape[1] > 1 else None
    loss_of, optimizer = make_loss(loss, task), make_optimizer(model, TrainConfig())
    began = time.perf_counter()
    for step in range(steps + 2):
        if step == 2:  # two steps to warm up
            _wait(device)
            began = time.perf_counter()
        with autocast(device, precision):
            logits = model(images)
        loss_of(logits.float(), *targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    _wait(device)
    return (time.perf_counter() - began) / steps


def fit_seconds(model: carvana.Segmenter, train: carvana.SegmentationDataset) -> tuple[float, float]:
    """Seconds a step of fit's own epoch, and the share of them spent waiting for data."""
    trainer = Trainer(model, train=train, batch_size=BATCH, workers="auto", epochs=3)
    trainer.train_epoch(0)  # starts the readers and warms up
    numbers = trainer.train_epoch(1)
    return BATCH / numbers["images_per_s"], numbers["data_wait"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def compared(
    make: Callable[[], carvana.Segmenter], train: carvana.SegmentationDataset, batch: Batch, options: argparse.Namespace
) -> None:
    """Print the ratio of fit's own steps to bare ones, which take turns."""
    pairs, precision = [], resolve_precision("auto", resolve_device())
    for _ in range(options.rounds):
        bare = bare_seconds(
            make(), precision, channels_last=True, batch=batch, steps=-(-len(train) // BATCH), loss="auto"
        )  # fmt: skip
        fitted, wait = fit_seconds(make(), train)
        pairs.append((fitted, bare))
        print(f"  fit {fitted:.3f} s a step, bare {bare:.3f} s, ratio {fitted / bare:.3f}, waiting {wait:.1%}")
    ratio = statistics.median(fitted / bare for fitted, bare in pairs)
    print(f"fit / bare in {precision}: {ratio:.3f} (median of {options.rounds}; at most 1.10 wanted)")


def lite0() -> carvana.Segmenter:
    """3.8 million parameters, as the configs of CamVid take them; how long it takes does not depend on its weights."""
    options = {"decoder_channels": [128, 64, 48, 32, 16]}
    return carvana.create_model("unet/tu-tf_efficientnet_lite0", task=CAMVID, options=options)


def several_classes(folder: str, options: argparse.Namespace) -> None:
    samples = carvana.find_samples(folder, images="train", masks="trainannot")
    samples = samples[: len(samples) // BATCH * BATCH if options.steps is None else BATCH * options.steps]
    (cache,) = build_caches([samples], CAMVID_SIZE, task=CAMVID)
    train = carvana.SegmentationDataset(samples, CAMVID_SIZE, task=CAMVID, augment="seed", cache=cache)
    images, packed = (torch.stack(parts) for parts in zip(*(train.packed((0, i)) for i in range(BATCH)), strict=True))
    compared(lite0, train, (images, unpack(packed, CAMVID)), options)
    evaluated(samples, options)


def evaluated(samples: Sequence[Sample], options: argparse.Namespace) -> None:
    """Print the ratio of an evaluation at full size to the network's own time."""
    height, width = carvana.read_image(samples[0].image).shape[:2]
    predictor = Predictor(lite0().with_spec(trained_size=(height, width)))
    predictor.predict(samples[0].image)  # warms up
    half = len(samples) // 2
    ratios = []
    for _ in range(options.rounds):
        own = alone(predictor, samples[:half])
        began = time.perf_counter()
        evaluate(predictor, samples)
        whole = time.perf_counter() - began
        own += alone(predictor, samples[half:])
        ratios.append(whole / own)
        print(f"  evaluate {whole:.2f} s, the network alone {own:.2f} s, ratio {ratios[-1]:.3f}")
    print(
        f"evaluation / network, {len(CAMVID.classes)} classes at {height} x {width}, {len(samples)} images: "
        f"{statistics.median(ratios):.3f} (median of {options.rounds}; at most 1.15 wanted)"
    )


def alone(predictor: Predictor, samples: Sequence[Sample], chunk: int = 16) -> float:
    """Seconds of the network on prepared images."""
    taken = 0.0
    for first in range(0, len(samples), chunk):
        prepared = [predictor.prepare(sample.image) for sample in samples[first : first + chunk]]
        began = time.perf_counter()
        for batch in predictor.batches(prepared):
            predictor.predict_maps(batch)
        taken += time.perf_counter() - began
    return taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", action="store_true")
    parser.add_argument("--steps", type=int, help="of an epoch; by default 12, and of several classes all")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    device = resolve_device()
    precision = resolve_precision("auto", device)
    print(f"{describe(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.classes:
        several_classes(os.environ["CARVANA_CAMVID"], options)
        return
    with tempfile.TemporaryDirectory() as folder:
        data, steps = os.environ.get("CARVANA_DATA") or write_demo(Path(folder), cars=6), options.steps or STEPS
        samples = carvana.find_samples(data)[: BATCH * steps]
        train = carvana.SegmentationDataset(samples, (128, 128), augment="seed")
        compared(lambda: carvana.create_model("unet-ref"), train, drawn(), options)

        model = carvana.create_model("unet-ref")
        speedups = []
        for _ in range(options.rounds):
            slow = bare_seconds(model, "fp32", channels_last=False, batch=drawn(), steps=steps)
            fast = bare_seconds(model, precision, channels_last=True, batch=drawn(), steps=steps)
            speedups.append(slow / fast)
            print(f"  fp32 NCHW {slow:.3f} s a step, {precision} channels_last {fast:.3f} s, {slow / fast:.2f} times")
        print(f"auto is {statistics.median(speedups):.2f} times as fast as fp32 NCHW (at least 1.8 wanted)")


if __name__ == "__main__":
    main()
