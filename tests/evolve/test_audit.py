"""Every generation on AUDIT: drawn once, replayed for every method, and read back byte for byte."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evolve.audit.audit import SCORES, Audit, AuditScores, audit, audit_rosters
from evolve.audit.audited import RosterAsk
from evolve.audit.draws import distinct_members
from evolve.audit.failed import failed_calls_of
from evolve.audit.probe import Probe, probe_emergence
from evolve.evaluate import Judgements
from evolve.harvest import Harvest
from evolve.learning.breed import Brood
from evolve.learning.curate import Curated
from evolve.lineage import Generation, founders, successor
from evolve.loop import Round
from evolve.report.answer import alarms
from evolve.report.data import ConstantAnswer, ReportData
from evolve.report.measure import Accuracy
from evolve.selection.select import Selection
from memory.ledger import read_record
from mesh.types import Deliberation, Failure, Member, Verdict
from tests.evolve.small_mesh import ADA, BEN, Frail, dealt, lab_of, small_config, small_lab, sums

NEXT = Member(name="ada-next", engine="ada", family="alpha")
CONSTANTS = {
    "even": ConstantAnswer(answer="400", accuracy=Accuracy(correct=1, n=4)),
    "odd": ConstantAnswer(answer="7", accuracy=Accuracy(correct=0, n=4)),
    "": ConstantAnswer(answer="each type's own", accuracy=Accuracy(correct=1, n=8)),
}


def generations() -> tuple[Generation, Generation, Generation]:
    first = founders([ADA, BEN])
    second = successor(first, (NEXT, BEN))
    return first, second, successor(second, (NEXT, BEN))


def a_round(generation: Generation, probe: Probe) -> Round:
    """A round of which only what the audit reads is filled."""
    nothing = Curated(examples=(), drops=())
    return Round.model_construct(
        generation=generation,
        problems=dealt(),
        harvest=Harvest(proposals=(), councils=(), judged=Judgements(outcomes=())),
        probe=probe,
        brood=Brood(curated=nothing, selections={}),
        selection=Selection.model_construct(),
    )


async def audited(directory: Path, *seated: Generation, councils: int = 1) -> Audit:
    lab = small_lab(directory, audit_councils_per_type=councils, temperatures=(0.7, 0.0), audit_samples_per_member=2)
    first, second, last = seated or generations()
    async with lab:
        probe = await probe_emergence(
            lab, first, Harvest(proposals=(), councils=(), judged=Judgements(outcomes=())), dealt()
        )
        return await audit(lab, [a_round(first, probe), a_round(second, probe)], last, dealt(), CONSTANTS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def found(directory: Path) -> Audit:
    return asyncio.run(audited(directory))


def test_every_generation_has_every_method_on_the_same_problems(found: Audit) -> None:
    overall = [
        (line.generation, line.method) for line in found.lines if line.task_type == "" and line.method != "alone"
    ]
    methods = ["constant", "members", "single", "consistency", "vote", "weighted"]
    assert [pair for pair in overall if not pair[1].startswith("council")] == [
        (g, m) for g in (0, 1, 2) for m in methods
    ]
    assert {line.share.n for line in found.lines if line.method == "vote" and line.task_type == ""} == {6}
    assert [g for g, m in overall if m == "council"] == [0, 1, 2]  # generation 1 has the last one's seats
    constant = next(line for line in found.lines if line.method == "constant" and line.task_type == "even")
    assert constant.share.mean == pytest.approx(1 / 3)  # 300 + 100 is one of three


def test_equal_seats_have_equal_scores_and_one_draw_each(found: Audit, directory: Path) -> None:
    _, second, last = found.scores.rosters
    assert second.vote == last.vote
    assert second.alone == last.alone
    asked = {tuned.member for tuned in found.scores.tuned}
    assert asked == {"ada", "ben", "ada-next"}
    assert read_record(directory / SCORES, AuditScores) == found.scores


def test_the_primary_gain_comes_first_and_knows_near_duplicates(found: Audit) -> None:
    assert [gain.method for gain in found.gains][:3] == ["vote", "weighted", "members"]
    assert (found.gains[0].before, found.gains[0].after) == ("generation 0", "generation 2")
    assert found.gains[0].gain.num_clusters == 5
    assert {rival.method for rival in found.rivals} == {"constant", "single", "consistency", "weighted"}
    assert all("key" not in label for label in found.scores.items.clusters.values())


def test_temperatures_are_tried_on_dev_and_the_greedy_draw_is_a_way_of_its_own(found: Audit) -> None:
    for tuned in found.scores.tuned:
        assert [one.temperature for one in tuned.tried] == [0.7, 0.0]
        assert tuned.sampled.temperature == 0.7
        assert tuned.greedy is not None
        assert tuned.tried[0].n == 4


def test_health_diversity_and_shares_are_told_of_every_generation(found: Audit) -> None:
    assert [(one.generation, one.engine) for one in found.health] == [(1, "ada"), (2, "ada")]
    assert [one.generation for one in found.diversity if one.source == "audit"] == [0, 1, 2]
    assert [one.generation for one in found.shares] == [0, 1, 2]
    accuracy = sum(found.scores.rosters[0].vote.values()) / 6
    assert sum(one.value for one in found.shares[0].contributions.members) == pytest.approx(accuracy)


def test_what_only_the_mesh_solved_is_asked_of_the_first_and_of_the_last_seats(found: Audit) -> None:
    assert [(probe.generation, probe.source) for probe in found.probes] == [(0, "audit"), (2, "audit")]
    for probe, councils in zip(found.probes, (found.before, found.after), strict=True):
        assert [attempt.solution.task_id for attempt in probe.attempts] == [council.task.id for council in councils]
    assert found.novelty.kind != "not measured"  # nothing was asked of the members on TRAIN in these rounds


def test_the_diversity_of_seats_counts_those_that_were_given_a_critic(tmp_path: Path) -> None:
    first, second, _ = generations()
    critics = (("critique", "1" * 64),)
    helped = tuple(seat.model_copy(update={"phase_adapters": critics}) for seat in second.seats)
    last = second.model_copy(update={"number": 2, "seats": helped})
    told = asyncio.run(audited(tmp_path, first, second, last, councils=0)).diversity
    before, after = (one.diversity for one in told if one.source == "audit" and one.generation > 0)
    assert after == before
    assert after.members


def test_an_audit_read_back_is_the_same_record(found: Audit, directory: Path) -> None:
    assert asyncio.run(audited(directory)).model_dump_json() == found.model_dump_json()


def test_any_rosters_are_audited_at_the_votes_they_ask_for(tmp_path: Path) -> None:
    async def measure() -> None:
        async with small_lab(tmp_path) as lab:
            rosters = [
                RosterAsk(name="both", members=(ADA, BEN), samples_each=2),
                RosterAsk(name="ada alone", members=(ADA,), samples_each=2, ballots=4),
            ]
            both, alone = await audit_rosters(lab, "arms", rosters, dealt())
            assert (both.ballots, alone.ballots) == (4, 4)
            assert both.alone["ada"] == alone.alone["ada"]
            assert list(both.vote) == [f"audit-{place}" for place in range(6)]
            assert alone.vote == alone.consistency  # a mesh of one is self-consistency
            assert both.output_tokens > 0.0

    asyncio.run(measure())


def test_a_member_with_a_critic_is_drawn_as_the_one_it_proposes_as() -> None:
    helped = ADA.model_copy(update={"phase_adapters": (("critique", "c"),)})
    asks = [RosterAsk(name=seat.name, members=(seat, BEN), samples_each=1) for seat in (ADA, helped)]
    assert distinct_members(asks) == [ADA, BEN]


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    async def measure() -> None:
        async with small_lab(tmp_path) as lab:
            other = ADA.model_copy(update={"engine": "ben"})
            rosters = [RosterAsk(name=str(place), members=(m,), samples_each=1) for place, m in enumerate((ADA, other))]
            await audit_rosters(lab, "arms", rosters, dealt())

    with pytest.raises(ValueError, match="several called ada"):
        asyncio.run(measure())


def test_failed_calls_are_counted_by_member_and_told_in_the_reports_notes_and_alarms() -> None:
    problems = sums("audit", 3, 300)
    verdict = Verdict(answer=None, method="none")
    bare = [
        Deliberation(
            id=f"{problem.task.id}-{member.name}", task=problem.task, protocol="vote", seed=0, members=(member,),
            first_verdict=verdict, verdict=verdict,
        )
        for problem in problems
        for member in (ADA, BEN)
    ]  # fmt: skip
    lost = Failure(member="ada", phase="propose", kind="EngineError", message="gone")
    poor = Failure(member="ben", phase="propose", kind="BudgetExhausted", message="no tokens left")
    told = failed_calls_of([bare[0].model_copy(update={"failures": (lost, lost)}), *bare[1:]])
    assert [(one.member, one.num_failed, one.num_asked, one.reason) for one in told] == [
        ("ada", 1, 3, "EngineError: gone")
    ]
    assert failed_calls_of([bare[1].model_copy(update={"failures": (poor,)})]) == ()
    data = ReportData(run="quick", config="", started_at=datetime.now(UTC), headline_method="vote", failed_calls=told)
    assert [one for one in alarms(data) if one.startswith("AUDIT: calls to ada failed in 1 of 3 deliberations")]


def test_members_whose_calls_fail_on_audit_are_in_its_record(tmp_path: Path) -> None:
    engines = {"ada": Frail(ADA, lambda _, prompt: "301 + 101 =" in prompt), "ben": Frail(BEN, lambda _, __: False)}
    config = small_config(tmp_path, audit_councils_per_type=0, audit_samples_per_member=1)
    first = founders([ADA, BEN])

    async def work() -> Audit:
        async with lab_of(config, engines) as lab:
            nothing = Harvest(proposals=(), councils=(), judged=Judgements(outcomes=()))
            probe = await probe_emergence(lab, first, nothing, dealt())
            return await audit(lab, [a_round(first, probe)], successor(first, (ADA, BEN)), dealt(), CONSTANTS)

    [failed] = asyncio.run(work()).failed
    assert (failed.member, failed.num_failed, failed.num_asked) == ("ada", 1, 6)
