"""Do live outcomes bear out what was promised of a specialist? A test that may be looked at after every label. Pure.

The evidence is a betting e-process (Waudby-Smith and Ramdas 2024, Estimating means of bounded random variables by
betting): under "at least as good as claimed" its expectation never exceeds 1 at any time, so by Ville's inequality it
reaches 1/alpha with probability alpha at most, however often one looks and whenever one stops. Each label is a bet
against what was claimed for tasks of its type; a share pooled over types would change with every later label.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from pydantic import Field

from evolve.governance.audit_log import AuditEvent
from evolve.governance.config import DemotionConfig
from memory.types import Record, content_hash
from mesh.types import Deliberation, Proposal
from serving.outcomes import LateOutcome

BETS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 0.95)
"""Shares of what may be staked at most; the evidence is their mean, so that no one has to be chosen beforehand."""

ASKED_FIRST = {"escalate": 2, "switch": 1}
"""Members that a protocol asks of every task, where it does not ask all of them."""


class LiveRecord(Record):
    """What live outcomes say of one specialist."""

    num_right: int
    num_wrong: int
    num_unknown: int = Field(default=0, description="labelled tasks whose label does not tell about its own answer")
    claimed: float = Field(description="mean accuracy that was promised for these tasks, less the margin; 0..1")
    evidence_worse: float = Field(description="largest e-value so far against 'at least as good as claimed'")
    evidence_good: float = Field(description="largest e-value so far against 'worse than claimed'")
    state: Literal["provisional", "confirmed", "demoted"]
    reason: str

    @property
    def num_judged(self) -> int:
        """Tasks with a label."""
        return self.num_right + self.num_wrong + self.num_unknown


class LiveOutcome(Record):
    """One live task with a label, as it counts for one specialist."""

    right: bool | None = Field(description="None: the label does not say whether its own answer was right")
    promised: float = Field(ge=0.0, le=1.0, description="accuracy that was promised for tasks of its type")


def e_values(outcomes: Iterable[tuple[bool, float]], *, against_better: bool) -> Iterator[float]:
    """After each (right, share): the evidence so far against "every one was right with probability `share` or more".

    With `against_better`: against "`share` or less". 1 without outcomes; the larger, the less credible. Each outcome is
    a bet against its own share, so tasks of several kinds may come in any order.

    Raises:
        ValueError: a share outside [0, 1].
    """
    logs = [0.0] * len(BETS)
    for right, share in outcomes:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"expected a share between 0 and 1, got {share}")
        if against_better:  # the same bet, with right and wrong exchanged
            right, share = not right, 1.0 - share
        for index, stake in enumerate(BETS):
            logs[index] += _log_gain(right, share, stake)
        top = max(logs)
        yield math.inf if math.isinf(top) else math.exp(top) * math.fsum(math.exp(v - top) for v in logs) / len(logs)


def _log_gain(right: bool, share: float, stake: float) -> float:
    """What a bet on "wrong" brings: 1 + bet * share for a wrong answer, 1 - bet * (1 - share) for a right one.

    The bet is `stake` / (1 - share), so that at most the stake is lost.
    """
    if share == 0.0:
        return 0.0  # nothing is worse than never right
    if right:
        return math.log1p(-stake)
    return math.log1p(stake * share / (1.0 - share)) if share < 1.0 else math.inf


def judge_live(outcomes: Sequence[LiveOutcome], config: DemotionConfig) -> LiveRecord:
    """Where a specialist stands after these outcomes, oldest first.

    An outcome of which nobody knows counts as right where it could speak against the specialist, and as wrong where it
    could speak for it: what labels leave out can neither take a seat nor secure it.

    Args:
        outcomes: one for each task. What was promised for its type is the accuracy on items that the specialist was not
            chosen by, since the winner of several candidates looks better than it is on others; take the lower end of
            its interval.
    """
    bar, shares = 1.0 / config.alpha, [max(0.0, one.promised - config.margin) for one in outcomes]
    kindly = [(one.right is not False, share) for one, share in zip(outcomes, shares, strict=True)]
    strictly = [(one.right is True, share) for one, share in zip(outcomes, shares, strict=True)]
    worse = good = 1.0
    state: Literal["provisional", "confirmed", "demoted"] = "provisional"
    evidence = zip(e_values(kindly, against_better=False), e_values(strictly, against_better=True), strict=True)
    for number, (against, in_favour) in enumerate(evidence, start=1):
        worse, good = max(worse, against), max(good, in_favour)
        if number >= config.min_outcomes and state == "provisional":
            # What was decided first stays decided: a later streak is another question.
            state = "demoted" if worse >= bar else "confirmed" if good >= bar else state
    num_right, num_wrong = (sum(one.right is right for one in outcomes) for right in (True, False))
    num_unknown = len(outcomes) - num_right - num_wrong
    expected = math.fsum(shares) / max(1, len(shares))
    facts = f"{num_right} of {num_right + num_wrong} live answers right, at least {expected:.0%} expected"
    facts += f" ({num_unknown} more of which the labels do not tell)" if num_unknown else ""
    reasons = {
        "demoted": f"{facts}: shown to be worse (evidence {worse:.3g} against {bar:g})",
        "confirmed": f"{facts}: shown to be as good as that (evidence {good:.3g} against {bar:g})",
        "provisional": f"{facts}: too little to tell (evidence {worse:.3g} and {good:.3g} against {bar:g})",
    }
    return LiveRecord(
        num_right=num_right,
        num_wrong=num_wrong,
        num_unknown=num_unknown,
        claimed=expected,
        evidence_worse=worse,
        evidence_good=good,
        state=state,
        reason=reasons[state],
    )


def live_answers(
    late: Iterable[LateOutcome], said: dict[tuple[str, str], str | None], config: DemotionConfig
) -> list[bool | None]:
    """Was the specialist right, one entry a task in the order of the labels; None: its label does not tell.

    "The verdict is wrong" says nothing of a different answer. Left out, such tasks would leave those where the
    specialist was wrong with the others, and none where it was right against them.

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
    found: dict[str, bool | None] = {}
    for key, answers in judged.items():
        if key not in said or key[1] in found:
            continue  # the same task asked twice is one outcome
        own = said[key]
        found[key[1]] = False if own is None else answers.get(own)
    return list(found.values())


def said_by(traces: Iterable[Deliberation], adapter: str) -> dict[tuple[str, str], str | None]:
    """(deliberation, task) to the first answer that the adapter's member gave before it read anybody.

    Only where it was asked whatever the others said: `escalate` asks later members, and `switch` the next one, on what
    the first ones could not settle, and on such tasks nobody does as well as on all.
    """
    return {
        (trace.id, part.task.id): own.answer
        for trace in traces
        for _, part in trace.walk()
        for own in reversed(_asked_in_any_case(part))
        if own.adapter == adapter
    }


def _asked_in_any_case(part: Deliberation) -> list[Proposal]:
    """First answers of the members that are asked before anything is known of the task."""
    own = part.round_of(0)
    members = list(dict.fromkeys(one.member for one in own))[: ASKED_FIRST.get(part.protocol)]
    return [one for one in own if one.member in members]


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
