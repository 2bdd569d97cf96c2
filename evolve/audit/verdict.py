"""Novelty or noise? The run's answer in a sentence, with what it rests on and what speaks against it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from evolve.audit.audited import NamedGain
from evolve.audit.collapse import Health
from evolve.audit.novelty import EmergenceReport, Internalisation
from memory.types import Record

Kind = Literal["novelty", "not shown", "not measured"]

LEVEL = 0.05


class NoveltyVerdict(Record):
    """The answer to whether deliberation finds anything new, or only reshuffles what its members know."""

    kind: Kind
    sentence: str
    evidence: tuple[str, ...] = Field(default=(), description="each a sentence with its numbers")
    limits: tuple[str, ...] = Field(default=(), description="what this run cannot say, and what speaks against it")


def novelty_or_noise(
    reports: Sequence[EmergenceReport],
    internalised: Sequence[Internalisation],
    gains: Sequence[NamedGain],
    healths: Sequence[Health],
) -> NoveltyVerdict:
    """One answer for the whole run.

    Novelty is claimed only where more tasks were solved by the mesh alone than luck explains, over all councils
    together. Anything less is "not shown", never "there is none": the interval says how much could have been missed.

    Args:
        reports: of every generation's TRAIN councils, and of the AUDIT councils.
        internalised: what later specialists solve alone of it.
        gains: the last generation beside generation 0.
        healths: the seats beside generation 0's.
    """
    whole = pooled(reports)
    if whole is None or whole.num_measured == 0:
        kind: Kind = "not measured"
    else:
        kind = "novelty" if whole.num_emergent and whole.p_luck <= LEVEL else "not shown"
    return NoveltyVerdict(
        kind=kind,
        sentence=_sentence(kind, whole, internalised),
        evidence=(*_emergence(whole), *map(_internalised, internalised), *_gains(gains)),
        limits=(*_limits(whole, internalised, gains), *_alarms(healths)),
    )


def pooled(reports: Sequence[EmergenceReport]) -> EmergenceReport | None:
    """All of them as one; luck is their mean, each weighing as many tasks as it put to the mesh.

    A task that several generations put to the mesh is one draw, as near duplicates are.
    """
    attempted = sum(one.num_attempted for one in reports)
    if not reports:
        return None
    luck = math.fsum(one.luck * one.num_attempted for one in reports) / attempted if attempted else 0.0
    clusters = tuple(cluster for one in reports for cluster in one.clusters)
    return EmergenceReport(
        findings=tuple(finding for one in reports for finding in one.findings),
        num_attempted=attempted,
        luck=luck,
        clusters=clusters if len(clusters) == attempted else (),  # a journal from before they were kept has none
    )


def _sentence(kind: Kind, whole: EmergenceReport | None, internalised: Sequence[Internalisation]) -> str:
    if whole is None or kind == "not measured":
        return "Novelty or noise was not measured: no task was put to the mesh and to its members alone."
    share = f"{whole.num_emergent} of {whole.num_measured} tasks"
    if kind == "not shown":
        bound = f"at most {whole.interval.high:.1%} of tasks can be new with 95% confidence"
        if whole.num_emergent == 0:
            return f"No novelty is shown: no task was solved by the mesh that its members could not solve; {bound}."
        luck = f"which luck explains (p = {whole.p_luck:.2g})"
        return f"No novelty is shown: the mesh alone solved {share}, {luck}; {bound}."
    more = f"more than luck explains (p = {whole.p_luck:.2g})"
    return f"Novelty: the mesh alone solved {share}, {more}, {_taken(internalised)}."


def _taken(internalised: Sequence[Internalisation]) -> str:
    """How the sentence ends: did it stay with the mesh, or was it learned?"""
    if not internalised:
        return "and whether later specialists learned it was not measured"
    shown = [one for one in internalised if one.is_shown]
    if any(one.kind == "held out" for one in shown):
        return "and later specialists solve such tasks alone, ones they were not trained on among them"
    if shown:
        return "and later specialists solve such tasks alone where they were trained on them; beyond is not shown"
    return "but it is not shown that later specialists solve such tasks alone"


def _emergence(whole: EmergenceReport | None) -> list[str]:
    return [] if whole is None or whole.num_measured == 0 else [f"emergence: {whole.sentence}"]


def _internalised(one: Internalisation) -> str:
    how = "tasks that the specialist was trained on" if one.kind == "trained on" else "tasks that nobody was trained on"
    return (
        f"internalisation, {one.num_tasks} {how}: {one.before:.1%} right alone before, {one.after:.1%} after "
        f"[{one.difference.low * 100:+.1f}, {one.difference.high * 100:+.1f} points], p = {one.p:.2g}: "
        + ("shown" if one.is_shown else "not shown")
    )


def _gains(gains: Sequence[NamedGain]) -> list[str]:
    """The primary comparison and the members', which say whether evolution paid at all."""
    told = [one for one in gains if one.method in ("vote", "members") and not one.task_type]
    return [f"{one.method}, {one.after} beside {one.before}: {one.gain.sentence}" for one in told]


def _limits(
    whole: EmergenceReport | None, internalised: Sequence[Internalisation], gains: Sequence[NamedGain]
) -> list[str]:
    limits = []
    if whole is not None:
        left_out = whole.num_attempted - whole.num_measured
        if left_out:
            reasons = sorted({reason for f in whole.findings if f.finding == "not measured" for reason in f.reasons})
            limits.append(
                f"{left_out} of {whole.num_attempted} tasks could not be decided, e.g. {reasons[0]}"
                if reasons
                else f"{left_out} of {whole.num_attempted} tasks could not be decided"
            )
    if internalised and not any(one.kind == "held out" for one in internalised):
        limits.append("what specialists learned was tried on tasks of their training only, so it may be memory")
    for one in gains:
        if one.method == "vote" and not one.task_type and not one.gain.is_shown:
            limits.append(
                f"that the vote is better than generation 0's is not shown; a gain of {one.gain.detectable * 100:.1f} "
                "points would have been found in four runs of five"
            )
    return limits


def _alarms(healths: Sequence[Health]) -> list[str]:
    """Each once: a seat that stays for several generations is the same beside generation 0's in all of them."""
    found = (f"{health.name}: {alarm.sentence} (p = {alarm.p:.2g})" for health in healths for alarm in health.alarms)
    return list(dict.fromkeys(found))
