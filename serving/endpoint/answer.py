"""From a deliberation to the answer a client reads: pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from memory.types import Record
from mesh.budget import cost_of
from mesh.config import ProtocolConfig
from mesh.equivalence import same_answer
from mesh.types import Deliberation, Exchange, Usage
from serving.endpoint.deliberations import Kept
from serving.endpoint.schema import (
    AnswerMessage,
    ChatCompletion,
    Choice,
    MeshField,
    Missing,
    PhaseUsage,
    SupportOf,
    TokenUsage,
)


def content_of(deliberation: Deliberation) -> str:
    """What is said: of prose, the whole text that argues for the answer, as it was written; else the answer alone."""
    verdict = deliberation.verdict
    if verdict.answer is None:
        return ""
    if deliberation.task.answer_kind != "free":
        return verdict.answer
    for cluster in () if verdict.diagnosis is None else verdict.diagnosis.clusters[:1]:
        if cluster.argument and same_answer(cluster.answer, verdict.answer, deliberation.equality):
            return cluster.argument.strip()
    return verdict.answer


def was_cut(deliberation: Deliberation, content: str) -> bool:
    """Whether what is said ended because a member had no tokens left."""
    said = (done for exchange in exchanges_of(deliberation) for done in exchange.completions)
    return any(done.finish_reason == "length" and done.text.strip() == content for done in said)


def exchanges_of(deliberation: Deliberation) -> list[Exchange]:
    """Every call, those of the parts included."""
    return [exchange for _, part in deliberation.walk() for exchange in part.exchanges]


def token_usage(usage: Usage) -> TokenUsage:
    """Tokens as OpenAI's clients count them."""
    return TokenUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.prompt_tokens + usage.output_tokens,
    )


def mesh_field(
    deliberation: Deliberation, where: tuple[str, str], prices: Mapping[str, float], *, seed: int, seconds: float
) -> MeshField:
    """What stands in `mesh`. `where`: id of the roster and its channel. `seconds`: wall seconds it took."""
    verdict, usage = deliberation.verdict, deliberation.usage
    clusters = () if verdict.diagnosis is None else verdict.diagnosis.clusters
    total = sum(weight for _, weight in verdict.support) or 1.0
    behind = {cluster.answer: cluster.members for cluster in clusters}
    return MeshField(
        deliberation=deliberation.id,
        roster=where[0],
        channel=where[1],
        protocol=deliberation.protocol,
        seed=seed,
        answer=verdict.answer,
        method=verdict.method,
        support=tuple(
            SupportOf(answer=answer, weight=weight / total, members=behind.get(answer, ()))
            for answer, weight in verdict.support
        ),
        dissent=verdict.dissent,
        confidence=verdict.confidence,
        calibrated=verdict.calibrated,
        tied=verdict.tied,
        diagnosis=verdict.diagnosis,
        mind_changes=sum(len(part.mind_changes) for _, part in deliberation.walk()),
        missing=tuple(
            Missing(
                member=failure.member,
                phase=failure.phase,
                round=failure.round,
                kind=failure.kind,
                message=failure.message,
            )
            for _, part in deliberation.walk()
            for failure in part.failures
        ),
        adapters=_adapters(deliberation),
        usage=_by_phase(deliberation),
        engine_seconds=usage.engine_seconds,
        cost=cost_of(deliberation, prices),
        seconds=seconds,
    )


def completion(model: str, created: int, content: str, deliberation: Deliberation, mesh: MeshField) -> ChatCompletion:
    """The whole answer; `content` may have been brought into a form."""
    return ChatCompletion(
        id=answer_id(deliberation.id),
        created=created,
        model=model,
        choices=(
            Choice(
                message=AnswerMessage(content=content),
                finish_reason="length" if was_cut(deliberation, content) else "stop",
            ),
        ),
        usage=token_usage(deliberation.usage),
        mesh=mesh,
    )


def answer_id(deliberation: str) -> str:
    """The id of an answer, from that of its deliberation."""
    return f"chatcmpl-{deliberation}"


def _adapters(deliberation: Deliberation) -> dict[str, str | None]:
    """By member that said anything: the adapter its completions name, the first ones first, or that its seat has."""
    seats = {member.name: member.adapter for _, part in deliberation.walk() for member in part.members}
    calls = list(exchanges_of(deliberation))
    spoke = {exchange.member: seats.get(exchange.member) for exchange in calls}
    named = {exchange.member: done.adapter for exchange in reversed(calls) for done in exchange.completions}
    return {**spoke, **named}


def _by_phase(deliberation: Deliberation) -> tuple[PhaseUsage, ...]:
    taken: dict[str, list[Usage]] = defaultdict(list)
    for exchange in exchanges_of(deliberation):
        taken[exchange.phase].append(exchange.usage)
    return tuple(
        PhaseUsage(
            phase=phase,
            prompt_tokens=total.prompt_tokens,
            output_tokens=total.output_tokens,
            num_calls=total.num_calls,
            engine_seconds=total.engine_seconds,
        )
        for phase, usages in taken.items()
        for total in [Usage.total(usages)]
    )


class DeliberationView(Record):
    """What `GET /v1/deliberations/{id}` answers."""

    object: Literal["deliberation"] = "deliberation"
    id: str
    created: int = Field(description="when it was asked, in seconds since 1970")
    model: str
    content: str = Field(description="what was answered")
    problem: str = Field(description="why it was refused after all: it fitted no form; empty: it was answered")
    mesh: MeshField
    protocol: ProtocolConfig = Field(description="as it was held, with the caller's sampling")
    deliberation: Deliberation = Field(description="every word that was said, to whom, and what it took")


def view_of(kept: Kept, prices: Mapping[str, float]) -> DeliberationView:
    """What its own team may read of a deliberation: all of it."""
    return DeliberationView(
        id=kept.id,
        created=kept.created,
        model=kept.model,
        content=kept.content,
        problem=kept.problem,
        mesh=mesh_of(kept, prices),
        protocol=kept.protocol,
        deliberation=kept.deliberation,
    )


def mesh_of(kept: Kept, prices: Mapping[str, float]) -> MeshField:
    """What the mesh says beside a kept answer."""
    where = kept.roster, kept.channel
    return mesh_field(kept.deliberation, where, prices, seed=kept.seed, seconds=kept.seconds)
