"""Which finalist the gate seats, and whose answer a tied vote takes at it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evolve.gates.arrangements import Arrangement
from evolve.gates.conjunction import Contest, Rival, hold
from evolve.gates.dev import DevRecord, Measured
from evolve.gates.gate_wear import GateWear, Level
from evolve.gates.gatekeeping import GateHeld, chosen_of, hold_gate
from evolve.learning.placebos import Placebos
from evolve.lineage import founders
from evolve.problems.sealed import seal
from evolve.problems.splits import Split
from evolve.ties import weights_key
from mesh.reliability import AnswerCount, Reliability
from mesh.types import Member
from tests.evolve.small_mesh import ADA, BEN, dealt, small_lab, sums

LEVEL = Level(alpha=0.05, wear=GateWear(num_items=60, num_used=0, num_holdings=0, num_tests=0), reason="fresh")
NUM_GATE = 6


def finalist(name: str) -> Arrangement:
    return Arrangement(name=name, seats=(ADA, BEN.model_copy(update={"name": name})), candidates=(name,))


def gate_of(**wins: int) -> GateHeld:
    """A gate at which each of these, by name, wins so many of 60 problems and loses none."""
    contests = [
        Contest(
            name=name,
            right=tuple(index < count for index in range(60)),
            rivals=(Rival(kind="incumbent", name="now", right=(False,) * 60),),
            task_types=("sums",) * 60,
        )
        for name, count in wins.items()
    ]
    return GateHeld(level=LEVEL, record=hold(contests, 0.05, seed=0))


def test_of_the_finalists_that_passed_the_one_that_was_best_on_dev_is_seated_whatever_the_gates_numbers() -> None:
    dev, held = DevRecord(finalists=(finalist("a"), finalist("b"))), gate_of(a=20, b=40)
    assert held.record is not None
    assert [result.name for result in held.record.promoted] == ["b", "a"], "b was better at the gate"
    assert chosen_of(dev, held) == finalist("a")


def test_the_second_best_on_dev_is_seated_where_the_best_did_not_pass_and_nobody_where_none_did() -> None:
    dev = DevRecord(finalists=(finalist("a"), finalist("b")))
    assert chosen_of(dev, gate_of(a=1, b=40)) == finalist("b")
    assert chosen_of(dev, gate_of(a=1, b=1)) is None
    assert chosen_of(dev, GateHeld(level=LEVEL, reason="no gate was held")) is None


def counted(member: Member, *, right: int) -> list[AnswerCount]:
    """Right so often in 20 DEV answers of each type."""
    return [
        AnswerCount(member=weights_key(member), task_type=kind, num_judged=20, num_answered=20, num_correct=right)
        for kind in ("even", "odd")
    ]


async def no_twins() -> Placebos:
    return Placebos()


@pytest.mark.parametrize(("better", "num_right"), [(ADA, 0), (BEN, NUM_GATE)])
def test_at_the_gate_a_tied_vote_takes_the_answer_of_whoever_dev_measured_to_be_right_more_often(
    tmp_path: Path, better: Member, num_right: int
) -> None:
    """Ada is always wrong and Ben always right here, whatever DEV says; with a sample each all their votes are tied."""
    sealed = tuple(seal(problem, Split.GATE) for problem in sums("gate", NUM_GATE, 400))
    problems = dealt().model_copy(update={"gate": sealed})
    answers = [count for member in (ADA, BEN) for count in counted(member, right=20 if member == better else 0)]
    dev = DevRecord(
        members=tuple(Measured(name=member.name, scores=(0.5,), num_samples=1) for member in (ADA, BEN)),
        standing=Reliability(answers=tuple(answers)),
    )

    async def held() -> GateHeld:
        gate = {"samples_per_member": 1, "required": [], "councils_per_type": 0}
        async with small_lab(tmp_path, skills=(0.0, 1.0), gate=gate) as lab:
            return await hold_gate(lab, founders([ADA, BEN]), dev, problems, no_twins, suspected=True)

    record = asyncio.run(held()).record
    assert record is not None
    [again] = record.results
    test = again.versus[0].test
    assert (again.kind, test.n, test.both, test.wins, test.losses) == ("aa", NUM_GATE, num_right, 0, 0)
