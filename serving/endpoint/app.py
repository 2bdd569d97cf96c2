"""The routes of the door, and how everything that goes wrong is answered."""

from __future__ import annotations

import re
import secrets
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from serving.endpoint.completions import admitted, chat_completions
from serving.endpoint.door import Door
from serving.endpoint.errors import Refused, error_body
from serving.endpoint.models import model_list
from serving.endpoint.schema import ChatCompletion, ChatRequest, ErrorBody, Model, ModelList

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody, "description": sentence}
    for code, sentence in {
        400: "The request is wrong; `param` names the field.",
        401: "A key is missing or opens nothing.",
        404: "There is no such model, path or deliberation.",
        408: "The request was sent too slowly.",
        413: "The request is too large.",
        422: "The request cannot be honoured: a reused idempotency key, or an answer that fits no given form.",
        429: "Too much at once, or the quota is spent; see Retry-After.",
        503: "No member answered, or the door is closing; see Retry-After.",
    }.items()
}


def create_app(door: Door, routes: Sequence[BaseRoute] = ()) -> FastAPI:
    """The ASGI application over `door`; `routes` are tried first."""
    app = FastAPI(
        title="evomesh",
        summary="A mesh of local models behind an OpenAI-compatible API.",
        version="1",
        docs_url=None,
        redoc_url=None,
        routes=list(routes),
    )
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _defect)
    _add_chat(app, door)
    _add_models(app, door)
    _add_health(app, door)
    return app


def _add_chat(app: FastAPI, door: Door) -> None:
    schema = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    body = {"required": True, "content": {"application/json": {"schema": schema}}}

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses=_ERRORS,
        openapi_extra={"requestBody": body},
        summary="Ask the mesh, or a member.",
    )
    async def chat(request: Request) -> Response:
        return await chat_completions(door, request, request_id(request))


def _add_models(app: FastAPI, door: Door) -> None:
    @app.get("/v1/models", response_model=ModelList, responses=_ERRORS, summary="What may stand in `model`.")
    async def models(request: Request) -> ModelList:
        admitted(door, request)
        async with door.seats.held() as roster:
            return model_list(door.protocols, roster, door.opened_at)

    @app.get("/v1/models/{model}", response_model=Model, responses=_ERRORS, summary="One of them.")
    async def model(request: Request, model: str) -> Model:
        for one in (await models(request)).data:
            if one.id == model:
                return one
        raise Refused(404, "model: there is none of this name; see /v1/models", code="model_not_found", param="model")


def _add_health(app: FastAPI, door: Door) -> None:
    @app.get("/healthz", summary="Whether the process answers.")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/readyz", responses={503: {"description": "Not now; `reason` says why."}}, summary="Whether to send work."
    )
    async def readyz() -> Response:
        reason = "the door is closing" if door.is_draining else door.fault()
        if reason is not None:
            return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)
        return JSONResponse({"status": "ready"})


def request_id(request: Request) -> str:
    """The client's own x-request-id where it is a plain one, else a new one."""
    sent = request.headers.get("x-request-id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else secrets.token_hex(16)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refused):
        raise error
    headers = {**error.headers, **({"connection": "close"} if error.status in (408, 413) else {})}
    return Response(error.body, status_code=error.status, media_type="application/json", headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    said = {
        404: f"there is nothing at {request.url.path[:100]!r}; see /openapi.json",
        405: f"expected another method than {request.method[:16]!r} here",
    }.get(error.status_code, str(error.detail))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return Response(
        error_body(said, "invalid_request_error", None, code),
        status_code=error.status_code,
        media_type="application/json",
        headers=dict(error.headers or {}),
    )


async def _defect(request: Request, error: Exception) -> Response:
    """A defect of ours: told on stderr, and to the client no more than that."""
    print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
    body = error_body("the door has a defect; its operator finds it in the log", "server_error", None, "internal_error")
    return Response(body, status_code=500, media_type="application/json")
