"""Is evolution worth a night on these tasks? The plain advice that follows from what was measured. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field

from evolve.judging.judge import Probe
from evolve.planning.rates import Rates
from evolve.report.measure import Difference
from evolve.studies.assess import Findings
from memory.types import Record

SOLVED = 0.97
"""From this accuracy on there is nothing left to gain."""
TOLERATED = {"reference": 1.0, "empty": 0.0, "echo": 0.05, "shuffled": 0.05}
"""Share of the items on which each kind of answer may be accepted; of references, must be."""


class Advice(Record):
    """The verdict in plain words."""

    evolve: bool
    sentence: str = Field(description="begins with 'Evolve' or 'Don't, because'")
    because: tuple[str, ...] = Field(default=(), description="every reason against it; empty: there is none")
    notes: tuple[str, ...] = Field(default=(), description="what else is worth knowing before a night is spent")


class Assessment(Record):
    """Advice and what it rests on."""

    advice: Advice
    findings: Findings
    rates: Rates = Field(description="how fast these engines were, and how much they said, for estimates of runs")
    engines: str = Field(description="hash of what they are, see `evolve.planning.rates.engines_id`")
    tasks: str = Field(description="hash of the file of tasks, see `evolve.planning.rates.tasks_id`")


def unfit(probes: Sequence[Probe]) -> tuple[str, ...]:
    """What disqualifies the verifier, one sentence a finding.

    That a constant is often right, or what can be copied from the question, is no fault of a verifier's: those are
    ways of answering that a member has to beat.
    """
    found = []
    for probe in probes:
        limit = TOLERATED.get(probe.probe)
        if limit is None or probe.n == 0:
            continue
        where = f"in {probe.accepted} of {probe.n} items of type {probe.task_type}"
        if probe.probe == "reference" and probe.rate < limit:
            found.append(f"the verifier refuses the reference answer itself {_missed(probe)}")
        elif probe.probe != "reference" and probe.rate > limit:
            found.append(f"the verifier accepts {_PROBES[probe.probe]} {where}")
    return tuple(found)


def advise(findings: Findings) -> Advice:
    """Evolve, or don't and why: the first reason that stands is in the sentence, all of them in `because`."""
    because = tuple(reason for rule in _RULES if (reason := rule(findings)) is not None)
    notes = tuple(note for rule in _NOTES if (note := rule(findings)) is not None)
    if because:
        return Advice(evolve=False, sentence=f"Don't, because {because[0]}.", because=because, notes=notes)
    best = max(findings.mesh.mean, findings.consistency.mean, findings.single.mean)
    room = findings.reach.mean - findings.mesh.mean
    sentence = (
        f"Evolve: the mesh has {findings.mesh.mean:.0%} right, the best of all samples {findings.reach.mean:.0%}, "
        f"so there is room for {100 * room:.0f} points, and a whole gate of {findings.num_gate} items can "
        f"show {100 * (findings.detectable or 0.0):.0f}; the best constant answer has {findings.constant.mean:.0%}"
    )
    if best > findings.mesh.mean:
        sentence += f", the best way without talking or mixing {best:.0%}"
    return Advice(evolve=True, sentence=sentence + ".", notes=notes)


def _verifier_is_unfit(findings: Findings) -> str | None:
    found = unfit(findings.probes)
    return "; ".join(found) if found else None


def _too_few_items(findings: Findings) -> str | None:
    if findings.num_items == 0:
        return "there is no item to measure anything on"
    if findings.num_gate == 0:
        return "these tasks leave no item for the gate: add tasks or raise shares.gate"
    return None


def _nobody_solves_any(findings: Findings) -> str | None:
    if findings.num_items == 0 or findings.expected_examples >= findings.min_examples:
        return None
    return (
        f"there is nothing to learn from: a generation would give about {findings.expected_examples:.0f} verified "
        f"examples, and a specialist needs {findings.min_examples} (some sample is right on {findings.reach.mean:.0%} "
        "of the items); take easier tasks, larger members, or more samples"
    )


def _solved(findings: Findings) -> str | None:
    best = max((findings.mesh, findings.consistency, findings.single), key=lambda arm: arm.mean)
    if findings.num_items == 0 or best.mean < SOLVED:
        return None
    return f"there is nothing to gain: {best.name} is right on {best.mean:.0%} already; take harder tasks"


def _guessing_is_as_good(findings: Findings) -> str | None:
    best = max((findings.mesh, findings.consistency, findings.single), key=lambda arm: arm.mean)
    guesses = [findings.constant, *([findings.copied] if findings.copied is not None else [])]
    guess = max(guesses, key=lambda arm: arm.mean)
    difference = best.against(guess, findings.clusters)
    if difference is None or difference.low > 0.0:
        return None
    what = "a constant answer" if guess is findings.constant else "copying from the question"
    return (
        f"no way of asking is shown to beat {what}: {best.name} has {best.mean:.0%} and {guess.name} "
        f"{guess.mean:.0%} (difference {_points(difference)}); these answers are guessed, not worked out"
    )


def _gate_sees_nothing(findings: Findings) -> str | None:
    if findings.num_gate == 0 or findings.num_items == 0:
        return None
    if findings.gate_level is not None and findings.gate_level.alpha is None:
        return f"no gate may be held on these items any more: {findings.gate_level.reason}"
    room = findings.reach.mean - findings.mesh.mean
    if findings.detectable is not None and findings.detectable <= room:
        return None
    needed = findings.num_gate_needed
    more = ""
    if needed is not None and needed > findings.num_gate:
        times = needed / findings.num_gate
        more = (
            f"; about {needed:,} GATE items would do for a mesh that gained all of that, which takes some {times:.1f} "
            "times as many tasks, and more for less"
        )
    if findings.detectable is None:
        return f"a whole gate of {findings.num_gate} items can show no gain of any size{more}"
    return (
        f"a whole gate of {findings.num_gate} items shows gains below {100 * findings.detectable:.0f} points in fewer "
        f"than four cases of five, and there are only {100 * room:.0f} between the mesh and the best of all samples"
        f"{more or '; take harder tasks'}"
    )


def _night_is_too_short(findings: Findings) -> str | None:
    if findings.night is None or findings.night.hours <= findings.night_hours:
        return None
    return (
        f"a run takes about {findings.night.hours:.1f} hours and a night has {findings.night_hours:g}: lower "
        "items, samples or councils, or give it faster engines"
    )


_RULES: tuple[Callable[[Findings], str | None], ...] = (
    _verifier_is_unfit, _too_few_items, _nobody_solves_any, _solved, _guessing_is_as_good, _gate_sees_nothing,
    _night_is_too_short,
)  # fmt: skip


def _note_mesh(findings: Findings) -> str | None:
    difference = findings.mesh.against(findings.consistency, findings.clusters)
    if difference is None:
        return None
    shown = "not shown to differ"
    if difference.is_clear:
        shown = "the mesh is better" if difference.mean > 0 else "one member asked again is better than a mesh"
    return (
        f"At equal samples the mesh has {findings.mesh.mean:.0%} and {findings.consistency.name} "
        f"{findings.consistency.mean:.0%} ({_points(difference)}): {shown}."
    )


def _note_independence(findings: Findings) -> str | None:
    if len(findings.alone) < 2:
        return "One member is no mesh: add a model of another family."
    same = "" if findings.same_wrong is None else f"; where two are wrong, {findings.same_wrong:.0%} say the same"
    return f"{len(findings.alone)} members are worth {findings.n_eff:.1f} independent votes{same}."


def _note_council(findings: Findings) -> str | None:
    if findings.council is None or findings.council_vote is None:
        return None
    difference = findings.council.against(findings.council_vote, findings.council_clusters)
    if difference is None:
        return None
    return (
        f"Talking changed {findings.council_vote.mean:.0%} to {findings.council.mean:.0%} on {difference.n} items "
        f"({_points(difference)})."
    )


def _note_constants(findings: Findings) -> str | None:
    high = [p for p in findings.probes if p.probe.startswith("'") and p.rate > 0.3]
    if not high:
        return None
    worst = max(high, key=lambda probe: probe.rate)
    return f"The constant {worst.probe} is right on {worst.rate:.0%} of {worst.task_type}: show it beside every result."


def _note_copies(findings: Findings) -> str | None:
    high = [p for p in findings.probes if p.probe == "echo, parsed" and p.rate > 0.05]
    if not high:
        return None
    worst = max(high, key=lambda probe: probe.rate)
    return (
        f"What is read out of the question itself is right on {worst.rate:.0%} of {worst.task_type}: copying is a "
        "way of answering there."
    )


_NOTES: tuple[Callable[[Findings], str | None], ...] = (
    _note_mesh,
    _note_council,
    _note_independence,
    _note_constants,
    _note_copies,
)

_PROBES = {
    "empty": "the empty answer", "echo": "the question itself as its answer",
    "shuffled": "another item's reference",
}  # fmt: skip


def _missed(probe: Probe) -> str:
    return f"in {probe.n - probe.accepted} of {probe.n} items of type {probe.task_type}"


def _points(difference: Difference) -> str:
    return f"{100 * difference.mean:+.1f} points, {100 * difference.low:+.0f} to {100 * difference.high:+.0f}"
