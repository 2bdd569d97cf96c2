from __future__ import annotations

from collections.abc import Sequence

import pytest

from mesh.diagnose import diagnose
from mesh.signals import Signals, separation, signals
from mesh.tally import plurality
from mesh.types import Deliberation, Member, Proposal, Task, Verdict


def _proposals(said: str, number: int = 0) -> list[Proposal]:
    """'f1 g2 h-': a member of each family, its answer behind it."""
    found = []
    for seat, word in enumerate(said.split()):
        answer = None if word[1:] == "-" else word[1:]
        found.append(Proposal(member=f"m{seat}", family=word[0], text=word[1:], answer=answer, round=number))
    return found


def _decide(proposals: Sequence[Proposal]) -> str | None:
    return plurality(proposals, "number").answer


def _held(said: str, revised: str = "", surprise: float | None = None, task: str = "t") -> Deliberation:
    first, last = _proposals(said), _proposals(revised, 1)
    standing = last or first
    members = [Member(name=p.member, engine="e", family=p.family) for p in first]
    verdict = plurality(standing, "number")
    found = diagnose(verdict, standing, "number", members, "equal", None, _decide)
    found = found.model_copy(update={"surprise": surprise})
    return Deliberation(
        id="d",
        task=Task(id=task, question="?", answer_kind="number"),
        protocol="vote",
        seed=0,
        members=tuple(members),
        proposals=(*first, *last),
        first_verdict=plurality(first, "number"),
        verdict=verdict.model_copy(update={"diagnosis": found}),
    )


def test_the_signals_of_a_verdict_that_all_families_share() -> None:
    found = signals(_held("f1 g1.0 h1"))
    assert found == Signals(
        doubt=0.0,
        minority=0.0,
        entropy=0.0,
        num_answers=1.0,
        thin_support=-3.0,
        unstable=0.0,
        families_differ=0.0,
        changed=0.0,
        surprise=None,
    )


def test_the_signals_of_a_verdict_that_hangs_on_one_family() -> None:
    found = signals(_held("f1 f1 f1 g2 g-", surprise=2.5))
    assert (found.doubt, found.minority) == (pytest.approx(0.4), pytest.approx(0.25))
    assert (found.num_answers, found.thin_support) == (2.0, pytest.approx(-3.0))
    assert (found.unstable, found.families_differ, found.changed, found.surprise) == (1.0, 1.0, 0.0, 2.5)


def test_a_verdict_that_talking_changed_is_marked() -> None:
    assert signals(_held("f1 g1 h2", "f2 g2 h2")).changed == 1.0
    assert signals(_held("f1 g1 h2", "f1 g1.0 h1")).changed == 0.0


def test_agreement_within_one_family_is_no_agreement_of_families() -> None:
    assert signals(_held("f1 f1 g-")).families_differ == 1.0
    assert signals(_held("f1 g1 h-")).families_differ == 0.0
    assert signals(_held("f- g-")).families_differ == 1.0


def _suspicion() -> list[str]:
    """Ever more suspicious first rounds of three families."""
    return ["f1 g1 h1", "f1 g1 h2", "f1 g2 h3"]


@pytest.mark.parametrize("name", ["doubt", "minority", "entropy", "num_answers", "thin_support", "families_differ"])
def test_every_signal_of_disagreement_grows_with_it(name: str) -> None:
    values = [getattr(signals(_held(said)), name) for said in _suspicion()]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_a_verdict_without_a_diagnosis_is_refused() -> None:
    bare = _held("f1 g1").model_copy(update={"verdict": Verdict(answer="1", method="plurality")})
    with pytest.raises(ValueError, match="without in deliberation 'd'"):
        signals(bare)


def test_separation_finds_the_signal_that_tells_wrong_from_right() -> None:
    wrong = [_held("f1 g2 h3", surprise=0.5, task=f"w{i}") for i in range(5)]
    right = [_held("f1 g1 h1", surprise=0.5, task=f"r{i}") for i in range(7)]
    correct = {(d.task.id, "1"): d.task.id.startswith("r") for d in (*wrong, *right)}
    found = {one.signal: one for one in separation([*wrong, *right], correct)}
    assert (found["entropy"].auroc, found["entropy"].high) == (1.0, 1.0)
    assert found["entropy"].low == pytest.approx(0.025**0.2)
    assert (found["entropy"].num_wrong, found["entropy"].num_right) == (5, 7)
    assert (found["surprise"].auroc, found["changed"].auroc) == (0.5, 0.5)
    areas = [one.auroc for one in found.values()]
    assert areas == sorted(areas, reverse=True)


def test_what_was_not_judged_or_not_decided_is_left_out() -> None:
    judged = [_held("f1 g2", task="w"), _held("f1 g1", task="r")]
    others = [_held("f1 g2", task="unknown"), _held("f- g-", task="r")]
    others.append(judged[1].model_copy(update={"verdict": Verdict(answer="1", method="plurality")}))
    correct = {("w", "1"): False, ("r", "1"): True}
    found = separation([*judged, *others], correct)
    assert {(one.num_wrong, one.num_right) for one in found} == {(1, 1)}
    assert "surprise" not in {one.signal for one in found}
    assert separation(judged[:1], correct) == ()
