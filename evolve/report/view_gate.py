"""From the records of a gate to what the report shows of it: every contest, the winner again, what could be seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evolve.gates.aa import aa_record
from evolve.gates.conjunction import ConjunctionRecord, ContestResult
from evolve.gates.paired import PairedTest
from evolve.gates.power import Assumed, detectable_conjunction, equal_clusters
from evolve.gates.remeasure import Remeasured
from evolve.gates.shapley import Contributions
from evolve.loop import Round
from evolve.report.evolution import (
    AAView,
    ContestView,
    DecisionView,
    GuardView,
    RemeasuredView,
    SeatShareView,
    SharesView,
    VersusView,
)

POWER_ROUNDS = 1000
"""Simulated gates behind the sentence on what a gate could see; the error of a power of 80% is then 1.3 points."""


def decision_view(one: Round) -> DecisionView:
    """Everything about one generation's decision."""
    selection, brood = one.selection, one.brood
    level = selection.level
    return DecisionView(
        generation=one.generation.number,
        reason=selection.reason,
        chosen=_seated(one),
        contests=contest_views(selection.conjunction),
        dev=tuple(versus_view("incumbent", score.arrangement.name, score.test) for score in selection.dev.scores),
        council="" if selection.council is None else selection.council.sentence,
        remeasured=None if selection.remeasured is None else remeasured_view(selection.remeasured),
        power="" if selection.conjunction is None else power_sentence(selection.conjunction),
        level="" if level is None else level.reason,
        wear=None if level is None else (level.wear.num_items, level.wear.num_used, level.wear.num_holdings),
        ruling="" if one.ruling is None else one.ruling.reason,
        shares=None if selection.dev.contributions is None else shares_view(selection.dev.contributions),
        retired=() if _seated(one) else tuple(selection.retired.items()),
        stopped=tuple(selection.dev.stopped.items()),
        no_placebo=tuple(selection.placebos.refused.items()),
        num_bred=len({*brood.refused, *(report.recipe for report in brood.reports)}),
        num_quarantined=len(brood.refused),
    )


def _seated(one: Round) -> str | None:
    """Name of the arrangement that takes the seats; a winner that nobody let in does not."""
    if one.selection.chosen is None or (one.ruling is not None and one.ruling.state != "granted"):
        return None
    return one.selection.chosen.name


def contest_views(record: ConjunctionRecord | None) -> tuple[ContestView, ...]:
    """Every contest of a gate; none where no gate was held."""
    return tuple(_contest(result) for result in record.results) if record else ()


def _contest(result: ContestResult) -> ContestView:
    return ContestView(
        name=result.name,
        kind=result.kind,
        versus=tuple(versus_view(one.kind, one.name, one.test) for one in result.versus),
        threshold=result.threshold,
        p_adjusted=result.p_adjusted,
        guards=tuple(
            GuardView(task_type=guard.task_type, wins=guard.wins, losses=guard.losses, harmed=guard.harmed)
            for guard in result.guards
        ),
        missing=tuple(result.missing),
        inconsistent=bool(result.inconsistent),
        would_pass=result.would_pass,
        passed=result.passed,
        reason=result.reason,
    )


def versus_view(kind: str, name: str, test: PairedTest) -> VersusView:
    """A paired test as the report shows it."""
    return VersusView(
        kind=kind,
        name=name,
        n=test.n,
        num_clusters=test.num_clusters,
        wins=test.wins,
        losses=test.losses,
        gain=test.gain,
        low=test.difference.low,
        high=test.difference.high,
        p=test.p,
        p_flips=test.p_flips,
    )


def remeasured_view(found: Remeasured) -> RemeasuredView:
    """A winner on fresh items."""
    return RemeasuredView(
        chosen_gain=found.chosen_gain,
        fresh_gain=found.fresh.gain,
        low=found.interval.low,
        high=found.interval.high,
        n=found.fresh.n,
        sentence=found.sentence,
    )


def shares_view(found: Contributions) -> SharesView:
    """What each seat adds."""
    return SharesView(
        accuracy=found.accuracy,
        coverage=found.coverage,
        num_problems=found.num_problems,
        members=tuple(
            SeatShareView(
                member=one.member,
                value=one.value,
                low=one.interval.low,
                high=one.interval.high,
                alone=one.alone,
                left_out=one.left_out,
                num_pivotal=one.num_pivotal,
            )
            for one in found.members
        ),
    )


def aa_view(records: Iterable[ConjunctionRecord]) -> AAView | None:
    """All A/A arms of a run; None where none was held."""
    found = aa_record(records)
    if found.num_arms == 0:
        return None
    return AAView(
        num_arms=found.num_arms,
        num_would_pass=found.num_would_pass,
        is_alarm=found.is_alarm,
        sentence=found.sentence,
    )


def power_sentence(record: ConjunctionRecord) -> str:
    """Smallest true gain that a gate of this size and this much disagreement lets pass four times in five.

    Simulated from what the gate itself showed: the incumbents' accuracy, and how often the finalists differed. What is
    held to councils is told apart.
    """
    finalists = [result for result in record.results if result.kind == "candidate"]
    by_vote = [result for result in finalists if result.endpoint == "vote"]
    talking = [result for result in finalists if result.endpoint == "council"]
    found = [_power_of(by_vote, record.alpha, len(finalists))] if by_vote else []
    found += [f"in councils: {_power_of(talking, record.alpha, len(finalists))}"] if talking else []
    return "; ".join(found)


def _power_of(finalists: Sequence[ContestResult], alpha: float, num_finalists: int) -> str:
    first = finalists[0].versus[0].test
    accuracy = min(0.99, max(0.01, (first.both + first.losses) / first.n))
    room = 2.0 * min(accuracy, 1.0 - accuracy)
    discordance = min(room, max(result.versus[0].test.discordance for result in finalists))
    if discordance <= 0.0:
        return "the finalists never differed from the incumbents, so there was nothing to be found"
    # How alike near duplicates are was measured here: errors as large as these clusters made them, for any finalist.
    size, correlation = equal_clusters(max(result.versus[0].test.design_effect for result in finalists))
    kinds = {versus.kind for result in finalists for versus in result.versus}
    assumed = Assumed(
        num_problems=first.n,
        num_task_types=max(1, len(finalists[0].guards)),
        accuracy=accuracy,
        gain=0.0,
        discordance=discordance,
        placebo_gain=0.0 if "placebo" in kinds else None,
        budget_gain=0.0 if "budget" in kinds else None,
        alpha=alpha,
        num_finalists=num_finalists,
        cluster_size=size,
        cluster_correlation=correlation,
    )
    found = detectable_conjunction(assumed, rounds=POWER_ROUNDS)
    if found is None:
        return (
            f"with {first.n} problems{assumed.alike} of which {discordance:.0%} differ, no gain passes the whole "
            "conjunction in four cases of five"
        )
    return found.sentence
