"""What a report says of memory: what is held and how far it is trusted, what recalling it was worth, one story."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from memory import rows
from memory.database import fetch
from memory.store import Memory
from memory.story import Story, most_connected, story
from memory.types import Level, Record, Standing
from memory.utility import Tally, utility

NUM_BINS = 10
MAX_STORY_NODES = 30

STATES = ("works", "fails", "candidate", "observed", "retired")
"""verified; verified as failing; and the levels below, in the order in which they are shown."""


class KindRow(Record):
    """How many experiences of one kind are held in each of `STATES`."""

    kind: str
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Of all states."""
        return sum(self.counts)


class WorthRow(Record):
    """Judged episodes that were shown recollections against those from which they were held out."""

    about: str
    num_with: int
    right_with: int
    num_without: int
    right_without: int
    gain: float | None = Field(description="with minus without, shrunk towards none; None: one side has no episode")
    low: float = Field(default=0.0, description="98% interval")
    high: float = 0.0


class Holdings(Record):
    """A memory, or some namespaces of it, as a report shows it."""

    kinds: tuple[KindRow, ...] = ()
    trust: tuple[tuple[int, ...], ...] = Field(
        default=(), description="by tenth of trust from 0: checked experiences that work, that fail, that are undecided"
    )
    worth: tuple[WorthRow, ...] = ()
    story: Story | None = Field(default=None, description="around what was used most, or has most edges")


def holdings_of(memory: Memory, namespaces: Sequence[str]) -> Holdings:
    """Read it all. Raises ValueError for a namespace that names no team."""
    with memory.reading() as connection:
        numbers = json.dumps(rows.namespaces_like(connection, namespaces))
        sql = (
            "SELECT kind, standing FROM entries JOIN standings ON entry = seq"
            " WHERE standings.namespace IN (SELECT value FROM json_each(?)) ORDER BY seq"
        )
        counts: Counter[tuple[str, str]] = Counter()
        trust: Counter[tuple[int, int]] = Counter()
        for kind, text in connection.execute(sql, (numbers,)):
            standing = Standing.model_validate_json(text)
            state = state_of(standing)
            counts[kind, state] += 1
            if (standing.num_passed or standing.num_failed) and state != "retired":
                trust[min(NUM_BINS - 1, int(standing.trust * NUM_BINS)), min(2, STATES.index(state))] += 1
        worth = _worth(fetch(connection, _WORTH, (numbers,)))
    id = most_connected(memory, namespaces)
    kinds = sorted({kind for kind, _ in counts}, key=lambda kind: (-sum(counts[kind, state] for state in STATES), kind))
    return Holdings(
        kinds=tuple(KindRow(kind=kind, counts=tuple(counts[kind, state] for state in STATES)) for kind in kinds),
        trust=tuple(tuple(trust[place, part] for part in range(3)) for place in range(NUM_BINS)) if trust else (),
        worth=worth,
        story=None if id is None else story(memory, id, MAX_STORY_NODES),
    )


def state_of(standing: Standing) -> str:
    """Which of `STATES` a standing comes to."""
    if standing.level is Level.VERIFIED:
        return "fails" if standing.warns else "works"
    return standing.level.value


_WORTH = (
    "SELECT same, shown, sum(success), count(*) FROM (SELECT DISTINCT episode, same, shown, success FROM uses"
    " JOIN standings USING (entry) WHERE voided_by IS NULL AND namespace IN (SELECT value FROM json_each(?)))"
    " GROUP BY same, shown"
)


def _worth(found: Sequence[tuple[int, int, int, int]]) -> tuple[WorthRow, ...]:
    tallies = {(same, shown): Tally(trials, right) for same, shown, right, trials in found}
    rows_: list[WorthRow] = []
    for same, about in ((1, "the very same problem"), (0, "similar problems")):
        with_, without = tallies.get((same, 1), Tally()), tallies.get((same, 0), Tally())
        if not with_.num and not without.num:
            continue
        is_measured = with_.num > 0 and without.num > 0
        difference = utility(with_, without)
        rows_.append(
            WorthRow(
                about=about,
                num_with=with_.num,
                right_with=with_.num_success,
                num_without=without.num,
                right_without=without.num_success,
                gain=difference.mean if is_measured else None,
                low=difference.lower if is_measured else 0.0,
                high=difference.upper if is_measured else 0.0,
            )
        )
    return tuple(rows_)
