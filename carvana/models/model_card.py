"""The model card of a model folder and of the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from carvana.models.spec import ModelSpec


def model_card(spec: ModelSpec, parameters: int, metrics: Mapping[str, Any], repository: str | None = None) -> str:
    """A README.md with the front matter that the Hugging Face hub reads.

    Args:
        spec: The record of the model.
        parameters: How many it has.
        metrics: Numbers to show, by name.
        repository: Its name on the hub, for the example.

    >>> print(model_card(ModelSpec(arch="unet-ref"), 34_527_041, {"dice": 0.98533}).splitlines()[1])
    library_name: carvana
    """
    size = "not trained yet" if spec.trained_size is None else "{} x {} (height x width)".format(*spec.trained_size)
    facts = {
        "Architecture": f"`{spec.arch}`",
        "Options": f"`{json.dumps(spec.options)}`" if spec.options else "the defaults",
        "Parameters": f"{parameters:,}",
        "Classes": str(spec.classes),
        "Weights started from": spec.init,
        "Trained at": size,
        "Threshold": f"{spec.threshold:g}",
        "Normalisation": f"pixels in [0, 1], mean {_triple(spec.mean)}, std {_triple(spec.std)}",
    }
    lines = [
        "---",
        "library_name: carvana",
        "pipeline_tag: image-segmentation",
        "tags:",
        "- carvana",
        "- image-segmentation",
        "- background-removal",
        "---",
        "",
        f"# {spec.arch}",
        "",
        "An image becomes a mask: trained with the Python library carvana.",
        "",
        *_table(("", ""), facts),
    ]
    if metrics:
        numbers = {name: _number(value) for name, value in metrics.items() if _is_plain(value)}
        lines += ["", "## Measured", "", *_table(("metric", "value"), numbers)]
    own = ", network=your_module" if spec.package == "script" else ""
    load = f'carvana.Segmenter.from_pretrained("{repository or "PATH OR REPOSITORY"}"{own})'
    lines += ["", "## Use", "", "```python", "import carvana", "", f"model = {load}"]
    lines += ['mask = carvana.Predictor(model).predict("image.jpg").mask', "```"]
    if spec.package not in ("carvana", "script"):
        lines += ["", f"The architecture comes from the package `{spec.package}`: `pip install {spec.package}`."]
    return "\n".join(lines) + "\n"


def _table(header: tuple[str, str], rows: Mapping[str, str]) -> list[str]:
    return [
        f"| {header[0]} | {header[1]} |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str) or (
        isinstance(value, list | tuple) and all(isinstance(part, int | float) for part in value)
    )


def _number(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " .. ".join(_number(part) for part in value)
    return f"{value:.5f}" if isinstance(value, float) else str(value)


def _triple(values: tuple[float, float, float]) -> str:
    return " / ".join(f"{value:.3g}" for value in values)
