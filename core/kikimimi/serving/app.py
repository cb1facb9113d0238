"""The routes of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kikimimi.console.terminal import json_text
from kikimimi.serving.chat import complete
from kikimimi.serving.guard import Guard
from kikimimi.serving.refusal import RefusalError, refusal_of
from kikimimi.serving.service import Service
from kikimimi.serving.transcriptions import transcribe_upload, translate_upload

_GONE = 499  # what servers note where the client has gone away


def build_app(service: Service, api_key: str | None = None) -> FastAPI:
    """Build the application that serves a model.

    Args:
        service: What is served; it is closed when the application ends.
        api_key: The key that clients have to give; None lets everybody in.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            service.close()

    # No pages: theirs load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, service=service, api_key=api_key)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(RefusalError, _refused)

    get = partial(app.api_route, methods=["GET", "HEAD"])

    @get("/health")
    async def health() -> Response:
        return _json({"status": "ok", "model": service.name})

    @get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @get("/v1/models")
    async def models() -> Response:
        return _json({"object": "list", "data": [_model(service)]})

    @get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        service.check_model(name)
        return _json(_model(service))

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        return await _told(transcribe_upload(service, request))

    @app.post("/v1/audio/translations")
    async def translations(request: Request) -> Response:
        return await _told(translate_upload(service, request))

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        return await _told(complete(service, request))

    return app


def _json(value: Any) -> Response:
    return Response(json_text(value), media_type="application/json")


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "kikimimi"}


def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    routes = ", ".join(sorted({route.path for route in request.app.routes}))
    methods = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
    said = {404: f"no such path; there are {routes}", 405: f"this path takes {methods or 'another method'}"}
    refusal = RefusalError(error.status_code, said.get(error.status_code, error.detail), code="no_route")
    response = refusal.response
    response.headers.update({"Allow": methods} if methods else {})
    return response


def _refused(request: Request, error: Exception) -> Response:
    return refusal_of(error).response


async def _told(work: Awaitable[Response]) -> Response:
    """Return what work makes, or why it does not: whatever goes wrong, the client is told."""
    try:
        return await work
    except ClientDisconnect:
        return Response(status_code=_GONE)  # nobody reads it
    except Exception as error:  # noqa: BLE001
        return refusal_of(error).response
