from __future__ import annotations

import random

import pytest

from evolve.governance.config import DemotionConfig
from evolve.governance.demotion import demotion_event, e_value, judge_live, live_answers, said_by
from memory.types import Evidence
from mesh.types import Deliberation, Member, Outcome, Proposal, Task, Verdict
from serving.outcomes import LateOutcome

CONFIG = DemotionConfig(enabled=True)


def stream(seed: int, count: int, share: float) -> list[bool]:
    rng = random.Random(seed)
    return [rng.random() < share for _ in range(count)]


def test_without_outcomes_nothing_is_known() -> None:
    found = judge_live([], 0.7, CONFIG)
    assert (found.state, found.evidence_worse, found.num_judged) == ("provisional", 1.0, 0)
    assert demotion_event("s", 1, "aa", found, 0.0) is None


def test_a_specialist_that_is_much_worse_than_claimed_is_demoted() -> None:
    found = judge_live(stream(1, 200, 0.4), 0.75, CONFIG)
    assert found.state == "demoted"
    event = demotion_event("s", 1, "aa", found, 5.0)
    assert event is not None
    assert (event.kind, event.by, event.adapter) == ("demoted", "live outcomes", "aa")
    assert "shown to be worse" in event.reason


def test_one_that_does_better_than_claimed_is_confirmed_for_good() -> None:
    good = stream(2, 200, 0.9)
    assert judge_live(good, 0.7, CONFIG).state == "confirmed"
    assert judge_live([*good, *[False] * 400], 0.7, CONFIG).state == "confirmed"


def test_a_handful_of_outcomes_decides_nothing() -> None:
    assert judge_live([False] * 19, 0.9, CONFIG).state == "provisional"
    assert judge_live([False] * 20, 0.9, CONFIG).state == "demoted"


def test_one_that_is_as_good_as_claimed_is_hardly_ever_demoted_however_often_one_looks() -> None:
    config = DemotionConfig(enabled=True, alpha=0.05, margin=0.0, min_outcomes=1)
    demoted = sum(judge_live(stream(seed, 150, 0.7), 0.7, config).state == "demoted" for seed in range(300))
    assert demoted / 300 <= 0.05


def test_the_expectation_of_the_evidence_is_one_under_the_claim() -> None:
    for share in (0.2, 0.5, 0.9):
        mean = share * e_value(1, 0, share, against_better=False) + (1 - share) * e_value(
            0, 1, share, against_better=False
        )
        assert mean == pytest.approx(1.0)
        mean = share * e_value(1, 0, share, against_better=True) + (1 - share) * e_value(
            0, 1, share, against_better=True
        )
        assert mean == pytest.approx(1.0)


def test_the_ends_of_the_scale_are_no_accident() -> None:
    assert e_value(3, 3, 0.0, against_better=False) == 1.0
    assert e_value(3, 1, 1.0, against_better=False) == float("inf")
    assert e_value(3000, 0, 0.5, against_better=False) < 1e-9
    with pytest.raises(ValueError, match="share between 0 and 1"):
        e_value(1, 1, 1.5, against_better=False)


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
