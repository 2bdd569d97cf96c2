from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolve.judging.judge import Judge
from evolve.problems.config import ExactVerifier, FileProblems, GymFamily, GymProblems
from evolve.problems.draw import draw_generation, draw_open, draw_problems
from evolve.problems.permits import AuditPermit, GatePermit
from evolve.problems.sealed import Seal, SealedProblem, SealError, SplitProblems, open_seal, seal, sealed
from evolve.problems.splits import Split, SplitSizes
from evolve.problems.types import Problem, ProblemSet
from mesh.types import Task

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("memory", "mesh", "serving", "evolve")
FILES = sorted(path for package in (*PACKAGES, "scripts") for path in (ROOT / package).rglob("*.py"))

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "open_seal": ("evolve/judging/judge.py",),
    # exposure: at the end of a run, whether a text holds an answer; it publishes counts.
    "GatePermit": ("evolve/problems/sealed.py", "evolve/gates/gatekeeping.py", "evolve/audit/exposure.py"),
    "AuditPermit": ("evolve/problems/sealed.py", "evolve/audit/audit.py", "evolve/audit/exposure.py"),
    "ProblemSet": ("evolve/problems/draw.py", "evolve/problems/sealed.py", "evolve/problems/taskfile.py"),
    "draw_file": ("evolve/problems/draw.py",),
    # Benchmarks of members: what they draw is in no run, so no gate and no audit stands on it.
    "draw_open": ("scripts/bench_memory_use.py", "scripts/bench_pool.py", "scripts/bench_protocols.py"),
    # A study of finished seats, on tasks that no run had; it learns and decides nothing.
    "draw_undealt": ("evolve/studies/studying.py",),
    # It adds rows to a user's file and deals them; whoever else reads rows reads the keys of all splits.
    "read_rows": ("evolve/problems/adding.py",),
}
"""What opens seals or holds keys that are not sealed yet, and the only modules that take it in, besides the one that
defines it. A module that stands here in vain could begin to without anybody noticing."""

READS_KEYS = (
    "evolve/studies/assess.py",  # open problems alone: it tries a user's verifier before there is a run
    "evolve/judging/judge.py",
    "evolve/judging/panel.py",  # it is handed a brief, never a problem
    "evolve/problems/sealed.py",
    "evolve/judging/survey.py",  # TRAIN and DEV alone: it tries the verifier before anything is spent
    "scripts/bench_memory_use.py",  # the benchmark's own problems: what is noted about them is what it measures
    "scripts/memory_stream.py",  # rewords the problems of that benchmark
)
"""Modules that read an answer key, and the only ones that may: they seal problems or judge."""

SECRET = "xylophone"


def problem(split: Split = Split.GATE, n: int = 0) -> Problem:
    task = Task(id=f"t{n}", question="Which word?", type="words")
    return Problem(task=task, reference=SECRET, verifier=ExactVerifier(), key=f"words|{split.value}{n}", max_tokens=9)


@pytest.fixture
def judge() -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


def test_a_sealed_problem_shows_its_task_and_nowhere_its_answer() -> None:
    closed = seal(problem(), Split.GATE)
    assert (closed.task, closed.key, closed.max_tokens) == (problem().task, "words|gate0", 9)
    shown = [repr(closed), str(closed), str(closed.seal), repr(closed.seal), closed.model_dump_json()]
    assert not any(SECRET in text or "exact" in text for text in shown)
    assert not hasattr(closed, "reference")
    assert not hasattr(closed, "verifier")


def test_a_seal_survives_a_file_and_opens_to_what_was_put_in() -> None:
    closed = seal(problem(), Split.GATE)
    again = SealedProblem.model_validate_json(closed.model_dump_json())
    assert again == closed
    assert open_seal(again, GatePermit("test")) == problem()


def test_the_judge_opens_a_seal_for_the_permit_of_its_split_and_counts(judge: Judge) -> None:
    gate, audit = seal(problem(), Split.GATE), seal(problem(Split.AUDIT), Split.AUDIT)
    assert judge.judge_sealed(gate, SECRET, GatePermit("generation 0 gate")).correct
    assert not judge.judge_sealed(gate, "drum", GatePermit("generation 0 gate")).correct
    assert not judge.judge_sealed(gate, None, GatePermit("generation 0 gate")).correct
    assert judge.judge_sealed(audit, SECRET, AuditPermit("audit")).correct
    assert [(o.purpose, o.split, o.count) for o in judge.openings] == [
        ("audit", "audit", 1),
        ("generation 0 gate", "gate", 3),
    ]


def test_a_sealed_answer_is_judged_as_an_open_one(judge: Judge) -> None:
    closed = seal(problem(), Split.GATE)
    assert judge.judge_sealed(closed, "Drum", GatePermit("x")) == judge.judge(problem(), "Drum")


def test_a_permit_for_another_split_opens_nothing(judge: Judge) -> None:
    gate, audit = seal(problem(), Split.GATE), seal(problem(Split.AUDIT), Split.AUDIT)
    with pytest.raises(SealError, match="'peek' has a permit for audit problems, but 't0' is one of gate"):
        judge.judge_sealed(gate, SECRET, AuditPermit("peek"))
    with pytest.raises(SealError, match="has a permit for gate problems"):
        judge.judge_sealed(audit, SECRET, GatePermit("peek"))
    with pytest.raises(SealError, match="expected a permit for gate problems, got NoneType"):
        judge.judge_sealed(gate, SECRET, None)  # type: ignore[arg-type]
    assert judge.openings == ()


@pytest.mark.parametrize("closed", ["", "bm90IGpzb24=", "%%%"])
def test_a_damaged_seal_says_what_to_do(closed: str) -> None:
    broken = seal(problem(), Split.GATE).model_copy(update={"seal": Seal(closed=closed)})
    with pytest.raises(SealError, match="is damaged; draw the problems again"):
        open_seal(broken, GatePermit("x"))


def test_a_seal_does_not_open_on_another_item() -> None:
    swapped = seal(problem(), Split.GATE).model_copy(update={"key": "words|gate1"})
    with pytest.raises(SealError, match="damaged"):
        open_seal(swapped, GatePermit("x"))


def test_dealt_problems_have_open_train_and_dev_and_sealed_gate_and_audit(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"question": "What is {n} + {n}?", "answer": {2 * n}}}\n' for n in range(100)))
    drawn, dealt = draw_open(FileProblems(path=path), 0), draw_problems(FileProblems(path=path), 0)
    assert (dealt.of(Split.TRAIN), dealt.of(Split.DEV)) == (drawn.of(Split.TRAIN), drawn.of(Split.DEV))
    for split in Split:
        assert dealt.keys(split) == drawn.keys(split)
    assert all(isinstance(item, SealedProblem) for item in [*dealt.of(Split.GATE), *dealt.of(Split.AUDIT)])
    assert dealt.held_out_keys == drawn.held_out_keys
    assert len(dealt.all_keys) == 100
    assert SplitProblems.model_validate_json(dealt.model_dump_json()) == dealt


@pytest.mark.parametrize("kind", ["a user's file", "made-up problems", "another generation"])
def test_nothing_is_drawn_with_gate_or_audit_in_the_open(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"question": "Word {n}?", "answer": "{SECRET}"}}\n' for n in range(60)))
    family = GymFamily(name="chain_sum", settings={"min_terms": 2, "max_terms": 3})
    gym = GymProblems(families=(family,), min_distinct_items=0, items_per_family=SplitSizes(train=4, gate=4, audit=4))
    dealt = {
        "a user's file": lambda: draw_problems(FileProblems(path=path), 0),
        "made-up problems": lambda: draw_problems(gym, 0),
        "another generation": lambda: draw_generation(gym, 0, 1),
    }[kind]()
    shown = [item.model_dump_json() for split in (Split.GATE, Split.AUDIT) for item in dealt.of(split)]
    assert shown
    assert not any(word in text for text in shown for word in (SECRET, '"reference"', '"verifier"'))


def test_sealing_an_empty_draw_gives_empty_splits() -> None:
    drawn = ProblemSet.model_validate({"problems": {}, "report": {"source": "none"}})
    assert sealed(drawn).all_keys == frozenset()


def test_says_reference_finds_the_answer_in_a_text_only_as_a_word(judge: Judge) -> None:
    closed, permit = seal(problem(), Split.GATE), GatePermit("contamination")
    assert judge.says_reference(closed, ["nothing", "it was a  Xylophone."], permit)
    assert not judge.says_reference(closed, ["two xylophones"], permit)


def names_taken(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.attr


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_only_who_draws_gates_audits_or_judges_holds_what_shows_a_key(name: str) -> None:
    takers = {path.relative_to(ROOT).as_posix() for path in FILES if name in names_taken(path)}
    assert takers == set(MAY_IMPORT[name])


def test_no_module_outside_drawing_and_judging_reads_an_answer_key() -> None:
    readers = set()
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Attribute) and node.attr == "reference" for node in ast.walk(tree)):
            readers.add(path.relative_to(ROOT).as_posix())
    assert readers == set(READS_KEYS)
