"""A stream of problems that come back, changed or not, at controlled distances; and what its episodes add up to; pure.

A problem is seen once and comes back once: identical, reworded, or as a look-alike that asks something else. Siblings
are problems of the same families that were never seen. scripts/bench_memory_use.py holds the stream with real models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from evolve.problems.types import Problem, ReasoningGymVerifier
from memory.types import Record, content_hash


class Kind(StrEnum):
    """How an episode stands to what was seen before."""

    FIRST = "first"
    IDENTICAL = "identical"
    REWORDED = "reworded"
    LOOKALIKE = "look-alike"
    SIBLING = "sibling"


RETURNING = (Kind.IDENTICAL, Kind.REWORDED, Kind.LOOKALIKE)
BANDS = {"near": (1, 4), "mid": (8, 16), "far": (32, 96)}
"""Episodes between first sight and return, both ends included."""
WORDINGS = ("polite", "reordered", "other words")
CHANGES = ("question", "operand")
"""Of a look-alike: another question about the same data, or the same question about other data."""


class Slot(NamedTuple):
    """One place of the order: the `item` that is met, for the first time, again, or as a filler (a sibling)."""

    what: str
    item: int


class Visit(Record):
    """One episode of the stream."""

    place: int
    kind: Kind
    problem: Problem
    first: int | None = None
    """Place of the first sight; None: there was none."""
    band: str = ""
    detail: str = ""
    """Of what sort the rewording or the change is."""


def ordered(windows: Sequence[tuple[int, int]], num_fillers: int, seed: int) -> list[Slot]:
    """An order in which every item comes first and again within its window (fewest, most places later).

    Orders are drawn until one holds; fillers stand anywhere. Raises ValueError where a thousand draws found none.
    """
    rng = random.Random(seed)
    for _ in range(1000):
        found = _attempt(windows, num_fillers, rng)
        if found is not None:
            return found
    raise ValueError(f"expected an order within the windows, found none of {len(windows)} items; add fillers")


def _attempt(windows: Sequence[tuple[int, int]], num_fillers: int, rng: random.Random) -> list[Slot] | None:
    # What comes back late must be seen early, or its return would find nobody to stand between.
    new = [(rng.random() * (0.55 if low >= 32 else 0.9), Slot("first", i)) for i, (low, _) in enumerate(windows)]
    new += [(rng.random(), Slot("filler", j)) for j in range(num_fillers)]
    waiting = [slot for _, slot in sorted(new, reverse=True)]
    seen: dict[int, int] = {}
    release: dict[int, int] = {}
    order: list[Slot] = []
    while waiting or release:
        now = len(order)
        due = [i for i in release if release[i] <= now] or ([] if waiting else list(release))
        if due:
            item = min(due, key=lambda i: seen[i] + windows[i][1])
            if not windows[item][0] <= now - seen[item] <= windows[item][1]:
                return None
            del release[item]
            order.append(Slot("again", item))
            continue
        slot = waiting.pop()
        if slot.what == "first":
            low, high = windows[slot.item]
            seen[slot.item], release[slot.item] = now, now + rng.randint(low, low + (high - low) * 2 // 3)
        order.append(slot)
    return order


def stream(problems: Sequence[Problem], per_cell: int, num_siblings: int, seed: int) -> list[Visit]:
    """The episodes, in order: `per_cell` returns of every kind in every band for each family, and siblings.

    `problems`: at least 9 * per_cell + num_siblings of each family. The sort of rewording and of change take turns.

    Raises:
        ValueError: too few problems.
    """
    families = sorted({problem.task.type for problem in problems})
    returns: list[tuple[Problem, Kind, str, str]] = []
    siblings: list[Problem] = []
    for family in families:
        own = [problem for problem in problems if problem.task.type == family]
        needed = len(RETURNING) * len(BANDS) * per_cell + num_siblings
        if len(own) < needed:
            raise ValueError(f"{family}: expected {needed} problems, got {len(own)}; draw more")
        cells = [(kind, band) for kind in RETURNING for band in BANDS for _ in range(per_cell)]
        counts = dict.fromkeys(RETURNING, 0)
        for problem, (kind, band) in zip(own, cells, strict=False):
            returns.append((problem, kind, band, _detail(kind, counts[kind])))
            counts[kind] += 1
        siblings += own[len(cells) : needed]
    order = ordered([BANDS[band] for _, _, band, _ in returns], len(siblings), seed)
    rng = random.Random(seed + 1)
    first_at: dict[int, int] = {}
    visits: list[Visit] = []
    for place, slot in enumerate(order):
        if slot.what == "filler":
            visits.append(Visit(place=place, kind=Kind.SIBLING, problem=siblings[slot.item]))
            continue
        problem, kind, band, detail = returns[slot.item]
        if slot.what == "first":
            first_at[slot.item] = place
            visits.append(Visit(place=place, kind=Kind.FIRST, problem=problem, band=band, detail=detail))
            continue
        back = changed(problem, kind, detail, rng, problems)
        first = first_at[slot.item]
        visits.append(Visit(place=place, kind=kind, problem=back, first=first, band=band, detail=detail))
    return visits


def _detail(kind: Kind, number: int) -> str:
    sorts = {Kind.REWORDED: WORDINGS, Kind.LOOKALIKE: CHANGES}.get(kind, ("",))
    return sorts[number % len(sorts)]


def changed(problem: Problem, kind: Kind, detail: str, rng: random.Random, others: Sequence[Problem]) -> Problem:
    """The problem as it comes back. `others` lend a name or a word to a look-alike."""
    if kind is Kind.REWORDED:
        return reworded(problem, detail)
    if kind is Kind.LOOKALIKE:
        return lookalike(problem, detail, rng, others)
    return problem


def reworded(problem: Problem, wording: str) -> Problem:
    """The same problem in other words, with its particulars as they are; the answer does not change.

    Raises:
        ValueError: a family or a wording that there is no template for.
    """
    family, entry = problem.task.type, _entry(problem)
    if family not in _REWORD or wording not in WORDINGS:
        raise ValueError(f"expected a family of {sorted(_REWORD)} and a wording of {WORDINGS}, got {family}, {wording}")
    question = _REWORD[family](problem, wording)
    return _with(problem, {**entry, "question": question})


def _reword_needle(problem: Problem, wording: str) -> str:
    statements, asked = _needle_parts(problem)
    predicate = asked.removeprefix("Who ").partition("?")[0]
    if wording == "polite":
        return (
            f"Hello! Please read this: {statements}\nCould you tell me who {predicate}? Reply only with a name, please."
        )
    if wording == "reordered":
        return f"{asked}\n{statements}"
    return f"Read these statements. {statements}\nWhich person {predicate}? Answer with the name alone."


def _reword_filtering(problem: Problem, wording: str) -> str:
    data = _entry(problem)["metadata"]
    keep, size = data["operation"].split("_")
    numbers, value = data["original_numbers"], data["filter_value"]
    if wording == "polite":
        return (
            f"Hi, could you please {keep} all numbers {size} than {value} in this list: {numbers}\n"
            "Return the new list in the same format, thank you."
        )
    if wording == "reordered":
        return (
            f"In this list: {numbers}\n{keep.capitalize()} all numbers {size} than {value}. "
            "Return the new list in the same format."
        )
    verb = {"keep": "retain only", "remove": "throw out"}[keep]
    compared = {"larger": "greater than", "smaller": "below"}[size]
    return f"From the list {numbers} {verb} the values {compared} {value}.\nGive what is left in the same format."


def _reword_reversal(problem: Problem, wording: str) -> str:
    words = ", ".join(_entry(problem)["metadata"]["words"])
    form = "Provide your answer as a comma-separated list of words with a space after the comma."
    if wording == "polite":
        return f"Please solve the following problem.\n\n{form}\n\nCould you kindly reverse this list of words: {words}"
    if wording == "reordered":
        return f"Reverse this list of words: {words}\n\n{form}"
    return f"Write these words in the opposite order: {words}\n\nPut a comma and a space between them."


_REWORD: dict[str, Callable[[Problem, str], str]] = {
    "needle_haystack": _reword_needle,
    "number_filtering": _reword_filtering,
    "word_sequence_reversal": _reword_reversal,
}


def lookalike(problem: Problem, change: str, rng: random.Random, others: Sequence[Problem]) -> Problem:
    """A problem that reads like this one but for one particular, and has another answer.

    "question" asks for another person, filters by another number, or lists the words in another order; "operand"
    replaces the name, number or word that the answer rests on.

    Raises:
        ValueError: a family there is no rule for, or a problem that has no such look-alike.
    """
    family = problem.task.type
    if family not in _RESEMBLE or change not in CHANGES:
        raise ValueError(f"expected a family of {sorted(_RESEMBLE)} and a change of {CHANGES}, got {family}, {change}")
    for _ in range(200):
        other = rng.choice([one for one in others if one.task.type == family and one.key != problem.key])
        entry = _RESEMBLE[family](problem, change, rng, other)
        if entry is not None and entry["answer"] != problem.reference:
            return _with(problem, entry)
    raise ValueError(f"{family}: no look-alike of {problem.task.question!r} has another answer")


def _like_needle(problem: Problem, change: str, rng: random.Random, other: Problem) -> dict[str, Any] | None:
    statements, asked = _needle_parts(problem)
    people = dict(one.split(" ", 1) for one in statements.rstrip(". ").split(". "))
    if change == "question":
        name = rng.choice(sorted(people))
        asked = f"Who {people[name]}? Reply only with a name."
    else:
        name = other.reference
        if name in people:
            return None
        statements = statements.replace(f"{problem.reference} ", f"{name} ", 1)
    entry = _entry(problem)
    return {
        **entry,
        "question": f"{statements}\n{asked}",
        "answer": name,
        "metadata": {**entry["metadata"], "question": asked},
    }


def _like_filtering(problem: Problem, change: str, rng: random.Random, other: Problem) -> dict[str, Any] | None:
    entry = _entry(problem)
    data = entry["metadata"]
    numbers, value = list(data["original_numbers"]), data["filter_value"]
    if change == "question":
        value = str(rng.randint(1, 98))
    else:
        numbers[rng.randrange(len(numbers))] = str(rng.randint(0, 99))
    keep, size = data["operation"].split("_")
    beyond = [float(n) > float(value) if size == "larger" else float(n) < float(value) for n in numbers]
    result = [n for n, is_beyond in zip(numbers, beyond, strict=True) if is_beyond == (keep == "keep")]
    if not result or len(set(numbers)) < len(numbers) or value in numbers:
        return None
    question = (
        f"{keep.capitalize()} all numbers {size} than {value} in this list: {numbers}\n"
        "Return the new list in the same format."
    )
    changes = {"original_numbers": numbers, "filter_value": value, "result": result}
    return {**entry, "question": question, "answer": str(result), "metadata": {**data, **changes}}


def _like_reversal(problem: Problem, change: str, rng: random.Random, other: Problem) -> dict[str, Any] | None:
    entry = _entry(problem)
    words = list(entry["metadata"]["words"])
    if change == "question":
        rng.shuffle(words)
    else:
        words[rng.randrange(len(words))] = rng.choice(_entry(other)["metadata"]["words"])
    if len(set(words)) < len(words):
        return None
    before, _, _ = problem.task.question.rpartition(": ")
    return {
        **entry,
        "question": f"{before}: {', '.join(words)}",
        "answer": ", ".join(reversed(words)),
        "metadata": {**entry["metadata"], "words": words},
    }


_RESEMBLE: dict[str, Callable[[Problem, str, random.Random, Problem], dict[str, Any] | None]] = {
    "needle_haystack": _like_needle,
    "number_filtering": _like_filtering,
    "word_sequence_reversal": _like_reversal,
}


def _needle_parts(problem: Problem) -> tuple[str, str]:
    """(the statements, the question that ends it)."""
    statements, _, asked = problem.task.question.rpartition("\n")
    return statements.strip(), asked


def _entry(problem: Problem) -> dict[str, Any]:
    if not isinstance(problem.verifier, ReasoningGymVerifier):
        raise ValueError(f"expected a reasoning-gym problem, got one checked by {problem.verifier.kind!r}")
    found: dict[str, Any] = json.loads(problem.verifier.entry)
    return found


def _with(problem: Problem, entry: dict[str, Any]) -> Problem:
    question = entry["question"].strip()
    key = f"{problem.task.type}|{question}|{entry['answer']}"
    task = problem.task.model_copy(update={"question": question, "id": content_hash(key)[:16]})
    text = json.dumps(entry, sort_keys=True, ensure_ascii=False)
    verifier = problem.verifier.model_copy(update={"entry": text})
    return problem.model_copy(update={"task": task, "reference": entry["answer"], "verifier": verifier, "key": key})


class Row(Record):
    """What one episode of one arm came to. Shares are of the proposals, whose number is the same in every episode."""

    arm: str
    place: int
    kind: Kind
    family: str
    band: str = ""
    detail: str = ""
    right: bool
    share_right: float
    output_tokens: int
    prompt_tokens: int
    first_right: bool | None = None
    first_share: float | None = None
    was_solved: bool | None = None
    """Whether any sample at first sight was right, so that there was something to remember."""
    repeats: bool | None = None
    """Whether the verdict is the wrong verdict of first sight again; None where that was right, or none."""
    share_repeats: float | None = None
    """Proposals that repeat any wrong answer of first sight."""
    transfers: bool | None = None
    """Of a look-alike: whether the verdict is the answer to what it resembles."""
    share_transfers: float | None = None
    same_solution: int = 0
    similar_solution: int = 0
    same_warning: int = 0
    similar_warning: int = 0
    other_note: int = 0
    withheld: int = 0
    answered: bool = False
    """Whether a solution of the very problem was shown and the verdict is what it tells."""
    share_by_member: tuple[tuple[str, float], ...] = ()


class Estimate(NamedTuple):
    """A mean or a ratio with its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


BOOTSTRAPS = 10_000


def mean_of(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean with its percentile bootstrap interval; not a number without values.

    A paired difference is the mean of differences, one a pair.
    """
    return ratio_of(values, [1.0] * len(values), seed)


def ratio_of(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Estimate:
    """Sum of `above` by sum of `below`, pairs drawn together; infinite where a draw holds nothing below."""
    if not above:
        return Estimate(float("nan"), float("nan"), float("nan"))
    tops, bottoms = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(tops), size=(BOOTSTRAPS, len(tops)))
    sums = bottoms[picks].sum(axis=1)
    drawn = np.where(sums > 0, tops[picks].sum(axis=1) / np.maximum(sums, 1e-12), np.inf)
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    total = bottoms.sum()
    return Estimate(float(tops.sum() / total) if total > 0 else float("inf"), float(low), float(high))


def paired(rows: Sequence[Row], arm: str, against: str, value: Callable[[Row], float | None]) -> list[float]:
    """`value` in `arm` minus `value` in `against`, for every place where both have one."""
    known = {row.place: value(row) for row in rows if row.arm == against}
    pairs = ((value(row), known.get(row.place)) for row in rows if row.arm == arm)
    return [one - other for one, other in pairs if one is not None and other is not None]
