from __future__ import annotations

from evolve.problems.config import ExactVerifier
from evolve.problems.types import Problem
from evolve.studies.copying import copied, readings
from mesh.types import Task


def problem(number: int, question: str, *, kind: str = "number", task_type: str = "lookup") -> Problem:
    task = Task.model_validate(
        {"id": f"{task_type}{number}", "question": question, "answer_kind": kind, "type": task_type}
    )
    return Problem(task=task, reference="?", verifier=ExactVerifier(), max_tokens=8, key=task.id)


def test_an_answer_that_always_stands_first_can_be_copied_though_a_parser_reads_the_last() -> None:
    items = [problem(n, f"Box {n} holds {n + 5} apples and {n + 9} pears. How many apples?") for n in range(20)]
    apples = {item.task.id: str(n + 5) for n, item in enumerate(items)}
    found = copied(items, lambda one, answer: answer == apples[one.task.id])
    assert found.scores == (1.0,) * 20
    assert copied(items, lambda one, answer: answer == apples[one.task.id], one_way=True).mean == 0.0


def test_the_best_way_to_copy_is_chosen_on_other_items_of_the_same_type() -> None:
    items = [problem(n, f"{n} then 77") for n in range(4)] + [problem(n, "7 8", task_type="other") for n in range(3)]
    lucky = {items[0].task.id}
    found = copied(items, lambda one, answer: one.task.id in lucky and answer == "0")
    assert sum(found.scores) == 0.0, "what was right on one item alone was chosen on that item"
    assert copied(items[:1], lambda *_: True).scores == (1.0,)
    assert copied([], lambda *_: True).scores == ()


def test_words_are_copied_where_answers_are_text_and_nothing_else_of_prose() -> None:
    assert readings(problem(0, "Is Ann-Marie taller than Bob?", kind="text")) == {
        "parsed": "Is Ann-Marie taller than Bob?", "first": "Is", "second": "Ann-Marie", "last but one": "than",
        "last": "Bob",
    }  # fmt: skip
    assert set(readings(problem(0, "Say it.", kind="free"))) == {"parsed"}
    assert readings(problem(0, "Only 5?"))["second"] is None
    minus = [readings(problem(0, text))["second"] for text in ("17-4 =", "3 and -4.5", "1.25 or 6")]
    assert minus == ["4", "-4.5", "6"]
