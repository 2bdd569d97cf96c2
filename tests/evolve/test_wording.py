"""Texts of right first proposals, and their vectors."""

from evolve.audit.wording import MAX_TEXTS, right_texts, vectors_of
from evolve.selection.diversity import vendi_score
from mesh.tally import plurality
from mesh.types import Deliberation, Proposal, Task


def trace(number: int, text: str, answer: str) -> Deliberation:
    proposals = (Proposal(member="ada", family="alpha", text=text, answer=answer),)
    verdict = plurality(proposals, "text")
    task = Task(id=f"t{number}", question="?", type="t")
    return Deliberation(
        id=f"d{number}", task=task, protocol="vote", seed=0, members=(), proposals=proposals, first_verdict=verdict,
        verdict=verdict,
    )  # fmt: skip


def test_only_right_texts_count_and_not_too_many() -> None:
    traces = [trace(number, f"text {number}", "yes" if number % 2 else "no") for number in range(2 * MAX_TEXTS + 20)]
    found = right_texts(traces, {(one.task.id, "yes"): True for one in traces})
    assert len(found) == MAX_TEXTS
    assert all(int(text.split()[1]) % 2 for text in found)


def test_texts_that_differ_are_worth_more_than_copies() -> None:
    [(_, alike)] = vectors_of(["one two three"] * 5, None).items()
    [(_, apart)] = vectors_of(["one two", "red green", "cat dog", "north south", "bread salt"], None).items()
    assert vendi_score(alike) < 1.01
    assert vendi_score(apart) > 3


def test_of_a_single_text_nothing_is_said() -> None:
    assert vectors_of(["one"], None) == {}
