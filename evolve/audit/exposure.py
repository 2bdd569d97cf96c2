"""Every text that members learned from or were shown in a run, held against what they are measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from evolve.audit.contamination import Contamination, SaysAnswer, Seen, contamination
from evolve.lab import Lab
from evolve.learning.accumulate import SetRow
from evolve.learning.accumulate_pairs import PairRow
from evolve.problems.permits import AuditPermit, GatePermit, Permit
from evolve.problems.sealed import Asked, SealedProblem, SplitProblems
from evolve.problems.splits import Split
from evolve.problems.types import Problem
from memory.rows import all_nodes, namespaces_like
from mesh.types import Deliberation

PURPOSE = "contamination"
PERMITS: dict[Split, type[GatePermit] | type[AuditPermit]] = {Split.GATE: GatePermit, Split.AUDIT: AuditPermit}


async def check_contamination(
    lab: Lab,
    rows: Sequence[SetRow],
    pairs: Sequence[PairRow],
    councils: Sequence[Deliberation],
    generations: Sequence[SplitProblems],
) -> Contamination:
    """Training examples and pairs, what memory holds for this run, and what was recalled, against DEV, GATE and AUDIT.

    Keys and wording are compared, and whether a text that shares wording with an item also holds its answer. For that
    the seals of GATE and AUDIT items are opened, after the last gate and the audit; only how many do is published.

    Args:
        rows: the examples of all generations.
        pairs: likewise, the chosen and rejected answers that preference training may use.
        councils: deliberations that may have recalled something.
        generations: the problems of each generation; AUDIT is with the first.
    """
    held_out: dict[Split, dict[str, Asked]] = {Split.DEV: {}, Split.GATE: {}, Split.AUDIT: {}}
    for problems in generations:
        for split, items in held_out.items():
            found: Sequence[Asked] = problems.of(split)
            items.update({item.key: item for item in found})
    seen = [*_examples(rows), *_pairs(pairs), *_recalled(councils), *_entries(lab)]
    inputs = [[one.model_dump(mode="json") for one in seen], {s.value: sorted(items) for s, items in held_out.items()}]

    async def work() -> Contamination:
        lab.observer.stage("check contamination", 1)
        items = {split: tuple(by_key.values()) for split, by_key in held_out.items()}
        return contamination(seen, items, says_answer=_says_answer(lab, items))

    return await lab.journal.record("contamination", inputs, Contamination, work)


def _says_answer(lab: Lab, items: Mapping[Split, Sequence[Asked]]) -> SaysAnswer:
    known = {(split, item.task.id): item for split, group in items.items() for item in group}
    permits: dict[Split, Permit] = {split: kind(PURPOSE) for split, kind in PERMITS.items()}

    def says(split: Split, task_id: str, text: str) -> bool:
        item = known[split, task_id]
        assert isinstance(item, Problem | SealedProblem), "problems are open or sealed"
        return lab.judge.says_reference(item, [text], permits.get(split))

    return says


def _examples(rows: Iterable[SetRow]) -> Iterator[Seen]:
    for row in rows:
        prompt = "\n".join(message.text for message in row.example.messages)
        text = f"{prompt}\n{row.example.completion}"
        yield Seen(source="training example", id=row.example.task_id, text=text, key=row.key)


def _pairs(pairs: Iterable[PairRow]) -> Iterator[Seen]:
    for row in pairs:
        prompt = "\n".join(message.text for message in row.pair.messages)
        text = f"{prompt}\n{row.pair.chosen}\n{row.pair.rejected}"
        yield Seen(source="preference pair", id=row.pair.task_id, text=text, key=row.key)


def _recalled(councils: Iterable[Deliberation]) -> Iterator[Seen]:
    texts = {r.experience_id: r.text for council in councils for r in (*council.recalled, *council.withheld)}
    for id, text in sorted(texts.items()):
        yield Seen(source="recalled text", id=id, text=text)


def _entries(lab: Lab) -> Iterator[Seen]:
    if lab.memory is None:
        return
    with lab.memory.reading() as connection:
        stored = [found for _, found in all_nodes(connection, namespaces_like(connection, lab.reads))]
    for experience in sorted(stored, key=lambda one: one.id):
        yield Seen(source="memory entry", id=experience.id, text=experience.text)
