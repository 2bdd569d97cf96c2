"""What only the mesh solved: members are asked anew, at no fewer tokens, and read the mesh's solution."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from evolve.audit.novelty import MIN_SAMPLES
from evolve.audit.probe import Probe, Solved, probe_audit, probe_emergence
from evolve.audit.probe_alone import Asking, samples_missing
from evolve.audit.probe_bits import solution_texts
from evolve.audit.tuning import Way
from evolve.evaluate import Judgements, Pool
from evolve.harvest import Harvest
from evolve.lab import Lab
from evolve.lineage import founders
from evolve.problems.sealed import Asked
from memory.types import Evidence
from mesh.types import Deliberation, Exchange, Member, Message, Outcome, Part, Proposal, Usage, Verdict
from tests.evolve.small_mesh import ADA, BEN, dealt, small_lab

TRAIN = dealt().train


def proposal(member: Member, text: str, answer: str | None, number: int = 0) -> Proposal:
    return Proposal(member=member.name, family=member.family, text=text, answer=answer, round=number)


def trace(
    place: int, members: Sequence[Member], proposals: Sequence[Proposal], verdict: str, tokens: int
) -> Deliberation:
    """A deliberation on a TRAIN problem that spent so many output tokens."""
    called = Exchange(
        member=members[0].name,
        phase="propose",
        messages=(Message(role="user", parts=(Part(text=TRAIN[place].task.question),)),),
        usage=Usage(output_tokens=tokens, num_calls=1),
    )
    return Deliberation(
        id=f"{place}",
        task=TRAIN[place].task,
        protocol="council",
        seed=0,
        members=tuple(members),
        proposals=tuple(proposals),
        first_verdict=Verdict(answer=proposals[0].answer, method="m"),
        verdict=Verdict(answer=verdict, method="m"),
        exchanges=(called,),
    )


def outcome(place: int, answer: str) -> Outcome:
    return Outcome(
        task_id=TRAIN[place].task.id,
        task_type=TRAIN[place].task.type,
        answer=answer,
        correct=answer == TRAIN[place].reference,
        evidence=Evidence(verifier="numeric", verdict="passed", digest="0" * 64),
    )


def a_harvest() -> Harvest:
    """Task 0 is solved by talking alone, task 1 by a member too, task 2 by nobody."""
    right = [problem.reference for problem in TRAIN]
    councils = [
        trace(
            0,
            [ADA, BEN],
            [
                proposal(ADA, "Answer: 1", "1"),
                proposal(BEN, "Answer: 2", "2"),
                proposal(ADA, f"Working it out. Answer: {right[0]}", right[0], 1),
                proposal(BEN, f"Answer: {right[0]}", right[0], 1),
            ],
            right[0],
            400,
        ),
        trace(1, [ADA, BEN], [proposal(ADA, "Answer: 1", "1"), proposal(BEN, "Answer: 2", "2")], right[1], 40),
        trace(2, [ADA, BEN], [proposal(ADA, "Answer: 1", "1"), proposal(BEN, "Answer: 2", "2")], "1", 40),
    ]
    proposals = [
        trace(place, [member], [proposal(member, f"Answer: {said}", said)], said, 4)
        for place, member, said in [
            (0, ADA, "1"),
            (0, BEN, "2"),
            (1, ADA, right[1]),
            (1, BEN, "2"),
            (2, ADA, "1"),
            (2, BEN, "2"),
        ]
    ]
    said = {(t.task.id, p.answer) for t in (*councils, *proposals) for p in t.proposals if p.answer is not None}
    places = {problem.task.id: place for place, problem in enumerate(TRAIN)}
    return Harvest(
        proposals=tuple(proposals),
        councils=tuple(councils),
        judged=Judgements(outcomes=tuple(outcome(places[task_id], answer) for task_id, answer in sorted(said))),
    )


def probed(directory: Path, **evaluation: object) -> Probe:
    async def ask() -> Probe:
        async with small_lab(directory, skills=(0.0, 0.0), **evaluation) as lab:
            return await probe_emergence(lab, founders([ADA, BEN]), a_harvest(), dealt())

    return asyncio.run(ask())


def test_only_what_talking_alone_solved_is_asked_anew_and_decided(tmp_path: Path) -> None:
    probe = probed(tmp_path)
    assert probe.only_mesh == probe.probed == ("train-0",)
    assert probe.report.num_attempted == 3
    by_task = {attempt.solution.task_id: attempt for attempt in probe.attempts}
    fresh = by_task["train-0"]
    for alone in fresh.alone:
        assert alone.num_samples >= MIN_SAMPLES
        assert alone.num_right == 0
        assert alone.tokens >= fresh.solution.tokens == 400
        assert len(alone.own_bits) == MIN_SAMPLES
        assert alone.solution_bits is not None
    found = {finding.task_id: finding for finding in probe.report.findings}
    assert found["train-0"].finding != "not measured"
    assert found["train-1"].finding == "not emergent"
    assert "ada alone is right in 1 of 2 samples" in found["train-1"].reasons
    assert probe.report.clusters == tuple(dealt().cluster_of(problem) for problem in TRAIN[:3])
    assert found["train-0"].cluster == probe.report.clusters[0]
    assert probed(tmp_path) == probe


def test_audit_councils_are_probed_by_their_own_judge_and_in_the_way_that_is_each_members_best(tmp_path: Path) -> None:
    asked_of: list[str] = []

    async def judge(lab: Lab, stage: str, drawn: Sequence[Deliberation], items: Sequence[Asked]) -> Judgements:
        asked_of.extend(f"{stage}: {item.task.id}" for item in items)
        assert {trace.task.instruction for trace in drawn if trace.members[0].name == "ada"} == {"Only the sum."}
        assert {trace.task.instruction for trace in drawn if trace.members[0].name == "ben"} != {"Only the sum."}
        said = {proposal.answer for trace in drawn if trace.members[0].name == "ada" for proposal in trace.proposals}
        assert len(said) > 1  # at its own way's temperature of 0 all samples would be one
        return Judgements(outcomes=())

    async def ask() -> Probe:
        harvest = a_harvest()
        by_id: dict[str, Asked] = {problem.task.id: problem for problem in TRAIN}
        clusters = {problem.task.id: problem.key for problem in TRAIN}
        held = Solved(harvest.councils, by_id, clusters, Pool(harvest.proposals), harvest.judged.lookup())
        way = Way(temperature=0.0, instruction="Only the sum.")
        async with small_lab(tmp_path, skills=(0.0, 0.0)) as lab:
            return await probe_audit(lab, 3, held, Asking({"ada": way}, judge))

    probe = asyncio.run(ask())
    assert (probe.generation, probe.source, probe.probed) == (3, "audit", ("train-0",))
    assert set(asked_of) == {"audit emergence 3: train-0", "audit emergence 3 top-up: train-0"}
    assert (tmp_path / "emergence" / "audit-emergence-3.parquet").is_file()


def test_a_task_beyond_the_limit_is_not_measured_rather_than_counted_as_new(tmp_path: Path) -> None:
    probe = probed(tmp_path, emergence_tasks=0)
    assert probe.only_mesh == ("train-0",)
    assert probe.probed == ()
    assert [f.finding for f in probe.report.findings] == ["not measured", "not emergent"]
    assert probe.report.num_measured == 2


def test_too_few_samples_leave_it_open(tmp_path: Path) -> None:
    probe = probed(tmp_path, emergence_samples=1)
    assert next(f for f in probe.report.findings if f.task_id == "train-0").finding == "not measured"


def test_texts_for_the_councils_answer_are_told_shortest_first() -> None:
    right = TRAIN[0].reference
    assert solution_texts(a_harvest().councils[0]) == [f"Answer: {right}", f"Working it out. Answer: {right}"]


def test_a_member_that_says_nothing_is_not_asked_for_ever() -> None:
    silent = trace(0, [ADA], [proposal(ADA, "", None)], "1", 0)
    assert samples_missing([silent], 100) == 0
    assert samples_missing([trace(0, [ADA], [proposal(ADA, "a b", None)], "1", 2)], 100) == 54
