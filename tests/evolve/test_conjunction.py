from __future__ import annotations

import pytest
from pydantic import ValidationError

from evolve.gates.conjunction import Contest, ContestResult, Rival, hold
from evolve.gates.gate import mcnemar_p
from evolve.gates.intervals import paired_difference

EVERY = ("incumbent", "placebo", "budget")
N = 120


def right(count: int, start: int = 0) -> tuple[bool, ...]:
    return tuple(start <= index < start + count for index in range(N))


def contest(name: str = "new", candidate: int = 80, kind: str = "candidate", **rivals: int) -> Contest:
    table = {"incumbent": 50, "placebo": 52, "budget": 55} | rivals
    return Contest(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        right=right(candidate),
        rivals=tuple(Rival(kind=kind, name=kind, right=right(count)) for kind, count in table.items()),  # type: ignore[arg-type]
        task_types=("sums",) * 60 + ("gcd",) * 60,
    )


def hold_one(one: Contest, alpha: float = 0.05) -> ContestResult:
    return hold([one], alpha, required=EVERY, seed=0).results[0]


def test_a_candidate_that_beats_all_rivals_passes() -> None:
    result = hold_one(contest())
    assert result.passed
    assert result.p == max(versus.test.p for versus in result.versus)
    assert result.reason.startswith("passed: 30 won and 0 lost of 120 against the incumbents (+25.0%")


def test_what_is_held_to_councils_says_so() -> None:
    talk = contest().model_copy(update={"endpoint": "council", "name": "critic"})
    record = hold([contest(), talk], 0.05, required=EVERY, seed=0)
    vote, council = record.results
    assert (vote.endpoint, council.endpoint) == ("vote", "council")
    assert "councils" not in vote.reason
    assert council.reason.startswith("passed: in full councils 30 won and 0 lost of 120 against the incumbents")
    assert record.num_candidates == 2, "both share alpha"


def test_form_alone_is_refused_however_large_the_gain() -> None:
    result = hold_one(contest(placebo=79))
    assert not result.passed
    assert result.versus[0].test.p < 1e-6
    assert result.reason.endswith("not shown to beat its placebo, which learned form alone")


def test_one_more_sample_of_the_best_incumbent_has_to_be_beaten() -> None:
    assert not hold_one(contest(budget=78)).passed


def test_a_required_rival_that_was_not_measured_refuses() -> None:
    one = contest()
    without = one.model_copy(update={"rivals": one.rivals[:1]})
    assert hold([without], 0.05, seed=0).results[0].passed
    result = hold_one(without)
    assert (result.shown, result.passed, result.missing) == (True, False, ("placebo", "budget"))
    assert "not measured against its placebo" in result.reason


def test_what_learned_from_no_rows_need_not_beat_a_placebo_and_is_told_so() -> None:
    one = contest()
    merge = one.model_copy(update={"rivals": (one.rivals[0], one.rivals[2]), "exempt": ("placebo",)})
    result = hold_one(merge)
    assert (result.passed, result.missing) == (True, ())
    assert "it learned from no rows, so it has no placebo" in result.reason
    assert hold_one(merge.model_copy(update={"rivals": merge.rivals[:1]})).missing == ("budget",)


def test_a_control_is_held_to_the_same_rule_and_never_promoted() -> None:
    record = hold([contest("again", kind="aa"), contest("new")], 0.05, required=EVERY, seed=0)
    again = record.results[0]
    assert (again.would_pass, again.passed, record.num_candidates) == (True, False, 1)
    assert [result.name for result in record.promoted] == ["new"]
    assert again.reason.endswith("would have passed; a control is never promoted")


def test_candidates_share_alpha_by_their_largest_p() -> None:
    alone = hold_one(contest(candidate=62))
    assert (alone.passed, alone.p) == (True, pytest.approx(2.0**-7))
    weak = [contest(f"weak {index}", candidate=56) for index in range(7)]
    crowd = hold([contest("good", candidate=62), *weak], 0.05, required=EVERY, seed=0)
    assert crowd.results[0].threshold == pytest.approx(0.05 / 8)
    assert crowd.promoted == ()


def test_harm_to_one_task_type_refuses() -> None:
    harmful = tuple(not (index >= 60) and index < 60 for index in range(N))
    before = tuple(70 <= index < 80 for index in range(N))
    one = Contest(
        name="new",
        right=harmful,
        rivals=(Rival(kind="incumbent", name="now", right=before),),
        task_types=("sums",) * 60 + ("gcd",) * 60,
    )
    result = hold([one], 0.05, seed=0).results[0]
    assert (result.shown, result.passed) == (True, False)
    assert [guard.task_type for guard in result.harmed] == ["gcd"]
    assert "shown to harm gcd (0 won, 10 lost)" in result.reason


def test_harm_within_one_cluster_of_copies_is_one_loss_and_refuses_nobody() -> None:
    one = Contest(
        name="new",
        right=right(60),
        rivals=(Rival(kind="incumbent", name="now", right=right(10, 70)),),
        task_types=("sums",) * 60 + ("gcd",) * 60,
        clusters=tuple("copies" if 70 <= index < 80 else f"alone {index}" for index in range(N)),
    )
    result = hold([one], 0.05, seed=0).results[0]
    assert [(guard.task_type, guard.wins, guard.losses) for guard in result.guards] == [("sums", 60, 0), ("gcd", 0, 10)]
    assert (result.harmed, result.passed) == ((), True)
    apart = hold([one.model_copy(update={"clusters": ()})], 0.05, seed=0).results[0]
    assert [guard.task_type for guard in apart.harmed] == ["gcd"]


def test_clusters_take_away_what_copies_gave() -> None:
    one = contest(candidate=64)
    copied = one.model_copy(update={"clusters": tuple(str(index // 20) for index in range(N))})
    assert hold_one(one).passed
    assert not hold_one(copied).passed


def test_two_calculations_of_p_that_contradict_each_other_refuse() -> None:
    result = hold_one(contest())
    first, *others = result.versus
    broken = first.model_copy(update={"test": first.test.model_copy(update={"p_flips": 0.9})})
    defect = result.model_copy(update={"versus": (broken, *others)})
    assert (result.inconsistent, result.would_pass, result.passed) == ((), True, True)
    assert (defect.inconsistent, defect.would_pass, defect.passed) == (("incumbent",), False, False)


def against_the_incumbents(name: str, wins: int, losses: int, same: int = 60, kind: str = "candidate") -> Contest:
    """No other rival: `same` problems that both have right besides those that only one has."""
    return Contest(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        right=(True,) * wins + (False,) * losses + (True,) * same,
        rivals=(Rival(kind="incumbent", name="now", right=(False,) * wins + (True,) * (losses + same)),),
        task_types=("sums",) * (wins + losses + same),
    )


def test_against_the_incumbents_alone_the_record_in_short_is_mcnemars_test() -> None:
    record = hold([against_the_incumbents("new", 15, 3)], 0.05, seed=0)
    [short] = record.gate_record().results
    assert (short.n, short.wins, short.losses, short.passed, short.significant) == (78, 15, 3, True, True)
    assert short.p == short.p_adjusted == pytest.approx(mcnemar_p(15, 3))
    assert short.p_two_sided == pytest.approx(mcnemar_p(15, 3, two_sided=True))
    assert short.gain == pytest.approx(12 / 78)
    assert short.difference == paired_difference(60, 15, 3, 0)
    assert [(guard.task_type, guard.wins, guard.losses, guard.harmed) for guard in short.guards] == [
        ("sums", 15, 3, False)
    ]
    assert short.reason == record.results[0].reason


def test_a_gain_that_may_be_luck_and_an_identical_arrangement_are_refused() -> None:
    lucky, same = (hold([against_the_incumbents("new", *flips)], 0.05, seed=0) for flips in ((8, 4), (0, 0)))
    assert not lucky.promoted
    assert lucky.results[0].reason.endswith("not shown to beat the incumbents")
    [short] = same.gate_record().results
    assert (short.p, short.passed, short.detectable_effect) == (1.0, False, None)


def test_finalists_share_alpha_and_controls_cost_nothing_of_it() -> None:
    good = against_the_incumbents("good", 12, 4)
    controls = [against_the_incumbents("again", 12, 4, kind="aa"), against_the_incumbents("form", 2, 2, kind="placebo")]
    assert hold([good, *controls], 0.05, seed=0).results[0].passed
    crowd = hold([good, against_the_incumbents("b", 3, 3), against_the_incumbents("c", 2, 5)], 0.05, seed=0)
    assert (crowd.results[0].passed, crowd.results[0].threshold) == (False, pytest.approx(0.05 / 3))


def test_the_promoted_come_largest_gain_first() -> None:
    record = hold([against_the_incumbents("good", 20, 2), against_the_incumbents("better", 30, 2)], 0.05, seed=0)
    assert [result.name for result in record.promoted] == ["better", "good"]
    assert [result.name for result in record.gate_record().promoted] == ["better", "good"]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha"):
        hold([], 0.0, seed=0)
    with pytest.raises(ValueError, match="different names"):
        hold([contest("x"), contest("x")], 0.05, seed=0)
    placebo = Rival(kind="placebo", name="form", right=right(3))
    with pytest.raises(ValidationError, match="incumbent first"):
        Contest(name="x", right=right(3), rivals=(placebo,), task_types=("a",) * N)
    with pytest.raises(ValidationError, match="same problems"):
        Contest(name="x", right=right(3)[:5], rivals=contest().rivals, task_types=("a",) * N)


def test_a_control_without_the_required_rivals_can_still_pass_the_rule() -> None:
    """An A/A arm that could never pass would say of every gate that it can be trusted."""
    rivals = (Rival(kind="incumbent", name="today", right=(False,) * 30),)
    control = Contest(name="A/A", kind="aa", right=(True,) * 30, rivals=rivals, task_types=("t",) * 30)
    found = hold([control], 0.05, required=("incumbent", "placebo", "budget"), seed=0).results[0]
    assert found.would_pass
    assert not found.passed
