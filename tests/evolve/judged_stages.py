"""Judged first answers of a stage, as a run leaves them, with as many right ones as a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evolve.evaluate import Judgements
from memory.ledger import publish_json
from memory.types import Evidence
from mesh.types import Deliberation, Member, Outcome, Proposal, Task, Verdict
from serving.traces import write_traces


def judged_in(
    run: Path,
    generation: int,
    stage: str,
    members: Sequence[Member],
    *,
    right: int,
    num_items: int = 100,
    first: int = 0,
) -> None:
    """Each of `members` answers sums number `first` to `first + num_items`, the first `right` of them rightly.

    `stage` is a file without its suffix, such as "harvest" or "dev/again".
    """
    traces = [_answered(member, f"t{first + n}", n < right) for n in range(num_items) for member in members]
    write_traces(run / f"generation-{generation}" / f"{stage}.parquet", traces)
    name = f"judge-generation-{generation}-{stage.replace('/', '-')}-0123456789ab.json"
    outcomes = [_outcome(f"t{first + n}", answer) for n in range(num_items) for answer in ("right", "wrong")]
    publish_json(run / "steps" / name, Judgements(outcomes=tuple(outcomes)))


def _answered(member: Member, task_id: str, is_right: bool) -> Deliberation:
    answer = "right" if is_right else "wrong"
    said = Proposal(
        member=member.name, family=member.family, adapter=member.adapter, text=answer, answer=answer, round=0, sample=0
    )
    verdict = Verdict(answer=answer, method="plurality")
    return Deliberation(
        id=f"{task_id}-{member.name}",
        task=Task(id=task_id, question=f"{task_id}?", type="sums"),
        protocol="vote",
        seed=0,
        members=(member,),
        proposals=(said,),
        first_verdict=verdict,
        verdict=verdict,
    )


def _outcome(task_id: str, answer: str) -> Outcome:
    is_right = answer == "right"
    evidence = Evidence(verifier="exact", verdict="passed" if is_right else "failed", digest="0" * 64)
    return Outcome(task_id=task_id, task_type="sums", answer=answer, correct=is_right, evidence=evidence)
