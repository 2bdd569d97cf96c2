from __future__ import annotations

from evolve.learning.label_source import label_answers
from mesh.types import Deliberation, Member, Proposal, Task, Verdict


def trace(**answers: str | None) -> Deliberation:
    """Member names begin with the letter of their family."""
    nothing = Verdict(answer=None, method="none")
    return Deliberation(
        id="d", task=Task(id="t", question="?", answer_kind="text"), protocol="vote", seed=0,
        members=tuple(Member(name=name, engine=name, family=name[0]) for name in answers),
        proposals=tuple(
            Proposal(member=name, family=name[0], text="x", answer=answer) for name, answer in answers.items()
        ),
        first_verdict=nothing, verdict=nothing,
    )  # fmt: skip


def test_the_verifier_is_never_outvoted() -> None:
    found = label_answers([trace(a="no", b="no", c="yes")], {("t", "no"): False, ("t", "yes"): True})
    assert [(label.answer, label.source) for label in found] == [("yes", "verifier")]
    assert label_answers([trace(a="no", b="no")], {("t", "no"): False}) == ()


def test_unjudged_answers_are_right_where_families_agree() -> None:
    (label,) = label_answers([trace(a="Tea", b="tea", b2="no")], {})
    assert (label.answer, label.source, label.families) == ("Tea", "cross_family", ("a", "b"))


def test_a_majority_within_one_family_is_mere_consensus() -> None:
    (label,) = label_answers([trace(a="tea", a2="tea", a3="tea", b="no")], {})
    assert (label.source, label.families) == ("consensus", ("a",))


def test_where_families_are_split_evenly_or_nobody_agrees_nothing_is_right() -> None:
    assert label_answers([trace(a="tea", b="no")], {}) == ()
    assert label_answers([trace(a="tea", b="tea", a2="no", b2="no")], {}) == ()
    assert label_answers([trace(a="tea")], {}) == ()
    assert label_answers([trace(a=None)], {}) == ()


def test_members_asked_one_by_one_are_counted_together() -> None:
    (label,) = label_answers([trace(a="tea"), trace(b="tea")], {})
    assert label.source == "cross_family"
