"""HTTP endpoints of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from deploy.common.visualizer import instance_colour
from deploy.serving.answers import PARAMETERS
from deploy.serving.metrics import Metered
from deploy.serving.service import Service, error_response, json_response

__all__ = ["create_app"]

_PAGE = Path(__file__).with_name("page.html")
_PAGE_HEADERS = {
    # The page is a single file without external resources, and other sites must not embed it.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_COLOURS = 36
"""Number of instances with different colours, see `instance_colour`."""

_PREDICTION: dict[str, Any] = {
    "parameters": [{"name": name, "in": "query", "schema": dict(schema)} for name, schema in PARAMETERS.items()],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "extra_inputs": {
                            "type": "object",
                            "description": "values of the model's extra inputs by name, if it has any (see /model)",
                        },
                    },
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}


def create_app(service: Service) -> FastAPI:
    """Return the ASGI application of a service, which is closed when the application shuts down."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # The documentation pages of FastAPI are disabled because they load external scripts; /openapi.json is available.
    app = FastAPI(title=f"Instance segmentation: {service.info.name}", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Metered, metrics=service.metrics)
    page = _PAGE.read_bytes()

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return Response(page, media_type="text/html", headers=_PAGE_HEADERS)

    @app.post("/predict", openapi_extra=_PREDICTION, summary="Detect the instances in an image")
    async def predict(request: Request) -> Response:
        return await service.predict(request)

    @app.post(
        "/predict.png",
        openapi_extra=_PREDICTION,
        summary="Detect the instances in an image and return an annotated image",
    )
    async def predict_png(request: Request) -> Response:
        return await service.predict(request)

    @app.get("/health", summary="Return 200 if the service accepts requests, and 503 while it is shutting down")
    async def health() -> Response:
        state = "draining" if service.draining else "ready"
        return json_response(503 if service.draining else 200, {"status": state, "model": service.info.name})

    @app.get("/metrics", summary="Metrics in the Prometheus text format")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/model", summary="Classes, input size and limits")
    async def model() -> Response:
        return json_response(200, _describe(service))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        return error_response(error.status_code, HTTPStatus(error.status_code).phrase.lower(), headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return error_response(500, f"the service failed ({type(error).__name__}); see its log for details")

    return app


def _describe(service: Service) -> dict[str, Any]:
    info, limits, predictor = service.info, service.limits, service.predictor
    ids = [int(category_id) for category_id in predictor.category_ids]
    return {
        "name": info.name,
        "classes": [{"class": name, "class_id": class_id} for name, class_id in zip(predictor.class_names, ids)],
        "masks": predictor.has_masks,
        "extra_inputs": [
            {"name": field.name, "shape": list(field.image_shape), "dtype": field.dtype}
            for field in predictor.extra_inputs
        ],
        "input": {"target_size": info.target_size, "keep_ratio": info.keep_ratio, "stride": info.stride},
        "threshold": service.threshold,
        "limits": {
            "max_bytes": limits.max_bytes,
            "max_pixels": limits.max_pixels,
            "timeout": limits.timeout,
            "queue_size": limits.queue_size,
            "max_batch": service.max_batch,
        },
        "colours": [list(instance_colour(index)) for index in range(_COLOURS)],
    }
