from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from evolve.config import CurationConfig
from evolve.learning.credit import Credit, CreditKind, RoleCredit
from evolve.learning.curate import Curated, CurationRules, clean_completion, curate
from evolve.problems.config import ExactVerifier
from evolve.problems.types import Problem
from mesh.types import Message, Part, Task


def problem(task_id: str, task_type: str = "sums") -> Problem:
    task = Task(id=task_id, question=f"What is {task_id}?", type=task_type, answer_kind="number", instruction="Go.")
    return Problem(task=task, reference="7", verifier=ExactVerifier(), key=f"key-{task_id}")


def said(task_id: str, text: str = "7", kind: CreditKind = "own_correct", member: str = "m", **changes: Any) -> Credit:
    fields: dict[str, Any] = {"family": f"{member}-family", "adapter": None, "round": 0, "sample": 0, "answer": "7"}
    return Credit(task_id=task_id, member=member, kind=kind, text=text, **(fields | changes))


def run(*credits: Credit, held_out: tuple[str, ...] = (), seed: int = 0, **config: Any) -> Curated:
    problems = [problem(item.task_id, item.task_id.split("-")[0]) for item in credits]
    distinct = list({problem.task.id: problem for problem in problems}.values())
    return curate(credits, distinct, CurationConfig(**config), held_out=held_out, seed=seed)


def reasons(curated: Curated) -> dict[str, int]:
    return dict(Counter(drop.reason for drop in curated.drops))


def test_a_right_first_proposal_becomes_an_example() -> None:
    (example,) = run(said("sums-1", "3 + 4 = 7")).examples
    assert (example.source, example.completion, example.task_type) == ("own_correct", "3 + 4 = 7", "sums")
    assert (example.member, example.family) == ("m", "m-family")
    (turn,) = example.messages
    assert (turn.role, turn.text) == ("user", "Go.\nWhat is sums-1?")


@pytest.mark.parametrize("kind", ["wrong_to_right", "stayed_right"])
def test_a_right_revision_becomes_an_example_of_the_first_prompt(kind: CreditKind) -> None:
    (example,) = run(said("sums-1", kind=kind, round=1)).examples
    assert example.source == "revision"
    assert "Others answered" not in example.messages[-1].text


@pytest.mark.parametrize(
    ("credit", "reason"),
    [
        (said("sums-1", "8", "own_wrong", answer="8"), "wrong"),
        (said("sums-1", "8", "right_to_wrong", answer="8", round=1), "wrong"),
        (said("sums-1", "eh", "abstained", answer=None), "unparsable"),
        (said("sums-1", "Reasoning that names no answer"), "unparsable"),
        (said("sums-1", "x" * 500 + "\nAnswer: 7"), "too_long"),
        (said("sums-1", "<|im_end|>\nAnswer: 7"), "control_token"),
        (said("sums-1", "As Answer B says.\nAnswer: 7", "wrong_to_right", round=1), "refers_to_peers"),
        (said("sums-1", "The others are right.\nAnswer: 7", "stayed_right", round=1), "refers_to_peers"),
    ],
)
def test_what_cannot_be_learned_from_is_dropped_with_its_reason(credit: Credit, reason: str) -> None:
    curated = run(credit)
    assert not curated.examples
    assert [(drop.reason, drop.text, drop.member) for drop in curated.drops] == [(reason, credit.text, "m")]


def test_a_first_proposal_may_use_the_words_of_a_revision() -> None:
    assert run(said("sums-1", "Others would say 8.\nAnswer: 7")).examples


def test_items_of_other_splits_never_get_in() -> None:
    assert reasons(run(said("sums-1"), said("sums-2"), held_out=("key-sums-2",))) == {"contaminated": 1}
    unknown = curate([said("elsewhere")], [problem("sums-1")], CurationConfig(), held_out=(), seed=0)
    assert reasons(unknown) == {"contaminated": 1}


def test_the_same_words_are_learned_once_a_member() -> None:
    curated = run(said("sums-1", "It is  7"), said("sums-1", "It is 7"), said("sums-1", "It is 7", member="other"))
    assert reasons(curated) == {"duplicate": 1}
    assert sorted(example.member for example in curated.examples) == ["m", "other"]


def test_a_problem_gives_a_member_only_so_many_examples_and_first_proposals_go_first() -> None:
    texts = [said("sums-1", f"way {n} gives 7") for n in range(3)]
    curated = run(said("sums-1", "Yes: 7", "stayed_right", round=1), *texts, max_per_problem=3)
    assert reasons(curated) == {"cap_per_problem": 1}
    assert {example.source for example in curated.examples} == {"own_correct"}


def test_a_type_gives_a_member_only_so_many_examples() -> None:
    curated = run(*(said(f"sums-{n}") for n in range(9)), said("gcd-1"), said("sums-1", member="b"), max_per_type=5)
    kept = Counter((example.member, example.task_type) for example in curated.examples)
    assert kept == {("m", "sums"): 5, ("m", "gcd"): 1, ("b", "sums"): 1}
    assert reasons(curated) == {"cap_per_type": 4}


def test_one_type_does_not_drown_the_others() -> None:
    many = [said(f"sums-{n}") for n in range(110)]
    curated = run(*many, *(said(f"gcd-{n}") for n in range(10)), max_per_type=1000)
    kept = Counter(example.task_type for example in curated.examples)
    assert kept == {"sums": 72, "gcd": 10}
    assert len(run(*many, max_per_type=1000).examples) == 110


def test_the_same_credits_and_seed_give_the_same_set_whatever_their_order() -> None:
    credits = [said(f"sums-{n % 7}", f"way {n} gives 7") for n in range(40)]
    shuffled = random.Random(1).sample(credits, len(credits))
    first, again, other = run(*credits), run(*shuffled), run(*credits, seed=1)
    assert first.examples == again.examples
    assert first.examples != other.examples


def test_the_report_accounts_for_every_credit() -> None:
    credits = [said("sums-1"), said("sums-1"), said("gcd-1", "8", "own_wrong", answer="8"), said("gcd-2", member="b")]
    report = run(*credits).report
    assert report.num_credits == report.num_kept + report.num_dropped == 4
    assert report.kept == (("b-family", "gcd", "own_correct", 1), ("m-family", "sums", "own_correct", 1))
    assert report.dropped == (("m-family", "gcd", "wrong", 1), ("m-family", "sums", "duplicate", 1))
    assert run().report.num_credits == 0


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("7", "7"),
        ("  7\n\nQuestion: 3 + 3\n6", "7"),
        ("7\n6\n5", "7"),
        ("3 + 4 = 7\nso\nAnswer: 7\nI hope this helps.", "3 + 4 = 7\nso\nAnswer: 7"),
        ("7 comes to mind.\nAnswer: 7", "7 comes to mind.\nAnswer: 7"),
        ("Answer:\n7\nBye", "Answer:\n7"),
        ("Answer: 7\nAnswer: 7\nAnswer: 7", "Answer: 7"),
        ("Answer: 8\nno wait\nAnswer: 7", "Answer: 8\nno wait\nAnswer: 7"),
        ("nothing", None),
        ("", None),
    ],
)
def test_a_completion_ends_with_its_answer(text: str, clean: str | None) -> None:
    assert clean_completion(text, "7", "number") == clean


def test_one_way_to_an_answer_is_learned_once_where_distinct_paths_are_asked_for() -> None:
    credits = [said("sums-1", "3 + 4 = 7"), said("sums-1", "Well, 3+4=7"), said("sums-1", "8 - 1 = 7")]
    config = CurationConfig(max_per_problem=8)
    plain = curate(credits, [problem("sums-1")], config, held_out=(), seed=0)
    asked = curate(credits, [problem("sums-1")], config, held_out=(), seed=0, rules=CurationRules(distinct_paths=True))
    assert len(plain.examples) == 3
    assert (len(asked.examples), reasons(asked)) == (2, {"same_path": 1})


def test_a_source_gives_a_member_only_so_many_examples_where_that_is_asked_for() -> None:
    credits = [said(f"sums-{n}") for n in range(4)] + [said("sums-9", kind="wrong_to_right", round=1)]
    problems = [problem(item.task_id) for item in credits]
    asked = curate(credits, problems, CurationConfig(), held_out=(), seed=0, rules=CurationRules(max_per_source=2))
    assert Counter(example.source for example in asked.examples) == {"own_correct": 2, "revision": 1}
    assert reasons(asked) == {"cap_per_source": 2}


PEERS = (Message(role="user", parts=(Part(text="Others answered 8."),)),)


def heard(text: str, role: str = "critique", kind: str = "right", **changes: Any) -> RoleCredit:
    fields: dict[str, Any] = {"task_id": "sums-1", "member": "m", "family": "m-family", "adapter": None}
    return RoleCredit.model_validate(fields | {"role": role, "kind": kind, "messages": PEERS, "text": text} | changes)


def test_critics_and_synthesisers_learn_from_the_prompt_their_authors_saw() -> None:
    credits = [heard("3 + 4 is not 8."), heard("As B says: 7\nAnswer: 7\nAnd so on", "synthesis", answer="7")]
    found = curate(credits, [problem("sums-1")], CurationConfig(), held_out=(), seed=0).examples
    assert {(e.source, e.role, e.completion) for e in found} == {
        ("critique", "critic", "3 + 4 is not 8."),
        ("synthesis", "synthesiser", "As B says: 7\nAnswer: 7"),
    }
    assert {e.messages for e in found} == {PEERS}


@pytest.mark.parametrize(
    ("credit", "reason"),
    [
        (heard("No.", kind="wrong"), "wrong"),
        (heard("No.", kind="unheard"), "unheard"),
        (heard("", kind="invalid"), "invalid"),
        (heard("eh", "synthesis", "abstained"), "unparsable"),
        (heard("no answer in here", "synthesis", answer="7"), "unparsable"),
        (heard("<|im_end|> is wrong"), "control_token"),
        (heard("x" * 500), "too_long"),
        (heard("No.", task_id="elsewhere"), "contaminated"),
    ],
)
def test_what_was_said_to_others_is_dropped_with_its_reason(credit: RoleCredit, reason: str) -> None:
    curated = curate([credit], [problem("sums-1")], CurationConfig(), held_out=(), seed=0)
    assert [drop.reason for drop in curated.drops] == [reason]


def test_examples_of_one_role_never_displace_those_of_another() -> None:
    credits = [
        said("sums-1", "Answer: 7", "wrong_to_right", round=1),
        heard("Answer: 7", "synthesis", answer="7"),
        heard("Answer: 7"),
    ]
    rules = CurationRules(distinct_paths=True)
    config = CurationConfig(max_per_problem=1, max_per_type=1)
    curated = curate(credits, [problem("sums-1")], config, held_out=(), seed=0, rules=rules)
    assert sorted(e.source for e in curated.examples) == ["critique", "revision", "synthesis"]
    assert not curated.drops
