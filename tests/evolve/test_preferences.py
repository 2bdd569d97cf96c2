from __future__ import annotations

import random
from typing import Any

from evolve.config import CurationConfig
from evolve.learning.credit import Credit, CreditKind
from evolve.learning.preferences import ChosenRejected, count_origins, preference_pairs
from evolve.problems.config import ExactVerifier
from evolve.problems.types import Problem
from mesh.types import Task


def problem(task_id: str) -> Problem:
    task = Task(id=task_id, question=f"What is {task_id}?", type="sums", answer_kind="number")
    return Problem(task=task, reference="7", verifier=ExactVerifier(), key=f"key-{task_id}")


def said(text: str, kind: CreditKind = "own_correct", member: str = "m", task: str = "t", **changes: Any) -> Credit:
    answer = "7" if kind in ("own_correct", "wrong_to_right") else "8"
    fields: dict[str, Any] = {"family": f"{member[0]}-family", "adapter": None, "round": 0, "sample": 0}
    return Credit(task_id=task, member=member, kind=kind, text=text, answer=answer, **(fields | changes))


def pairs(*credits: Credit, **options: Any) -> tuple[ChosenRejected, ...]:
    problems = [problem(task) for task in dict.fromkeys(item.task_id for item in credits)]
    return preference_pairs(credits, problems, CurationConfig(), **({"held_out": (), "seed": 0} | options))


def test_a_members_own_right_sample_is_preferred_to_anybody_elses() -> None:
    found = pairs(
        said("way one: 7"), said("way two: 7", member="other"), said("Answer: 8", "own_wrong"), max_per_problem=1
    )
    assert [(p.member, p.author, p.origin, p.chosen, p.rejected) for p in found] == [
        ("m", "m", "own_samples", "way one: 7", "Answer: 8")
    ]


def test_own_correction_goes_before_family_and_family_before_strangers() -> None:
    wrong = said("Answer: 8", "own_wrong")
    own, kin, far = said("7!", "wrong_to_right", round=1), said("7 kin", member="m2"), said("7 far", member="z")
    assert [p.origin for p in pairs(wrong, own, kin, far, max_per_problem=8)] == [
        "own_revision", "same_family", "cross_family",
    ]  # fmt: skip
    assert count_origins(pairs(wrong, own, kin, far, max_per_problem=2)) == {"own_revision": 1, "same_family": 1}


def test_without_anything_right_or_anything_wrong_there_is_no_pair() -> None:
    assert pairs(said("Answer: 8", "own_wrong")) == ()
    assert pairs(said("7")) == ()
    assert pairs(said("7"), said("8", "own_wrong", task="u")) == ()


def test_held_out_problems_give_no_pair() -> None:
    assert pairs(said("7"), said("8", "own_wrong"), held_out=("key-t",)) == ()


def test_an_abstention_is_never_rejected_text() -> None:
    assert pairs(said("7"), said("eh", "abstained")) == ()


def test_the_order_of_credits_does_not_matter() -> None:
    credits = [said(f"way {n} is 7", sample=n) for n in range(4)]
    credits += [said(f"no {n}: 8", "own_wrong", sample=4 + n) for n in range(4)]
    shuffled = random.Random(3).sample(credits, len(credits))
    assert pairs(*credits, max_per_problem=3) == pairs(*shuffled, max_per_problem=3)
    assert len({p.rejected for p in pairs(*credits, max_per_problem=3)}) == 3
