from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evolve.judging.judge import Judge, NotHeard, verifier_audit, verifier_name
from evolve.judging.rules import rule_of
from evolve.judging.runner import Ran
from evolve.judging.scorer import FormulaScorer, RuleScorer
from evolve.judging.unit_tests import passes, program_in, same_output
from evolve.problems.config import (
    BubblewrapRunner,
    ExactVerifier,
    FileProblems,
    JsonSchemaVerifier,
    MathVerifier,
    PanelVerifier,
    RegexVerifier,
    RunLimits,
    UnitTestsVerifier,
)
from evolve.problems.draw import draw_open
from evolve.problems.splits import Split
from evolve.problems.types import Case, PanelRule, Problem, RegexRule, SchemaRule, UnitTestsRule, VerifierSpec
from mesh.types import Task

ADD = UnitTestsRule(
    cases=(Case(input="1 2\n", output="3"), Case(input="5 5\n", output="10\n")), verifier=UnitTestsVerifier()
)


def problem(verifier: VerifierSpec, reference: str = "", n: int = 0) -> Problem:
    return Problem(task=Task(id=f"t{n}", question="q?"), reference=reference, verifier=verifier, key=f"k{n}")


class Fake:
    """A runner that looks the program up instead of running it; with tests it repeats the harness's word."""

    def __init__(self, programs: Mapping[str, Ran | Mapping[str, str]]) -> None:
        self.programs = programs
        self.runs: list[str] = []

    def check(self) -> None:
        return

    def run(self, files: Mapping[str, str], arguments: Sequence[str], stdin: str, limits: RunLimits) -> Ran:
        found = self.programs[files["solution.py"]]
        self.runs.append(arguments[0])
        if isinstance(found, Ran):
            return found
        if arguments == ["harness.py"]:
            return Ran(exit_code=0, stdout=f"\n{stdin}" if "passes" in found else "", stderr="")
        return Ran(exit_code=0, stdout=found[stdin], stderr="")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(timeout_s=5.0) as judge:
        yield judge


def right(judge: Judge, rule: VerifierSpec, answer: str, reference: str = "") -> bool | None:
    outcome = judge.judge(problem(rule, reference), answer)
    return None if outcome.evidence.verdict == "unknown" else outcome.correct


def test_a_pattern_must_match_the_whole_answer_or_some_part_as_asked(judge: Judge) -> None:
    whole, part = RegexRule(pattern="[a-c]+"), RegexRule(pattern="[a-c]+", whole=False, ignore_case=True)
    assert [right(judge, whole, text) for text in ("abc", " abc ", "ABC", "abcd")] == [True, True, False, False]
    assert [right(judge, part, text) for text in ("xxBx", "xyz")] == [True, False]


def test_a_pattern_that_runs_for_ever_over_an_answer_is_unknown_and_the_rest_go_on() -> None:
    with RuleScorer(timeout_s=0.2) as scorer:
        assert scorer.score(RegexRule(pattern="(a+)+b"), "a" * 60).score is None
        assert scorer.score(RegexRule(pattern="a+b"), "aab").score == 1.0


def test_an_answer_must_be_json_that_fits_the_schema(judge: Judge) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}, "d": {"format": "date"}}}
    rule = SchemaRule(schema_text=json.dumps(schema))
    fits = ('{"n": 1}', '```json\n{"n": 1}\n```')
    not_fits = ('{"n": "1"}', "{}", "n: 1", '{"n": 1, "n": 2}', '{"n": NaN}', "[" * 100_000, "")
    assert [right(judge, rule, text) for text in fits] == [True, True]
    assert [right(judge, rule, text) for text in not_fits] == [False] * len(not_fits)


def test_a_schema_elsewhere_is_never_fetched(judge: Judge) -> None:
    rule = SchemaRule(schema_text='{"$ref": "http://127.0.0.1:9/schema.json"}')
    assert right(judge, rule, "1") is None
    assert "Unresolvable" in judge.incidents[-1].reason


def test_formulas_are_compared_by_what_they_mean(judge: Judge) -> None:
    verifier = MathVerifier()
    cases = [("x+x", "2x", True), ("\\frac{1}{2}", "0.5", True), ("x+1", "x-1", False), ("7", "8", False)]
    assert [right(judge, verifier, answer, reference) for answer, reference, _ in cases] == [c[2] for c in cases]
    assert right(judge, verifier, "", "") is False


def test_a_formula_scorer_that_dies_says_nothing() -> None:
    dies = "import sys; print('{\"ready\": true}', flush=True); sys.stdin.readline(); sys.exit(7)"
    with FormulaScorer(command=[sys.executable, "-c", dies]) as scorer:
        assert scorer.score("x", "y").reason == "the scorer died (exit status 7)"


def test_a_program_passes_when_it_prints_what_every_case_wants() -> None:
    runner = Fake(
        {
            "good": {"1 2\n": "3  \n\n", "5 5\n": "10"},
            "bad": {"1 2\n": "3", "5 5\n": "25"},
            "slow": Ran(exit_code=None, stdout="", stderr="", stopped="time"),
            "crash": Ran(exit_code=1, stdout="3", stderr="Traceback\nZeroDivisionError: division by zero"),
        }
    )
    assert passes(ADD, "good", runner) == (True, "")
    assert passes(ADD, "bad", runner) == (False, "case 2: it printed something else")
    assert passes(ADD, "slow", runner) == (False, "case 1: it was stopped, its time was used up")
    assert passes(ADD, "crash", runner)[1].endswith("status 1: ZeroDivisionError: division by zero")
    assert passes(ADD, "  ", runner) == (False, "there is no program")


def test_a_test_passes_only_when_it_ran_to_its_end() -> None:
    rule = UnitTestsRule(test="import solution", verifier=UnitTestsVerifier())
    runner = Fake({"good": {"passes": "yes"}, "exits early": {"exits": "0"}})
    assert passes(rule, "good", runner) == (True, "")
    assert passes(rule, "exits early", runner) == (False, "it ended with status 0")


def test_the_last_fenced_block_is_the_program() -> None:
    assert program_in("Try\n```\none\n```\nor\n```python\ntwo\n```\nso.") == "two\n"
    assert program_in("print(1)") == "print(1)"


def test_output_is_compared_apart_from_white_space_at_the_ends() -> None:
    assert same_output("1 \n2\n\n", "1\n2")
    assert not same_output("1\n\n2", "1\n2")
    assert not same_output(" 1", "1")


def test_the_judge_runs_programs_in_the_runner_of_their_rule() -> None:
    runner = Fake({"good": {"1 2\n": "3", "5 5\n": "10"}, "bad": {"1 2\n": "4"}})
    with Judge(runners={BubblewrapRunner(): runner}) as judge:
        assert [right(judge, ADD, text) for text in ("good", "bad")] == [True, False]
        assert right(judge, ADD, "x" * 50_000) is False
    assert verifier_name(problem(ADD)) == "unit_tests"
    assert len(runner.runs) == 3


def test_free_text_has_no_verdict_without_its_panel(judge: Judge) -> None:
    with pytest.raises(NotHeard):
        right(judge, PanelRule(verifier=PanelVerifier()), "It depends.", "It does.")


@pytest.mark.parametrize(
    ("verifier", "check", "reason"),
    [
        (RegexVerifier(), None, "expected 'check' to be a pattern, got nothing"),
        (RegexVerifier(), "(", "'check' is no pattern: missing ), unterminated subpattern at position 0"),
        (JsonSchemaVerifier(), "{", "'check' is no JSON"),
        (JsonSchemaVerifier(), {"type": "thing"}, "'check' is no JSON schema: 'thing' is not valid"),
        (JsonSchemaVerifier(), {}, "expected 'check' to be a schema, got {}"),
        (UnitTestsVerifier(), "def f(", "'check' is no Python"),
        (UnitTestsVerifier(), [{"input": 1}], "expected cases like"),
        (UnitTestsVerifier(), None, "expected 'check' to be cases or a test, got nothing"),
        (PanelVerifier(), 3, "expected 'check' to be the panel's criteria as text, got 3"),
    ],
)
def test_a_row_whose_check_cannot_be_used_says_why(verifier: Any, check: object, reason: str) -> None:
    found = rule_of(verifier, "x", check)
    assert isinstance(found, str)
    assert reason in found


def test_a_verifier_without_a_rule_is_its_own_check() -> None:
    assert rule_of(ExactVerifier(), "x", None) == ExactVerifier()
    assert rule_of(PanelVerifier(), "x", " Kind. ") == PanelRule(criteria="Kind.", verifier=PanelVerifier())


def test_rows_of_a_file_carry_their_own_rules_and_may_lack_an_answer(tmp_path: Path, judge: Judge) -> None:
    path = tmp_path / "t.jsonl"
    rows = [
        {"question": "A word of a and b?", "check": "[ab]+", "answer": "abba"},
        {"question": "A word of c?", "check": "c+"},
        {"question": "A word of d?", "check": "d("},
        {"question": "A word of e?"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = draw_open(FileProblems(path=path, verifier=RegexVerifier()), 0)
    found = {p.task.question: p for split in Split for p in drawn.of(split)}
    assert set(found) == {"A word of a and b?", "A word of c?"}
    assert len(drawn.report.malformed) == 2
    assert judge.judge(found["A word of c?"], "ccc").correct
    assert (found["A word of c?"].reference, found["A word of a and b?"].reference) == ("", "abba")
    audited = verifier_audit(list(found.values()), judge, shuffled=True)
    by_probe = {probe.probe: (probe.accepted, probe.n) for probe in audited.probes}
    assert (by_probe["reference"], by_probe["empty"], by_probe["shuffled"]) == ((1, 1), (0, 2), (0, 1))
    assert audited.problems == ("general accepts the constant 'abba' in 50% of 2 items",)


def test_a_problem_with_a_rule_survives_a_file() -> None:
    for rule in (ADD, RegexRule(pattern="a"), SchemaRule(schema_text="{}"), PanelRule(verifier=PanelVerifier())):
        assert Problem.model_validate_json(problem(rule).model_dump_json()).verifier == rule
        assert "pattern='a'" not in repr(rule)
