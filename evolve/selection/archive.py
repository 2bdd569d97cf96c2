"""Who survives where: the elites of each niche, kept for what they add to the others. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from memory.types import Record, content_hash

NEIGHBOURS = 3
"""Fitter ones to which the distance is averaged in dominated novelty search."""

NicheRole = Literal["proposer", "critic", "synthesiser"]


class Niche(Record):
    """A place that specialists compete for."""

    task_type: str
    base: str = Field(description="engine whose base model the adapter is for")
    role: NicheRole = "proposer"

    @property
    def trial(self) -> str:
        """What problems its members are measured on: first answers to a task type, or councils on it."""
        return self.task_type if self.role == "proposer" else f"{self.role} on {self.task_type}"

    def __str__(self) -> str:
        return f"{self.task_type} / {self.base} / {self.role}"


class Elite(Record):
    """A specialist in its niche, with what it was measured to do on the problems of one bank."""

    name: str
    adapter: str | None = Field(default=None, description="content hash; None: the base itself")
    niche: Niche
    generation: int = Field(ge=0, description="the generation it was bred in")
    measured: int = Field(ge=0, description="the generation in which it was measured last")
    bank: str = Field(description="`bank_digest` of the problems that `scores` are about")
    scores: tuple[float, ...] = Field(min_length=1, description="share of right samples, problem by problem")
    num_samples: int = Field(ge=1, description="samples a problem behind the scores, all measurements together")
    flattery: float = Field(
        default=0.0,
        description="gain over its engine's seats on these problems, by which it was chosen, less the gain on problems "
        "that nothing was chosen by; 0 where it was not measured on such",
    )

    @model_validator(mode="after")
    def _shares(self) -> Elite:
        if not all(0.0 <= score <= 1.0 for score in self.scores):
            raise ValueError(f"elite {self.name}: expected scores between 0 and 1, got {self.scores}")
        return self

    @property
    def accuracy(self) -> float:
        """Mean score, less what having been chosen by it adds."""
        return min(1.0, max(0.0, sum(self.scores) / len(self.scores) - self.flattery))


class Standing(Record):
    """How an elite stands beside the others of its niche."""

    name: str
    niche: Niche
    accuracy: float
    shared_fitness: float = Field(description="problems solved, each shared among its solvers (M2N2)")
    novelty: float | None = Field(
        description="difficulty-weighted share of problems that it solves and fitter ones miss, which decides; None: "
        "nobody is fitter"
    )
    is_kept: bool


class Archive(Record):
    """The elites of all niches. `stale` ones are kept but not compared with others until they are measured again."""

    elites: tuple[Elite, ...] = ()

    def of(self, niche: Niche) -> tuple[Elite, ...]:
        """The elites of a niche, as they were kept: best first."""
        return tuple(elite for elite in self.elites if elite.niche == niche)

    @property
    def niches(self) -> tuple[Niche, ...]:
        """Every niche that holds somebody, in order of appearance."""
        return tuple(dict.fromkeys(elite.niche for elite in self.elites))

    def stale(self, banks: Mapping[str, str]) -> tuple[Elite, ...]:
        """Elites whose problems have changed since they were measured; `banks`: `Niche.trial` to today's bank."""
        return tuple(elite for elite in self.elites if banks.get(elite.niche.trial) not in (None, elite.bank))


class Update(Record):
    """An archive after a generation, and why it holds whom."""

    archive: Archive
    standings: tuple[Standing, ...] = Field(description="every elite that was compared, kept or not")
    stale: tuple[str, ...] = Field(description="names kept without comparison: measure them again")


def bank_digest(keys: Sequence[str]) -> str:
    """Name of a set of problems in this order, from their canonical keys."""
    return content_hash(list(keys))


def update(
    archive: Archive, measured: Sequence[Elite], banks: Mapping[str, str], *, per_niche: int = 4, seed: int = 0
) -> Update:
    """The archive with these measurements; each niche keeps `per_niche` by dominated novelty search.

    A measurement on the same bank is averaged with the earlier one by samples, so that one lucky draw does not hold a
    place for ever; one on a new bank replaces it. Of those that were not measured on today's bank, each niche keeps as
    many beside them, uncompared: the ones measured last.

    Args:
        archive: what there was.
        measured: new specialists and elites measured again.
        banks: `Niche.trial` to the digest of today's problems.
        per_niche: places in a niche, and as many for stale elites.
        seed: breaks ties.

    Raises:
        ValueError: a measurement on problems other than today's, or of another number of problems than its rivals'.
    """
    for elite in measured:
        if banks.get(elite.niche.trial) != elite.bank:
            raise ValueError(
                f"elite {elite.name}: expected a measurement on today's problems of {elite.niche.trial} "
                f"({banks.get(elite.niche.trial)}), got one on {elite.bank}"
            )
    everyone = {(elite.niche, elite.name): elite for elite in archive.elites}
    for elite in measured:
        key = (elite.niche, elite.name)
        everyone[key] = _pooled(everyone.get(key), elite)
    waiting = {(elite.niche, elite.name) for elite in Archive(elites=tuple(everyone.values())).stale(banks)}
    kept, standings = [], []
    for niche in dict.fromkeys(niche for niche, _ in everyone):
        here = [elite for (place, _), elite in everyone.items() if place == niche]
        fresh = [elite for elite in here if (niche, elite.name) not in waiting]
        ranked = rank(fresh, seed=seed)
        standings += [s.model_copy(update={"is_kept": place < per_niche}) for place, s in enumerate(ranked)]
        by_name = {elite.name: elite for elite in here}
        kept += [by_name[standing.name] for standing in ranked[:per_niche]]
        stale = [elite for elite in here if (niche, elite.name) in waiting]
        kept += sorted(stale, key=lambda one: (-one.measured, -one.accuracy, one.name))[:per_niche]
    return Update(
        archive=Archive(elites=tuple(kept)),
        standings=tuple(standings),
        stale=tuple(sorted({elite.name for elite in kept if (elite.niche, elite.name) in waiting})),
    )


def rank(elites: Sequence[Elite], *, seed: int = 0) -> list[Standing]:
    """The elites of one niche, measured on one bank, best first: what they solve beyond fitter ones, then fitness.

    Of copies the first by `seed` and name is the one that counts, in whichever order they are given.
    """
    if not elites:
        return []
    elites = sorted(elites, key=lambda elite: content_hash([seed, elite.name]))
    table = score_table({elite.name: elite.scores for elite in elites})
    shared = shared_fitness(table)
    novelty = dominated_novelty(shared, solves_beyond(table))
    standings = [
        Standing(
            name=elite.name,
            niche=elite.niche,
            accuracy=elite.accuracy,
            shared_fitness=float(shared[index]),
            novelty=None if np.isinf(novelty[index]) else float(novelty[index]),
            is_kept=True,
        )
        for index, elite in enumerate(elites)
    ]
    order = sorted(range(len(elites)), key=lambda i: (-novelty[i], -round(float(shared[i]), 9), i))
    return [standings[index] for index in order]


def score_table(scores: Mapping[str, Sequence[float]]) -> np.ndarray:
    """(members, problems) scores. Raises ValueError where the numbers of problems differ."""
    lengths = {len(row) for row in scores.values()}
    if len(lengths) != 1:
        raise ValueError(f"expected scores of the same problems, got lengths {sorted(lengths)}")
    return np.asarray(list(scores.values()), dtype=float)


def shared_fitness(table: np.ndarray) -> np.ndarray:
    """(members,) sum over problems of s_it / sum_j s_jt: each problem is one unit, shared by score (M2N2, 2508.16204).

    A problem that nobody solves gives nobody anything. The values add up to the number of problems somebody solves.
    """
    total = table.sum(axis=0)
    return np.asarray((table / np.where(total > 0.0, total, 1.0)).sum(axis=1))


def solves_beyond(table: np.ndarray) -> np.ndarray:
    """(members, members) difficulty-weighted share of problems that the row's member solves and the column's misses.

    Σ_t d_t · max(0, s_it − s_jt) / Σ_t d_t, where the difficulty d_t is 1 less the members' mean score (after AC/DC):
    failing at what others solve is no novelty, and solving what is easy hardly any. All 0 where everybody solves all.
    """
    difficulty = 1.0 - table.mean(axis=0)
    if difficulty.sum() <= 0.0:
        return np.zeros((table.shape[0], table.shape[0]))
    more = np.maximum(0.0, table[:, None, :] - table[None, :, :])
    return np.asarray(more @ difficulty / difficulty.sum())


def dominated_novelty(fitness: np.ndarray, beyond: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """(members,) mean of what a member solves beyond the nearest `neighbours` fitter ones; infinite: nobody is fitter.

    Dominated novelty search (Bahlous-Boldi et al. 2025) with unique solves for distances: the worse is kept only where
    it solves what the better miss. Of those that are equally fit the earlier one counts as fitter where the later one
    solves nothing beyond it, so that copies do not hold two places.

    Args:
        fitness: (members,).
        beyond: (members, members), see `solves_beyond`.
    """
    values = np.full(fitness.size, np.inf)
    for member in range(fitness.size):
        equal = np.isclose(fitness, fitness[member], rtol=0.0, atol=1e-9)
        earlier_copy = equal & (beyond[member] <= 1e-9) & (np.arange(fitness.size) < member)
        fitter = ((fitness > fitness[member]) & ~equal) | earlier_copy
        if fitter.any():
            values[member] = float(np.sort(beyond[member][fitter])[:neighbours].mean())
    return values


def preference(archive: Archive) -> tuple[str, ...]:
    """Adapters in the archive, best first, without comparing what was measured on different problems.

    Those on the newest problems come first. Of these, whoever is furthest above the mean of its niche on the same bank,
    in the niche where that is most: easy task types lend no advantage.
    """
    newest = _newest(archive)
    fields: dict[tuple[Niche, str], list[float]] = {}
    for elite in archive.elites:
        fields.setdefault((elite.niche, elite.bank), []).append(elite.accuracy)
    best: dict[str, tuple[int, float]] = {}
    for elite in archive.elites:
        if elite.adapter is not None:
            field = fields[elite.niche, elite.bank]
            found = (newest[elite.bank], round(elite.accuracy - sum(field) / len(field), 9))
            best[elite.adapter] = max(best.get(elite.adapter, found), found)
    return tuple(sorted(best, key=lambda adapter: (-best[adapter][0], -best[adapter][1], adapter)))


def solved(archive: Archive) -> dict[str, dict[str, float]]:
    """Adapter to task type to accuracy, of elites measured on the newest problems of that type: all comparable."""
    newest = _newest(archive)
    latest: dict[str, int] = {}
    for elite in archive.elites:
        latest[elite.niche.trial] = max(latest.get(elite.niche.trial, 0), newest[elite.bank])
    found: dict[str, dict[str, float]] = {}
    for elite in archive.elites:
        if elite.adapter is not None and newest[elite.bank] == latest[elite.niche.trial]:
            found.setdefault(elite.adapter, {})[elite.niche.task_type] = elite.accuracy
    return found


def heat_map(archive: Archive) -> dict[Niche, Elite]:
    """The best elite of each niche on the newest problems that one of its elites was measured on, for the report."""
    newest = _newest(archive)
    return {
        niche: max(archive.of(niche), key=lambda elite: (newest[elite.bank], elite.accuracy))
        for niche in archive.niches
    }


def _newest(archive: Archive) -> dict[str, int]:
    """Bank to the last generation in which an elite was measured on it; a file's bank stays the same."""
    found: dict[str, int] = {}
    for elite in archive.elites:
        found[elite.bank] = max(found.get(elite.bank, 0), elite.measured)
    return found


def _pooled(before: Elite | None, now: Elite) -> Elite:
    if before is None or before.bank != now.bank:
        return now
    total = before.num_samples + now.num_samples
    scores = [
        (old * before.num_samples + new * now.num_samples) / total
        for old, new in zip(before.scores, now.scores, strict=True)
    ]
    return now.model_copy(
        update={
            "scores": tuple(scores),
            "num_samples": total,
            "generation": min(before.generation, now.generation),
            "flattery": (before.flattery * before.num_samples + now.flattery * now.num_samples) / total,
        }
    )
