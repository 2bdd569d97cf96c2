"""Do live outcomes bear out what was promised of a specialist? A test that may be looked at after every label. Pure.

The evidence is a betting e-process (Waudby-Smith and Ramdas 2024, Estimating means of bounded random variables by
betting): under "at least as good as claimed" its expectation never exceeds 1 at any time, so by Ville's inequality it
reaches 1/alpha with probability alpha at most, however often one looks and whenever one stops.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from evolve.governance.audit_log import AuditEvent
from evolve.governance.config import DemotionConfig
from memory.types import Record, content_hash
from mesh.types import Deliberation
from serving.outcomes import LateOutcome

BETS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 0.95)
"""Shares of what may be staked at most; the evidence is their mean, so that no one has to be chosen beforehand."""


class LiveRecord(Record):
    """What live outcomes say of one specialist."""

    num_right: int
    num_wrong: int
    claimed: float = Field(description="accuracy that was promised, see `claims`, less the margin; 0..1")
    evidence_worse: float = Field(description="largest e-value so far against 'at least as good as claimed'")
    evidence_good: float = Field(description="largest e-value so far against 'worse than claimed'")
    state: Literal["provisional", "confirmed", "demoted"]
    reason: str

    @property
    def num_judged(self) -> int:
        """Tasks with a label."""
        return self.num_right + self.num_wrong


def e_value(num_right: int, num_wrong: int, share: float, *, against_better: bool) -> float:
    """Evidence against "right with probability at least `share`" (or, with `against_better`, "at most `share`").

    1 without outcomes; the larger, the less credible. Raises ValueError for a share outside [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"expected a share between 0 and 1, got {share}")
    if against_better:  # the same bet, with right and wrong exchanged
        num_right, num_wrong, share = num_wrong, num_right, 1.0 - share
    if share == 0.0:
        return 1.0  # nothing is worse than never right
    logs = []
    for stake in BETS:
        # A wrong answer multiplies by 1 + bet * share, a right one by 1 - bet * (1 - share); at most all is staked.
        bet = stake / (1.0 - share) if share < 1.0 else math.inf
        if math.isinf(bet):
            logs.append(math.inf if num_wrong else 0.0)
        else:
            logs.append(num_wrong * math.log1p(bet * share) + num_right * math.log1p(-stake))
    top = max(logs)
    if math.isinf(top):
        return math.inf
    return math.exp(top) * math.fsum(math.exp(value - top) for value in logs) / len(logs)


def judge_live(outcomes: Sequence[bool], claimed: float, config: DemotionConfig) -> LiveRecord:
    """Where a specialist stands after these outcomes, oldest first.

    Args:
        outcomes: was it right, one for each task.
        claimed: its accuracy on items that it was not chosen by, since the winner of several candidates looks better
            than it is on others; take the lower end of its interval.
    """
    share = max(0.0, claimed - config.margin)
    bar = 1.0 / config.alpha
    worse = good = 1.0
    state: Literal["provisional", "confirmed", "demoted"] = "provisional"
    num_right = num_wrong = 0
    for number, right in enumerate(outcomes, start=1):
        num_right, num_wrong = num_right + right, num_wrong + (not right)
        worse = max(worse, e_value(num_right, num_wrong, share, against_better=False))
        good = max(good, e_value(num_right, num_wrong, share, against_better=True))
        if number >= config.min_outcomes and state == "provisional":
            # What was decided first stays decided: a later streak is another question.
            state = "demoted" if worse >= bar else "confirmed" if good >= bar else state
    facts = f"{num_right} of {num_right + num_wrong} live answers right, at least {share:.0%} expected"
    reasons = {
        "demoted": f"{facts}: shown to be worse (evidence {worse:.3g} against {bar:g})",
        "confirmed": f"{facts}: shown to be as good as that (evidence {good:.3g} against {bar:g})",
        "provisional": f"{facts}: too little to tell (evidence {worse:.3g} and {good:.3g} against {bar:g})",
    }
    return LiveRecord(
        num_right=num_right,
        num_wrong=num_wrong,
        claimed=share,
        evidence_worse=worse,
        evidence_good=good,
        state=state,
        reason=reasons[state],
    )


def live_answers(
    late: Iterable[LateOutcome], said: dict[tuple[str, str], str | None], config: DemotionConfig
) -> list[bool]:
    """Was the specialist right, one entry a task in the order of the labels.

    Args:
        late: outcomes that were learned later, see `serving.outcomes`.
        said: (deliberation, task) to the first answer that the specialist gave on its own; None: it abstained.
    """
    judged: dict[tuple[str, str], dict[str | None, bool]] = {}
    for one in late:
        evidence = one.outcome.evidence
        if evidence.verdict == "unknown" or (config.reporters and evidence.verifier not in config.reporters):
            continue
        judged.setdefault((one.deliberation, one.outcome.task_id), {})[one.outcome.answer] = one.outcome.correct
    found: dict[str, bool] = {}
    for key, answers in judged.items():
        if key not in said or key[1] in found:
            continue  # the same task asked twice is one outcome
        own = said[key]
        if own is None:
            found[key[1]] = False
        elif own in answers:
            found[key[1]] = answers[own]
    return list(found.values())


def said_by(traces: Iterable[Deliberation], adapter: str) -> dict[tuple[str, str], str | None]:
    """(deliberation, task) to the first answer that the adapter's member gave before it read anybody."""
    return {
        (trace.id, part.task.id): own.answer
        for trace in traces
        for _, part in trace.walk()
        for own in reversed(part.round_of(0))
        if own.adapter == adapter
    }


def demotion_event(name: str, generation: int, adapter: str, live: LiveRecord, at: float) -> AuditEvent | None:
    """What the log has to hold; None while nothing is decided."""
    if live.state == "provisional":
        return None
    return AuditEvent(
        kind=live.state,
        subject=name,
        generation=generation,
        adapter=adapter,
        by="live outcomes",
        reason=live.reason,
        evidence=content_hash(live),
        at=at,
    )
