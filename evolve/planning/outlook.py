"""How long a run still takes: what was planned, corrected kind by kind by what its stages really took."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from evolve.planning.span import NOTHING, Span, around, together
from evolve.progress import is_training

START = "start engines"
"""Held again by every process that drives a run, however often it has ended."""
TRUST_S, TRUST_SHARE = 30.0, 0.1
"""Planned seconds of a kind after which what it took counts as much as the plan; that share of a short plan."""


class Outlook:
    """What is left of a plan. Stages of one kind are off by one factor, which is learned from those that ran.

    The more was seen of a kind, the less is left of the spread it was planned with.
    """

    def __init__(self, planned: Mapping[str, Span], took: Mapping[str, float] | None = None) -> None:
        """`planned`: by stage, in the order in which stages come; `took`: seconds of those that ended earlier."""
        self._ahead = dict(planned)
        self._current = NOTHING
        self._kind = ""
        self._seen: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for stage, seconds in (took or {}).items():
            if stage in planned:
                self._seen[kind_of(stage)].append((_middle(planned[stage]), seconds))
                if stage != START:
                    del self._ahead[stage]
        self._is_planned = bool(planned)
        # At least a second: of a plan that has no time at all nothing can be made.
        self._trust = min(TRUST_S, max(1.0, TRUST_SHARE * math.fsum(map(_middle, planned.values()))))

    def begin(self, stage: str) -> None:
        """A stage begins. What was planned before it and has not come will not come: a run may leave stages out."""
        self._current, self._kind = NOTHING, kind_of(stage)
        if stage in self._ahead:
            for name in list(self._ahead):
                self._current = self._ahead.pop(name)
                if name == stage:
                    break

    def end(self, seconds: float, found: float = 0.0) -> None:
        """The current stage has ended and took so long; `found`: as in `left`."""
        if (planned := _middle(self._current) * (1.0 - found)) > 0.0:
            self._seen[self._kind].append((planned, seconds))
        self._current = NOTHING

    def left(self, elapsed_s: float, share: float, found: float = 0.0) -> Span | None:
        """Seconds to the end of the run; None: nothing was planned.

        Args:
            elapsed_s: since the current stage began.
            share: of the current stage that is done, 0 to 1.
            found: of it that was done already when it began, in a run that goes on; it took no time.
        """
        if not self._is_planned:
            return None
        done = _middle(self._current) * (share - found)
        # Until a unit is done nobody knows how fast they are: a slow first one is no evidence of slow others.
        now = [(done, elapsed_s)] if done > 0.0 else []
        rest = self._corrected(self._kind, _scaled(self._current, 1.0 - share), now)
        if not now:
            rest = Span(low=max(0.0, rest.low - elapsed_s), high=max(0.0, rest.high - elapsed_s))
        ahead = (
            self._corrected(kind_of(stage), span, now if kind_of(stage) == self._kind else [])
            for stage, span in self._ahead.items()
        )
        return together([rest, *ahead])

    def _corrected(self, kind: str, span: Span, now: list[tuple[float, float]]) -> Span:
        seen = [*self._seen[kind], *now]
        planned, took = (math.fsum(column) for column in zip(*seen, strict=True)) if seen else (0.0, 0.0)
        pace = (took + self._trust) / (planned + self._trust)
        doubt = self._trust / (planned + self._trust)
        return around(pace * _middle(span), _spread(span) ** doubt)


def kind_of(stage: str) -> str:
    """Stages of one kind are fast or slow together."""
    if stage == START:
        return "start"
    if is_training(stage):
        return "training"
    return "councils" if "councils" in stage or stage.endswith(" panel") else "proposals"


def _middle(span: Span) -> float:
    return math.sqrt(span.low * span.high)


def _spread(span: Span) -> float:
    return math.sqrt(span.high / span.low) if span.low else 1.0


def _scaled(span: Span, share: float) -> Span:
    return Span(low=span.low * share, high=span.high * share)
