"""Problems about which calls failed at the gate: nobody wins or loses by them, and too many of them decide nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from evolve.gates.arrangements import Arrangement
from evolve.gates.dev import DevRecord, Measured
from evolve.gates.gatekeeping import GateHeld, hold_gate
from evolve.learning.placebos import Placebos
from evolve.lineage import founders
from evolve.problems.sealed import seal
from evolve.problems.splits import Split
from mesh.types import Member
from tests.evolve.small_mesh import ADA, BEN, Frail, dealt, lab_of, small_config, sums

NUM_GATE = 24
ANEW = "~aa-0"
"""Ends the names of the incumbents that enter anew."""

Fails = Callable[[Member, str], bool]


async def no_twins() -> Placebos:
    return Placebos()


def about(*places: int) -> Callable[[str], bool]:
    """Whether a prompt asks one of these GATE problems."""
    return lambda prompt: any(f"{400 + place} + {100 + place} =" in prompt for place in places)


def gate_held(directory: Path, ada_fails: Fails, *, councils: int = 0, finalist: Arrangement | None = None) -> GateHeld:
    """A gate of the incumbents against themselves, at which Ada is always wrong and Ben always right."""
    sealed = tuple(seal(problem, Split.GATE) for problem in sums("gate", NUM_GATE, 400))
    problems = dealt().model_copy(update={"gate": sealed})
    measured = tuple(Measured(name=member.name, scores=(0.5,), num_samples=1) for member in (ADA, BEN))
    dev = DevRecord(members=measured, finalists=() if finalist is None else (finalist,))
    gate = {"samples_per_member": 1, "required": [], "councils_per_type": councils}
    engines = {"ada": Frail(ADA, ada_fails, skill=0.0), "ben": Frail(BEN, lambda _, __: False, skill=1.0)}

    async def held() -> GateHeld:
        async with lab_of(small_config(directory, gate=gate), engines) as lab:
            return await hold_gate(lab, founders([ADA, BEN]), dev, problems, no_twins, suspected=finalist is None)

    return asyncio.run(held())


def test_a_problem_that_one_side_was_not_answered_about_is_left_out_on_both_and_told(tmp_path: Path) -> None:
    asked = about(3)
    held = gate_held(tmp_path, lambda member, prompt: member.name.endswith(ANEW) and asked(prompt))
    assert held.record is not None
    [result] = held.record.results
    test = result.versus[0].test
    assert (result.num_left_out, test.n, test.wins, test.losses) == (1, NUM_GATE - 1, 0, 0)
    assert "1 more were left out, since calls about them failed" in result.reason


def test_a_gate_with_too_many_of_them_decides_nothing_and_says_why(tmp_path: Path) -> None:
    asked = about(3, 4)
    held = gate_held(tmp_path, lambda member, prompt: member.name == "ada" and asked(prompt))
    assert held.record is None
    assert held.reason == (
        "the gate decided nothing: A/A 0: calls about 2 of 24 problems failed (EngineError: engine 'ada': the device "
        "fell off the bus)"
    )


def test_what_an_engine_can_answer_for_none_of_its_members_is_what_they_are_worth_there(tmp_path: Path) -> None:
    """Too long for its window, say: today's seats and whoever would take them are wrong alike."""
    asked = about(3, 4, 5)
    held = gate_held(tmp_path, lambda _, prompt: asked(prompt))
    assert held.record is not None
    [result] = held.record.results
    assert (result.num_left_out, result.versus[0].test.n) == (0, NUM_GATE)
    assert "left out" not in result.reason


def test_where_no_call_failed_the_record_says_nothing_of_it(tmp_path: Path) -> None:
    held = gate_held(tmp_path, lambda _, __: False)
    assert held.record is not None
    [result] = held.record.results
    assert "num_left_out" not in result.model_dump()
    assert result.versus[0].test.n == NUM_GATE


CLEVER = ADA.model_copy(update={"name": "clever"})


@pytest.mark.parametrize("side", ["ada", "clever"])
def test_councils_beside_the_vote_do_without_such_problems_too(tmp_path: Path, side: str) -> None:
    """The first two problems are the councils'; in the vote one of 24 is within what may be left out."""
    asked = about(0)
    finalist = Arrangement(name="clever", seats=(CLEVER, BEN), candidates=("clever",))
    held = gate_held(
        tmp_path, lambda member, prompt: member.name == side and asked(prompt), councils=1, finalist=finalist
    )
    assert held.council is not None
    assert (held.council.test.n, held.council.num_left_out) == (1, 1)
    assert "; 1 more left out, since calls failed" in held.council.sentence


@pytest.mark.parametrize(("places", "num_left_out"), [((0,), 1), ((0, 1), None)])
def test_where_councils_decide_they_do_without_such_problems_up_to_the_same_limit(
    tmp_path: Path, places: tuple[int, ...], num_left_out: int | None
) -> None:
    asked = about(*places)
    helper = Arrangement(name="clever", seats=(CLEVER, BEN), candidates=("clever",), endpoint="council")
    held = gate_held(
        tmp_path, lambda member, prompt: member.name == "clever" and asked(prompt), councils=12, finalist=helper
    )
    if num_left_out is None:
        assert held.record is None
        assert "clever in councils: calls about 2 of 24 problems failed" in held.reason
    else:
        assert held.record is not None
        result = next(one for one in held.record.results if one.name == "clever")
        assert (result.num_left_out, result.versus[0].test.n) == (num_left_out, NUM_GATE - num_left_out)
