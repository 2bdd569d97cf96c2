"""From a finished run to the record its report is drawn from; every number is read off the traces and records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from pydantic import Field

from evolve.audit.audited import SINCE_THEN, better_than_best_single
from evolve.audit.tables import VOTE
from evolve.audit.tuning import told
from evolve.candidate import Candidate
from evolve.config import REHEARSAL, RunConfig, dump_config
from evolve.evaluate import Judgements
from evolve.judging.unchecked import Unchecked
from evolve.lab import LOAD
from evolve.learning.recipes import Recipe
from evolve.lineage import Generation
from evolve.loop import Round, Run
from evolve.problems.splits import Split
from evolve.progress import StageTime, merged_times
from evolve.report.data import (
    AuditSentence,
    CandidateView,
    CurationView,
    DropExample,
    FamilyView,
    GenerationView,
    MemoryView,
    ReportData,
    SeatView,
    SpecialistView,
    StageView,
)
from evolve.report.holdings import Holdings
from evolve.report.measure import Comparison, compare
from evolve.report.talk import JudgedCase, choose_examples, talk_view
from evolve.report.view_evolution import evolution_view
from memory.stats import MemoryStats
from memory.types import Record
from mesh.transcript import transcript
from mesh.types import Deliberation

NUM_DROP_EXAMPLES = 12
NUM_RECALL_EXAMPLES = 3


class Facts(Record):
    """When, where and with what a run took place."""

    started_at: datetime
    finished_at: datetime | None = None
    machine: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    weights: tuple[tuple[str, str], ...] = Field(
        default=(), description="(engine, fingerprint over names, shapes and hashes of its weights)"
    )
    peak_memory_gib: float | None = Field(default=None, description="most memory of all processes together")


def report_of(
    config: RunConfig,
    run: Run,
    facts: Facts,
    times: Sequence[StageTime],
    memory: MemoryStats | None,
    holdings: Holdings | None = None,
    unchecked: Sequence[Unchecked] = (),
) -> ReportData:
    """Everything the page shows."""
    first, last = run.rounds[0], run.rounds[-1]
    cases = _cases(run.last_councils, run.last_judged)
    return ReportData(
        run=config.name,
        config=dump_config(config),
        versions=(*facts.versions, *((f"{name} weights", sha256[:16]) for name, sha256 in facts.weights)),
        machine=facts.machine,
        started_at=facts.started_at,
        finished_at=facts.finished_at,
        peak_memory_gib=facts.peak_memory_gib,
        headline_method=VOTE,
        stages=tuple(_stages(times, run)),
        families=tuple(_families(run)),
        verifier_audit=_verifier_sentences(run),
        unchecked=tuple(unchecked),
        failed_calls=run.audit.failed,
        audit=run.audit.table,
        candidates=tuple(view for one in run.rounds for view in _candidates(one, times, _bred(run), _let_in(run))),
        curation=tuple(_curation(last)),
        drop_examples=tuple(_drop_examples(last)),
        generations=tuple(_generations(run)),
        specialists=tuple(_specialists(run)),
        memory=None if memory is None else _memory(memory, holdings, run.last_councils),
        talk=(
            *(
                talk_view(f"generation {r.generation.number}, TRAIN", _cases(r.harvest.councils, r.harvest.judged))
                for r in run.rounds
            ),
            talk_view(f"generation {run.last.number}, TRAIN, with recall", cases),
            talk_view(f"generation {first.generation.number}, AUDIT", _cases(run.audit.before, run.audit.judged)),
            *(
                [talk_view(f"generation {run.last.number}, AUDIT", _cases(run.audit.after, run.audit.judged))]
                if run.audit.after
                else []
            ),
        ),
        examples=choose_examples(
            [*cases, *_cases(first.harvest.councils, first.harvest.judged)],
            lambda deliberation: "\n".join(transcript(deliberation)),
        ),
        notes=tuple(_notes(config, run)),
        evolution=evolution_view(config, run, times),
    )


def _notes(config: RunConfig, run: Run) -> Iterable[str]:
    if config.is_simulated:
        yield REHEARSAL
    if run.stopped:
        yield f"The run ended early: {run.stopped}."
    yield from (f"{one.sentence}." for one in run.audit.failed)
    if asked := told(run.audit.scores.tuned):
        yield asked
    first, last = run.audit.scores.rosters[0], run.audit.scores.rosters[-1]
    yield from filter(None, (better_than_best_single(first, SINCE_THEN), better_than_best_single(last)))
    yield from run.problems.report.notes


def _cases(deliberations: Iterable[Deliberation], judged: Judgements) -> list[JudgedCase]:
    right = judged.lookup()
    return [
        JudgedCase(
            deliberation=d,
            first_correct=right.get((d.task.id, d.first_verdict.answer or ""), False),
            final_correct=right.get((d.task.id, d.verdict.answer or ""), False),
        )
        for d in deliberations
    ]


def _stages(times: Sequence[StageTime], run: Run) -> Iterable[StageView]:
    trained = {
        f"generation {r.generation.number} {stage}": sum(report.trained_tokens for report in reports)
        for r in run.rounds
        for stage, reports in (("training", r.brood.reports), ("placebo training", r.selection.placebos.reports))
    }
    merged = merged_times(item for item in times if not item.stage.startswith(LOAD))
    for item in merged.values():
        yield StageView(
            name=item.stage,
            seconds=item.seconds,
            prompt_tokens=item.prompt_tokens,
            output_tokens=item.output_tokens,
            trained_tokens=trained.get(item.stage, 0),
        )


def _families(run: Run) -> Iterable[FamilyView]:
    distinct = {family.type: family.num_distinct for family in run.problems.report.families}
    for task_type, constant in run.survey.constants.items():
        if task_type:
            yield FamilyView(
                task_type=task_type,
                problems=tuple(
                    (split.value.upper(), sum(p.task.type == task_type for p in run.problems.of(split)))
                    for split in Split
                ),
                distinct_items=distinct.get(task_type),
                constant=constant,
            )


def _verifier_sentences(run: Run) -> tuple[AuditSentence, ...]:
    found = tuple(AuditSentence(text=text, ok=False) for text in run.survey.verifier.problems)
    fine = AuditSentence(text="References pass; constants, the empty answer and the echoed question fail.")
    panel = run.survey.panel
    told = () if panel is None else (AuditSentence(text=panel.sentence, ok=panel.may_gate),)
    return (*(found or (fine,)), *told)


def recipe_in_words(recipe: Recipe) -> str:
    """How an adapter was made, for people: 'fresh, on own correct and cross family, for every task, rank 16'."""
    if recipe.placebo:
        return f"{recipe.start}, on shuffled targets (placebo)"
    mix = " and ".join(ingredient.replace("_", " ") for ingredient in recipe.mix)
    about = ", ".join(recipe.task_types) or "every task"
    role = "" if recipe.role == "proposer" else f", {recipe.role}"
    changes = "".join(f", {change}" for change in recipe.changes)
    return f"{recipe.start}, on {mix}, for {about}{role}{changes}"


def _bred(run: Run) -> dict[str, str]:
    """Adapter to the name of the candidate it is of."""
    return {c.member.adapter: c.member.name for one in run.rounds for c in one.trained if c.member.adapter}


def _let_in(run: Run) -> set[str]:
    """Names of all that took a seat: an elite of the archive may do so generations after it was bred."""
    return {
        name
        for one in run.rounds
        if one.selection.chosen and (one.ruling is None or one.ruling.state == "granted")
        for name in one.selection.chosen.candidates
    }


def _candidates(
    one: Round, times: Sequence[StageTime], names: Mapping[str, str], seated: Collection[str]
) -> Iterable[CandidateView]:
    loads = {item.stage.removeprefix(LOAD): item.seconds for item in times if item.stage.startswith(LOAD)}
    members = {candidate.recipe.name: candidate for candidate in one.trained}
    reports = {report.recipe: report for report in one.reports}
    recipes = {r.name: r for r in (*one.brood.recipes, *(candidate.recipe for candidate in one.trained))}
    refused = one.brood.refused | one.selection.placebos.refused
    for name in dict.fromkeys([*reports, *refused]):
        report, candidate = reports.get(name), members.get(name)
        adapter = candidate.member.adapter if candidate else None
        yield CandidateView(
            name=name,
            engine=candidate.member.engine if candidate else "",
            recipe=recipe_in_words(recipes[name]) if name in recipes else name,
            parents=tuple(names.get(parent, parent) for parent in candidate.parents) if candidate else (),
            status="ok" if report is not None and report.status == "ok" else "quarantined",
            reason=refused.get(name, ""),
            loss_curve=tuple(enumerate(report.losses, start=1)) if report else (),
            trained_tokens=report.trained_tokens if report else 0,
            seconds=report.seconds if report else 0.0,
            adapter=adapter,
            admitted=candidate is not None,
            hot_load_ms=1000 * loads[adapter] if adapter in loads else None,
            dev=None if candidate is None else _on_dev(one, candidate),
            promoted=name in seated,
            is_placebo=name in recipes and recipes[name].placebo,
        )


def _on_dev(one: Round, candidate: Candidate) -> Comparison | None:
    """A candidate alone beside the first seat of its engine; None where it did not see all problems."""
    seat = next((m for m in one.generation.seats if m.engine == candidate.member.engine), None)
    before = None if seat is None else one.selection.dev.member(seat.name)
    after = one.selection.dev.member(candidate.member.name)
    if before is None or after is None or len(before.scores) != len(after.scores):
        return None
    return compare(f"{candidate.member.name} alone", before.scores, after.scores)


def _curation(one: Round) -> Iterable[CurationView]:
    report = one.brood.curated.report
    types = sorted({row[1] for row in (*report.kept, *report.dropped)})
    for task_type in types:
        kept: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        for family, of_type, source, count in report.kept:
            if of_type == task_type:
                kept[f"{family}: {source}"] += count
        for _, of_type, reason, count in report.dropped:
            if of_type == task_type:
                dropped[reason] += count
        yield CurationView(task_type=task_type, kept=tuple(kept.items()), dropped=tuple(dropped.most_common()))


def _drop_examples(one: Round) -> Iterable[DropExample]:
    questions = {d.task.id: d.task.question for d in (*one.harvest.proposals, *one.harvest.councils)}
    seen: Counter[str] = Counter()
    shown = 0
    for drop in one.brood.curated.drops:
        if seen[drop.reason] < 2 and shown < NUM_DROP_EXAMPLES:
            seen[drop.reason] += 1
            shown += 1
            yield DropExample(
                task_type=drop.task_type, reason=drop.reason, question=questions.get(drop.task_id, ""), text=drop.text
            )


def _generations(run: Run) -> Iterable[GenerationView]:
    reasons = [one.selection.reason for one in run.rounds]
    everyone: list[Generation] = [*(one.generation for one in run.rounds), run.last]
    for generation in everyone:
        yield GenerationView(
            number=generation.number,
            seats=tuple(
                SeatView(member=m.name, engine=m.engine, family=m.family, adapter=m.adapter, helpers=m.phase_adapters)
                for m in generation.seats
            ),
            note="base models" if generation.number == 0 else reasons[generation.number - 1],
        )


def _specialists(run: Run) -> Iterable[SpecialistView]:
    names = {s.adapter: s.name for g in [*(r.generation for r in run.rounds), run.last] for s in g.specialists}
    bred = {candidate.member.adapter: candidate for one in run.rounds for candidate in one.brood.candidates}
    seen: set[str] = set()
    for generation in [*(one.generation for one in run.rounds), run.last]:
        for s in generation.specialists:
            if s.adapter not in seen:
                seen.add(s.adapter)
                yield SpecialistView(
                    name=s.name,
                    adapter=s.adapter,
                    engine=s.engine,
                    generation=s.generation,
                    parents=tuple(names.get(parent, parent) for parent in s.parents) or (f"{s.engine} base",),
                    niche=", ".join(s.niche),
                    recipe=s.recipe,
                    role=s.role,
                    inherits=tuple(
                        names.get(parent, parent)
                        for parent in (bred[s.adapter].recipe.parents if s.adapter in bred else ())
                    ),
                )


def _memory(stats: MemoryStats, holdings: Holdings | None, councils: Sequence[Deliberation]) -> MemoryView:
    recalled = [d for d in councils if d.recalled]
    return MemoryView(
        experiences=tuple(stats.by_kind.items()),
        num_edges=stats.num_edges,
        num_deliberations=len(councils),
        num_with_recall=len(recalled),
        examples=tuple(f"{d.task.question}\n→ {d.recalled[0].text}" for d in recalled[:NUM_RECALL_EXAMPLES]),
        holdings=holdings,
    )
