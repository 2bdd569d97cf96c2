"""Whatever members and engines bring, every protocol and every pattern comes to a defined end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.config import ProtocolConfig
from mesh.engine import EngineError
from mesh.equivalence import canonical
from mesh.transcript import transcript
from mesh.types import Completion, Deliberation, Member, Message, Sampling, Task
from tests.mesh.doubles import Double, hold
from tests.mesh.test_budget import CONFIGS, MEMBERS, TASK, name_of

HONEST: dict[str, Any] = {
    "critique": "that leaves one of the apples out", "plan": "one part\nanother", "approve": ("7",), "account": "none",
    "extract": "7", "digest": "Counted.",
}  # fmt: skip


def saying(*texts: Any, **more: Any) -> dict[str, dict[str, Any]]:
    """ana, bo and cy write these texts, and behave otherwise."""
    return {m.name: {**HONEST, "*": text, **more} for m, text in zip(MEMBERS, texts, strict=True)}


def everywhere(text: Any) -> dict[str, dict[str, Any]]:
    """Everybody says one thing in all phases, choices included if it is an exception."""
    return {member.name: {"*": text} for member in MEMBERS}


def come_to_an_end(config: ProtocolConfig, engine: Double, members: Sequence[Member] = MEMBERS) -> Deliberation:
    """The trace, checked for what holds of any."""
    trace = hold(TASK, members, engine, config)
    proposed = {canonical(p.answer, "number") for _, part in trace.walk() for p in part.proposals if p.answer}
    assert trace.verdict.answer is None or canonical(trace.verdict.answer, "number") in proposed
    assert 0.0 <= trace.verdict.confidence <= 1.0
    assert not trace.is_waiting
    for _, part in trace.walk():
        assert part.verdict.diagnosis is not None
        for vote in part.votes:
            assert sum(weight for _, weight in vote.weights) == pytest.approx(1.0)
    assert Deliberation.model_validate_json(trace.model_dump_json()) == trace
    assert all(line.isprintable() for line in transcript(trace))
    return trace


every_protocol = pytest.mark.parametrize("config", CONFIGS, ids=name_of)


@every_protocol
def test_all_failing_gives_no_answer_and_a_record_of_every_failure(config: ProtocolConfig) -> None:
    trace = come_to_an_end(config, Double(everywhere(EngineError("dead"))))
    failures = [failure for _, part in trace.walk() for failure in part.failures]
    exchanges = [exchange for _, part in trace.walk() for exchange in part.exchanges]
    assert trace.verdict.answer is None
    assert trace.verdict.diagnosis.shape == "nobody answered"
    assert [f.member for f in failures] == [e.member for e in exchanges]
    assert {f.message for f in failures} == {"dead"}


@every_protocol
def test_all_hanging_ends_in_time(config: ProtocolConfig) -> None:
    async def hang(member: Member) -> None:
        await asyncio.sleep(60)

    engine = Double(everywhere("7"), before=hang)
    quick = _with_timeout(config, 0.01)
    trace = come_to_an_end(quick, engine)
    kinds = {failure.kind for _, part in trace.walk() for failure in part.failures}
    assert (trace.verdict.answer, kinds) == (None, {"TimeoutError"})


def _with_timeout(config: Any, seconds: float) -> Any:
    dump = config.model_dump()

    def inside(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: seconds if key == "call_timeout_s" else inside(own) for key, own in value.items()}
        return [inside(own) for own in value] if isinstance(value, list | tuple) else value

    return type(config).model_validate(inside(dump))


@every_protocol
@pytest.mark.parametrize("text", ["", " \n\t ", "no idea", "\ud800", Completion(text="7", finish_reason="error")])
def test_all_abstaining_gives_no_answer_and_no_failure(config: ProtocolConfig, text: Any) -> None:
    say = {member.name: {"*": text} for member in MEMBERS}
    trace = come_to_an_end(config, Double(say))
    assert trace.verdict.answer is None
    assert {failure.kind for _, part in trace.walk() for failure in part.failures} == set()
    assert all(
        p.answer is None for _, part in trace.walk() for p in part.proposals if part.task.answer_kind == "number"
    )


@every_protocol
def test_a_single_member_decides_alone(config: ProtocolConfig) -> None:
    trace = come_to_an_end(config, Double(saying("7", "7", "7")), MEMBERS[:1])
    assert trace.verdict.answer == "7"
    assert trace.verdict.dissent == ()
    assert {e.phase for _, part in trace.walk() for e in part.exchanges} & {"vote", "rank", "account"} == set()


@every_protocol
def test_a_tie_among_all_is_decided_the_same_way_every_time(config: ProtocolConfig) -> None:
    def even(member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        return tuple(1.0 / len(labels) for _ in labels)

    first, second = (come_to_an_end(config, Double(saying("7", "8", "9"), choice=even)) for _ in range(2))
    assert first.verdict == second.verdict
    assert first.verdict.answer == "7"


@every_protocol
def test_one_that_always_abstains_does_not_keep_the_others_from_deciding(config: ProtocolConfig) -> None:
    say = saying("7", "no idea", "7", extract="no idea")
    trace = come_to_an_end(config, Double(say))
    assert trace.verdict.answer == "7"
    assert all(
        p.answer is None for _, part in trace.walk() for p in part.proposals if p.member == "bo" and part.task is TASK
    )
    assert "bo" not in trace.verdict.dissent


@every_protocol
@pytest.mark.parametrize("silent", ["ana", "bo", "cy"])
def test_one_dead_member_does_not_keep_the_others_from_deciding(config: ProtocolConfig, silent: str) -> None:
    engine = Double({**saying("7", "7", "7"), silent: {"*": EngineError("dead")}})
    trace = come_to_an_end(config, engine)
    asks_ana_alone = config.kind in ("single", "self_consistency", "self_mixture", "review")
    assert trace.verdict.answer == (None if asks_ana_alone and silent == "ana" else "7")
    tries = [part.exchanges for _, part in trace.walk()]
    assert all(sum(e.member == silent for e in exchanges) <= 1 for exchanges in tries)


LONG = {
    "digits": "8" * 200_000,
    "answer first": "7\n" + "z" * 200_000,
    "words": "z " * 100_000,
    "markers": "Answer: " * 25_000,
    "brackets": "((" * 100_000,
    "lines": "\n" * 200_000,
}


@pytest.mark.parametrize(
    ("config", "text"),
    [(config, list(LONG)[n % len(LONG)]) for n, config in enumerate(CONFIGS)],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
def test_two_hundred_thousand_characters_end_as_a_short_text_does(config: ProtocolConfig, text: str) -> None:
    say = {
        **saying("Three and four make 7", "7", "7", vote="7"),
        "bo": {"*": LONG[text], "account": "none", "approve": (), "vote": "7"},
    }
    engine = Double(say, windows={"e0": 6000, "e1": 6000, "e2": 6000}, length=len)
    trace = come_to_an_end(config, engine)
    assert trace.verdict.answer == "7"
    assert {failure.kind for _, part in trace.walk() for failure in part.failures} == set()


@every_protocol
def test_half_characters_are_replaced_wherever_they_come_from(config: ProtocolConfig) -> None:
    say = saying(*["\udfff so Answer: 7 \ud800"] * 3, plan="\ud800 part", critique="\ud800 forgets to carry", vote="7")
    say["bo"]["*"] = "Answer: 8 \udc00"
    task = Task(id="t\ud800", question="What\udfff is 3 + 4?", answer_kind="number")
    trace = hold(task, MEMBERS, Double(say), config)
    assert trace.verdict.answer == "7"
    trace.model_dump_json().encode("utf-8")
    "\n".join(transcript(trace)).encode("utf-8")


BROKEN: dict[str, Callable[[int], tuple[float, ...]]] = {
    "too few": lambda count: (1.0,) * (count - 1),
    "too many": lambda count: (1.0,) * (count + 1),
    "none": lambda count: (),
    "NaN": lambda count: (float("nan"),) * count,
    "one NaN": lambda count: (1.0,) * (count - 1) + (float("nan"),),
    "negative": lambda count: (-1.0,) + (2.0,) * (count - 1),
    "nothing": lambda count: (0.0,) * count,
    "infinite": lambda count: (float("inf"),) * count,
}


@pytest.mark.parametrize(
    ("config", "kind"),
    [(config, list(BROKEN)[(n + shift) % len(BROKEN)]) for n, config in enumerate(CONFIGS) for shift in (0, 3)],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
def test_an_engine_that_breaks_its_word_in_a_choice_is_a_failure_and_the_proposals_decide(
    config: ProtocolConfig, kind: str
) -> None:
    def broken(member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        return BROKEN[kind](len(labels))

    engine = Double(saying("7", "8", "7"), choice=broken)
    trace = come_to_an_end(config, engine)
    assert trace.verdict.answer in ("7", "8")
    chose = {"vote", "account", "rank", "approve", "same"} & set(engine.phases())
    kinds = {failure.kind for _, part in trace.walk() for failure in part.failures}
    assert kinds == ({"EngineError"} if chose else set())


@every_protocol
def test_fewer_samples_than_asked_for_are_what_there_is_and_none_is_a_failure(config: ProtocolConfig) -> None:
    class Stingy(Double):
        async def complete(
            self, member: Member, messages: Sequence[Message], sampling: Sampling
        ) -> tuple[tuple[Completion, ...], int]:
            completions, prompt_tokens = await super().complete(member, messages, sampling)
            return completions[: 0 if member.name == "bo" else 1], prompt_tokens

    trace = come_to_an_end(config, Stingy(saying("7", "7", "7")))
    assert trace.verdict.answer == "7"
    failures = [failure for _, part in trace.walk() for failure in part.failures]
    assert all(failure.member == "bo" and "got none" in failure.message for failure in failures)


@every_protocol
def test_contradictory_judgements_cancel_out(config: ProtocolConfig) -> None:
    """Every member favours the first letter, whatever stands there."""

    def first(member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        return tuple(1.0 if label == "A" else 0.0 for label in labels)

    trace = come_to_an_end(config, Double(saying("7", "8", "7"), choice=first))
    assert trace.verdict.answer in ("7", "8")


@settings(max_examples=60)
@given(st.sampled_from(CONFIGS), st.data())
def test_any_mixture_of_nonsense_and_failure_has_an_end(config: ProtocolConfig, data: st.DataObject) -> None:
    what = st.one_of(
        st.text(max_size=60),
        st.sampled_from(["7", "Answer: 8", "no idea", "", "9\n" + "z" * 5000]),
        st.sampled_from([EngineError("dead"), TimeoutError(), Completion(text="7", finish_reason="error")]),
    )
    say = {
        member.name: {
            phase: data.draw(what, label=f"{member.name} {phase}")
            for phase in ("propose", "extract", "digest", "critique", "revise", "synthesise", "plan")
        }
        | {phase: data.draw(st.sampled_from([None, EngineError("gone")])) for phase in ("vote", "rank", "approve")}
        | {"account": data.draw(st.sampled_from(["none", "", EngineError("gone")]))}
        for member in MEMBERS
    }
    come_to_an_end(config, Double(say, windows={"e0": 3000, "e1": 700}, length=len))
