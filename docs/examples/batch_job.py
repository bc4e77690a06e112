r"""Predict a folder of photos into one table of masks, with any number of processes on any number of machines.

Each process predicts its share of the photos, and the one that finishes last joins the parts. After an interruption the
same command continues. All machines need the photos and the output at the same paths.

One process, with an untrained network on drawn cars:

    python batch_job.py

Two processes on one machine, each with its own GPU if there are GPUs:

    torchrun --nproc_per_node=2 batch_job.py

Three machines with four GPUs each, with your own model and photos; run the same line on all of them:

    torchrun --nnodes=3 --nproc_per_node=4 --rdzv-backend=c10d --rdzv-endpoint=first-machine:29500 \
        batch_job.py runs/first test submission.csv.gz
"""

import os
import sys
import time
from pathlib import Path

import torch

import carvana

NUMBER, COUNT = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def demo_job() -> tuple[Path, Path, Path]:
    """Make a model and photos to try the job on, in the first process while the others wait."""
    model, photos, ready = Path("demo-model"), Path("cars", "train"), Path("demo-model", "ready")
    if NUMBER == 0 and not ready.exists():
        carvana.write_demo("cars", cars=3, views=4, size=(160, 240), workers=1)
        torch.manual_seed(0)
        carvana.create_model("unet-ref", width=4).save_pretrained(model)
        ready.touch()
    while not ready.exists():
        time.sleep(0.1)
    return model, photos, Path("submission.csv.gz")


def main() -> None:
    """Predict the share of this process."""
    model, photos, out = map(Path, sys.argv[1:]) if len(sys.argv) == 4 else demo_job()
    predictor = carvana.Predictor.from_pretrained(model)
    done = carvana.write_submission(predictor, [photos], out=out, workers=0, chunk=4)
    print(f"process {NUMBER} of {COUNT}: {done.written} of {done.rows} rows", flush=True)
    if done.complete:
        print(f"process {NUMBER}: {out} is complete", flush=True)
    if done.failed:
        sys.exit(f"process {NUMBER}: {len(done.failed)} photos cannot be read, the first: {done.failed[0][1]}")


if __name__ == "__main__":
    main()
