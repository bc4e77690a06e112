"""Which packages the names of a config come from, so that a run can name those that are not installed."""

from __future__ import annotations

from collections.abc import Iterator

from carvana.config import FitConfig
from carvana.errors import RunError, UnknownNameError
from carvana.losses import loss_names
from carvana.models.spec import is_distribution
from carvana.registry import Catalog, registry
from carvana.run import Run

KEY = "plugins"
"""The key of a run's record: the package of each name."""


def packages_of(config: FitConfig) -> dict[str, str]:
    """The package of each name that a plugin adds: ``{"segnet": "carvana-segnet"}``."""
    sources = {name: catalog.entry(name).source for catalog, name in _names(config)}
    return {name: source for name, source in sources.items() if source not in ("carvana", "script")}


def check_packages(run: Run, config: FitConfig) -> None:
    """Refuse a run whose names are not all registered here.

    Raises:
        RunError: a name is missing whose package the run records; or that record is damaged.
        UnknownNameError: a name is missing, and its package is not recorded.
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
