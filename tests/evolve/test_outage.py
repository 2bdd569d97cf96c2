"""An engine that dies in the middle of a stage stops it; a question that it cannot answer is data, as ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evolve.asks import proposal_asks
from evolve.commands.codes import code_of
from evolve.journal import timeless
from evolve.judging.panel import Brief, PanelVerdict
from evolve.judging.panel_asking import verdicts_on
from evolve.lab import Lab
from evolve.outage import EngineGone, Pulse, engine_failures
from evolve.problems.config import FileProblems, PanelVerifier
from memory.ledger import Ledger
from mesh.budget import Budget
from mesh.engine import EngineError
from mesh.types import Deliberation, Member, Message, Part, Sampling
from serving.scripted_engine import ScriptedEngine
from tests.evolve.small_mesh import ADA, BEN, Frail, lab_of, small_config, sums

NUM_ITEMS = 8
POISON = "3 + 103"
"""The question about the item number 3."""


def sound(member: Member) -> Frail:
    return Frail(member, lambda _, __: False)


async def harvest(lab: Lab, *, num_items: int = NUM_ITEMS) -> list[Deliberation]:
    asks = proposal_asks(lab.config, "harvest", sums("train", num_items), [ADA, BEN], 1)
    async with lab:
        return await lab.hold("harvest", lab.directory / "harvest.parquet", asks)


def held(directory: Path, ada: ScriptedEngine, ben: ScriptedEngine) -> list[Deliberation]:
    directory.mkdir(exist_ok=True)
    return asyncio.run(harvest(lab_of(small_config(directory), {"ada": ada, "ben": ben})))


def kept_of(directory: Path) -> list[Deliberation]:
    entries = Ledger(directory / "harvest.partial.jsonl", readonly=True).entries()
    return [Deliberation.model_validate(entry.payload["deliberation"]) for entry in entries]


def dies_after(num_calls: int, member: Member) -> Frail:
    engine = sound(member)
    engine.fails = lambda _, __: len(engine.asked) > num_calls
    return engine


def test_an_engine_that_dies_for_good_ends_the_stage_and_none_of_its_failures_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(EngineGone, match=r"engine 'ada' answers nothing any more.*fell off the bus.*harvest ended"):
        held(tmp_path, dies_after(3, ADA), sound(BEN))
    kept = kept_of(tmp_path)
    assert sum(one.members == (ADA,) for one in kept) == 3
    assert [failure for one in kept for failure in one.failures] == []
    assert not (tmp_path / "harvest.parquet").exists()
    assert not (tmp_path / "journal.jsonl").exists() or (tmp_path / "journal.jsonl").read_text() == ""


def test_the_same_command_goes_on_with_what_is_missing_and_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    with pytest.raises(EngineGone):
        held(tmp_path / "cut", dies_after(3, ADA), sound(BEN))
    kept = [one.id for one in kept_of(tmp_path / "cut")]
    ada, ben = sound(ADA), sound(BEN)
    resumed, whole = held(tmp_path / "cut", ada, ben), held(tmp_path / "whole", sound(ADA), sound(BEN))
    assert [(one.id, one.proposals, one.verdict) for one in resumed] == [
        (one.id, one.proposals, one.verdict) for one in whole
    ]
    assert len(ada.asked) + len(ben.asked) == 2 * NUM_ITEMS - len(kept)
    journals = [(tmp_path / name / "journal.jsonl").read_bytes() for name in ("cut", "whole")]
    assert journals[0] == journals[1]


def test_a_call_that_fails_once_leaves_no_trace_but_its_cost(tmp_path: Path) -> None:
    ada = sound(ADA)
    ada.fails = lambda _, prompt: POISON in prompt and sum(POISON in one for one in ada.asked) == 1
    shaken, whole = held(tmp_path / "shaken", ada, sound(BEN)), held(tmp_path / "whole", sound(ADA), sound(BEN))
    assert timeless(shaken) == timeless(whole)
    assert len(ada.asked) == NUM_ITEMS + 1
    kinds = [entry.kind for entry in Ledger(tmp_path / "shaken" / "times.jsonl", readonly=True).entries()]
    assert kinds == ["part", "stage"]


def test_a_question_that_a_living_engine_cannot_answer_is_accepted_as_its_failure(tmp_path: Path) -> None:
    ada = Frail(ADA, lambda _, prompt: POISON in prompt)
    found = held(tmp_path, ada, sound(BEN))
    failed = [one for one in found if one.failures]
    assert [(one.task.id, one.members) for one in failed] == [("train-3", (ADA,))]
    assert sum(POISON in prompt for prompt in ada.asked) == 2
    assert sum("What is 1 + 1?" in prompt for prompt in ada.asked) == 1


def test_an_adapter_that_breaks_on_a_living_engine_stops_no_run(tmp_path: Path) -> None:
    tuned = ADA.model_copy(update={"adapter": "0" * 64})
    engine = Frail(ADA, lambda member, _: member.adapter is not None)

    async def ask() -> str:
        try:
            await engine.complete(tuned, [Message(role="user", parts=(Part(text="2 + 2 ="),))], Sampling())
        except EngineError as error:
            return str(error)
        return ""

    def failed(said: str) -> list[tuple[str, str]]:
        return [("ada", said)] if said else []

    found = asyncio.run(Pulse().asked_twice(ask, failed, engine, stage="dev", timeout_s=1.0))
    assert "fell off the bus" in found


def test_what_answered_before_a_call_failed_says_nothing_of_whether_the_engine_outlived_it() -> None:
    """Two calls fail one after the other, each of them twice; the engine dies between them."""
    engine, pulse = sound(ADA), Pulse()

    async def ask() -> bool:
        return True

    async def work() -> None:
        def failed(_: bool) -> list[tuple[str, str]]:
            return [("ada", "EngineError: lost")]

        await pulse.asked_twice(ask, failed, engine, stage="dev", timeout_s=1.0)
        engine.fails = lambda _, __: True
        await pulse.asked_twice(ask, failed, engine, stage="dev", timeout_s=1.0)

    with pytest.raises(EngineGone, match=r"dev ended at a call that failed \(EngineError: lost\)"):
        asyncio.run(work())
    assert len(engine.asked) == 2


def test_calls_that_fail_together_ask_a_living_engine_once_or_twice_and_not_each_for_itself() -> None:
    engine, pulse = sound(ADA), Pulse()

    async def ask() -> bool:
        await asyncio.sleep(0)
        return True

    async def work() -> None:
        asked = [
            pulse.asked_twice(ask, lambda _: [("ada", "TimeoutError: slow")], engine, stage="dev", timeout_s=1.0)
            for _ in range(20)
        ]
        await asyncio.gather(*asked)

    asyncio.run(work())
    assert len(engine.asked) <= 2


def test_the_error_has_a_code_of_its_own() -> None:
    found = code_of(EngineGone("gone"))
    assert found is not None
    assert (found.name, found.exit) == ("EM-ENGINE-GONE", 1)


def test_what_a_budget_left_undone_is_asked_once_and_accepted(tmp_path: Path) -> None:
    ada = sound(ADA)
    lab = lab_of(small_config(tmp_path), {"ada": ada, "ben": sound(BEN)})
    poor = {"budget": Budget(output_tokens=1)}
    asks = [
        ask.model_copy(update={"protocol": ask.protocol.model_copy(update=poor)})
        for ask in proposal_asks(lab.config, "harvest", sums("train", 1), [ADA], 2)
    ]

    async def work() -> list[Deliberation]:
        async with lab:
            return await lab.hold("harvest", tmp_path / "harvest.parquet", asks)

    [found] = asyncio.run(work())
    assert found.failures
    assert engine_failures(found) == []
    assert len(ada.asked) <= 1


def panel_says(directory: Path, ben: Frail, *, num_answers: int) -> dict[tuple[str, str], PanelVerdict]:
    """What Ben makes of as many answers of Ada's."""
    rule = PanelVerifier(num_judges=1)
    free = FileProblems(path=directory / "unused.jsonl", verifier=rule, answer_kind="free")
    config = small_config(directory).model_copy(update={"problems": free, "concurrency": 1})
    briefs = [
        Brief(task_id=f"t{n}", question=f"Why {n}?", reference="because", criteria="") for n in range(num_answers)
    ]

    async def work() -> dict[tuple[str, str], PanelVerdict]:
        async with lab_of(config, {"ada": sound(ADA), "ben": ben}) as lab:
            return await verdicts_on(lab, "harvest", [(brief, "it is so", ("alpha",)) for brief in briefs])

    return asyncio.run(work())


def test_a_judge_whose_engine_dies_ends_the_panel_and_is_not_taken_for_silent(tmp_path: Path) -> None:
    ben = sound(BEN)
    ben.fails = lambda _, prompt: "What is 1 + 1?" in prompt or "Why 0?" not in prompt
    with pytest.raises(EngineGone, match=r"engine 'ben' answers nothing any more.*harvest panel ended"):
        panel_says(tmp_path, ben, num_answers=3)
    [entry] = Ledger(tmp_path / "harvest-panel.partial.jsonl", readonly=True).entries()
    assert entry.payload["heard"]["ballots"]
    verdicts = panel_says(tmp_path, sound(BEN), num_answers=3)
    assert [one.right is None for one in verdicts.values()] == [False] * 3


def test_what_a_living_judge_cannot_judge_is_left_unjudged_as_ever(tmp_path: Path) -> None:
    verdicts = panel_says(tmp_path, Frail(BEN, lambda _, prompt: "Why 1?" in prompt), num_answers=3)
    assert [one.right is None for one in verdicts.values()] == [False, True, False]
