from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.judging.judge import Judge, best_constant, verifier_audit
from evolve.judging.scorer import GymScorer, ScorerError
from evolve.judging.verifiers import is_exact, is_full_score, is_numeric, read_number
from evolve.problems.config import ExactVerifier, GymFamily, GymProblems, NumericVerifier
from evolve.problems.draw import draw_problems
from evolve.problems.splits import Split, SplitSizes
from evolve.problems.types import Problem, ReasoningGymVerifier, VerifierSpec
from mesh.types import AnswerKind, Task

# A child that speaks the scorer's protocol: the answer says what it does. Score: share of the reference's length.
CHILD = """
import json, os, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    answer, reference = request["answer"], json.loads(request["entry"])["answer"]
    if answer == "hang":
        time.sleep(60)
    if answer == "die":
        os._exit(3)
    if answer == "raise":
        reply = {"error": "ValueError: no number"}
    else:
        reply = {"score": 1.0 if answer == reference else 0.5}
    print(json.dumps(reply | {"pid": os.getpid()}), flush=True)
"""


def problem(
    reference: str, verifier: VerifierSpec | None = None, *, question: str = "q?", kind: AnswerKind = "text", n: int = 0
) -> Problem:
    gym = ReasoningGymVerifier(family="made_up", entry=json.dumps({"answer": reference}))
    return Problem(
        task=Task(id=f"t{n}-{reference}", question=question, type="made_up", answer_kind=kind),
        reference=reference,
        verifier=verifier or gym,
        key=f"made_up|{n}{reference}",
    )


def gym_item(family: str, reference: str, **metadata: object) -> Problem:
    entry = {"question": "q", "answer": reference, "metadata": metadata}
    return problem(reference, ReasoningGymVerifier(family=family, entry=json.dumps(entry)))


@pytest.fixture
def judge() -> Iterator[Judge]:
    with Judge(scorer=GymScorer(timeout_s=0.2, command=[sys.executable, "-c", CHILD])) as judge:
        yield judge


@pytest.fixture(scope="module")
def real_judge() -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


def test_only_a_full_score_is_correct(judge: Judge) -> None:
    right, partial = judge.judge(problem("7"), "7"), judge.judge(problem("7"), "77")
    assert (right.correct, right.evidence.verdict, right.evidence.verifier) == (True, "passed", "reasoning_gym:made_up")
    assert (partial.correct, partial.evidence.verdict) == (False, "failed")


def test_an_abstention_is_never_correct(judge: Judge) -> None:
    for verifier in (None, ExactVerifier(), NumericVerifier()):
        outcome = judge.judge(problem("0", verifier), None)
        assert (outcome.correct, outcome.answer, outcome.evidence.verdict) == (False, None, "failed")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("hang", "the scorer did not answer within 1 s and was killed"),
        ("die", "the scorer died (exit status 3)"),
        ("raise", "the scorer raised ValueError: no number"),
    ],
)
def test_an_answer_that_breaks_the_scorer_is_wrong_and_the_rest_go_on(judge: Judge, answer: str, reason: str) -> None:
    item = problem("7")
    outcomes = judge.judge_many([(item, "7"), (item, answer), (item, "8"), (problem("9"), "9")])
    assert [outcome.correct for outcome in outcomes] == [True, False, False, True]
    assert [outcome.evidence.verdict for outcome in outcomes] == ["passed", "unknown", "failed", "passed"]
    assert [(i.task_id, i.answer, i.reason) for i in judge.incidents] == [(item.task.id, answer, reason)]


def test_the_same_answer_is_judged_once(judge: Judge) -> None:
    outcomes = judge.judge_many([(problem("7"), "hang")] * 20)
    assert len(set(outcomes)) == 1
    assert len(judge.incidents) == 1


def test_a_closed_judge_leaves_no_process_and_can_start_again() -> None:
    scorer = GymScorer(command=[sys.executable, "-c", CHILD])
    with Judge(scorer=scorer) as judge:
        judge.judge(problem("7"), "7")
        child = scorer._child
        assert child is not None
    assert child.returncode is not None
    assert judge.judge(problem("8"), "8").correct
    judge.close()


def test_a_scorer_that_does_not_start_is_an_error_and_no_verdict() -> None:
    with pytest.raises(ScorerError, match="exit status 4"):
        Judge(scorer=GymScorer(command=[sys.executable, "-c", "raise SystemExit(4)"])).judge(problem("7"), "7")


def test_the_outcome_does_not_give_the_key_away(judge: Judge) -> None:
    wrong = [judge.judge(problem(reference), "maybe").model_dump_json() for reference in ("yes", "no")]
    assert "yes" not in wrong[0].replace("t0-yes", "")
    one, other = problem("yes"), problem("no")
    other = other.model_copy(update={"task": one.task})
    with Judge(scorer=GymScorer(command=[sys.executable, "-c", CHILD])) as second:
        assert judge.judge(one, "perhaps").evidence.digest == second.judge(other, "perhaps").evidence.digest


def test_an_essay_is_no_answer(judge: Judge) -> None:
    long = "7" * 5000
    assert not judge.judge(problem(long), long).correct


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Paris", "paris", True),
        (" **Paris**. ", "Paris", True),
        ("new   york", "New York", True),
        ("Paris, France", "Paris", False),
        ("", "Paris", False),
        ("5!", "5", False),
        ("2²", "22", False),
    ],
)
def test_exact_forgives_form_only(answer: str, reference: str, right: bool) -> None:
    assert is_exact(answer, reference, ExactVerifier()) is right


def test_exact_can_mind_letter_case() -> None:
    assert not is_exact("paris", "Paris", ExactVerifier(case_sensitive=True))


@pytest.mark.parametrize(
    ("answer", "reference", "tolerance", "right"),
    [
        ("7", "7.0", 0.0, True),
        ("1,234", "1234", 0.0, True),
        ("$12.50", "12.5", 0.0, True),
        ("1/3", "0.333", 0.001, True),
        ("1/3", "0.333", 0.0, False),
        ("3.3", "3", 0.3, True),
        ("3.31", "3", 0.3, False),
        ("−4", "-4", 0.0, True),
        ("1e3", "1000", 0.0, True),
        ("nan", "7", 100.0, False),
        ("inf", "7", 100.0, False),
        ("7 or 8", "7", 0.0, False),
        ("1/0", "7", 100.0, False),
        ("12,34", "1234", 0.0, False),
        ("", "0", 1.0, False),
        ("9" * 5000, "7", 0.0, False),
        ("123456789012345678901", "123456789012345678900", 0.0, False),
    ],
)
def test_numeric_compares_values_within_the_tolerance(
    answer: str, reference: str, tolerance: float, right: bool
) -> None:
    assert is_numeric(answer, reference, NumericVerifier(tolerance=tolerance)) is right


def test_a_relative_tolerance_scales_with_the_reference() -> None:
    verifier = NumericVerifier(relative_tolerance=0.01)
    assert is_numeric("-990", "-1000", verifier)
    assert not is_numeric("-989", "-1000", verifier)


@given(st.text())
def test_reading_a_number_never_raises(text: str) -> None:
    value = read_number(text)
    assert value is None or is_numeric(text, text, NumericVerifier())


@given(st.text())
def test_every_reference_passes_its_own_exact_check(text: str) -> None:
    assert is_exact(text, text, ExactVerifier())


@pytest.mark.parametrize(("score", "full"), [(1.0, True), (1, True), (0.99, False), (True, False), (None, False)])
def test_a_full_score_is_one(score: object, full: bool) -> None:
    assert is_full_score(score) is full


def test_the_audit_names_a_verifier_that_can_be_fooled(judge: Judge) -> None:
    easy = [problem("2" if n < 8 else "31", ExactVerifier(), question="2", n=n) for n in range(10)]
    audit = verifier_audit(easy, judge)
    assert "made_up accepts the echoed question in 80% of 10 items" in audit.problems
    assert "made_up accepts the constant '2' in 80% of 10 items" in audit.problems
    blank = verifier_audit([problem("...", ExactVerifier(), n=n) for n in range(3)], judge)
    assert "made_up accepts the empty answer in 100% of 3 items" in blank.problems


def test_the_audit_names_references_that_do_not_pass(judge: Judge) -> None:
    broken = problem("7").model_copy(update={"reference": "eight"})
    assert "made_up accepts its own reference answer only in 0% of 1 items" in verifier_audit([broken], judge).problems


def test_the_best_constant_is_judged_like_any_answer(judge: Judge) -> None:
    items = [problem(answer, ExactVerifier(), n=n) for n, answer in enumerate(["5", "5", "Yes.", "yes", "YES"])]
    assert best_constant(items, judge) == ("Yes.", 0.6)
    with pytest.raises(ValueError, match="got none"):
        best_constant([], judge)


def test_reasoning_gym_references_pass_and_nonsense_does_not(real_judge: Judge) -> None:
    families = ("chain_sum", "gcd", "letter_counting", "number_sorting", "time_intervals", "prime_factorization")
    config = GymProblems(
        families=tuple(GymFamily(name=name, answer_kind="text") for name in families),
        items_per_family=SplitSizes(train=8),
        min_distinct_items=0,
    )
    items = draw_problems(config, seed=3).of(Split.TRAIN)
    audit = verifier_audit(items, real_judge)
    assert {probe.rate for probe in audit.probes if probe.probe == "reference"} == {1.0}
    assert {probe.rate for probe in audit.probes if probe.probe in ("empty", "echo")} == {0.0}
    factors = next(problem for problem in items if problem.task.type == "prime_factorization")
    outcome = real_judge.judge(factors, "two times \ud800 three")
    assert (outcome.correct, outcome.evidence.verdict) == (False, "unknown")
    assert real_judge.incidents[-1].reason.startswith("the scorer raised ValueError")


def test_an_answer_that_computes_for_ever_is_killed_by_processor_time(real_judge: Judge) -> None:
    item = gym_item("polynomial_multiplication", "3*x + 6")
    assert real_judge.judge(item, "6 + 3*x").correct
    outcome = real_judge.judge(item, "9**9**9**9")
    assert (outcome.correct, outcome.evidence.verdict) == (False, "unknown")
    assert real_judge.incidents[-1].reason == "the scorer died (over 2 s of processor time)"


def test_the_scoring_script_imports_nothing_of_this_project() -> None:
    source = Path(sys.modules["evolve.judging.scorer"].__file__ or "").with_name("gym_scorer.py").read_text()
    assert not any(f"{word} {name}" in source for word in ("import", "from") for name in ("evolve", "mesh", "memory"))
