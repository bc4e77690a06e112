"""``carvana bench`` and ``carvana export``: what a network costs, and a network as a file that runs without torch."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carvana.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from carvana.evaluation.cost import Cost
    from carvana.inference.prediction import Prediction
    from carvana.inference.predictor import Predictor
    from carvana.task import Task
    from carvana.utils.progress import Reporter

FORMATS = ("onnx", "openvino")

MOST_COMPARED = 40_000_000
"""Probabilities, of all classes together: more are not compared, so that memory does not grow by them."""


def bench(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|RUN...", help="Architectures, runs, exported files.", autocompletion=options.complete_archs
        ),
    ],
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of the image.")] = "1280x1918",
    classes: Annotated[
        int, typer.Option(min=1, max=1000, help="Classes of the architectures; runs have their own.")
    ] = 1,
    tile: options.TILE = None,
    overlap: options.OVERLAP = None,
    seconds: Annotated[float, typer.Option(min=0, help="The least time of each measurement.")] = 3.0,
    json: Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the numbers as JSON; - is stdout.")] = None,
    replace: options.REPLACE = False,
    device: options.DEVICE = "auto",
    engine: Annotated[
        str | None,
        typer.Option(help="Measure this engine alone: torch, onnx or openvino; by default each that is installed."),
    ] = None,
) -> None:
    """Measure the cost of networks: time, memory and FLOPs, whole and in tiles, by each engine, in each precision.

    The last columns compare with torch in fp32, on one drawn photo. For the engines onnx and openvino a network is
    converted once, in some seconds.
    """
    from rich.table import Column

    from carvana.cli.display import make_reporter
    from carvana.cli.tables import check_json_target, make_table, plain_text, show_result
    from carvana.data.demo import draw_photo
    from carvana.evaluation.cost import count_parameters, describe_machine, measure_cost, values_for
    from carvana.inference.engines.torch import TorchEngine
    from carvana.utils.progress import track

    check_json_target(json, replace=replace)
    shape = options.parse_size(size)
    photo, _ = draw_photo(0, 1, size=shape)
    reporter = make_reporter()
    found = _predictors(networks, classes, shape, device, engine, tile, overlap, reporter)
    cells: list[dict[str, str]] = []
    rows: list[dict[str, Any]] = []
    machine = ""
    reference: Prediction | None = None
    compared: tuple[Any, ...] = ()
    for name, predictor, prepared in track(found, reporter, "measuring"):
        seen = (name, predictor.scale, predictor.plan(shape).tile)
        image = values_for(photo, predictor.image_specs[0])
        cost = measure_cost(
            predictor, image, seconds=seconds, prepared=prepared, reference=reference if compared == seen else None
        )
        is_reference = isinstance(predictor.engine, TorchEngine) and predictor.precision == "fp32"
        if is_reference and len(predictor.task.classes) * math.prod(shape) <= MOST_COMPARED:
            reference, compared = predictor.predict(image), seen
        parameters, task = count_parameters(predictor.model), predictor.task
        cells.append(_cells(name, task, parameters, cost))
        about = {"name": name, "kind": task.kind, "classes": len(task.classes), "parameters": parameters}
        rows.append({**about, **cost.to_json()})
        machine = describe_machine(predictor)
        del predictor  # else its network would count towards the memory of the next one
    title = f"an image of {shape[0]}x{shape[1]} (height x width) on {machine}"
    words = ("network", "sees", "engine", "precision", "classes")
    columns = [Column(heading, justify="left" if heading in words else "right") for heading in cells[0]]
    table = make_table(*columns, title=title)
    for row in cells:
        table.add_row(*map(plain_text, row.values()))
    show_result(table, json, {"machine": machine, "size": list(shape), "rows": rows})


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or a model folder.")],
    to: Annotated[str, typer.Option(help="The format: onnx, or openvino.")],
    out: Annotated[Path, typer.Option(help="The file to write, which ends in .onnx; for openvino a folder.")],
    output: Annotated[
        str, typer.Option(help="What the file gives: logits, probabilities, or labels, the smallest answer.")
    ] = "logits",
    replace: options.REPLACE = False,
) -> None:
    """Write a model as a file that runs without torch, and compare both at three image sizes."""
    from carvana.errors import ConfigError, ModelError, did_you_mean, shortened
    from carvana.folds import Folds

    if to not in FORMATS:
        raise ConfigError(f"--to {to!r} is unknown; expected {', '.join(FORMATS)}{did_you_mean(to, FORMATS)}")
    if Folds(run).exists:
        raise ModelError(f"{run}: holds folds, and a file holds one network; export one of them, such as {run}/fold-1")

    from carvana.cli.display import make_reporter
    from carvana.inference.engines.export import export_onnx, export_openvino
    from carvana.models.segmenter import Segmenter

    model = Segmenter.from_pretrained(run)
    write = export_onnx if to == "onnx" else export_openvino
    made = write(model, out, output=output, replace=replace, reporter=make_reporter())
    sizes = ", ".join(f"{check.shape[0]} x {check.shape[2]}x{check.shape[3]}" for check in made.checks)
    typer.echo(f"{'file   ' if to == 'onnx' else 'folder '} {made.path}, {made.size / 1e6:.1f} MB")
    if model.spec.task is not None and model.spec.classes > 1:
        names = shortened(", ".join(model.spec.task.names), 80)
        typer.echo(f"classes {model.spec.classes}, {model.spec.task.kind}: {names}")
    within = f"{made.difference:.1e}" if output != "labels" else f"{made.difference:.1%} of the pixels"
    typer.echo(f"checked {output}, within {within} of PyTorch, with images of {sizes} pixels")
    if output != "labels":
        typer.echo(f"next    carvana predict {made.path} IMAGES --out masks")


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or a model folder.")],
    repository: Annotated[
        str, typer.Argument(metavar="USER/REPO", help="Repository on the Hugging Face hub; created if missing.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Create it as private; an existing one is not changed.")
    ] = False,
    thumbnail: Annotated[
        bool, typer.Option("--thumbnail", help="Upload the run's picture too, which shows validation images.")
    ] = False,
) -> None:
    """Upload a model and its card, with its scores, to the Hugging Face hub.

    Log in with `hf auth login` first, or set HF_TOKEN.
    """
    from carvana.errors import ConfigError
    from carvana.folds import Folds
    from carvana.models.segmenter import Segmenter
    from carvana.models.serialization import could_be_repository

    if not could_be_repository(repository):
        raise ConfigError(f"{repository!r}: expected a repository of the hub, such as user/cars")
    if Folds(run).exists:
        raise ConfigError(f"{run}: holds folds, and a repository holds one network; push one of them: {run}/fold-1")
    model = Segmenter.from_pretrained(run)
    typer.echo(model.push_to_hub(repository, private=private, run=run, thumbnail=thumbnail))
    typer.echo(f"next    carvana predict {repository} IMAGES --out masks", err=True)


def _predictors(
    names: list[str],
    classes: int,
    size: tuple[int, int],
    device: str,
    engine: str | None,
    tile: int | None,
    overlap: float | None,
    reporter: Reporter,
) -> Iterator[tuple[str, Predictor, float]]:
    """Each network at each scale it is used at, whole and in tiles, by each engine, in fp32 and in the fast precision;
    with the seconds that the predictor took to be made.
    """
    import torch

    from carvana.inference.engines.exported import is_exported
    from carvana.inference.predictor import Predictor
    from carvana.models.segmenter import Segmenter, create_model
    from carvana.task import Task
    from carvana.utils.devices import resolve_device, resolve_precision

    task = Task(classes=[f"class {number}" for number in range(1, classes + 1)])
    quick = resolve_precision("auto", resolve_device(device))
    for name in names:
        model: Segmenter | None = None
        if not is_exported(name):
            torch.manual_seed(0)  # so that a converted network is found again
            model = Segmenter.from_pretrained(name) if Path(name).exists() else create_model(name, task=task)

        def make(settings: dict[str, Any], name: str = name, model: Segmenter | None = model) -> Predictor:
            settings = {**settings, "device": device, "reporter": reporter}
            return Predictor.from_pretrained(name, **settings) if model is None else Predictor(model, **settings)

        ways = list(_ways(name, engine, quick, device))
        for way in ways:
            make(way)  # converts the network, which is kept and is not a part of the first mask
        trained = make(ways[0]).size if model is None else model.spec.trained_size
        for scale in ("trained", "native") if trained else ("native",):
            for mode in ("whole", "tiles"):
                cover: dict[str, Any] = {"tile": tile, "overlap": overlap} if mode == "tiles" else {}
                for way in ways:
                    began = time.perf_counter()
                    made = make({**way, "scale": scale, "mode": mode, **cover})
                    prepared = time.perf_counter() - began
                    if mode == "whole" or len(made.plan(size)) > 1:
                        yield name, made, prepared


def _ways(name: str, engine: str | None, quick: str, device: str) -> Iterator[dict[str, str]]:
    """The engines of a network with their precisions, torch in fp32 first."""
    from carvana.errors import ModelError
    from carvana.inference.engines.choice import checked_engine, installed
    from carvana.inference.engines.exported import is_exported
    from carvana.utils.devices import resolve_device

    file = is_exported(name)
    known = ["onnx", "openvino"] if Path(name).suffix.lower() == ".onnx" else ["openvino"]
    known = known if file else ["torch", "onnx", "openvino"]
    on_cpu = resolve_device(device).type == "cpu"
    if engine is not None:
        taken = [str(checked_engine(engine))]
    else:
        taken = [each for each in known if installed(each, file=file) and (on_cpu or each != "openvino")]
    if not taken:
        raise ModelError(f"'{name}': nothing that runs it is installed; pip install 'carvana[{known[0]}]'")
    for each in taken:
        for precision in ("fp32",) if each == "onnx" else dict.fromkeys(("fp32", quick)):
            yield {"engine": each, "precision": precision}


def _cells(name: str, task: Task, parameters: int | None, cost: Cost) -> dict[str, str]:
    scale = cost.scale if isinstance(cost.scale, str) else f"{cost.scale[0]}x{cost.scale[1]}"
    return {
        "network": name,
        "sees": f"{scale}, {cost.mode if cost.tiles == 1 else f'{cost.tiles} tiles'}",
        "engine": cost.engine,
        "precision": cost.precision,
        "classes": str(len(task.classes)) + ("" if task.kind == "binary" else f" {task.kind}"),
        "parameters": "" if parameters is None else f"{parameters:,}",
        "GFLOP": "" if cost.gflops is None else f"{cost.gflops:,.1f}",
        "first, ms": f"{cost.first_ms:,.0f}",
        "ms an image": f"{cost.ms:,.1f}",
        "images/s": f"{cost.images_per_s:,.2f}",
        "outside": f"{cost.outside:.1%}",
        "files/s": f"{cost.files_per_s:,.2f}",
        "peak MB": f"{cost.peak_memory_mb:,.0f}",
        "difference": "" if cost.difference is None else f"{cost.difference:.1e}",
        "pixels": "" if cost.differing is None else f"{cost.differing:.4%}",
    }
