"""The sentences at the top of a report: what came of the run, also when nothing did."""

from __future__ import annotations

from evolve.report.data import ReportData
from evolve.report.measure import Comparison, Difference


def share(value: float | None, digits: int = 2) -> str:
    """A share the way tables print it: .31, 1.00; a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
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
    """One honest sentence: what was promoted and what AUDIT says of it, or why nothing was."""
    if data.finished_at is None:
        return "The run has not ended; this is what there is so far."
    if not data.promoted:
        return f"Nothing was promoted, because {_why_nothing(data)}."
    names = ", ".join(candidate.name for candidate in data.promoted)
    found = headline_comparison(data)
    if found is None or found.difference is None:
        return f"Promoted {names}; AUDIT did not measure {data.headline_method} before and after."
    before, after = (None if side is None else side.mean for side in (found.before, found.after))
    return (
        f"Promoted {names}: {found.method} on AUDIT {share(before)} → {share(after)} "
        f"({points(found.difference)}, n = {found.difference.n})."
    )


def caveats(data: ReportData) -> tuple[str, ...]:
    """What must be said right below the headline, so that nobody takes it for more than it is."""
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
    if not data.candidates:
        return "no candidate was trained"
    if all(candidate.status == "quarantined" for candidate in data.candidates):
        reasons = sorted({candidate.reason for candidate in data.candidates if candidate.reason})
        return f"every candidate was quarantined ({'; '.join(reasons) or 'no reason was recorded'})"
    finalists = [gate for gate in data.gate if not gate.control]
    if not finalists:
        return "no candidate reached the gate: none did better than the incumbents on DEV"
    best = min(finalists, key=lambda gate: (2.0 if gate.p is None else gate.p, gate.losses - gate.wins))
    score = f"{best.arrangement}: {best.wins} wins, {best.losses} losses on {best.n} problems; {best.reason}"
    if len(finalists) == 1:
        return f"the only finalist did not pass the gate ({score})"
    return f"none of the {len(finalists)} finalists passed the gate (the best, {score})"
