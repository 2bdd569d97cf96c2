"""The scripted engine takes part in every phase of every protocol, and knows right from wrong in each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mesh.account import NONE, account_messages
from mesh.config import (
    CouncilConfig,
    DebateConfig,
    EscalateConfig,
    HierarchicalConfig,
    MixtureConfig,
    ParallelConfig,
    ProtocolConfig,
    RankConfig,
    ReviewConfig,
    SelfConsistencyConfig,
    SelfMixtureConfig,
    SequentialConfig,
    SingleConfig,
    SwitchConfig,
    VoteConfig,
)
from mesh.critique import critique_messages, is_valid
from mesh.deliberate import deliberate
from mesh.digest import digest_messages
from mesh.extract import extract_messages
from mesh.judge_peers import RIGHT, WRONG, ranking_messages, verdict_messages
from mesh.parse import parse_answer
from mesh.patterns.hierarchical import plan_lines, plan_messages
from mesh.patterns.step import Step
from mesh.sameness import same_messages, says_same
from mesh.synthesise import synthesis_messages
from mesh.types import Deliberation, Member, Message, Part, Sampling, Task
from serving.config import ScriptedSpec
from serving.scripted_engine import ScriptedEngine
from serving.scripted_prompt import read_prompt
from tests.mesh.doubles import untimed

TASK = Task(id="t", question="What is 20 + 22?", type="sum", answer_kind="number")
MEMBER = Member(name="ada", engine="alpha", family="fox")
SEATS = tuple(Member(name=n, engine="alpha", family=f) for n, f in (("ada", "fox"), ("bob", "owl"), ("eve", "ant")))
RIGHT_TEXT, WRONG_TEXT = "Adding up. Answer: 42", "Adding up. Answer: 41"


def engine(skill: float = 1.0) -> ScriptedEngine:
    return ScriptedEngine(ScriptedSpec(name="alpha", family="script", skill=skill))


def flat(messages: Sequence[Message]) -> tuple[Message, ...]:
    """As a remote server gets it: one text, nothing told apart."""
    return tuple(Message(role=m.role, parts=(Part(text=m.text),)) for m in messages)


def said(messages: Sequence[Message], skill: float = 1.0) -> str:
    completions, _ = asyncio.run(engine(skill).complete(MEMBER, messages, Sampling(temperature=0.0)))
    return completions[0].text


def chosen(messages: Sequence[Message], labels: str, skill: float = 1.0) -> str:
    weights = asyncio.run(engine(skill).choose(MEMBER, messages, labels))
    assert sum(weights) == pytest.approx(1.0)
    assert weights.count(max(weights)) == 1
    return labels[weights.index(max(weights))]


@pytest.mark.parametrize("how", [tuple, flat])
def test_an_answer_is_read_out_of_a_text_and_a_digest_and_a_synthesis_come_to_one(how: type) -> None:
    for messages in (
        digest_messages(TASK, WRONG_TEXT, 1),
        synthesis_messages(TASK, [WRONG_TEXT, RIGHT_TEXT], 1),
        extract_messages(TASK, "twenty and twenty-two, 42 in all", 1),
    ):
        assert read_prompt(how(messages)).question == TASK.question
        assert parse_answer(said(how(messages)), "number") == "42"


def test_a_synthesis_is_a_revision_that_sees_all_candidates() -> None:
    prompt = read_prompt(synthesis_messages(TASK, [WRONG_TEXT, RIGHT_TEXT, WRONG_TEXT], 1))
    assert (prompt.wants, prompt.shown) == ("revision", ("41", "42", "41"))


def test_a_plan_has_a_line_to_work_on() -> None:
    assert len(plan_lines(said(plan_messages(TASK, 3, 1)), 3)) == 1


def test_an_objection_counts_as_one() -> None:
    messages = critique_messages(TASK, WRONG_TEXT, RIGHT_TEXT, 1)
    assert is_valid(said(messages), [part.text for message in messages for part in message.parts])


@pytest.mark.parametrize("how", [tuple, flat])
def test_the_right_one_of_several_texts_is_favoured_wherever_it_stands(how: type) -> None:
    for place in range(3):
        texts = [WRONG_TEXT] * 3
        texts[place] = RIGHT_TEXT
        assert chosen(how(ranking_messages(TASK, texts, 1)), "ABC") == "ABC"[place]


@pytest.mark.parametrize("how", [tuple, flat])
@pytest.mark.parametrize("text", [RIGHT_TEXT, WRONG_TEXT])
def test_a_text_is_called_what_it_is_under_either_letter(how: type, text: str) -> None:
    for words in ((RIGHT, WRONG), (WRONG, RIGHT)):
        letter = chosen(how(verdict_messages(TASK, text, words, 1)), "AB")
        assert words["AB".index(letter)] == (RIGHT if text == RIGHT_TEXT else WRONG)


@pytest.mark.parametrize("how", [tuple, flat])
def test_a_change_to_the_right_answer_gives_up_a_step_and_one_to_a_wrong_answer_none(how: type) -> None:
    for dealt in (["I add.", None, "It is 41."], [None, "I add."]):
        label = chosen(how(account_messages(TASK, dealt, "42", 1)), "ABC"[: len(dealt)])
        assert dealt["ABC".index(label)] is not None
        label = chosen(how(account_messages(TASK, dealt, "40", 1)), "ABC"[: len(dealt)])
        assert dealt["ABC".index(label)] is None
    assert NONE in account_messages(TASK, [None], "42", 1)[0].text


def test_whether_two_answers_are_the_same_does_not_hang_on_the_letter() -> None:
    async def judged(first: str, second: str) -> tuple[str, bool]:
        there, back = (same_messages(TASK, first, second, 1, yes_first=yes) for yes in (True, False))
        weights = [await engine().choose(MEMBER, asked, "AB") for asked in (there, back)]
        return ("yes" if weights[0][0] > 0.5 else "no"), says_same(*weights)

    for pair in (("it rains", "rain falls"), ("41", "42")):
        word, is_same = asyncio.run(judged(*pair))
        assert is_same == (word == "yes")


PROTOCOLS: list[ProtocolConfig] = [
    SingleConfig(), VoteConfig(samples_per_member=2), SwitchConfig(), CouncilConfig(), EscalateConfig(),
    RankConfig(), RankConfig(method="borda"), RankConfig(method="approval"), SelfConsistencyConfig(),
    SelfMixtureConfig(), MixtureConfig(layers=2), DebateConfig(),
    SequentialConfig(steps=(Step(name="one", protocol=VoteConfig()), Step(name="two", protocol=CouncilConfig()))),
    ParallelConfig(
        branches=(Step(name="one", protocol=VoteConfig()), Step(name="two", protocol=RankConfig())), join="synthesise"
    ),
    HierarchicalConfig(worker=VoteConfig()),
    ReviewConfig(produce=VoteConfig(), max_drafts=3),
]  # fmt: skip


def held(config: ProtocolConfig, skill: float, number: int, earlier: Deliberation | None = None) -> Deliberation:
    task = TASK.model_copy(update={"id": f"t{number}", "question": f"What is {number} + 17?"})
    return asyncio.run(deliberate(task, SEATS, engine(skill), config, seed=number, earlier=earlier))


@pytest.mark.parametrize("config", PROTOCOLS, ids=lambda config: f"{config.kind}-{PROTOCOLS.index(config)}")
def test_every_protocol_is_right_with_members_that_are_and_the_same_under_every_seed_again(
    config: ProtocolConfig,
) -> None:
    for number in range(4):
        trace = held(config, 1.0, number)
        assert trace.verdict.answer == str(number + 17)
        assert not trace.failures
        doubtful = held(config, 0.5, number)
        assert untimed(doubtful) == untimed(held(config, 0.5, number))
        assert held(config, 0.5, number, doubtful) == doubtful


def test_a_council_of_scripted_members_talks_objects_and_accounts_for_its_changes() -> None:
    traces = [held(CouncilConfig(), 0.5, number) for number in range(12)]
    phases = {exchange.phase for trace in traces for exchange in trace.exchanges}
    assert {"propose", "critique", "revise", "account", "vote"} <= phases
    revised = [p for trace in traces for p in trace.proposals if p.round]
    assert any(p.quote for p in revised)
    assert any(p.withdrew for p in revised)
    changed = [change for trace in traces for change in trace.mind_changes]
    right = {trace.task.id: str(number + 17) for number, trace in enumerate(traces)}
    to_right = [trace for trace in traces for _, _, after in trace.mind_changes if after == right[trace.task.id]]
    assert len(to_right) > len(changed) / 2
