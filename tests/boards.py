"""Leaderboards made in memory, with numbers as they might be, and one with pictures on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from leaderboards import pairwise_p
from reference import dice

from carvana.data.io.masks import read_mask, write_mask
from carvana.data.samples import Sample, find_samples
from carvana.evaluation.statistics import bootstrap_interval
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.records import FAILED, WAITING, Header, Pair, Row, ScoredImage, SeedRun

# name, error x 1e4, parameters, GFLOP, ms, minutes of training
NETWORKS = (
    ("unetplusplus/tu-efficientnet_lite0", 61.3, 6_100_000, 38.2, 190.0, 11.6),
    ("unet/resnet34", 62.1, 24_436_369, 61.6, 151.0, 8.03),
    ("unet-ref", 64.0, 34_527_041, 107.4, 242.0, 14.2),
    ("segformer/mit_b0", 71.8, 3_700_000, 11.1, 96.0, 9.1),
    ("linknet/resnet18", 83.0, 11_700_000, 22.7, 74.0, 5.2),
    ("deeplabv3plus/resnet34", 97.5, 22_400_000, 54.8, 88.0, 6.9),
    ("fpn/tu-mobilenetv3_large_100", 104.2, 5_300_000, 9.4, 41.0, 4.4),
)
OUT_OF_MEMORY = Row("pan/resnet101", status=f"{FAILED}out of memory (limit 4 GB)", arch="pan/resnet101")
HEADER = Header(
    data="carvana-1k",
    images=24,
    groups=6,
    train_images=272,
    train_groups=17,
    split="5f0c2a9e",
    content="b81e44d07a16",
    config={
        "data": {"size": [128, 128], "target": "coverage"},
        "fit": {"optimizer": "adamw", "lr": 0.001, "batch_size": 16, "schedule": "onecycle"},
        "loss": {"name": "bce_dice", "weights": [0.5, 0.5]},
    },
    config_name="default",
    budget="8 epochs",
    seeds=(0,),
    version="0.2.0",
    commit="b0ef445",
    machine="2 cores of an x86-64 CPU, 24 GB, torch 2.11.0+cpu",
)
VIEWS = ("01", "05", "09", "13")


def make_board(
    networks: int = 7,
    *,
    groups: int = 8,
    views: Sequence[str] = VIEWS,
    seeds: tuple[int, ...] = (0,),
    failed: bool = True,
) -> Leaderboard:
    """A finished leaderboard of networks that differ by as much as real ones; none of its files exists."""
    scores = _scores(networks, groups, views, np.random.default_rng(7))
    names = [f"group{number}" for number in range(groups)]
    images = [Sample(Path(f"{name}_{view}.jpg"), None, name, view) for name in names for view in views]
    return _board(images, scores, NETWORKS[:networks], seeds=seeds, others=(OUT_OF_MEMORY,) if failed else ())


def waiting_board(done: int, networks: int = 4) -> Leaderboard:
    """A leaderboard that is not finished: some networks are, the others wait."""
    board = make_board(max(done, 1), failed=False)
    rows = board.rows[:done] + tuple(Row(name, status=WAITING, arch=name) for name, *_ in NETWORKS[done:networks])
    return replace(board, rows=rows, pairs=board.pairs if done else (), images=board.images if done else ())


def drawn_board(data: Path, masks: Path, *, networks: int = 7) -> Leaderboard:
    """A leaderboard whose networks' masks are there: the true ones, spoiled by what each network is bad at."""
    samples = find_samples(data)
    names = [name for name, *_ in NETWORKS[:networks]]
    scores = np.empty((networks, len(samples)))
    for place, sample in enumerate(samples):
        true = read_mask(sample.mask)
        for network in range(networks):
            mask = spoiled(true, NETWORKS[network][1] / 60, np.random.default_rng([network, place]))
            scores[network, place] = dice(mask, true)
            write_mask(masks / str(network) / f"{sample.image.stem}_mask.png", mask)
    order = np.argsort(-scores.mean(axis=1))
    board = _board(samples, scores[order], [NETWORKS[network] for network in order], others=(OUT_OF_MEMORY,))
    rows = tuple(replace(row, masks=str(masks / str(names.index(row.name)))) if row.ok else row for row in board.rows)
    return replace(board, rows=rows, samples=samples)


def spoiled(mask: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A mask as a network might have guessed it: a wavy outline, and here and there a piece too much or too little."""
    height, width = mask.shape
    shifts = [cv2.resize(rng.normal(size=(9, 13)).astype(np.float32), (width, height)) for _ in range(2)]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    scale = np.float32(strength * width / 500)
    bent = cv2.remap(mask, columns + scale * shifts[0], rows + scale * shifts[1], cv2.INTER_NEAREST)
    outline = np.argwhere(cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))
    for _ in range(rng.integers(0, 3)):
        row, column = outline[rng.integers(len(outline))]
        radius = int(rng.uniform(0.004, 0.014) * strength * width)
        cv2.circle(bent, (int(column), int(row)), radius, int(rng.integers(0, 2)), -1)
    return bent


def _scores(networks: int, groups: int, views: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """(networks, images): an image is as hard as its group and its view, and each network adds chance of its own."""
    hard = np.exp(rng.normal(0, 0.25, (groups, 1)) + rng.normal(0, 0.2, (1, len(views)))).ravel()
    errors = np.array([error for _, error, *_ in NETWORKS[:networks]])
    noise = np.exp(rng.normal(0, 0.08, (networks, hard.size)))
    return 1 - 1e-4 * errors[:, None] * hard / hard.mean() * noise


def _board(
    samples: Sequence[Sample],
    scores: np.ndarray,
    networks: Sequence[tuple[str, float, int, float, float, float]],
    *,
    seeds: tuple[int, ...] = (0,),
    others: Sequence[Row] = (),
) -> Leaderboard:
    groups = [sample.group for sample in samples]
    names = [name for name, *_ in networks]
    means = scores.mean(axis=1)
    order = np.argsort(-means)
    p = pairwise_p(scores, groups, flips=2000)
    best = order[0]
    rows = [
        _row(networks[index], scores[index], groups, rank, float(p[best, index]), seeds)
        for rank, index in enumerate(order, start=1)
    ]
    pairs = [
        Pair(
            names[a],
            names[b],
            float(means[a] - means[b]),
            bootstrap_interval(scores[a] - scores[b], groups),
            float(p[a, b]),
        )
        for a, b in combinations(order, 2)
    ]
    images = [
        ScoredImage(sample.name, sample.group, sample.view, dict(zip(names, map(float, column), strict=True)))
        for sample, column in zip(samples, scores.T, strict=True)
    ]
    header = replace(HEADER, images=len(samples), groups=len(set(groups)), seeds=seeds)
    return Leaderboard(header, (*rows, *others), tuple(sorted(pairs, key=lambda pair: -pair.gap)), tuple(images))


def _row(
    network: tuple[str, float, int, float, float, float],
    scores: np.ndarray,
    groups: Sequence[str],
    rank: int,
    p: float,
    seeds: tuple[int, ...],
) -> Row:
    name, _, params, gflops, ms, training = network
    mean = float(scores.mean())
    refits = tuple(_refit(name, seed, mean + 2e-4 * place, 60 * training) for place, seed in enumerate(seeds))
    return Row(
        name,
        status="ok",
        arch=name,
        rank=rank,
        score=mean,
        score_ci95=bootstrap_interval(scores, groups),
        tied_with_best=p > 0.05,
        p_best=p,
        score_spread=2e-4 * (len(seeds) - 1) if len(seeds) > 1 else None,
        boundary_dice=1 - 12 * (1 - mean),
        score_worst=float(scores.min()),
        threshold=0.48 + 0.01 * rank,
        size=(128, 128),
        ceiling=0.99412,
        params=params,
        gflops=gflops,
        latency_ms=ms,
        images_per_s=1450 / ms,
        peak_memory_mb=600 + params / 4e4,
        fit_seconds=60 * training,
        init="random" if name == "unet-ref" else "imagenet",
        run=f"runs/{name.replace('/', '-')}",
        refits=refits,
    )


def _refit(name: str, seed: int, mean: float, seconds: float, epochs: int = 8) -> SeedRun:
    rng = np.random.default_rng([len(name), seed])
    errors = (1 - mean) * (1 + 28 * np.exp(-0.75 * np.arange(epochs))) * np.exp(rng.normal(0, 0.1, epochs))
    curve = tuple(
        {
            "epoch": epoch + 1,
            "step": 17 * (epoch + 1),
            "seconds": seconds * (epoch + 1) / epochs,
            "train_loss": 3 * float(error),
            "val_dice": 1 - float(error),
        }
        for epoch, error in enumerate(errors)
    )
    run = f"runs/{name.replace('/', '-')}-{seed}"
    return SeedRun(run, seed, mean, 0.5, seconds, epochs, 17 * epochs, curve)
