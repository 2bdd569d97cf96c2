"""`POST /v1/chat/completions`: who asks, what is asked of whom, and one line about it in the log."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from serving.endpoint.body import ClientLeft
from serving.endpoint.chat import unknown_model
from serving.endpoint.door import Door
from serving.endpoint.entrance import admitted, check_quota, idempotency_key_of, named_model, sent_object
from serving.endpoint.errors import Refused, unsupported
from serving.endpoint.member_chat import from_member
from serving.endpoint.mesh_chat import from_mesh
from serving.endpoint.models import member_named, model_names
from serving.endpoint.passage import CLIENT_LEFT, Passage


async def chat_completions(door: Door, request: Request, request_id: str) -> Response:
    """Answer one request. Raises Refused."""
    passage = Passage(door, request_id)
    try:
        return await _served(passage, request)
    except Refused as refused:
        passage.ended(refused.status, refused.code)
        raise
    except ClientLeft:
        passage.ended(CLIENT_LEFT)
        return Response(status_code=CLIENT_LEFT)  # nobody reads it
    except BaseException:
        passage.ended(500, "internal_error")
        raise


async def _served(passage: Passage, request: Request) -> Response:
    door = passage.door
    passage.caller = caller = admitted(door, request)
    data, body = await sent_object(door, request)
    model, idempotency_key = named_model(data), idempotency_key_of(request.headers)
    is_mesh = model in door.protocols
    if not is_mesh:
        await _check_member(door, model)
    passage.model = model
    check_quota(door, caller)
    passage.span = door.spans.start(passage.id, model, request.headers.get("traceparent"))
    if is_mesh:
        return await from_mesh(passage, caller, data, idempotency_key, request)
    return await from_member(passage, caller, data, body, idempotency_key, request)


async def _check_member(door: Door, model: str) -> None:
    """Raises Refused (404) for a model that is not served here."""
    async with door.seats.held() as roster:
        if member_named(model, roster) is None:
            raise unknown_model(model, model_names(door.protocols, roster))
    if door.members is None:
        raise unsupported("model", "this door serves the mesh alone")
