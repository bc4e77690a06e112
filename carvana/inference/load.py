"""Loads a Predictor, an Ensemble or a Refiner, by what is named."""

from __future__ import annotations

import os
from typing import Any, get_args

from carvana.errors import ConfigError, did_you_mean
from carvana.inference.base import BasePredictor
from carvana.inference.ensemble import Ensemble, Paths, member_paths
from carvana.inference.predictor import Predictor
from carvana.inference.refiner import BAND, MARGIN, Refiner
from carvana.inference.tiling.config import Mode


def load_predictor(
    paths: Paths,
    *,
    mode: str = "auto",
    refine_with: str | os.PathLike[str] | None = None,
    band: tuple[float, float] = BAND,
    margin: int = MARGIN,
    **settings: Any,
) -> BasePredictor[Any]:
    """The predictor of one run or model folder, or the ensemble of several; a folder of folds counts as several.

    Args:
        paths: What to load.
        mode: ``refine`` runs a second network on uncertain regions: see :class:`carvana.Refiner`. Else as for
            :class:`carvana.Predictor`.
        refine_with: The network that refines, which implies ``refine``; by default that of ``paths``.
        band: See :class:`carvana.Refiner`; only with ``refine``.
        margin: See :class:`carvana.Refiner`; only with ``refine``.
        settings: See :meth:`carvana.Ensemble.from_pretrained`. With ``refine``, ``scale`` is for the first
            network, ``tile`` and ``join`` are for the second.

    Raises:
        ConfigError: several networks are to refine, or an option does not go with another.
        ModelError, RunError: a model cannot be loaded.
    """
    known = (*get_args(Mode), "refine")
    if mode not in known:
        raise ConfigError(f"mode {mode!r} is unknown; expected {', '.join(known)}{did_you_mean(mode, known)}")
    found = member_paths(paths)
    if mode != "refine" and refine_with is None:
        for name, value, default in (("band", band, BAND), ("margin", margin, MARGIN)):
            if value != default:
                raise ConfigError(f"{name} {value}: goes with a second look; add --refine-with, or --mode refine")
        return _load(found, mode=mode, **settings)
    if mode not in ("refine", "auto"):
        raise ConfigError(f"mode {mode!r} does not go with a network to refine with; leave it out, or take mode refine")
    if settings.get("overlap") is not None:
        raise ConfigError(
            f"overlap {settings['overlap']}: the windows of mode refine do not overlap by a share; leave it out"
        )
    fine = member_paths(found if refine_with is None else refine_with)
    if len(fine) != 1:
        raise ConfigError(f"{len(fine)} networks cannot refine together; name one with --refine-with")
    shared = {name: value for name, value in settings.items() if name not in ("scale", "tile", "join", "overlap")}
    second = {name: settings[name] for name in ("tile", "join") if name in settings}
    coarse = _load(found, **shared, **({"scale": settings["scale"]} if "scale" in settings else {}))
    if refine_with is None and coarse.scale == "native":
        raise ConfigError(
            f"mode refine: {found[0]} sees images at their own size at the first look as well; name a smaller scale, "
            "such as --scale 256x384"
        )
    return Refiner(
        coarse, Predictor.from_pretrained(fine[0], scale="native", **shared, **second), band=band, margin=margin
    )


def _load(paths: list[str | os.PathLike[str]], **settings: Any) -> BasePredictor[Any]:
    if len(paths) == 1:
        return Predictor.from_pretrained(paths[0], **settings)
    return Ensemble.from_pretrained(paths, **settings)
