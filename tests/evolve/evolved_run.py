"""A made-up run of three generations for tests of the report, its numbers made by the modules that make real ones."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import numpy as np

from evolve.audit.collapse import examine, vitals_of
from evolve.audit.contamination import Contamination, Row
from evolve.audit.novelty import Solo, internalised
from evolve.gates.conjunction import ConjunctionRecord, Contest, Rival, hold
from evolve.gates.gains import gain, share
from evolve.gates.gate import ArmKind
from evolve.gates.intervals import wilson
from evolve.gates.paired import paired_test
from evolve.gates.remeasure import Remeasured, expected_luck
from evolve.problems.splits import Split
from evolve.report.data import (
    CandidateView,
    ConstantAnswer,
    CurationView,
    FamilyView,
    GenerationView,
    ReportData,
    SeatView,
    SpecialistView,
    StageView,
)
from evolve.report.evolution import (
    ChangedView,
    CostView,
    CreditView,
    Curve,
    CurveKind,
    CurvePoint,
    DecisionView,
    EmergenceView,
    EvolutionView,
    FlowView,
    Gain,
    LifeView,
    SeatShareView,
    SharesView,
)
from evolve.report.measure import Accuracy
from evolve.report.view_evolution import diversity_view, health_view, heat_cells, internalised_view
from evolve.report.view_gate import aa_view, contest_views, power_sentence, remeasured_view, versus_view
from evolve.selection.archive import Archive, Elite, Niche
from evolve.selection.diversity import describe
from mesh.reliability import Judged

START = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
N = 600
TYPES = ("chain_sum", "letter_counting", "gcd", "number_sorting")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
_ENGINES = ("smollm2", "gemma3", "qwen3")


def evolved(*, gains: tuple[float, ...] = (0.0, 0.028, 0.051, 0.066), is_sick: bool = True) -> ReportData:
    """Three rounds of learning. `gains`: of the vote over generation 0, by generation; `is_sick`: something alarms."""
    generations, specialists = _lineage()
    records = [_gate(number, seed=number + 3) for number in range(3)]
    return ReportData(
        run="night-of-march-2",
        config="name: night-of-march-2\nnum_generations: 3\n",
        versions=(("torch", "2.13.0"),),
        machine="Linux x86_64, Python 3.11.9",
        started_at=START,
        finished_at=START + timedelta(hours=5, minutes=41),
        peak_memory_gib=11.3,
        headline_method="first-round vote",
        stages=tuple(
            StageView(name=f"generation {g} {what}", seconds=s, prompt_tokens=p, output_tokens=o, trained_tokens=t)
            for g in range(3)
            for what, s, p, o, t in (
                ("harvest", 1900.0, 410_000, 210_000, 0),
                ("training", 1500.0, 0, 0, 240_000),
                ("dev", 900.0, 190_000, 92_000, 0),
                ("gate", 1400.0, 300_000, 141_000, 0),
            )
        ),
        families=tuple(
            FamilyView(
                task_type=name,
                problems=(("TRAIN", 120), ("DEV", 150), ("GATE", 200), ("AUDIT", 150)),
                constant=ConstantAnswer(answer="1", accuracy=Accuracy(correct=24, n=150)),
            )
            for name in TYPES
        ),
        candidates=_candidates(),
        curation=(CurationView(task_type="gcd", kept=(("smollm2: own", 61),), dropped=(("wrong", 402),)),),
        generations=generations,
        specialists=specialists,
        evolution=EvolutionView(
            num_generations=3,
            curves=_curves(gains),
            gains=_gains(gains),
            by_type=tuple(
                _one_gain(name, 0.3, gains[-1] * factor, 150, name)
                for name, factor in zip(TYPES, (2, 1, 0, 1), strict=True)
            ),
            beside=(
                _one_gain("the best constant answers", 0.16, 0.29, N, against="the best constant answers"),
                _one_gain("x", 0.41, 0.02, N, against="self-consistency of g3-smollm2-own, 6 samples"),
            ),
            answer="it is not shown that the mesh finds what no member finds alone",
            evidence=("1 of 31 decided tasks was solved by the mesh alone; luck explains 0.6 of them",),
            limits=("gains of fewer than 3.9 points would have been missed",),
            decisions=tuple(_decision(number, record) for number, record in enumerate(records)),
            aa=aa_view(records),
            heat=heat_cells(_archive()),
            life=tuple(_life(number, is_sick) for number in range(4)),
            internalisation=tuple(internalised_view(one) for one in internalised(_solos())),
            costs=(
                *(
                    CostView(
                        generation=g, seconds=6100.0 + 300 * g, training_seconds=1500.0 + 200 * g,
                        engine_seconds=9000.0, num_engines=3, prompt_tokens=900_000, output_tokens=443_000,
                        trained_tokens=240_000, flops=2.4e15, money=2.1 + g / 10,
                    )
                    for g in range(3)
                ),
                CostView(generation=None, seconds=2100.0, engine_seconds=4000.0, num_engines=3,
                         prompt_tokens=300_000, output_tokens=150_000, money=0.7),
            ),
            flows=tuple(
                FlowView(
                    generation=g, num_samples=3840 + 300, num_right=1410 + 120 * g,
                    kept=(("own", 380 + 20 * g), ("revision", 22), ("critique", 17)),
                    dropped=(("wrong", 2500), ("same path", 300), ("duplicate", 180)),
                    num_all=420 * (g + 1), num_used=380 * (g + 1) - 40 * g * g,
                    unused=(("cap per problem", 30 * g), ("anchor share", 20 * g)) if g else (),
                    num_pairs=88, anchor_share=1.0 - 0.28 * g,
                    credits=tuple(
                        CreditView(member="smollm2", phase=phase, num=num, num_good=num // 3, num_changed=5 + g,
                                   num_harmed=3)
                        for phase, num in (("propose", 1900), ("revise", 48), ("critique", 40))
                    ),
                    levels=(f"gcd moves to level {g + 1}: 80% of 240 answers were right",),
                )
                for g in range(3)
            ),
            contamination=_contamination(),
            changed=(
                ChangedView(
                    title="A specialist mended it", why="the verdict was wrong in generation 0, right now",
                    task_type="gcd", question="What is gcd(84, 126)?", specialists=("g3-smollm2-own",),
                    before=f"smollm2 proposes 21\n{EVIL}\nverdict 21", after="g3-smollm2-own proposes 42\nverdict 42",
                ),
            ),
        ),
    )  # fmt: skip


def _point(generation: int, mean: float, n: int = N) -> CurvePoint:
    bounds = wilson(mean * n, n)
    return CurvePoint(generation=generation, mean=mean, low=bounds.low, high=bounds.high, n=n)


def _curves(gains: tuple[float, ...]) -> tuple[Curve, ...]:
    table: list[tuple[str, CurveKind, float, float, int, str]] = [
        ("best constant answer", "constant", 0.16, 0.0, N, ""),
        ("seat 1 alone", "solo", 0.29, 1.1, N, "smollm2, from generation 1 g1-smollm2-own"),
        ("seat 2 alone", "solo", 0.33, 0.5, N, "gemma3, from generation 2 g2-gemma3-distil"),
        ("seat 3 alone", "solo", 0.24, 0.0, N, "qwen3"),
        ("mean of the seats alone", "members", 0.287, 0.6, N, ""),
        ("self-consistency of the best single", "self_consistency", 0.37, 0.5, N, "gemma3"),
        ("mesh's first-round vote", "vote", 0.38, 1.0, N, ""),
        ("mesh council", "council", 0.40, 0.9, 100, ""),
    ]
    return tuple(
        Curve(
            method=method,
            kind=kind,
            note=note,
            points=tuple(_point(number, base + slope * gain, n) for number, gain in enumerate(gains)),
        )
        for method, kind, base, slope, n, note in table
    )


def _one_gain(
    method: str, base: float, step: float, n: int, task_type: str = "", against: str = "generation 0"
) -> Gain:
    """From 0/1 scores of which a twelfth changes to the worse and the rest of the difference to the better."""
    before = [1.0] * round(base * n) + [0.0] * (n - round(base * n))
    lost, won = n // 24, n // 24 + round(step * n)
    after = list(before)
    after[:lost] = [0.0] * lost
    after[len(after) - max(0, won) :] = [1.0] * max(0, won)
    found = gain(before, after, seed=1)
    assert found is not None
    assert share(after) is not None
    return Gain(
        method=method if not against.startswith(("the", "self")) else "mesh's first-round vote",
        kind="vote", task_type=task_type, against=against, before=found.before, after=found.after, n=n,
        difference=found.absolute, relative=found.relative, relative_low=found.relative_low,
        relative_high=found.relative_high, p=found.p, detectable=found.detectable,
    )  # fmt: skip


def _gains(gains: tuple[float, ...]) -> tuple[Gain, ...]:
    return (
        _one_gain("mesh's first-round vote", 0.38, gains[-1], N),
        _one_gain("mean of the seats alone", 0.29, 0.6 * gains[-1], N),
        _one_gain("mesh council", 0.40, gains[-1], 100),
    )


def _gate(number: int, seed: int) -> ConjunctionRecord:
    rng = np.random.default_rng(seed)
    types = tuple(TYPES[index % 4] for index in range(800))
    base = rng.random(800) < 0.4

    def like(gain: float, differs: float = 0.16) -> tuple[bool, ...]:
        up = (differs + gain) / 2 / 0.6
        down = (differs - gain) / 2 / 0.4
        dice = rng.random(800)
        return tuple(bool(x) for x in np.where(base, dice >= down, dice < up))

    incumbents = tuple(bool(x) for x in base)

    def contest(name: str, kind: ArmKind, gain: float) -> Contest:
        rivals = [Rival(kind="incumbent", name="incumbents", right=incumbents)]
        if kind == "candidate":
            rivals += [
                Rival(kind="placebo", name="placebo", right=like(0.0, 0.1)),
                Rival(kind="budget", name="budget", right=like(0.005, 0.08)),
            ]
        return Contest(name=name, kind=kind, right=like(gain), rivals=tuple(rivals), task_types=types)

    contests = [contest(f"g{number + 1}-smollm2-own", "candidate", 0.075 if number != 2 else 0.01)]
    contests.append(contest(f"g{number + 1}-gemma3-distil and g{number + 1}-smollm2-own", "candidate", 0.03))
    if number == 0:
        contests += [contest("A/A", "aa", 0.0), contest("placebo", "placebo", 0.01)]
    return hold(contests, 0.05, required=("placebo", "budget"), seed=7)


def _decision(number: int, record: ConjunctionRecord) -> DecisionView:
    passed = record.promoted
    before = [index % 5 < 2 for index in range(300)]
    fresh = paired_test(before, [b or index % 29 == 0 for index, b in enumerate(before)], seed=2)
    remeasured = Remeasured(
        name="g1-smollm2-own", num_compared=6, chosen_gain=0.081, expected_luck=expected_luck(6, 300, 0.16), fresh=fresh
    )
    return DecisionView(
        generation=number,
        reason=f"{passed[0].name} passed the gate" if passed else "no finalist passed the gate",
        chosen=passed[0].name if passed else None,
        contests=contest_views(record),
        dev=(versus_view("incumbent", "g1-smollm2-own", fresh),),
        remeasured=remeasured_view(remeasured) if passed else None,
        power=power_sentence(record),
        level="no gate was held on these items before",
        wear=(800, 0, 0),
        ruling="it passed the gate, and nobody has to agree" if passed else "",
        retired=(("qwen3", "its share in the vote is -1.1 points [-2.0, -0.2] over 600 problems"),)
        if number == 1
        else (),
        num_bred=6,
        num_quarantined=1,
    )


def _archive() -> Archive:
    rng = random.Random(5)
    return Archive(
        elites=tuple(
            Elite(
                name=f"g{1 + turn}-{engine}-{role}",
                niche=Niche(task_type=task_type, base=engine, role=role),
                generation=turn,
                measured=1,
                bank="b",
                scores=tuple(float(rng.random() < 0.2 + 0.2 * place + 0.05 * turn) for _ in range(40)),
                num_samples=2,
            )
            for place, engine in enumerate(_ENGINES)
            for task_type in TYPES
            for role in ("proposer", "critic")
            for turn in range(2)
            if role == "proposer" or engine == "smollm2"
        )
    )


def _life(number: int, is_sick: bool) -> LifeView:
    rng = random.Random(number)
    judged = [
        Judged(member=engine, family=engine, task_id=str(task), task_type=TYPES[task % 4], sample=0,
               answer=(answer := "right" if rng.random() < 0.4 else rng.choice("abc")), correct=answer == "right")
        for task in range(160)
        for engine in _ENGINES
    ]  # fmt: skip
    health = ()
    if number:
        keys = [str(index) for index in range(60)]

        def vitals(generation: int, spread: int):  # type: ignore[no-untyped-def]
            texts = [[" ".join(rng.choice("abcdefgh"[:spread]) for _ in range(12)) for _ in keys[:4]] for _ in keys]
            right = [[rng.random() < (0.3 if generation == 0 else 0.5) for _ in keys[:4]] for _ in keys]
            return vitals_of(f"g{generation}-smollm2-own", generation, keys, texts, texts, right)

        spread = 2 if is_sick and number == 3 else 8
        health = (health_view(examine(vitals(0, 8), vitals(number, spread), k=4)),)
    emergence = EmergenceView(
        num_attempted=24, num_measured=10 + number, num_emergent=number % 2, low=0.0, high=0.2, luck=0.02, p_luck=0.2
    )
    return LifeView(
        generation=number,
        diversity=diversity_view(describe(judged)),
        emergence=emergence if number < 3 else None,
        emergence_audit=emergence.model_copy(update={"num_attempted": 77}) if number in (0, 3) else None,
        shares=SharesView(
            accuracy=0.4, coverage=0.61, num_problems=N,
            members=tuple(
                SeatShareView(member=engine, value=0.4 / 3, low=0.1, high=0.17, alone=0.3, left_out=0.31,
                              num_pivotal=40 + number)
                for engine in _ENGINES
            ),
        ),
        health=health,
    )  # fmt: skip


def _solos() -> list[Solo]:
    return [
        Solo(task_id=str(index), was_trained_on=index % 2 == 0, before=(index % 3 == 0, 30), after=(4 + index % 5, 30))
        for index in range(20)
    ]


def _contamination() -> Contamination:
    rows = tuple(
        Row(split=split, source="training example", num_items=600, num_texts=1260, by_key=0, by_wording=0, by_answer=0)
        for split in (Split.DEV, Split.GATE, Split.AUDIT)
    )
    return Contamination(rows=rows, overlaps=(), answers_checked=True)


def _lineage() -> tuple[tuple[GenerationView, ...], tuple[SpecialistView, ...]]:
    bred = {
        "g1-smollm2-own": ("smollm2", 1, (), ("smollm2 base",)),
        "g2-gemma3-distil": ("gemma3", 2, (), ("gemma3 base", "g1-smollm2-own")),
        "g2-smollm2-warm": ("smollm2", 2, ("g1-smollm2-own",), ("g1-smollm2-own",)),
        "g3-smollm2-merge": ("smollm2", 3, ("g1-smollm2-own", "g2-smollm2-warm"), ("g1-smollm2-own",)),
    }
    seats = {0: {}, 1: {"smollm2": "g1-smollm2-own"}, 2: {"smollm2": "g2-smollm2-warm", "gemma3": "g2-gemma3-distil"},
             3: {"smollm2": "g3-smollm2-merge", "gemma3": "g2-gemma3-distil"}}  # fmt: skip
    specialists = tuple(
        SpecialistView(
            name=name, adapter=name * 4, engine=engine, generation=generation, inherits=inherits, parents=parents,
            niche="gcd" if engine == "gemma3" else "", recipe=name,
        )
        for name, (engine, generation, inherits, parents) in bred.items()
    )  # fmt: skip
    generations = tuple(
        GenerationView(
            number=number,
            seats=tuple(
                SeatView(
                    member=held.get(engine, engine), engine=engine, family=engine,
                    adapter=held[engine] * 4 if engine in held else None,
                )
                for engine in _ENGINES
            ),
            note="base models" if number == 0 else "passed the gate",
        )
        for number, held in seats.items()
    )  # fmt: skip
    return generations, specialists


def _candidates() -> tuple[CandidateView, ...]:
    return tuple(
        CandidateView(
            name=name, engine=name.split("-")[1], recipe=name, trained_tokens=80_000, seconds=400.0, admitted=True,
            promoted=name in ("g1-smollm2-own", "g2-smollm2-warm", "g3-smollm2-merge"),
            loss_curve=tuple((step, 2.0 * 0.95**step + 0.5) for step in range(1, 20)),
        )
        for name in ("g1-smollm2-own", "g1-gemma3-own", "g2-smollm2-warm", "g2-qwen3-own", "g3-smollm2-merge")
    )  # fmt: skip
