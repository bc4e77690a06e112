"""The HTTP API and the page, as a FastAPI application."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from carvana.data.io.images import encode_image
from carvana.errors import ConfigError, DataError, ImageTooLargeError, ModelError
from carvana.inference.base import BasePredictor, scale_text
from carvana.inference.predictor import Predictor
from carvana.inference.preprocess import network_size
from carvana.models.model_card import CARD, model_card
from carvana.models.segmenter import Segmenter
from carvana.run import Run
from carvana.serve.answers import OUTPUTS, TYPES, Wanted, accepted, disposition
from carvana.serve.guard import Guard
from carvana.serve.metrics import Metrics
from carvana.serve.upload import Uploads, unless_gone
from carvana.serve.work import BusyError, Worker
from carvana.utils import __version__
from carvana.utils.devices import describe

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of this machine."""

_FORM: dict[str, Any] = {"multipart/form-data": {"schema": {
    "type": "object", "required": ["image"], "properties": {"image": {"type": "string", "format": "binary"}},
}}}  # fmt: skip
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ERROR = {
    "content": {"application/json": {"example": {"error": "612 bytes: not an image; expected JPEG, PNG, GIF, ..."}}}
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The image cannot be read.", **_ERROR},
    401: {"description": "A token is needed.", **_ERROR},
    403: {"description": "Another page's request, or another host's name.", **_ERROR},
    406: {"description": "No answer is of a type that Accept names.", **_ERROR},
    408: {"description": "The image comes too slowly.", **_ERROR},
    413: {"description": "Too many bytes or pixels.", **_ERROR},
    415: {"description": "Neither a form nor an image.", **_ERROR},
    422: {"description": "An option that cannot be used.", **_ERROR},
    503: {
        "description": "All places are taken, or uploads fill the memory; Retry-After says when to come again.",
        **_ERROR,
    },
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Who may ask, and for how much.

    Attributes:
        max_bytes: of an image file.
        places: requests that may be in work or wait.
        token: that requests must bring; None for none.
        origins: of pages on other hosts that may ask.
        hosts: names by which the server may be asked; None for any.
    """

    max_bytes: int = 50_000_000
    places: int = 64
    token: str | None = None
    origins: Sequence[str] = ()
    hosts: Sequence[str] | None = LOCAL


def create_app(predictor: BasePredictor, *, source: str = "", limits: Limits | None = None) -> FastAPI:
    """The application, for any ASGI server.

    Args:
        predictor: makes the predictions.
        source: the run, model folder or file that the predictor was loaded from, whose card and score are shown.
        limits: who may ask, and for how much. By default the server is asked by names of this machine alone.

    Example:
        >>> import carvana
        >>> predictor = carvana.Predictor(carvana.create_model("unet-ref", width=2), device="cpu")
        >>> sorted({route.path for route in create_app(predictor).routes})
        ['/', '/healthz', '/metrics', '/model', '/openapi.json', '/predict', '/sample.jpg']
    """
    limits = limits or Limits()
    metrics = Metrics()
    uploads = Uploads(limits.max_bytes)
    workers: list[Worker] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        workers.append(Worker(predictor, places=limits.places, metrics=metrics))
        yield
        workers.pop().close()

    app = FastAPI(
        title="carvana serve", version=__version__, description="Images become masks.",
        docs_url=None, redoc_url=None, lifespan=lifespan,  # their pages would fetch scripts from another host
    )  # fmt: skip
    app.add_middleware(Guard, metrics=metrics, hosts=limits.hosts, origins=limits.origins, token=limits.token)
    if limits.origins:  # the last one is the outermost: refusals can be read by these pages as well
        app.add_middleware(
            CORSMiddleware, allow_origins=list(limits.origins), allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["Server-Timing", "Content-Disposition", "Retry-After"],
        )  # fmt: skip
    _answer_errors(app)
    record = model_record(predictor, source) | {"max_bytes": limits.max_bytes}

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        text, policy = _page()
        return Response(text, media_type="text/html", headers={"Content-Security-Policy": policy})

    @app.post(
        "/predict",
        response_class=Response,
        summary="The mask of an image, or what else is asked for",
        responses={
            200: {
                "description": "; ".join(f"{name}: {what}" for name, what in OUTPUTS.items()),
                "content": dict.fromkeys(("image/png", "image/jpeg", "application/zip"), _BINARY)
                | {"application/json": {"example": {"size": [2, 4], "order": "row", "classes": [_RUNS]}}},
            },
            **_ERRORS,
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": _FORM | {"image/*": _BINARY, "application/octet-stream": _BINARY},
            }
        },
    )
    async def predict(
        request: Request,
        output: Annotated[
            str | None,
            Query(description=f"Some of {', '.join(OUTPUTS)}, comma-separated; several come in a zip. By default what "
                  "the Accept header prefers: PNG is the mask, JPEG the overlay, JSON coco.", examples=["mask"]),
        ] = None,
        of_class: Annotated[
            str | None, Query(alias="class", description="The class to show, where there are several.")
        ] = None,
        threshold: Annotated[float | None, Query(description="In [0, 1], in place of the model's own.")] = None,
        background: Annotated[
            str | None, Query(description="A CSS colour that cut-outs are laid onto.", examples=["white", "#ffd60a"])
        ] = None,
        clean: Annotated[bool, Query(description="Remove small parts, fill small holes.")] = False,
        order: Annotated[str, Query(description="In which rle numbers pixels: row or column.")] = "row",
    ) -> Response:  # fmt: skip
        began = time.perf_counter()
        given = [name for name, _ in request.query_params.multi_items()]
        if twice := next((name for name in given if given.count(name) > 1), None):
            raise ConfigError(f"option {twice!r:.80} is there twice")
        if unknown := sorted(set(given) - _OPTIONS):
            raise ConfigError(f"option {unknown[0]!r:.80} is unknown; expected {', '.join(sorted(_OPTIONS))}")
        if output is None and (output := accepted(request.headers.get("accept", ""))) is None:
            raise HTTPException(406, "no answer is of a type that Accept names; expected image/png, image/jpeg or */*")
        wanted = Wanted(
            task=predictor.task, outputs=tuple(each.strip() for each in output.split(",")), of_class=of_class,
            threshold=threshold, background=background, clean=clean, order=order,
        )  # fmt: skip
        [worker] = workers
        worker.check_place()  # before the image is read
        with uploads.held() as sizes:
            data, name = await uploads.read(request, sizes)
            answer, times = await unless_gone(request, worker.answer(data, wanted, name=name))
        metrics.seconds.observe(time.perf_counter() - began)
        return Response(
            answer.data,
            media_type=TYPES[Path(answer.name).suffix],
            headers={
                "Content-Disposition": disposition(answer.name),
                "Server-Timing": ", ".join(f"{stage};dur={1000 * each:.1f}" for stage, each in times.items()),
            },
        )

    @app.get("/model", summary="The network: its classes, scores, engine and limits")
    async def model() -> dict[str, Any]:
        return record

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether the server takes requests")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", summary="Counters, in Prometheus's text format", response_class=Response)
    async def scrape() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/sample.jpg", summary="A drawn image to try", response_class=Response)
    def sample() -> Response:
        if not predictor.image_specs[0].is_picture:
            raise HTTPException(404, "the drawn images are RGB, and this network takes others")
        return Response(_sample(len(predictor.task.classes)), media_type="image/jpeg")

    return app


_OPTIONS = {"output", "class", "threshold", "background", "clean", "order"}
_RUNS = {"name": "object", "runs": "2 5 8 1"}


def model_record(predictor: BasePredictor, source: str) -> dict[str, Any]:
    """What a network is, as JSON values: name, task, classes, scores where it is a run, engine, and its card."""
    task = predictor.task
    settings = predictor.settings()
    networks = getattr(predictor, "members", None) or [getattr(predictor, "fine", predictor)]
    first: Any = networks[0]
    spec = getattr(getattr(first, "model", None), "spec", None)
    classes = [
        {"name": name, "value": value, "color": "#{:02x}{:02x}{:02x}".format(*color), "folder": folder}
        for name, value, color, folder in zip(
            task.names, _values(predictor), task.palette.tolist(), task.folders, strict=True
        )
    ]
    record: dict[str, Any] = {
        "name": Path(source).name, "arch": spec.arch if spec else "", "networks": len(networks),
        "channels": list(predictor.image_specs[0].channels),
        "kind": task.kind, "metric": task.metric, "classes": classes, "thresholds": list(predictor.thresholds),
        "engine": getattr(getattr(first, "engine", None), "name", "torch"), "device": describe(predictor.device),
        "scale": scale_text(predictor.scale), "settings": settings, "max_pixels": predictor.max_pixels,
        "outputs": OUTPUTS, "version": __version__,
    }  # fmt: skip
    run = Run(source) if source else None
    if run is not None and run.exists and run.is_evaluated and _is_as_evaluated(predictor):
        numbers = run.read_evaluation()
        score = numbers.get("score", numbers.get(task.metric))
        record |= {"score": score, "score_ci95": numbers.get("score_ci95"), "images": numbers.get("images")}
    files = [place for place in (Path(source) / CARD, Path(source) / "model" / CARD) if source and place.is_file()]
    if files:
        record["card"] = files[0].read_text("utf-8")
    elif isinstance(model := getattr(first, "model", None), Segmenter):  # of the hub, or of a program
        record["card"] = model_card(model.spec, sum(each.numel() for each in model.parameters()), {})
    return record


def _is_as_evaluated(predictor: BasePredictor) -> bool:
    """Whether a run's own score is that of this predictor: one network at its trained size, without mirror images."""
    if not isinstance(predictor, Predictor) or predictor.tta:
        return False
    return predictor.size == network_size("trained", predictor.model.spec.trained_size)


def _values(predictor: BasePredictor) -> list[int]:
    """The value of each class in masks."""
    import numpy as np

    task = predictor.task
    if task.writes_value:
        return [int(task.decode(np.array([1], np.uint8))[0])]
    if task.kind != "multiclass":
        return [255] * len(task.classes)
    found: list[int] = task.decode(np.arange(len(task.classes), dtype=task.dtype)).tolist()
    return found


def _answer_errors(app: FastAPI) -> None:
    """Every error is JSON with one line."""

    def answered(status: int) -> Callable[[Request, Any], JSONResponse]:
        return lambda _, error: JSONResponse({"error": str(error)}, status)

    app.add_exception_handler(ImageTooLargeError, answered(413))
    app.add_exception_handler(DataError, answered(400))
    app.add_exception_handler(ConfigError, answered(422))
    app.add_exception_handler(ModelError, answered(500))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def misused(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"option {first['loc'][-1]} = {first['input']!r:.80}: {first['msg']}"}, 422)

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503, headers={"Retry-After": str(error.seconds)})

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)


@cache
def _page() -> tuple[str, str]:
    """The page, and a policy by which a browser runs its own script and style alone and asks no other host."""
    text = files("carvana.serve").joinpath("page.html").read_text("utf-8")
    hashes = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
            for body in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src 'self' blob: data:; "
        "connect-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


@cache
def _sample(classes: int) -> bytes:
    """A drawn image: a car for one class, a street for several."""
    import numpy as np

    from carvana.data.demo.photo import draw_photo
    from carvana.data.demo.scenes import draw_scene

    image: Any
    image = draw_photo(3, 4, size=(640, 960))[0] if classes == 1 else draw_scene(1, 1, classes=12, size=(640, 960))[0]
    return encode_image(np.asarray(image, np.uint8), ".jpg", quality=90)
