"""What a generation learns from: its own verified traces beside those of all earlier ones, and the pairs among them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from evolve.evaluate import Judgements
from evolve.harvest import Harvest
from evolve.lab import Lab
from evolve.learning.accumulate import Accumulated, accumulate, set_rows
from evolve.learning.accumulate_pairs import AccumulatedPairs, accumulate_pairs, pair_rows
from evolve.learning.credit import (
    Credit,
    IsCorrect,
    PhaseCredit,
    count_phases,
    credit,
    credit_critiques,
    credit_roles,
    credit_votes,
)
from evolve.learning.curate import Curated, Example, curate
from evolve.learning.dataset_card import DatasetCard
from evolve.learning.label_source import LabelSource, label_answers
from evolve.learning.past import Past
from evolve.learning.preferences import ChosenRejected, preference_pairs
from evolve.problems.sealed import SplitProblems
from memory.ledger import publish_bytes, publish_json
from memory.types import Record, content_hash
from mesh.equivalence import canonical
from mesh.types import Deliberation


class Pairs(Record):
    """Chosen and rejected answers of one generation."""

    pairs: tuple[ChosenRejected, ...]


class Lessons(Record):
    """All that a generation's recipes choose from."""

    curated: Curated
    accumulated: Accumulated
    pairs: AccumulatedPairs = AccumulatedPairs()
    phases: tuple[PhaseCredit, ...] = ()
    num_held_out: int = Field(default=0, description="canonical keys of DEV, GATE and AUDIT that no used row has")


class Judged(NamedTuple):
    """Who says what is right."""

    correct: IsCorrect
    labels: Mapping[str, LabelSource]
    """Task id to who labels it, for tasks that no verifier judged; for the others the verifier does."""
    unsettled: frozenset[tuple[str, str]] = frozenset()
    """(task id, answer) that nobody could judge: not right, and not to be taught as wrong either."""


async def learn_from(lab: Lab, number: int, harvest: Harvest, problems: SplitProblems, past: Past) -> Lessons:
    """Credit, curate, accumulate and pair what generation `number` said; four journal steps."""
    config = lab.config
    held_out = problems.held_out_keys | frozenset(past.held_out)
    traces = [*harvest.proposals, *harvest.councils]
    judged = judged_by(traces, harvest.judged, config.accumulation.labels)
    inputs = {"judged": harvest.judged, "held_out": content_hash(sorted(held_out))}

    async def choose() -> Curated:
        return curate(
            [*credit(traces, judged.correct), *credit_roles(harvest.councils, judged.correct)],
            problems.train,
            config.curation,
            held_out=held_out,
            seed=config.seed,
            rules=config.curation.rules,
        )

    curated = await lab.journal.record(f"curate-generation-{number}", inputs, Curated, choose)

    keys = {problem.task.id: problem.key for problem in problems.train}

    async def add() -> Accumulated:
        fresh = set_rows(curated.examples, number, keys, _labels_of(curated.examples, judged.labels))
        return accumulate(past.rows, fresh, config.accumulation, held_out=held_out, seed=config.seed)

    earlier = content_hash([row.id for row in past.rows])
    together = {"curated": content_hash(curated), "earlier": earlier, "held_out": inputs["held_out"]}
    accumulated = await lab.journal.record(f"accumulate-generation-{number}", together, Accumulated, add)

    async def pair() -> Pairs:
        said = [c for c in credit(traces, judged.correct) if (c.task_id, c.answer) not in judged.unsettled]
        found = preference_pairs(said, problems.train, config.curation, held_out=held_out, seed=config.seed)
        return Pairs(pairs=found)

    pairs = await lab.journal.record(f"pair-generation-{number}", inputs, Pairs, pair)

    async def add_pairs() -> AccumulatedPairs:
        fresh = pair_rows(pairs.pairs, number, keys)
        return accumulate_pairs(past.pairs, fresh, config.accumulation, held_out=held_out, seed=config.seed)

    before = content_hash([row.id for row in past.pairs])
    together = {"pairs": content_hash(pairs), "earlier": before, "held_out": inputs["held_out"]}
    name = f"accumulate-pairs-generation-{number}"
    return Lessons(
        curated=curated,
        accumulated=accumulated,
        pairs=await lab.journal.record(name, together, AccumulatedPairs, add_pairs),
        phases=phases_of(harvest, judged.correct),
        num_held_out=len(held_out),
    )


def judged_by(traces: Sequence[Deliberation], judged: Judgements, trusted: Sequence[LabelSource]) -> Judged:
    """Right is what the verifier passed; and, where it could judge no answer of a task, what a trusted label says.

    A verifier that broke down has not judged: with `trusted` as by default, such a task teaches nothing.
    """
    known = {
        (outcome.task_id, outcome.answer): outcome.correct
        for outcome in judged.outcomes
        if outcome.answer is not None and outcome.evidence.verdict != "unknown"
    }
    kinds = {trace.task.id: trace.task.answer_kind for trace in traces}
    agreed = {
        label.task_id: label
        for label in label_answers(traces, known)
        if label.source != "verifier" and label.source in trusted
    }
    right = {task_id: canonical(label.answer, kinds[task_id]) for task_id, label in agreed.items()}

    def correct(task_id: str, answer: str | None) -> bool:
        if answer is None:
            return False
        if task_id in right:
            return canonical(answer, kinds[task_id]) == right[task_id]
        return known.get((task_id, answer), False)

    unsettled = {(o.task_id, o.answer) for o in judged.outcomes if o.answer is not None and o.task_id not in right}
    return Judged(
        correct, {task_id: label.source for task_id, label in agreed.items()}, frozenset(unsettled - known.keys())
    )


def phases_of(harvest: Harvest, correct: IsCorrect) -> tuple[PhaseCredit, ...]:
    """Every member's record by phase: first proposals of the harvest and all of its councils."""
    credits: list[Credit] = credit([*harvest.proposals, *harvest.councils], correct)
    return count_phases(credits, credit_critiques(harvest.councils, correct), credit_votes(harvest.councils, correct))


def publish_lessons(directory: Path, lessons: Lessons) -> None:
    """What was learned from and what was not, one JSON a line, for people and other tools.

    `examples` and `drops` are the generation's own; `set-all`, `set-used`, `set-drops` and `pairs` are over all
    generations.
    """
    reasons = {drop.row: drop.reason for drop in lessons.accumulated.drops}
    rows = [
        {"id": row.id, "used": row.id not in reasons, "reason": reasons.get(row.id, "")} | row.model_dump(mode="json")
        for row in lessons.accumulated.all
    ]
    _publish(directory / "examples.jsonl", lessons.curated.examples)
    _publish(directory / "drops.jsonl", lessons.curated.drops)
    publish_bytes(directory / "set-all.jsonl", _lines(rows))
    _publish(directory / "set-used.jsonl", lessons.accumulated.used)
    _publish(directory / "set-drops.jsonl", lessons.accumulated.drops)
    unused = {drop.row: drop.reason for drop in lessons.pairs.drops}
    pairs = [
        {"id": row.id, "used": row.id not in unused, "reason": unused.get(row.id, "")} | row.model_dump(mode="json")
        for row in lessons.pairs.all
    ]
    publish_bytes(directory / "pairs.jsonl", _lines(pairs))


def publish_cards(directory: Path, cards: Iterable[DatasetCard]) -> None:
    """A page of Markdown for every set, and all of them as one JSON file."""
    found = list(cards)
    for card in found:
        publish_bytes(directory / "cards" / f"{card.name}.md", card.text.encode())
    publish_json(directory / "cards" / "cards.json", [card.model_dump(mode="json") for card in found])


def _labels_of(examples: Iterable[Example], labels: Mapping[str, LabelSource]) -> dict[tuple[str, str], LabelSource]:
    return {(e.task_id, e.completion): labels[e.task_id] for e in examples if e.task_id in labels}


def _lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _publish(path: Path, records: Iterable[Record]) -> None:
    publish_bytes(path, "".join(record.model_dump_json() + "\n" for record in records).encode())
