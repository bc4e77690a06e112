"""Which packages a recipe's names come from, so that a run can say what it needs where they are not installed."""

from __future__ import annotations

from collections.abc import Iterator

from carvana.config import FitConfig
from carvana.errors import RunError, UnknownNameError
from carvana.losses import loss_names
from carvana.models.spec import is_distribution
from carvana.registry import Catalog, registry
from carvana.run import Run

KEY = "plugins"
"""Where a run's record keeps them: the package of each name."""


def packages_of(config: FitConfig) -> dict[str, str]:
    """The package of each name that neither this library nor a script brought: ``{"segnet": "carvana-segnet"}``."""
    sources = {name: catalog.entry(name).source for catalog, name in _names(config)}
    return {name: source for name, source in sources.items() if source not in ("carvana", "script")}


def check_packages(run: Run, config: FitConfig) -> None:
    """Make sure that all names of a run's recipe are known here.

    Raises:
        RunError: one is not, and the run knows which package brings it; or its record of them is damaged.
        UnknownNameError: one is not, and nobody knows.
    """
    needed = run.read_record().get(KEY) or {}
    if not isinstance(needed, dict) or not all(isinstance(p, str) and is_distribution(p) for p in needed.values()):
        raise RunError(f"{run.record_path}: {KEY} must be a table of names and their packages, got {needed!r:.60}")
    for catalog, name in _names(config):
        try:
            catalog.entry(name)
        except UnknownNameError:
            if name not in needed:
                raise
            raise RunError(
                f"{run.path}: the {catalog.kind} '{name}' is not registered here; install the package that brings it,"
                f" if you trust it: pip install {needed[name]}"
            ) from None
        source = catalog.entry(name).source
        if source != needed.get(name, source):
            raise RunError(
                f"{run.path}: its {catalog.kind} '{name}' is that of the package {needed[name]}, which is not installed"
                f" here, and not that of {source}: pip install {needed[name]}"
            )


def _names(config: FitConfig) -> Iterator[tuple[Catalog, str]]:
    yield registry.archs, config.arch
    yield registry.augments, config.data.augment
    for name in loss_names(config.train.loss):
        yield registry.losses, name
