from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolve.audit.contamination import Contamination, Seen, contamination
from evolve.audit.exposure import check_contamination
from evolve.judging.judge import Judge
from evolve.learning.accumulate_pairs import PairRow
from evolve.learning.preferences import ChosenRejected
from evolve.problems.config import ExactVerifier
from evolve.problems.permits import GatePermit
from evolve.problems.sealed import SealError, seal
from evolve.problems.splits import Split
from evolve.problems.types import Problem
from memory.types import Recollection
from mesh.types import Deliberation, Message, Part, Task, Verdict
from tests.evolve.small_mesh import ADA, dealt, small_lab, sums

LONG = (
    "A ferry with forty seats crosses the bay nine times a day and is always full except on Sundays in winter, "
    "when every fourth seat stays empty: how many passengers cross on such a Sunday?"
)


def problem(n: int, question: str, reference: str = "secret") -> Problem:
    task = Task(id=f"t{n}", question=question)
    return Problem(task=task, reference=reference, verifier=ExactVerifier(), key=f"k{n}")


def seen(text: str, key: str | None = None, *, name: str = "e0") -> Seen:
    return Seen(source="training example", id=name, text=text, key=key)


@pytest.fixture
def judge() -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


def test_texts_of_other_items_are_clean() -> None:
    report = contamination([seen("What is 4 plus 5?", "k9")], {Split.GATE: [seal(problem(0, LONG), Split.GATE)]})
    assert report.clean
    assert report.rows[0].by_key == report.rows[0].by_wording == 0
    assert report.sentence.startswith("No training example")


def test_the_same_item_is_found_by_its_key_whatever_the_wording() -> None:
    report = contamination([seen("5 + 4?", "k0")], {Split.DEV: [problem(0, "What is 4 plus 5?")]})
    assert [(o.split, o.task_id, o.seen_id, o.kind) for o in report.overlaps] == [(Split.DEV, "t0", "e0", "key")]


def test_thirteen_words_in_a_row_are_found_and_twelve_are_not() -> None:
    words = LONG.split()
    held = {Split.AUDIT: [seal(problem(0, LONG), Split.AUDIT)]}
    assert not contamination([seen("so " + " ".join(words[:13]).upper() + " then")], held).clean
    assert contamination([seen(" ".join(words[:12]) + " then " + " ".join(words[12:24]))], held).clean


def test_a_short_question_must_be_there_whole() -> None:
    held = {Split.GATE: [problem(0, "What is 12 plus 30?")]}
    assert contamination([seen("What is 12 plus 31?"), seen("What is 112 plus 30?")], held).clean
    assert not contamination([seen("He asked: what is 12 plus 30? 42.")], held).clean


def test_wording_that_held_out_items_share_is_a_template() -> None:
    head = "Add up all of the numbers below and say nothing but the sum that you find in the end"
    held = {Split.GATE: [problem(0, f"{head}: 1 2 3"), problem(1, f"{head}: 4 5 6")]}
    assert contamination([seen(f"{head}: 7 8 9")], held).clean
    report = contamination([seen(f"{head}: 4 5 6")], held)
    assert [o.task_id for o in report.overlaps] == ["t1"]


@pytest.mark.parametrize(
    ("split", "kinds"), [(Split.DEV, ["wording and answer", "wording"]), (Split.GATE, ["wording"] * 2)]
)
def test_of_gate_and_audit_it_is_counted_and_not_told_which_text_holds_the_answer(
    split: Split, kinds: list[str]
) -> None:
    held = {split: [problem(n, f"Which word is number {n} here?") for n in range(2)]}
    texts = [seen(f"Which word is number {n} here? {said}") for n, said in enumerate(["secret", "no"])]
    report = contamination(texts, held, says_answer=lambda _split, _id, text: "secret" in text)
    assert [overlap.kind for overlap in report.overlaps] == kinds
    assert [(row.by_wording, row.by_answer) for row in report.rows] == [(2, 1)]
    assert "| 2 | 1 |" in report.table()


def test_a_run_looks_for_the_answers_of_every_held_out_split(tmp_path: Path) -> None:
    problems = dealt(num_dev=2, num_audit=2)
    gate = tuple(seal(one, Split.GATE) for one in sums("gate", 2, 400))
    problems = problems.model_copy(update={"gate": gate})
    told = {"dev-0": "200 + 100 = 300", "gate-1": "401 + 101 = 502", "audit-0": "300 + 100 = 9", "none": "7 + 8 = 15"}
    recalled = tuple(
        Recollection(experience_id=name, kind="solution", text=text, task_type="", score=1.0, lane="text", why="")
        for name, text in told.items()
    )
    taught = ChosenRejected(
        task_id="t", task_type="sums", member="ada", family="f", author="ada", author_family="f", origin="own_samples",
        messages=(Message(role="user", parts=(Part(text=problems.gate[0].task.question),)),),
        chosen="right", rejected="wrong",
    )  # fmt: skip
    pairs = [PairRow(pair=taught, generation=0, key="of TRAIN")]
    verdict = Verdict(answer=None, method="none")
    held = Deliberation(
        id="d", task=problems.dev[0].task, protocol="council", seed=0, members=(ADA,), recalled=recalled,
        first_verdict=verdict, verdict=verdict,
    )  # fmt: skip

    async def work() -> Contamination:
        async with small_lab(tmp_path) as lab:
            found = await check_contamination(lab, [], pairs, [held], [problems])
            assert {(one.purpose, one.split) for one in lab.judge.openings} == {
                ("contamination", "gate"),
                ("contamination", "audit"),
            }
            return found

    found = asyncio.run(work())
    assert found.answers_checked
    assert {row.split: row.by_wording for row in found.rows if row.source == "preference pair"} == {
        Split.DEV: 0,
        Split.GATE: 1,
        Split.AUDIT: 0,
    }
    recalled_rows = [row for row in found.rows if row.source == "recalled text"]
    assert {row.split: (row.by_wording, row.by_answer) for row in recalled_rows} == {
        Split.DEV: (1, 1),
        Split.GATE: (1, 1),
        Split.AUDIT: (1, 0),
    }
    assert {overlap.task_id: overlap.kind for overlap in found.overlaps if overlap.source == "recalled text"} == {
        "dev-0": "wording and answer",
        "gate-1": "wording",
        "audit-0": "wording",
    }


def test_the_answer_counts_only_beside_its_question_and_under_a_permit(judge: Judge) -> None:
    sealed = {f"t{n}": seal(problem(n, f"Which word is number {n} here?"), Split.GATE) for n in range(2)}

    def says_answer(split: Split, task_id: str, text: str) -> bool:
        return judge.says_reference(sealed[task_id], [text], GatePermit("contamination"))

    texts = [
        seen("Which word is number 0 here? It is secret.", name="a"),
        seen("Which word is number 1 here? Nobody knows.", name="b"),
        seen("A secret of somebody else.", name="c"),
    ]
    report = contamination(texts, {Split.GATE: list(sealed.values())}, says_answer=says_answer)
    assert [(o.task_id, o.kind) for o in report.overlaps] == [("t0", "wording"), ("t1", "wording")]
    (row,) = report.rows
    assert (row.num_items, row.num_texts, row.by_key, row.by_wording, row.by_answer) == (2, 3, 0, 2, 1)
    assert judge.openings[0].purpose == "contamination"
    with pytest.raises(SealError, match="got NoneType"):
        judge.says_reference(sealed["t0"], ["x"])
    assert judge.says_reference(problem(0, "q"), ["the secret"])


def test_the_table_names_every_split_and_source_and_the_overlaps() -> None:
    memory = Seen(source="memory entry", id="x1", text="What is 12 plus 30?")
    held = {Split.DEV: [problem(0, "What is 12 plus 30?")], Split.GATE: [problem(1, LONG)]}
    report = contamination([memory, seen("nothing")], held)
    table = report.table()
    assert "| dev | memory entry | 1 | 1 | 0 | 1 | not checked |" in table
    assert "| gate | training example | 1 | 1 | 0 | 0 | not checked |" in table
    assert "- dev item t0: memory entry x1, by wording" in table
    assert report.sentence == "1 held-out item overlaps with what was learned or recalled, 0 of them in GATE or AUDIT."


def test_nothing_seen_is_an_empty_report() -> None:
    assert contamination([], {Split.GATE: [problem(0, LONG)]}).clean


@pytest.mark.parametrize("other", ["2 - 8 =", "2 + 8 - 6 =", "1 + 2 + 8 ="])
def test_sums_of_the_same_numbers_are_other_questions(other: str) -> None:
    text = "State the final answer: {}"
    held = {Split.GATE: [problem(0, text.format("2 + 8 ="))]}
    assert contamination([seen(text.format(other), "k9")], held).clean
    assert not contamination([seen(text.format("2 + 8 =") + " 10", "k9")], held).clean


def test_a_template_with_one_word_of_a_question_is_no_sign_of_it() -> None:
    ask = "Provide your answer as a list of words with a comma between them. Reverse this list of words: {}"
    held = {
        Split.GATE: [problem(n, ask.format(words)) for n, words in enumerate(["or, gift, motive", "cat, dog, hen"])]
    }
    assert contamination([seen(ask.format("or, task")), seen(ask.format("or, gift, task"))], held).clean
    [found] = contamination([seen(ask.format("or, gift, motive") + " motive, gift, or")], held).overlaps
    assert found.task_id == "t0"
