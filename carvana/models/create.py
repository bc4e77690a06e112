"""From a name to a Segmenter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carvana.models.build import build_network
from carvana.models.segmenter import Segmenter
from carvana.task import Task
from carvana.utils.progress import Reporter, default_reporter


def create_model(
    name: str,
    *,
    classes: int = 1,
    task: Task | None = None,
    encoder_weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    **more_options: Any,
) -> Segmenter:
    """Build an architecture of the registry, ready to train.

    Args:
        name: An architecture, such as ``"unet-ref"`` or ``"unet/resnet34"``; ``carvana archs`` lists them.
        classes: Channels of the logits; 1 for foreground against background. Of more, without a task, nobody knows what
            they mean: the model gives logits only.
        task: What is to be told apart; its classes are the channels of the logits.
        encoder_weights: Where the encoder's weights come from: None or ``"none"`` (random), ``"imagenet"`` or another
            name that smp publishes, ``"auto"`` (pretrained if cached or if the hub answers within 3 s, else random with
            a warning), or a file (.safetensors, .pth). What happened is in ``spec.init``.
        options: Passed on to the architecture's factory; plain JSON values, since they travel with the weights.
        reporter: Warned where ``"auto"`` had to start from random weights; by default the log is.
        more_options: The same as ``options``, as keywords; they win over them.

    Raises:
        UnknownNameError: no such architecture.
        ConfigError: an option or a value that the architecture does not take.
        ModelError: the architecture cannot be built, or the weights are not available.

    >>> model = create_model("unet-ref", width=4)
    >>> model.spec.stride, model.spec.init
    (16, 'random')
    """
    network, spec = build_network(
        name,
        classes=classes if task is None else len(task.classes),
        encoder_weights=encoder_weights,
        options={**(options or {}), **more_options},
    )
    if spec.init.startswith("auto: random "):
        reason = spec.init.removeprefix("auto: random ")
        (reporter or default_reporter()).warn(f"{name} starts from random weights {reason}")
    model = Segmenter(network.module, spec, encoder=network.encoder)
    return model if task is None else model.with_spec(task=task)
