"""The engines against each other: time, exactness, whole commands, exports. By hand, nothing else running:

    python tests/benchmarks/bench_engines.py image                  one image, array to mask: three networks
    CARVANA_DATA=real python tests/benchmarks/bench_engines.py exact RUN [IMAGES]     against torch in fp32
    CARVANA_DATA=real python tests/benchmarks/bench_engines.py predict RUN [COARSE]   the whole command, second start
    python tests/benchmarks/bench_engines.py export                 seconds of carvana export of each shipped config

``image`` and ``predict`` take turns, so that a machine whose speed drifts slows all of them; ratios are medians of the
ratios of each round. ONNX Runtime in fp32 is what rembg and most others run. COARSE is a run that sees whole images
small: with it RUN refines.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import carvana
from carvana.config import configs, load_config
from carvana.data.demo import draw_photo
from carvana.inference.engines.export import export_onnx
from carvana.utils.devices import describe, freed_memory_kept, resolve_device

SMALL = {"decoder_channels": [128, 64, 48, 32, 16]}  # of configs/best-small
NETWORKS = (
    ("unet/tu-tf_efficientnet_lite0", SMALL, (1280, 1918), 1),
    ("unet/resnet34", {}, (1280, 1918), 1),
    ("unet-ref", {}, (128, 128), 16),
)
ENGINES = (("torch", "auto"), ("openvino", "auto"), ("onnx", "fp32"), ("openvino", "fp32"), ("torch", "fp32"))


def lively(model: carvana.Segmenter) -> carvana.Segmenter:
    """With statistics as a training leaves them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def turns(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each action, all of them once a round, after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            if number:
                times[name].append(time.perf_counter() - began)
    return times


def show(times: dict[str, list[float]]) -> None:
    first = next(iter(times))
    for name, each in times.items():
        ratios = [one / other for one, other in zip(each, times[first], strict=True)]
        print(f"  {name:16} {statistics.median(each):8.3f} s   {statistics.median(ratios):.3f} of {first}")


def image(rounds: int = 7) -> None:
    for arch, options, size, count in NETWORKS:
        torch.manual_seed(0)
        model = lively(carvana.create_model(arch, options=options))
        photos = [draw_photo(number, 1, size=size)[0] for number in range(count)]
        print(f"{arch}, {count} x {size[0]}x{size[1]}, array to mask")

        def masks(predictor: carvana.Predictor, photos: list[NDArray[np.uint8]] = photos) -> None:
            prepared = [predictor.prepare(photo) for photo in photos]
            for batch in predictor.batches(prepared):
                for found in predictor.run(batch, want="mask"):
                    assert found.mask.shape == photos[0].shape[:2]

        actions: dict[str, Callable[[], object]] = {}
        for engine, precision in ENGINES:
            made = carvana.Predictor(
                model, scale="native", mode="whole", engine=engine, precision=precision, device="cpu"
            )
            actions.setdefault(f"{engine} {made.precision}", lambda made=made: masks(made))
        show(turns(actions, rounds))
        print("  the same in a stream of images, where freed memory is kept")
        with freed_memory_kept(torch.device("cpu")):
            show(turns(actions, rounds))


def exact(run: str, images: int = 64) -> None:
    """Differences on real images, at the scale that the run was trained at and, of crops, at native size."""
    from carvana.data.io.masks import read_mask

    samples = carvana.find_samples(os.environ["CARVANA_DATA"])
    chosen = [samples[place] for place in np.linspace(0, len(samples) - 1, images).astype(int)]
    reference = carvana.Predictor.from_pretrained(run, engine="torch", precision="fp32", device="cpu")
    wanted = [reference.predict(sample.image) for sample in chosen]
    truths = [read_mask(sample.mask).astype(bool) for sample in chosen]

    def dice(found: NDArray[np.uint8], truth: NDArray[np.bool_]) -> float:
        return float(2 * (found.astype(bool) & truth).sum() / max(1, found.astype(bool).sum() + truth.sum()))

    def mean_dice(masks: list[NDArray[np.uint8]]) -> float:
        return statistics.fmean(map(dice, masks, truths))

    print(f"{run}, {images} images; torch in fp32: Dice {mean_dice([each.mask for each in wanted]):.5f}")
    for engine, precision in ENGINES[:-1]:
        made = carvana.Predictor.from_pretrained(run, engine=engine, precision=precision, device="cpu")
        found = [made.predict(sample.image) for sample in chosen]
        shares = [float((one.mask != other.mask).mean()) for one, other in zip(found, wanted, strict=True)]
        most = max(
            float(np.abs(one.probabilities - other.probabilities).max())
            for one, other in zip(found, wanted, strict=True)
        )
        print(
            f"  {engine:9}{made.precision:5} pixels that differ {statistics.fmean(shares):.6f} (at most "
            f"{max(shares):.6f}), probability by at most {most:.4f}, "
            f"Dice {mean_dice([each.mask for each in found]):.5f}"
        )


def predict(run: str, coarse: str | None = None, rounds: int = 3) -> None:
    images = sorted((Path(os.environ["CARVANA_DATA"]) / "train").iterdir())[:204]
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "images"
        inputs.mkdir()
        for path in images:
            shutil.copy(path, inputs)

        def command(engine: str) -> None:
            shutil.rmtree(Path(folder) / "out", ignore_errors=True)
            words = [coarse, str(inputs), "--refine-with", run] if coarse else [run, str(inputs)]
            words += ["--engine", engine, "--out", f"{folder}/out", "--quiet"]
            whole = [sys.executable, "-m", "carvana", "predict", *words]
            subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)

        print(f"carvana predict of {len(images)} images, the whole command")
        times = turns({engine: lambda engine=engine: command(engine) for engine in ("torch", "openvino")}, rounds)
        show(times)
        for engine, each in times.items():
            print(f"  {engine}: {len(images) / statistics.median(each):.2f} images/s")


def export() -> None:
    seen: dict[str, str] = {}
    for name in configs():
        if not name.startswith("compare"):
            config = load_config(name)
            seen.setdefault(f"{config.arch} {config.model.options}", name)
    with tempfile.TemporaryDirectory() as folder:
        for network, name in seen.items():
            config = load_config(name)
            model = carvana.create_model(config.arch, options=config.model.options)
            began = time.perf_counter()
            made = export_onnx(model, f"{folder}/{name}.onnx")
            print(f"  {network}: {time.perf_counter() - began:.1f} s, {made.size / 1e6:.0f} MB")


if __name__ == "__main__":
    what, *more = sys.argv[1:]
    torch.manual_seed(0)
    print(f"{describe(resolve_device('cpu'))}, {torch.get_num_threads()} threads, " + ", ".join(
        f"{package} {version(package)}" for package in ("torch", "openvino", "onnxruntime")
    ))  # fmt: skip
    if what == "exact":
        exact(more[0], *map(int, more[1:2]))
    elif what == "predict":
        predict(more[0], *more[1:2], rounds=int(more[2]) if len(more) > 2 else 3)
    else:
        {"image": image, "export": export}[what]()
