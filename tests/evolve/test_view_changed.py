"""Which councils show what a specialist changed: wrong before, right now, and by the specialist's own answer."""

from __future__ import annotations

from evolve.report.view_changed import changed_views
from mesh.types import Deliberation, Member, Proposal, Task, Verdict

BASE = Member(name="ada", engine="ada", family="alpha")
OTHER = Member(name="ben", engine="ben", family="beta")
SPECIALIST = Member(name="g1-ada-own", engine="ada", family="alpha", adapter="a" * 64)


def council(task: str, first: Member, said: str, peer: str, verdict: str) -> Deliberation:
    """`first` says one thing, ben another, and the council comes to a verdict."""
    spoken = ((first, said), (OTHER, peer))
    proposals = tuple(Proposal(member=m.name, family=m.family, text=text, answer=text) for m, text in spoken)
    return Deliberation(
        id=task,
        task=Task(id=task, question=f"What is {task}?", type="sum", answer_kind="number"),
        protocol="council",
        seed=0,
        members=(first, OTHER),
        proposals=proposals,
        first_verdict=Verdict(answer=verdict, method="m"),
        verdict=Verdict(answer=verdict, method="m"),
    )


def pairs(*cases: tuple[str, str, str, str]) -> tuple[list[Deliberation], list[Deliberation]]:
    """(task, verdict before, the specialist's answer, verdict after)."""
    before = [council(task, BASE, old, old, old) for task, old, _, _ in cases]
    after = [council(task, SPECIALIST, own, "0", new) for task, _, own, new in cases]
    return before, after


RIGHT = {(task, "7"): True for task in "abcdefgh"}


def test_a_problem_is_shown_where_the_specialists_own_answer_mended_the_verdict() -> None:
    [shown] = changed_views(*pairs(("a", "1", "7", "7")), RIGHT)
    assert shown.title == "A specialist mended it"
    assert shown.specialists == ("g1-ada-own",)
    assert (shown.question, shown.task_type) == ("What is a?", "sum")
    assert "g1-ada-own" in shown.after
    assert "g1-ada-own" not in shown.before


def test_what_another_seat_mended_and_what_stayed_as_it_was_are_not_shown() -> None:
    by_peer = pairs(("a", "1", "3", "7"))
    stayed = pairs(("b", "7", "7", "7"), ("c", "1", "1", "1"))
    assert changed_views(*by_peer, RIGHT) == ()
    assert changed_views(*stayed, RIGHT) == ()


def test_what_a_specialist_broke_is_shown_as_well() -> None:
    [shown] = changed_views(*pairs(("a", "7", "3", "3")), RIGHT)
    assert shown.title == "A specialist broke it"


def test_three_are_shown_at_most_and_the_pick_does_not_depend_on_the_order() -> None:
    before, after = pairs(*((task, "1", "7", "7") for task in "edcba"))
    shown = changed_views(before, after, RIGHT)
    assert [one.question for one in shown] == ["What is a?", "What is b?", "What is c?"]
