"""The process that worker_pool.py starts for each job, ``python -m carvana.leaderboard.jobs FD``, and the jobs.

It receives a job through the file descriptor, does it (fit, evaluate or measure a network), sends its progress back,
and ends. Results are files, written at the end; everything printed goes into the job's log. What needs torch is
imported by the jobs: that takes seconds, in which the process must already watch its parent and keep to its limit.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from carvana.config import FitConfig
from carvana.data.samples import Sample
from carvana.errors import CarvanaError, RunError, cause
from carvana.image_spec import Page
from carvana.leaderboard.worker_pool import PipeEnd, WorkerJob, register_targets
from carvana.registry import resolve
from carvana.run import Run, first_free
from carvana.task import Task
from carvana.utils.devices import is_out_of_memory
from carvana.utils.files import lock, write_json
from carvana.utils.progress import Reporter

_PAUSE = 0.25
"""Seconds between two messages about steps."""

_LONGEST = 300
"""Characters of a reason; the log has the whole text."""

_PATIENCE = 15.0
"""Seconds to wait until a run is unlocked: a worker whose parent was killed may still be ending."""

MEASURED = 2.0
"""Seconds that each kind of cost is measured for."""

_PLACES = ("root", "images", "masks")
"""Keys of data that may change before a fit is resumed: where images lie."""


def main() -> None:
    """Do the job that arrives through the descriptor on the command line."""
    connection = PipeEnd(int(sys.argv[1]))
    path, job, device = connection.recv()
    sys.path[:] = path
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    reporter = WorkerReporter(connection.send)
    try:
        if job.memory_gb is not None:
            _limit_memory(int(1e9 * job.memory_gb))
        register_targets(job.targets)
        resolve(job.function, "the job of a comparison")(reporter=reporter, device=device, **job.arguments)
    except BaseException as error:
        traceback.print_exc()
        reporter.send("failed", _reason(error, job))
    else:
        reporter.send("done")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads and libraries that still run must neither delay the end nor crash it


class WorkerReporter(Reporter):
    """A Reporter that sends its calls to another process: the method's name, its arguments, and those by keyword."""

    def __init__(self, send: Callable[[tuple[Any, ...]], None]) -> None:
        self._send = send
        self._steps = 0
        self._sent = 0.0  # when the last steps were sent

    def send(self, kind: str, *values: Any, **numbers: float) -> None:
        """Send a call."""
        self._send((kind, values, numbers))

    def info(self, message: str) -> None:
        """Send a line."""
        self.send("info", message)

    def warn(self, message: str) -> None:
        """Send a warning."""
        self.send("warn", message)

    def start(self, task: str, total: int | None) -> None:
        """Send that a task begins."""
        self.send("start", task, total)

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """Send the steps of a task, at most four times a second: a process that is busy reads none for a while."""
        self._steps += steps
        if time.monotonic() - self._sent >= _PAUSE:
            self.send("advance", task, self._steps, **values)
            self._steps, self._sent = 0, time.monotonic()

    def finish(self, task: str, **values: float) -> None:
        """Send that a task is done."""
        if self._steps:
            self.send("advance", task, self._steps)
            self._steps = 0
        self.send("finish", task, **values)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Send the numbers of an epoch."""
        self.send("epoch", dict(record))


def fit_network(
    *,
    reporter: WorkerReporter,
    device: str,
    config: FitConfig,
    run: Run,
    group: str = "",
    patience: float = _PATIENCE,
) -> None:
    """Fit a network into a run folder and evaluate it; resume what an earlier process was stopped in."""
    from carvana.training.fit import fit, resume

    _wait_until_unlocked(run, patience)
    if run.config_path.is_file() and not _can_resume(run):
        reporter.warn(f"the state of {run.path} cannot be read; the folder is renamed, and the fit starts again")
        run.path.rename(first_free(run.path.with_name(f"{run.path.name}-damaged")))
    if not run.config_path.is_file():
        fit(config, out=run.path, device=device, group=group, reporter=reporter)
        return
    now: dict[str, Any] = {f"data.{key}": getattr(config.data, key) for key in _PLACES}
    run.write_config(run.read_config().replace(now).with_neutral(config))
    if "fit_seconds" not in run.read_record():  # an interrupted fit that was evaluated by hand
        run.evaluation_path.unlink(missing_ok=True)
    resume(run.path, device=device, reporter=reporter)


def evaluate_finished(
    *, reporter: WorkerReporter, device: str, run: Run, result: Run, samples: Sequence[Sample], task: Task | None = None
) -> None:
    """Evaluate a finished run on the validation images of the comparison; a model reads labels as its ``task`` says."""
    from carvana.evaluation.evaluate import evaluate
    from carvana.inference.predictor import Predictor

    predictor = Predictor.from_pretrained(run.path, device=device)
    predictor.task = task or predictor.task
    evaluation = evaluate(predictor, samples, masks_dir=result.masks_path, reporter=reporter)
    result.write_evaluation(evaluation.to_json())


def measure(
    *, reporter: WorkerReporter, device: str, run: Run, image: Path, page: Page, out: Path, key: Mapping[str, Any]
) -> None:
    """Measure the cost of prediction at the scale that the network was trained at."""
    from carvana.data.io.images import read_bands, read_image, read_pixels
    from carvana.evaluation.cost import count_parameters, describe_machine, measure_cost
    from carvana.inference.predictor import Predictor
    from carvana.models.segmenter import Segmenter

    predictor = Predictor.from_pretrained(run.path, device=device)
    (spec,) = predictor.image_specs
    if not spec.is_picture:
        pixels = read_bands(image, spec.of_page(page))[0]
    else:
        pixels = read_image(image) if page is None else read_pixels(image, spec.of_page(page))
    cost = measure_cost(predictor, pixels, seconds=MEASURED)
    model = predictor.model
    trainable = count_parameters(model) if isinstance(model, Segmenter) else None
    write_json(out, {**key, "params": trainable, "machine": describe_machine(predictor), **cost.to_json()})


def _wait_until_unlocked(run: Run, patience: float) -> None:
    until = time.monotonic() + patience
    while run.lock_path.exists() and time.monotonic() < until:  # the fit then reports who holds the lock
        try:
            with lock(run.lock_path, wait=False):
                return
        except BlockingIOError:
            time.sleep(0.1)


def _can_resume(run: Run) -> bool:
    from carvana.training.checkpoint import has_state, read_state

    if not has_state(run.state_path):
        return not run.metrics_path.exists()
    try:
        read_state(run.state_path)
    except RunError:
        return False
    return True


def _limit_memory(limit: int) -> None:
    """Limit the data, not the address space: CUDA's libraries alone map dozens of GB that they never touch."""
    if sys.platform == "win32":
        raise NotImplementedError  # compare refuses memory_gb there
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _reason(error: BaseException, job: WorkerJob) -> str:
    """The error as one line; where memory ran out, with the process's limit if it has one."""
    words = " ".join(str(error).split())
    words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."
    if "CUDA out of memory" in words:
        return "out of memory on the GPU"
    if is_out_of_memory(error):
        limit = "" if job.memory_gb is None else f" (the limit of its process is {job.memory_gb:g} GB)"
        return f"out of memory{limit}"
    if isinstance(error, CarvanaError):
        return words
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {cause(error)}"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _end_with_parent(connection: PipeEnd) -> None:
    """End when the parent ends: it sends nothing after the job, so the pipe becomes readable only when it closes."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)


if __name__ == "__main__":
    main()
