from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from evolve.governance.config import DemotionConfig
from evolve.governance.demotion import (
    LiveOutcome,
    LiveRecord,
    demotion_event,
    e_values,
    judge_live,
    live_answers,
    said_by,
)
from memory.types import Evidence
from mesh.types import Deliberation, Member, Outcome, Proposal, Task, Verdict
from serving.outcomes import LateOutcome

CONFIG = DemotionConfig(enabled=True)


def stream(seed: int, count: int, share: float) -> list[bool]:
    rng = random.Random(seed)
    return [rng.random() < share for _ in range(count)]


def held(rights: Sequence[bool | None], promised: float, config: DemotionConfig = CONFIG) -> LiveRecord:
    return judge_live([LiveOutcome(right=right, promised=promised) for right in rights], config)


def evidence(num_right: int, num_wrong: int, share: float, *, against_better: bool) -> float:
    outcomes = [(True, share)] * num_right + [(False, share)] * num_wrong
    return list(e_values(outcomes, against_better=against_better))[-1]


def test_without_outcomes_nothing_is_known() -> None:
    found = held([], 0.7)
    assert (found.state, found.evidence_worse, found.num_judged) == ("provisional", 1.0, 0)
    assert demotion_event("s", 1, "aa", found, 0.0) is None


def test_a_specialist_that_is_much_worse_than_claimed_is_demoted() -> None:
    found = held(stream(1, 200, 0.4), 0.75)
    assert found.state == "demoted"
    event = demotion_event("s", 1, "aa", found, 5.0)
    assert event is not None
    assert (event.kind, event.by, event.adapter) == ("demoted", "live outcomes", "aa")
    assert "shown to be worse" in event.reason


def test_one_that_does_better_than_claimed_is_confirmed_for_good() -> None:
    good = stream(2, 200, 0.9)
    assert held(good, 0.7).state == "confirmed"
    assert held([*good, *[False] * 400], 0.7).state == "confirmed"


def test_a_handful_of_outcomes_decides_nothing() -> None:
    assert held([False] * 19, 0.9).state == "provisional"
    assert held([False] * 20, 0.9).state == "demoted"


def test_one_that_is_as_good_as_claimed_is_hardly_ever_demoted_however_often_one_looks() -> None:
    config = DemotionConfig(enabled=True, alpha=0.05, margin=0.0, min_outcomes=1)
    demoted = sum(held(stream(seed, 150, 0.7), 0.7, config).state == "demoted" for seed in range(300))
    assert demoted / 300 <= 0.05


def test_the_expectation_of_the_evidence_is_one_under_the_claim() -> None:
    for share in (0.2, 0.5, 0.9):
        for against_better in (False, True):
            right, wrong = (evidence(n, 1 - n, share, against_better=against_better) for n in (1, 0))
            assert share * right + (1 - share) * wrong == pytest.approx(1.0)


def test_a_specialist_that_keeps_every_promise_is_hardly_ever_demoted_whatever_order_the_types_come_in() -> None:
    config = DemotionConfig(enabled=True, alpha=0.05, margin=0.0, min_outcomes=1)

    def hard_ones_first(seed: int) -> list[LiveOutcome]:
        hard, easy = stream(seed, 50, 0.2), stream(1000 + seed, 50, 0.9)
        return [LiveOutcome(right=right, promised=0.2) for right in hard] + [
            LiveOutcome(right=right, promised=0.9) for right in easy
        ]

    demoted = sum(judge_live(hard_ones_first(seed), config).state == "demoted" for seed in range(200))
    assert demoted / 200 <= 0.05


def test_what_the_labels_do_not_tell_neither_takes_a_seat_nor_secures_it() -> None:
    assert held([False] * 30, 0.8).state == "demoted"
    mixed = held([False] * 30 + [None] * 300, 0.8).evidence_worse
    assert mixed == held([False] * 30 + [True] * 300, 0.8).evidence_worse
    unknown = held([None] * 400, 0.5)
    assert (unknown.state, unknown.num_unknown, unknown.num_judged) == ("provisional", 400, 400)
    assert "400 more of which the labels do not tell" in unknown.reason


def test_labels_that_tell_only_of_the_verdict_demote_nobody_who_keeps_the_promise() -> None:
    """A member right in .55 of the tasks beside another; where the verdict, the other's, is wrong, nothing is told of
    a different answer."""
    rng, told = random.Random(5), list[bool | None]()
    for _ in range(3000):
        mine, verdict = rng.random() < 0.55, rng.random() < 0.55
        told.append(mine if verdict or rng.random() < 0.3 else None)
    assert held(told, 0.55).state != "demoted"
    assert held([one for one in told if one is not None], 0.75).state == "demoted"


def test_the_ends_of_the_scale_are_no_accident() -> None:
    assert evidence(3, 3, 0.0, against_better=False) == 1.0
    assert evidence(3, 1, 1.0, against_better=False) == float("inf")
    assert evidence(3000, 0, 0.5, against_better=False) < 1e-9
    with pytest.raises(ValueError, match="share between 0 and 1"):
        evidence(1, 1, 1.5, against_better=False)


def label(task: str, answer: str, correct: bool, by: str = "label:qa", deliberation: str = "d") -> LateOutcome:
    evidence = Evidence(verifier=by, verdict="passed" if correct else "failed", digest="0" * 64)
    outcome = Outcome(task_id=task, task_type="t", answer=answer, correct=correct, evidence=evidence)
    return LateOutcome(deliberation=deliberation, outcome=outcome)


def test_only_the_specialists_own_answers_count_and_each_task_once() -> None:
    said = {("d", "a"): "7", ("d", "b"): "8", ("d", "c"): None, ("e", "a"): "7"}
    late = [
        label("a", "7", True), label("a", "9", False), label("b", "8", False), label("c", "7", True),
        label("a", "7", True, deliberation="e"), label("x", "1", True),
    ]  # fmt: skip
    assert live_answers(late, said, CONFIG) == [True, False, False]


def test_a_label_that_does_not_tell_of_the_specialists_own_answer_is_counted_as_unknown() -> None:
    said: dict[tuple[str, str], str | None] = {("d", "a"): "7", ("d", "b"): "8"}
    assert live_answers([label("a", "9", False), label("b", "8", False)], said, CONFIG) == [None, False]


def test_only_trusted_reporters_are_heard_where_some_are_named() -> None:
    config = DemotionConfig(reporters=("label:qa",))
    said: dict[tuple[str, str], str | None] = {("d", "a"): "7", ("d", "b"): "8"}
    assert live_answers([label("a", "7", False, "label:eve"), label("b", "8", True)], said, config) == [True]


def test_what_a_specialist_said_is_its_first_answer_before_it_read_anybody() -> None:
    def own(answer: str | None, adapter: str | None, round: int = 0, sample: int = 0) -> Proposal:
        return Proposal(member="m", family="f", text="x", answer=answer, adapter=adapter, round=round, sample=sample)

    nothing = Verdict(answer=None, method="none")
    trace = Deliberation(
        id="d", task=Task(id="t", question="?"), protocol="council", seed=0,
        members=(Member(name="m", engine="m", family="f"),),
        proposals=(own("7", "aa"), own("8", "aa", sample=1), own("9", None), own("6", "aa", round=1)),
        first_verdict=nothing, verdict=nothing,
    )  # fmt: skip
    assert said_by([trace], "aa") == {("d", "t"): "7"}
    assert said_by([trace], "bb") == {}


@pytest.mark.parametrize(("protocol", "counted"), [("vote", "abc"), ("escalate", "ab"), ("switch", "a")])
def test_only_who_is_asked_of_every_task_is_held_to_what_was_promised_for_every_task(
    protocol: str, counted: str
) -> None:
    names, nothing = "abc", Verdict(answer=None, method="none")
    trace = Deliberation(
        id="d", task=Task(id="t", question="?"), protocol=protocol, seed=0,
        members=tuple(Member(name=name, engine=name, family=name) for name in names),
        proposals=tuple(
            Proposal(member=name, family=name, text="7", answer="7", adapter=name, round=0, sample=0) for name in names
        ),
        first_verdict=nothing, verdict=nothing,
    )  # fmt: skip
    assert "".join(name for name in names if said_by([trace], name)) == counted
