"""The page in three figures and its alarms: did evolution pay, how sure is that, what did it cost. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from evolve.gates.intervals import LEVEL, Interval
from evolve.judging.unchecked import TOLERATED
from evolve.report.bars import interval_mark
from evolve.report.data import ReportData
from evolve.report.evolution import DecisionView, EvolutionView, Gain
from evolve.report.formats import duration, money, number, operations, pvalue
from evolve.report.headline import headline_comparison, share, signed
from memory.types import Record

Tone = Literal["good", "bad", "mute"]
AT_WORK = 0.75
"""Share of a run's time in its stages below which that time tells less of its cost than of how long it lay still."""


class Card(Record):
    """One figure at the top of the page."""

    question: str
    figure: str
    tone: Tone = "mute"
    mark: str = ""
    lines: tuple[str, ...] = ()


def paid_card(data: ReportData) -> Card:
    """The size of the gain."""
    gain = _primary(data)
    question = "Did evolution pay?"
    if gain is None:
        return Card(question=question, figure="not measured", lines=("AUDIT has no figure before and after.",))
    tone: Tone = "good" if gain.is_shown else "bad" if gain.is_harm else "mute"
    lines = [f"{gain.method} on AUDIT: {share(gain.before)} → {share(gain.after)}, against {gain.against}"]
    if gain.relative is not None:
        text = f"{signed(100 * gain.relative, 1)}% relative"
        if gain.relative_low is not None and gain.relative_high is not None:
            text += f", 95% interval {_range(gain.relative_low, gain.relative_high)}%"
        lines.append(text)
    return Card(
        question=question, figure=f"{signed(100 * gain.mean, 1)} points", tone=tone, lines=(*lines, *_others(data))
    )


def sure_card(data: ReportData) -> Card:
    """How sure the gain is, and how far the gate can be trusted."""
    gain = _primary(data)
    question = "How sure is that?"
    if gain is None:
        return Card(question=question, figure="–")
    figure = "shown" if gain.is_shown else "harm is shown" if gain.is_harm else "not shown"
    tone: Tone = "good" if gain.is_shown else "bad" if gain.is_harm else "mute"
    low, high = gain.difference.low, gain.difference.high
    p = "" if gain.p is None else f", p {_p(gain.p)}"
    lines = [f"95% interval {_range(low, high)} points over {gain.n:,} paired problems{p}"]
    if gain.detectable is not None and not gain.is_shown and not gain.is_harm:
        lines.append(f"So many problems show a gain of {100 * gain.detectable:.1f} points in four cases of five")
    aa = data.evolution.aa
    if aa is not None:
        lines.append(f"The gate on itself: {aa.sentence}.")
    mark = interval_mark(low, gain.mean, high, max(0.02, abs(low), abs(high)) * 1.15, wide=True)
    return Card(question=question, figure=figure, tone=tone, mark=mark, lines=tuple(lines))


def cost_card(data: ReportData) -> Card:
    """What the whole run took."""
    view = data.evolution
    output, prompt = sum(s.output_tokens for s in data.stages), sum(s.prompt_tokens for s in data.stages)
    trained = sum(s.trained_tokens for s in data.stages)
    bred = [one for one in data.candidates if not one.is_placebo]
    twins = len(data.candidates) - len(bred)
    of_twins = sum(one.trained_tokens for one in data.candidates if one.is_placebo)
    lines = [
        f"{number(output)} output, {number(prompt)} prompt and {number(trained)} trained tokens"
        + (f", {number(of_twins)} of these for placebos" if of_twins else ""),
        f"{len(data.promoted)} of {len(bred)} candidates took a seat"
        + (f", beside {twins} placebo{'' if twins == 1 else 's'} that may not" if twins else ""),
    ]
    if view.total_flops > 0.0:
        lines.append(f"{operations(view.total_flops)} of training, estimated")
    if view.total_money is not None:
        lines.append(f"{money(view.total_money, view.currency)} at the configured prices of engines")
    rest = []
    if view.idle_share is not None:
        rest.append(f"engines idle for {view.idle_share:.0%} of the time")
    if data.peak_memory_gib is not None:
        rest.append(f"peak memory {data.peak_memory_gib:.1f} GiB")
    if rest:
        text = ", ".join(rest)
        lines.append(text[0].upper() + text[1:])
    worked = sum(stage.seconds for stage in data.stages)
    if data.wall_seconds is not None and worked < AT_WORK * data.wall_seconds:
        lines.append(f"From its start to its end; at work for {duration(worked)} of that")
    figure = "running" if data.wall_seconds is None else duration(data.wall_seconds)
    return Card(question="What did it cost?", figure=figure, lines=tuple(lines))


def alarms(data: ReportData) -> tuple[str, ...]:
    """What somebody has to look at before anything of this run is used; in order of weight."""
    view = data.evolution
    return tuple(
        [
            *_gate_alarms(view),
            *(one.sentence for one in data.unchecked if one.share > TOLERATED),
            *(f"{one.sentence}." for one in data.failed_calls if one.share > TOLERATED),
            *_contamination_alarms(view),
            *_decay(view),
            *_collapse_alarms(view),
        ]
    )


def gain_of_comparison(data: ReportData) -> Gain | None:
    """The primary gain of a run that has no gains recorded, read off its AUDIT table; None without before and after."""
    found = headline_comparison(data)
    if found is None or found.difference is None or found.before is None or found.after is None:
        return None
    before, after = found.before.mean or 0.0, found.after.mean or 0.0
    return Gain(
        method=found.method,
        kind="vote",
        before=before,
        after=after,
        n=found.difference.n,
        difference=Interval(low=found.difference.low, high=found.difference.high),
        relative=(after - before) / before if before else None,
    )


def _primary(data: ReportData) -> Gain | None:
    return data.evolution.primary or gain_of_comparison(data)


def _others(data: ReportData) -> Iterator[str]:
    for gain in data.evolution.gains[1:3]:
        verdict = "shown" if gain.is_shown else "harm shown" if gain.is_harm else "not shown"
        versus = "" if gain.against == "generation 0" else f" against {gain.against}"
        yield f"{gain.method}{versus}: {signed(100 * gain.mean, 1)} points, {verdict}"


def _gate_alarms(view: EvolutionView) -> Iterator[str]:
    if view.aa is not None and view.aa.is_alarm:
        yield f"The gate promotes what is no better: {view.aa.sentence}."
    for decision in view.decisions:
        yield from _decision_alarms(decision)


def _decision_alarms(decision: DecisionView) -> Iterator[str]:
    where = f"Generation {decision.generation}"
    for contest in decision.contests:
        if contest.kind == "aa" and contest.would_pass:
            yield (
                f"{where}: the A/A arm {contest.name} would have been promoted, as a sound gate does in "
                f"{contest.threshold:.1%} of cases at most."
            )
        if contest.inconsistent:
            yield f"{where}: two calculations of p contradict each other for {contest.name}; this is a defect."
    if decision.num_bred and decision.num_quarantined == decision.num_bred:
        yield f"{where}: all {decision.num_bred} candidates were quarantined or refused."
    winner = decision.remeasured
    # On few fresh items no gain may be luck as well: an alarm is that they rule out what was seen where it was chosen.
    if winner is not None and winner.fresh_gain <= 0.0 and winner.high < winner.chosen_gain:
        yield f"{where}: the winner's gain was not there on fresh items ({winner.sentence})."


def _contamination_alarms(view: EvolutionView) -> Iterator[str]:
    if view.contamination is not None and not view.contamination.clean:
        yield view.contamination.sentence


def _decay(view: EvolutionView) -> Iterator[str]:
    """The last generation lies below an earlier one, by more than the intervals leave open."""
    curve = next((curve for curve in view.curves if curve.kind == "vote"), None)
    if curve is None or len(curve.points) < 2:
        return
    points = sorted(curve.points, key=lambda point: point.generation)
    best, last = max(points, key=lambda point: point.mean), points[-1]
    if last.mean < best.low and best.generation != last.generation:
        yield (
            f"Decay: {curve.method} was {share(best.mean)} in generation {best.generation} and is "
            f"{share(last.mean)} in generation {last.generation}."
        )


def _collapse_alarms(view: EvolutionView) -> Iterator[str]:
    since: dict[tuple[str, str], list[int]] = {}
    for life in view.life:
        for health in life.health:
            for _, sentence in health.alarms:
                since.setdefault((health.name, sentence), []).append(life.generation)
    for (name, sentence), generations in since.items():
        # A seat that stays is measured on the same problems in every later generation, with the same result.
        first, last = generations[0], generations[-1]
        where = f"Generation {first}" if first == last else f"Generations {first} to {last}"
        yield f"{where}, {name}: {sentence}."


def rival_sentences(data: ReportData) -> tuple[str, ...]:
    """How the mesh at the end stands beside what one could have had instead, from paired comparisons."""
    found = []
    for gain in data.evolution.beside:
        relation = "above" if gain.is_shown else "below" if gain.is_harm else "not distinguishable from"
        found.append(
            f"At the end the {gain.method} is {relation} {gain.against}: {share(gain.after)} against "
            f"{share(gain.before)} "
            f"({signed(100 * gain.mean, 1)} points, 95% interval {_range(gain.difference.low, gain.difference.high)}"
            f"{_corrected(gain)})."
        )
    return tuple(found)


def _corrected(gain: Gain) -> str:
    """What the correction for several comparisons took back; empty: nothing."""
    if gain.p is None or gain.p_adjusted is None or gain.p > LEVEL or gain.p_adjusted <= LEVEL:
        return ""
    return f", but p {_p(gain.p)} is {pvalue(gain.p_adjusted)} after Holm over these comparisons"


def _p(value: float) -> str:
    text = pvalue(value)
    return text if text.startswith("<") else f"= {text}"


def _range(low: float, high: float) -> str:
    return f"{signed(100 * low, 1)} to {signed(100 * high, 1)}"
