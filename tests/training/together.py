"""A training that test_distributed.py starts in one process or in several: trains and leaves what the test compares."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import carvana
from carvana.task import Task
from carvana.training.trainer import Trainer


def frozen_norms(model: nn.Module) -> nn.Module:
    """A network whose BatchNorm statistics stay: over the halves of a batch they would be others."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.requires_grad_(False)
            module.bias.requires_grad_(False)
    return model


class Seen(Trainer):
    """Notes the images of each step, and dies when it is told to."""

    die_at: int | None = None

    def train_step(self, images: torch.Tensor, *targets: torch.Tensor, **place: Any) -> torch.Tensor:
        if self.die_at is not None and self.duration.step == self.die_at and not self.main:
            os.kill(os.getpid(), 9)
        indices, count = self.train_batches.share(self.train_batches.parts[self.progress.batch])
        self.seen.setdefault(self.progress.epoch, []).extend(indices[:count].tolist())
        return super().train_step(images, *targets, **place)


def main(data: str, out: str, settings: dict[str, Any]) -> None:
    die_at, task = settings.pop("die_at", None), Task(**settings.pop("task", Task.binary().model_dump()))
    samples = carvana.find_samples(data)
    train = carvana.SegmentationDataset(samples[:13], (32, 48), task=task, augment="studio")
    val = carvana.SegmentationDataset(samples[13:], (32, 48), task=task)
    torch.manual_seed(0)
    model = frozen_norms(carvana.create_model("unet-ref", task=task, width=4))
    trainer = Seen(
        model, train=train, val=val, out=out, workers=0, precision="fp32", device="cpu", optimizer="sgd", lr=0.1,
        **settings,
    )  # fmt: skip
    trainer.seen, trainer.die_at = {}, die_at
    rank = trainer.accelerator.process_index
    Path(f"{out}.measured-{rank}.json").write_text(json.dumps(vars(trainer.measure(trainer.model))))
    try:
        trainer.fit()
    except carvana.CarvanaError as error:
        print(f"process {rank}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    Path(f"{out}.seen-{rank}.json").write_text(json.dumps(trainer.seen))
    torch.save(trainer.model.state_dict(), f"{out}.last-{rank}.pt")
    trainer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
