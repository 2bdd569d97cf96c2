"""What a client can do once it has its answer: read the whole deliberation, and tell what came of it."""

from __future__ import annotations

import sys

from starlette.requests import Request

from memory.database import StoreError
from memory.ledger import LedgerError
from serving.endpoint.answer import DeliberationView, view_of
from serving.endpoint.body import ClientLeft
from serving.endpoint.chat import validated
from serving.endpoint.deliberations import Kept
from serving.endpoint.door import Door
from serving.endpoint.entrance import admitted, sent_object
from serving.endpoint.errors import Refused, unavailable
from serving.endpoint.keys import Caller
from serving.endpoint.outcomes import OutcomeReceipt, OutcomeReport, as_late, judged


async def read_deliberation(door: Door, request: Request, id: str) -> DeliberationView:
    """One of the caller's team. Raises Refused (404) for any other, as if there were none."""
    kept = await _found(door, admitted(door, request), id.removeprefix("chatcmpl-"))
    return view_of(kept, door.prices)


async def report_outcome(door: Door, request: Request) -> OutcomeReceipt:
    """Keep what a caller reports of an answer to its own team. Raises Refused."""
    caller = admitted(door, request)
    try:
        data, _ = await sent_object(door, request)
    except ClientLeft:
        raise Refused(408, "expected a whole request, got the beginning of one", code="request_timeout") from None
    report = validated(OutcomeReport, {name: value for name, value in data.items() if value is not None})
    kept = await _found(door, caller, report.id)
    outcomes = judged(report, kept, caller)
    try:
        is_new = await door.outcomes.add(as_late(outcomes, kept.id))
        if door.memory is not None:
            await door.memory.learn(caller, kept.deliberation, outcomes)
    except (LedgerError, StoreError) as error:
        print(f"evomesh: an outcome of {kept.id} could not be kept: {error}", file=sys.stderr, flush=True)
        raise unavailable("the outcome could not be kept; report it again later", code="not_kept") from None
    return OutcomeReceipt(
        deliberation=kept.id, correct=outcomes[0].correct, is_new=is_new, remembered=door.memory is not None
    )


async def _found(door: Door, caller: Caller, id: str) -> Kept:
    kept = await door.store.find(caller, id)
    if kept is None:
        raise Refused(
            404,
            f"deliberation: there is none of this id for team {caller.team!r}, or it is not kept any more; "
            f"the last {door.config.keep_traces} are",
            code="deliberation_not_found",
            param="deliberation",
        )
    return kept
