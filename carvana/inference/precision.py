"""The precision in which to use a run."""

from __future__ import annotations

import os

from carvana.run import Run, is_run
from carvana.utils.devices import describe, resolve_device


def precision_of(path: str | os.PathLike[str], device: str = "auto") -> str:
    """The precision to use a run in, as ``carvana.utils.devices`` names it.

    On the machine that trained it, a run keeps the precision of its training, so that results are the same. fp32 is
    kept everywhere: it may have been chosen because the network overflows in others. Else it is "auto".

    Args:
        path: a run; "auto" for anything else.
        device: auto, cpu, cuda or mps.

    Raises:
        ConfigError: there is no such device here.
        RunError: the run's records cannot be read.

    >>> precision_of("no such run")
    'auto'
    """
    if not is_run(path):
        return "auto"
    run = Run(path)
    record = run.read_record()
    # A fit that was interrupted has not recorded what "auto" was; it is the same again on the same machine.
    precision = str(record.get("precision") or run.read_config().train.precision)
    if precision == "fp32" or record.get("machine") == describe(resolve_device(device)):
        return precision
    return "auto"
