"""A member may answer others with another adapter than it answers the task with."""

from __future__ import annotations

from collections.abc import Sequence

from memory.types import content_hash
from mesh.config import CouncilConfig, MixtureConfig
from mesh.types import Completion, Member, Message, Sampling, Task
from tests.mesh.doubles import Double, hold, phase_of

TASK = Task(id="t1", question="What is 3 + 4?", type="sums", answer_kind="number")
ANA = Member(
    name="ana", engine="fox", family="fox", adapter="own", phase_adapters=(("critique", "crit"), ("synthesis", "syn"))
)
BO = Member(name="bo", engine="owl", family="owl", phase_adapters=(("critique", "crit"),))
SAY = {
    "ana": {"propose": "7", "critique": "the sum is carried over wrongly", "*": "7"},
    "bo": {"propose": "8", "critique": "the digits were not added at all", "*": "8"},
}


class Listening(Double):
    """Notes with which adapter each call of a phase is made, and says so in its completions."""

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        self.heard.append((member.name, phase_of(messages), member.adapter))
        said, tokens = await super().complete(member, messages, sampling)
        return tuple(one.model_copy(update={"adapter": member.adapter}) for one in said), tokens

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        self.heard.append((member.name, phase_of(messages), member.adapter))
        return await super().choose(member, messages, labels)

    def __init__(self, say: dict[str, dict[str, str]]) -> None:
        super().__init__(say)
        self.heard: list[tuple[str, str, str | None]] = []


def test_each_phase_of_a_council_is_asked_of_the_adapter_for_its_work():
    engine = Listening(SAY)
    found = hold(TASK, (ANA, BO), engine, CouncilConfig(account=False))
    assert {(phase, adapter) for name, phase, adapter in engine.heard if name == "ana"} == {
        ("propose", "own"),
        ("critique", "crit"),
        ("revise", "syn"),
        ("vote", "own"),
    }
    assert {(phase, adapter) for name, phase, adapter in engine.heard if name == "bo"} == {
        ("propose", None),
        ("critique", "crit"),
        ("revise", None),
        ("vote", None),
    }
    assert [one.adapter for one in found.proposals if one.member == "ana"] == ["own", "syn"]
    assert found.members == (ANA, BO), "the trace keeps the seats as they are"


def test_a_synthesis_is_asked_of_the_adapter_for_it():
    engine = Listening(SAY)
    hold(TASK, (ANA, BO), engine, MixtureConfig(aggregator="ana"))
    assert [adapter for _, phase, adapter in engine.heard if phase == "synthesise"] == ["syn"]


def test_first_proposals_are_those_of_the_same_member_without_its_helpers():
    plain = ANA.model_copy(update={"phase_adapters": ()})
    engines = [Listening(SAY), Listening(SAY)]
    with_, without = (
        hold(TASK, (one, BO), engine, CouncilConfig()) for one, engine in zip((ANA, plain), engines, strict=True)
    )
    assert with_.round_of(0) == without.round_of(0)
    assert ANA.at("propose") == plain


def test_a_member_names_every_adapter_that_has_to_be_loaded_once():
    assert ANA.adapters == ("own", "crit", "syn")
    assert BO.adapters == ("crit",)
    assert [guise.adapter for guise in BO.guises] == [None, "crit"]
    twice = ANA.model_copy(update={"phase_adapters": (("critique", "own"),)})
    assert twice.adapters == ("own",)


def test_a_seat_without_helpers_has_the_hash_it_had_before_there_were_any():
    plain = Member(name="bo", engine="owl", family="owl")
    assert "phase_adapters" not in plain.model_dump(mode="json")
    assert content_hash(plain) != content_hash(BO)
    assert Member.model_validate_json(BO.model_dump_json()) == BO
