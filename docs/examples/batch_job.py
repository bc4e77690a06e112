r"""A batch job: one table of masks of a folder of photos, made by any number of processes on any number of machines.

Each process takes its share of the photos, whoever finds all shares done joins them, and a job that was killed goes on
where it was when it is started again. All machines must see the photos and the output at the same paths.

One process, on drawn cars and an untrained network, since no model is named:

    python batch_job.py

Two processes of one machine, each with a GPU where there are any:

    torchrun --nproc_per_node=2 batch_job.py

Three machines with four GPUs each, the same line on all of them, with your own model and photos:

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
    """A model and photos to try the job on, made by the first process while the others wait."""
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
    """Do this process's share."""
    model, photos, out = map(Path, sys.argv[1:]) if len(sys.argv) == 4 else demo_job()
    predictor = carvana.Predictor.from_pretrained(model)
    done = carvana.write_submission(predictor, [photos], out=out, workers=0, chunk=4)
    print(f"process {NUMBER} of {COUNT}: {done.written} of {done.rows} rows", flush=True)
    if done.complete:
        print(f"{out} is complete, process {NUMBER} says", flush=True)
    if done.failed:
        sys.exit(f"process {NUMBER}: {len(done.failed)} photos cannot be read, the first: {done.failed[0][1]}")


if __name__ == "__main__":
    main()
