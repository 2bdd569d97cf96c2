"""From a finished run to what its report shows of evolution over generations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from evolve.audit.audited import METHODS, Line, Method, NamedGain
from evolve.audit.collapse import Health
from evolve.audit.novelty import EmergenceReport, Internalisation
from evolve.config import RunConfig
from evolve.gates.gate import holm
from evolve.gates.intervals import LEVEL
from evolve.loop import Round, Run
from evolve.planning.bill import money_per_hour
from evolve.problems.curriculum import LevelStep
from evolve.progress import StageTime, generation_of, merged_times
from evolve.report.evolution import (
    CostView,
    CreditView,
    Curve,
    CurveKind,
    CurvePoint,
    DiversityView,
    EmergenceView,
    EvolutionView,
    FlowView,
    Gain,
    HealthView,
    HeatCell,
    InternalisedView,
    LifeView,
)
from evolve.report.view_changed import changed_views
from evolve.report.view_gate import aa_view, decision_view, shares_view
from evolve.selection.archive import Archive, heat_map
from evolve.selection.diversity import Diversity
from serving.config import prices

_KINDS: dict[Method, CurveKind] = {
    "constant": "constant",
    "alone": "solo",
    "members": "members",
    "single": "best_single",
    "consistency": "self_consistency",
    "vote": "vote",
    "weighted": "weighted_vote",
    "council": "council",
}
_LABELS: dict[Method, str] = {
    **METHODS,
    "vote": "mesh's first-round vote",
    "weighted": "mesh's vote weighed on DEV",
    "council": "mesh council",
}
_TRAINING = " training"


def evolution_view(config: RunConfig, run: Run, times: Sequence[StageTime]) -> EvolutionView:
    """All of it."""
    held = [one.selection.conjunction for one in run.rounds if one.selection.conjunction is not None]
    audit = run.audit
    return EvolutionView(
        num_generations=len(run.rounds),
        curves=tuple(curves(audit.lines)),
        gains=tuple(gain_view(one) for one in audit.gains),
        by_type=tuple(gain_view(one) for one in audit.gains_by_type),
        beside=tuple(beside_rivals(audit.rivals)),
        answer=audit.novelty.sentence,
        evidence=audit.novelty.evidence,
        limits=audit.novelty.limits,
        stopped=run.stopped,
        decisions=tuple(decision_view(one) for one in run.rounds),
        aa=aa_view(held),
        heat=heat_cells(run.rounds[-1].selection.archive.archive) if run.rounds else (),
        life=tuple(_lives(run)),
        internalisation=tuple(internalised_view(one) for one in audit.internalised),
        costs=tuple(costs(config, run.rounds, times)),
        flows=tuple(flow_view(one) for one in run.rounds),
        contamination=run.contamination,
        changed=changed_views(audit.before, audit.after, audit.judged.lookup()),
    )


def curves(lines: Iterable[Line]) -> Iterator[Curve]:
    """One curve a method over all task types; each seat by its place, since specialists take over seats."""
    points: dict[tuple[Method, int], list[CurvePoint]] = {}
    names: dict[tuple[Method, int], list[tuple[int, str]]] = {}
    places: Counter[int] = Counter()
    for one in lines:
        if one.task_type or one.method not in _KINDS:
            continue
        place = places[one.generation] if one.method == "alone" else 0
        places[one.generation] += one.method == "alone"
        key = (one.method, place)
        points.setdefault(key, []).append(
            CurvePoint(
                generation=one.generation,
                mean=one.share.mean,
                low=one.share.low,
                high=one.share.high,
                n=one.share.n,
            )
        )
        names.setdefault(key, []).append((one.generation, one.name))
    for (method, place), mine in points.items():
        note = _names(names[method, place]) if method in ("alone", "single", "consistency") else ""
        label = f"seat {place + 1} alone" if method == "alone" else _LABELS[method]
        ordered = tuple(sorted(mine, key=lambda point: point.generation))
        yield Curve(method=label, kind=_KINDS[method], points=ordered, note=note)


def _names(named: Sequence[tuple[int, str]]) -> str:
    """Who that was: 'smollm2, from generation 2 g2-smollm2-own'."""
    parts: list[str] = []
    last = ""
    for generation, name in sorted(named):
        if name != last:
            parts.append(name if not parts else f"from generation {generation} {name}")
            last = name
    return ", ".join(parts)


def gain_view(one: NamedGain) -> Gain:
    """A paired comparison of two generations."""
    found = one.gain
    return _gain(
        one, method=_LABELS[one.method], against=one.before, task_type=one.task_type, detectable=found.detectable
    )


def beside_rivals(rivals: Sequence[NamedGain]) -> list[Gain]:
    """The mesh at the end against each rival; each p also after Holm over all of them, for one mesh claims several."""
    return list(corrected(_beside(one) for one in rivals))


def corrected(gains: Iterable[Gain]) -> tuple[Gain, ...]:
    """Comparisons of one table, each p after Holm over all of them, whatever it was corrected for before."""
    table = list(gains)
    found = holm([1.0 if one.p is None else one.p for one in table], LEVEL)
    return tuple(
        one.model_copy(update={"p_adjusted": None if one.p is None else adjusted})
        for one, (adjusted, _, _) in zip(table, found, strict=True)
    )


def _beside(one: NamedGain) -> Gain:
    """The mesh's vote against what one could have had instead."""
    against = {
        "constant": "the best constant answers",
        "single": f"the best single seat, {one.before}",
        "weighted": f"the best single seat, {one.before}",
        "consistency": f"self-consistency of {one.before}",
    }.get(one.method, one.before)
    method = _LABELS["weighted" if one.method == "weighted" else "vote"]
    return _gain(one, method=method, against=against, detectable=one.gain.detectable)


def _gain(one: NamedGain, *, method: str, against: str, detectable: float, task_type: str = "") -> Gain:
    found = one.gain
    return Gain(
        method=method,
        kind=_KINDS.get(one.method, "council"),
        task_type=task_type,
        against=against,
        before=found.before,
        after=found.after,
        n=found.n,
        difference=found.absolute,
        relative=None if found.relative_high is None else found.relative,
        relative_low=found.relative_low,
        relative_high=found.relative_high,
        p=found.p,
        detectable=detectable if detectable > 0.0 else None,
    )


def heat_cells(archive: Archive) -> tuple[HeatCell, ...]:
    """The archive by niche, in the order of task types, bases and roles."""
    cells = []
    for niche, best in sorted(heat_map(archive).items(), key=lambda item: str(item[0])):
        cells.append(
            HeatCell(
                task_type=niche.task_type,
                base=niche.base,
                role=niche.role,
                best=best.accuracy,
                name=best.name,
                num_elites=len(archive.of(niche)),
            )
        )
    return tuple(cells)


def _lives(run: Run) -> Iterator[LifeView]:
    """Variety from AUDIT where it was measured there, else from the harvest."""
    diversity: dict[int, Diversity] = {}
    for found in sorted(run.audit.diversity, key=lambda one: one.source == "audit"):
        diversity[found.generation] = found.diversity
    emergence = {one.generation.number: one.probe.report for one in run.rounds}
    on_audit = {probe.generation: probe.report for probe in run.audit.probes}
    shares = {one.generation: shares_view(one.contributions) for one in run.audit.shares}
    healths = {one.generation for one in run.audit.health}
    for number in sorted({*diversity, *emergence, *on_audit, *shares, *healths}):
        yield LifeView(
            generation=number,
            diversity=diversity_view(diversity[number]) if number in diversity else None,
            emergence=_tried(emergence.get(number)),
            emergence_audit=_tried(on_audit.get(number)),
            shares=shares.get(number),
            health=tuple(health_view(one.health) for one in run.audit.health if one.generation == number),
        )


def _tried(report: EmergenceReport | None) -> EmergenceView | None:
    return None if report is None or report.num_attempted == 0 else emergence_view(report)


def diversity_view(found: Diversity) -> DiversityView:
    """Diversity as the report shows it."""
    return DiversityView(
        num_members=len(found.members),
        num_tasks=found.num_tasks,
        n_eff=found.n_eff,
        n_eff_low=found.n_eff_interval.low,
        n_eff_high=found.n_eff_interval.high,
        double_fault=found.double_fault,
        same_wrong=found.same_wrong,
        kappa=found.kappa,
        q=found.q,
        vendi=tuple(found.vendi.items()),
    )


def emergence_view(found: EmergenceReport) -> EmergenceView:
    """Emergence as the report shows it."""
    return EmergenceView(
        num_attempted=found.num_attempted,
        num_measured=found.num_measured,
        num_emergent=found.num_emergent,
        low=found.interval.low,
        high=found.interval.high,
        luck=found.luck,
        p_luck=found.p_luck,
    )


def internalised_view(found: Internalisation) -> InternalisedView:
    """Internalisation as the report shows it."""
    return InternalisedView(
        kind=found.kind,
        num_tasks=found.num_tasks,
        before=found.before,
        after=found.after,
        low=found.difference.low,
        high=found.difference.high,
        num_better=found.num_better,
        num_worse=found.num_worse,
        p=found.p,
        is_shown=found.is_shown,
    )


def health_view(found: Health) -> HealthView:
    """A comparison with generation 0 as the report shows it."""
    return HealthView(
        name=found.name,
        k=found.k,
        pass_at_1=found.pass_at_1,
        pass_at_k=found.pass_at_k,
        distinct_n=found.distinct_n,
        answer_entropy=found.answer_entropy,
        length=found.length,
        alarms=tuple((alarm.sign, alarm.sentence) for alarm in found.alarms),
    )


def costs(config: RunConfig, rounds: Sequence[Round], times: Sequence[StageTime]) -> Iterator[CostView]:
    """What each generation cost, then what is common to all. Money counts every replica for the whole time."""
    merged = list(merged_times(times).values())
    by_generation: dict[int | None, list[StageTime]] = {one.generation.number: [] for one in rounds} | {None: []}
    for item in merged:
        number = generation_of(item.stage)
        by_generation[number if number in by_generation else None].append(item)
    is_measured = any(item.engine_seconds > 0.0 for item in merged)
    hourly = money_per_hour(config) if len(prices(config.serving)) == len(config.serving.engines) else None
    reports = {one.generation.number: one.reports for one in rounds}
    for number, items in by_generation.items():
        seconds = sum(item.seconds for item in items)
        yield CostView(
            generation=number,
            seconds=seconds,
            training_seconds=sum(item.seconds for item in items if item.stage.endswith(_TRAINING)),
            engine_seconds=sum(item.engine_seconds for item in items) if is_measured else None,
            num_engines=len(config.serving.engines),
            prompt_tokens=sum(item.prompt_tokens for item in items),
            output_tokens=sum(item.output_tokens for item in items),
            trained_tokens=sum(report.trained_tokens for report in reports.get(number, ()))
            if number is not None
            else 0,
            flops=sum(report.flops for report in reports.get(number, ())) if number is not None else 0.0,
            money=None if hourly is None else seconds / 3600.0 * hourly,
        )


def flow_view(one: Round) -> FlowView:
    """What became of one generation's texts."""
    traces = (*one.harvest.proposals, *one.harvest.councils)
    right = one.harvest.judged.lookup()
    answers = [(trace.task.id, proposal.answer) for trace in traces for proposal in trace.proposals]
    curated, accumulated = one.brood.curated, one.brood.accumulated
    kept = Counter(example.source.replace("_", " ") for example in curated.examples)
    dropped = Counter(str(drop.reason).replace("_", " ") for drop in curated.drops)
    unused = Counter(drop.reason.replace("_", " ") for drop in accumulated.drops)
    return FlowView(
        generation=one.generation.number,
        num_samples=len(answers),
        num_right=sum(answer is not None and right.get((task, answer), False) for task, answer in answers),
        kept=tuple(kept.most_common()),
        dropped=tuple(dropped.most_common()),
        num_all=len(accumulated.all),
        num_used=len(accumulated.used),
        unused=tuple(unused.most_common()),
        num_pairs=len(one.brood.pairs.used),
        anchor_share=accumulated.anchor_share if accumulated.used else None,
        credits=tuple(
            CreditView(**{name: getattr(found, name) for name in CreditView.model_fields}) for found in one.brood.phases
        ),
        levels=tuple(map(_level, one.levels)),
    )


def _level(step: LevelStep) -> str:
    move = f"stays at level {step.before}" if step.after == step.before else f"moves to level {step.after}"
    return f"{step.task_type} {move}: {step.reason}"
