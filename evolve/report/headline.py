"""The sentences at the top of a report: what came of the run, also when nothing did."""

from __future__ import annotations

from evolve.report.data import ReportData
from evolve.report.evolution import DecisionView, Gain
from evolve.report.measure import Comparison, Difference


def share(value: float | None, digits: int = 2) -> str:
    """A share the way tables print it: .31, 1.00; a dash for None."""
    if value is None:
        return "–"
    # Rounded as a percentage is: 191 of 200 is 96% in a sentence, and would be .95 here.
    text = f"{round(value * 10**digits) / 10**digits:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def points(difference: Difference) -> str:
    """A difference in percentage points with its interval."""
    low, high = (signed(100 * bound, 1) for bound in (difference.low, difference.high))
    return f"{signed(100 * difference.mean, 1)} points, 95% interval {low} to {high}"


def signed(value: float, digits: int = 0) -> str:
    """A number with its sign; a true minus, so that columns line up; no sign on zero."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0.0:
        return text
    return ("+" if value > 0 else "−") + text


def headline(data: ReportData) -> str:
    """One honest sentence: did evolution pay by AUDIT, or why nothing was promoted."""
    if data.finished_at is None:
        return "The run has not ended; this is what there is so far."
    rounds = data.evolution.num_generations
    if not data.promoted:
        within = f" in {rounds} generations" if rounds > 1 else ""
        return f"Nothing was promoted{within}, because {_why_nothing(data)}."
    if data.evolution.primary is not None:
        return _paid(data.evolution.primary, rounds)
    names = ", ".join(candidate.name for candidate in data.promoted)
    found = headline_comparison(data)
    if found is None or found.difference is None:
        return f"Promoted {names}; AUDIT did not measure {data.headline_method} before and after."
    before, after = (None if side is None else side.mean for side in (found.before, found.after))
    return (
        f"Promoted {names}: {found.method} on AUDIT {share(before)} → {share(after)} "
        f"({points(found.difference)}, n = {found.difference.n})."
    )


def _paid(gain: Gain, rounds: int) -> str:
    interval = f"95% interval {signed(100 * gain.difference.low, 1)} to {signed(100 * gain.difference.high, 1)}"
    over = f" over {rounds} generations" if rounds > 1 else ""
    facts = (
        f"{share(gain.before)} to {share(gain.after)} on AUDIT{over} ({signed(100 * gain.mean, 1)} points, {interval}"
    )
    tail = f"; n = {gain.n:,})"
    if gain.is_shown:
        relative = "" if gain.relative is None else f", {signed(100 * gain.relative, 1)}% relative"
        return f"Evolution paid: the {_lower(gain.method)} rose from {facts}{relative}{tail}."
    if gain.is_harm:
        return f"Evolution did harm: the {_lower(gain.method)} fell from {facts}{tail}."
    return f"It is not shown that evolution paid: the {_lower(gain.method)} went from {facts}{tail}."


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def caveats(data: ReportData) -> tuple[str, ...]:
    """What must be said right below the headline, so that nobody takes it for more than it is."""
    if data.evolution.primary is not None:
        return ()  # the answer below it says more, on AUDIT itself
    found, sentences = headline_comparison(data), []
    if data.promoted and found is not None and found.difference is not None:
        if not found.difference.is_clear:
            sentences.append("The interval contains zero: on AUDIT this is not distinguishable from no change.")
        elif found.difference.mean < 0:
            sentences.append("AUDIT contradicts the gate: the promoted seats are worse there.")
    row = data.overall
    final = None if found is None else found.after or found.before
    if row is not None and row.constant is not None and final is not None and final.mean is not None:
        constant = row.constant.accuracy.mean or 0.0
        relation = "above" if final.mean > constant else "not above"
        sentences.append(
            f"The {data.headline_method} ends at {share(final.mean)}, {relation} the best constant answers, "
            f"which score {share(constant)}."
        )
    return tuple(sentences)


def headline_comparison(data: ReportData) -> Comparison | None:
    """The AUDIT comparison over all families that the summary speaks of."""
    if data.overall is None:
        return None
    return next((c for c in data.overall.comparisons if c.method == data.headline_method), None)


def _why_nothing(data: ReportData) -> str:
    decisions = data.evolution.decisions
    whys = [_why_not(one, data) for one in decisions]
    if not whys:
        return "no candidate was trained"
    if len(whys) == 1:
        return whys[0]
    if len(set(whys)) == 1:
        return f"in each of them {whys[0]}"
    return "; ".join(f"generation {one.generation}: {why}" for one, why in zip(decisions, whys, strict=True))


def _why_not(one: DecisionView, data: ReportData) -> str:
    finalists = [contest for contest in one.contests if contest.kind == "candidate"]
    # An elite of the archive may have gone to the gate where nobody new was trained.
    if not finalists and one.num_bred == one.num_quarantined:
        return _why_none_trained(one, data)
    if any(contest.passed for contest in finalists):
        return f"{one.reason}, but took no seat: {one.ruling}"
    if not finalists:
        return one.reason
    best = min(finalists, key=lambda contest: contest.p_adjusted)
    which = "the only finalist" if len(finalists) == 1 else f"none of {len(finalists)} finalists"
    verb = "did not pass" if len(finalists) == 1 else "passed"
    return f"{which} {verb} the gate ({best.name}: {best.reason})"


def _why_none_trained(one: DecisionView, data: ReportData) -> str:
    flow = next((flow for flow in data.evolution.flows if flow.generation == one.generation), None)
    if flow is not None and flow.num_right == 0:
        return f"none of {flow.num_samples:,} answers was right, so that there was nothing to learn from"
    if not one.num_bred:
        return "no candidate was trained"
    reasons = sorted({c.reason for c in data.candidates if c.status == "quarantined" and c.reason})
    if len(data.evolution.decisions) > 1:
        return one.reason
    return f"every candidate was quarantined ({'; '.join(reasons) or 'no reason was recorded'})"
