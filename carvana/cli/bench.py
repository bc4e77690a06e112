"""``carvana bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carvana.cli import complete, options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from carvana.evaluation.cost import Cost
    from carvana.inference.predictor import Predictor


def bench(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|RUN...", help="Architectures, runs, exported files.", autocompletion=complete.archs
        ),
    ],
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of the image.")] = "1280x1918",
    tile: options.TILE = None,
    overlap: options.OVERLAP = None,
    seconds: Annotated[float, typer.Option(min=0, help="The least time of each measurement.")] = 3.0,
    json: Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the numbers as JSON; - is stdout.")] = None,
    replace: options.REPLACE = False,
    device: options.DEVICE = "auto",
) -> None:
    """Measure the cost of networks: parameters, FLOPs, time and memory, whole and in tiles, in each precision."""
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import check_json_target, show, write_json_result
    from carvana.data.demo import draw_photo
    from carvana.evaluation.cost import count_parameters, describe_machine, measure_cost
    from carvana.utils.progress import track

    check_json_target(json, replace=replace)
    shape = options.parse_size(size)
    image, _ = draw_photo(0, 1, size=shape)
    reporter = make_reporter()
    found = _predictors(networks, shape, device, tile, overlap)
    rows: list[dict[str, Any]] = []
    machine = ""
    costs: list[tuple[str, int | None, Cost]] = []
    for name, predictor in track(found, reporter, "measuring"):
        cost = measure_cost(predictor, image, seconds=seconds)
        parameters = count_parameters(predictor.model)
        costs.append((name, parameters, cost))
        rows.append({"name": name, "parameters": parameters, **cost.to_json()})
        machine = describe_machine(predictor)
        del predictor  # else its network would count towards the memory of the next one
    if json != "-":
        show(_table(costs, f"an image of {shape[0]}x{shape[1]} (height x width) on {machine}"))
    if json is not None:
        write_json_result(json, {"machine": machine, "size": list(shape), "rows": rows})


def _predictors(
    names: list[str], size: tuple[int, int], device: str, tile: int | None, overlap: float | None
) -> Iterator[tuple[str, Predictor]]:
    """Each network at each scale it is used at, whole and in tiles, in fp32 and in the fast precision of the device."""
    from carvana.inference.engines.onnx import OnnxEngine, is_exported, onnx_device
    from carvana.inference.predictor import Predictor
    from carvana.models.create import create_model
    from carvana.models.segmenter import Segmenter
    from carvana.utils.devices import resolve_device, resolve_precision

    quick = resolve_precision("auto", resolve_device(device))
    for name in names:
        model: Segmenter | OnnxEngine
        if is_exported(name):
            model = OnnxEngine.load(name, device=onnx_device(device))
        else:
            model = Segmenter.from_pretrained(name) if Path(name).exists() else create_model(name)
        for scale in ("trained", "native") if model.spec.trained_size else ("native",):
            for mode in ("whole", "tiles"):
                cover: dict[str, Any] = {"tile": tile, "overlap": overlap} if mode == "tiles" else {}
                for precision in dict.fromkeys(("fp32", "fp32" if is_exported(name) else quick)):
                    made = Predictor(model, scale=scale, mode=mode, device=device, precision=precision, **cover)
                    if mode == "whole" or len(made.plan(size)) > 1:
                        yield name, made


def _table(costs: list[tuple[str, int | None, Cost]], title: str) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="table.title"), box=SIMPLE, title_justify="left", expand=False)
    table.add_column("network", style="bold")
    table.add_column("sees")
    table.add_column("precision")
    for heading in (
        "parameters",
        "GFLOP",
        "ms an image",
        "network alone",
        "images/s",
        "outside the network",
        "images/s, files",
        "peak MB",
    ):
        table.add_column(heading, justify="right")
    for name, parameters, cost in costs:
        scale = cost.scale if isinstance(cost.scale, str) else f"{cost.scale[0]}x{cost.scale[1]}"
        table.add_row(
            name,
            f"{scale}, {cost.mode if cost.tiles == 1 else f'{cost.tiles} tiles'}",
            cost.precision,
            "" if parameters is None else f"{parameters:,}",
            "" if cost.gflops is None else f"{cost.gflops:,.1f}",
            f"{cost.ms:,.1f}",
            f"{cost.network_ms:,.1f}",
            f"{cost.images_per_s:,.2f}",
            f"{cost.outside:.1%}",
            f"{cost.files_per_s:,.2f}",
            f"{cost.peak_memory_mb:,.0f}",
        )
    return table
