"""The routes of the door, and how everything that goes wrong is answered."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from memory.types import Record
from serving.endpoint.afterwards import read_deliberation, report_outcome
from serving.endpoint.answer import DeliberationView
from serving.endpoint.completions import chat_completions
from serving.endpoint.door import Door
from serving.endpoint.entrance import admitted
from serving.endpoint.errors import Refused, error_body
from serving.endpoint.identity import Named, id_of
from serving.endpoint.models import model_list
from serving.endpoint.outcomes import OutcomeReceipt, OutcomeReport
from serving.endpoint.schema import ChatCompletion, ChatRequest, ErrorBody, Model, ModelList

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SENTENCES = {
    400: "The request is wrong; `param` names the field.",
    401: "A key is missing or opens nothing.",
    403: "Without keys, only this machine is served.",
    404: "There is no such model, path or deliberation.",
    405: "Another method is expected; see Allow.",
    408: "The request was sent too slowly.",
    413: "The request is too large.",
    415: "The body is not said to be JSON.",
    422: "The request cannot be honoured: a reused idempotency key, or an answer that fits no given form.",
    429: "Too much at once, or the quota is spent; see Retry-After.",
    503: "No member answered, or the door is closing; see Retry-After.",
    504: "The time for one request is over.",
}
_DOES_NOT_READ = (400, 401, 403, 404)
_READS = (*_DOES_NOT_READ, 408, 413, 415)


class Health(Record):
    """How the door is."""

    status: str
    reason: str | None = None


def create_app(door: Door, routes: Sequence[BaseRoute] = ()) -> Named:
    """The ASGI application over `door`; `routes` are tried first."""
    app = FastAPI(
        title="evomesh",
        summary="A mesh of local models behind an OpenAI-compatible API.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=list(routes),
    )
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _defect)
    _add_chat(app, door)
    _add_models(app, door)
    _add_afterwards(app, door)
    _add_health(app, door)
    return Named(app)


def _add_chat(app: FastAPI, door: Door) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses=_errors(*_READS, 422, 429, 503, 504),
        openapi_extra=_body(ChatRequest),
        summary="Ask the mesh, or a member.",
    )
    async def chat(request: Request) -> Response:
        return await chat_completions(door, request, id_of(request))


def _add_models(app: FastAPI, door: Door) -> None:
    @app.get("/v1/models", responses=_errors(*_DOES_NOT_READ), summary="What may stand in `model`.")
    async def models(request: Request) -> ModelList:
        admitted(door, request)
        async with door.seats.held() as roster:
            return model_list(door.protocols, roster, door.opened_at)

    @app.get("/v1/models/{model}", responses=_errors(*_DOES_NOT_READ), summary="One of them.")
    async def model(request: Request, model: str) -> Model:
        for one in (await models(request)).data:
            if one.id == model:
                return one
        raise Refused(404, "model: there is none of this name; see /v1/models", code="model_not_found", param="model")


def _add_afterwards(app: FastAPI, door: Door) -> None:
    @app.get("/v1/deliberations/{id}", responses=_errors(*_DOES_NOT_READ), summary="The whole trace of an answer.")
    async def deliberation(request: Request, id: str) -> DeliberationView:
        return await read_deliberation(door, request, id)

    @app.post(
        "/v1/outcomes",
        response_model=OutcomeReceipt,
        responses=_errors(*_READS, 503),
        openapi_extra=_body(OutcomeReport),
        summary="Tell what came of an answer.",
    )
    async def outcome(request: Request) -> OutcomeReceipt:
        return await report_outcome(door, request)


def _add_health(app: FastAPI, door: Door) -> None:
    @app.get("/healthz", summary="Whether the process answers.")
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get(
        "/readyz",
        response_model=Health,
        responses={503: {"model": Health, "description": "Not now; `reason` says why."}},
        summary="Whether to send work.",
    )
    async def readyz() -> Response:
        reason = "the door is closing" if door.is_draining else door.fault()
        health = Health(status="ready" if reason is None else "not ready", reason=reason)
        return JSONResponse(health.model_dump(), status_code=200 if reason is None else 503)

    @app.get(
        "/metrics",
        responses={200: {"content": {"text/plain": {}}}, **_errors(401, 403)},
        response_class=Response,
        summary="Counts and times, for Prometheus.",
    )
    async def metrics(request: Request) -> Response:
        admitted(door, request)
        return Response(door.metrics.render(), headers={"content-type": METRICS_TYPE})


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": ErrorBody, "description": _SENTENCES[code]} for code in codes}


def _body(kind: type[ChatRequest] | type[OutcomeReport]) -> dict[str, Any]:
    """The schema of a body that is read by hand, for OpenAPI; its own definitions travel inside it."""
    schema = kind.model_json_schema(ref_template=f"#/components/schemas/{kind.__name__}/$defs/{{model}}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refused):
        raise error
    # What is left of a body that was not read to its end would be taken for the next request.
    headers = {**error.headers, **({"connection": "close"} if error.status in (408, 413) else {})}
    return Response(error.body, status_code=error.status, media_type="application/json", headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    said = {
        404: f"there is nothing at {request.url.path[:100]!r}; see /openapi.json",
        405: f"expected another method than {request.method[:16]!r} here; see Allow",
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
    print(f"evomesh: request {id_of(request)}", "".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
    body = error_body("the door has a defect; its operator finds it in the log", "server_error", None, "internal_error")
    return Response(body, status_code=500, media_type="application/json")
