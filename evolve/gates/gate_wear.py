"""How often the gate was held on the same items, and what that leaves of its level.

Every holding lets a little of GATE into the choice of what is tried next: reused without end, any test is passed by
chance. The level is spent over the holdings, after m - 1 of them alpha * 6 / (pi^2 m^2), which adds up to alpha over
endless holdings; or the gate is refused after a number of uses. Items that are fresh every generation never wear.
The choice is pure (`wear_of`, `level_after`); the ledger only remembers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from pydantic import Field

from evolve.problems.config import FileProblems, ProblemsConfig
from memory.ledger import Ledger, exclusive_lock
from memory.types import Record, content_hash

KIND = "gate"
WEAR = "gate-wear.jsonl"


class WearConfig(Record):
    """What a gate set that was used before still proves."""

    policy: Literal["ignore", "spend", "refuse"] = Field(
        default="spend", description="spend: a smaller level at every use; refuse: none after max_uses; ignore: neither"
    )
    max_uses: int = Field(default=8, ge=1, description="refuse: holdings of the gate on the same items")


class Holding(Record):
    """One holding of the gate."""

    run: str = Field(description="name and identity of the run; with the generation it tells holdings apart")
    generation: int = Field(ge=0)
    keys: tuple[str, ...] = Field(description="hashes of the items' canonical keys, sorted")
    num_finalists: int = Field(ge=0, description="arrangements that were tested; controls do not count")

    @property
    def name(self) -> tuple[str, int]:
        """What a holding that is done again after an interruption has in common with itself."""
        return self.run, self.generation


class GateWear(Record):
    """How worn a gate set is."""

    num_items: int
    num_used: int = Field(description="items that were in an earlier holding")
    num_holdings: int = Field(description="earlier holdings that shared an item with this set")
    num_tests: int = Field(description="arrangements tested in them")


class Level(Record):
    """The level at which a gate may be held now."""

    alpha: float | None = Field(description="None: it may not be held on these items")
    wear: GateWear
    reason: str


def holding(run: str, generation: int, keys: Iterable[str], num_finalists: int) -> Holding:
    """A holding of the gate on the items with these canonical keys."""
    return Holding(run=run, generation=generation, keys=_hashed(keys), num_finalists=num_finalists)


def wear_of(keys: Collection[str], holdings: Iterable[Holding], *, run: str = "", generation: int = -1) -> GateWear:
    """How worn the items with these canonical keys are; the holding of this very run and generation does not count."""
    mine = set(_hashed(keys))
    used: set[str] = set()
    num_holdings = num_tests = 0
    for one in holdings:
        shared = mine.intersection(one.keys)
        if shared and one.name != (run, generation):
            used |= shared
            num_holdings += 1
            num_tests += one.num_finalists
    return GateWear(num_items=len(mine), num_used=len(used), num_holdings=num_holdings, num_tests=num_tests)


def level_after(wear: GateWear, alpha: float, config: WearConfig, *, will_reuse: bool) -> Level:
    """The level of the next holding on a set that is so worn.

    `will_reuse` says that the same items are for later gates too, as a user's file's are: then the first holding
    spends its share and no more. Where every generation draws fresh items, the first and only holding has all of alpha.
    One shared item counts as a use of the whole set, which is the safe side: what is fresh costs a draw, no test.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"expected alpha between 0 and 1, got {alpha}")
    uses = wear.num_holdings
    were = "gate was" if uses == 1 else "gates were"
    held = f"{uses} earlier {were} held on {wear.num_used} of these {wear.num_items} items"
    if config.policy == "ignore" and uses:
        return Level(alpha=alpha, wear=wear, reason=f"{held}, which the configuration ignores")
    if uses == 0 and (config.policy != "spend" or not will_reuse):
        return Level(alpha=alpha, wear=wear, reason="no gate was held on these items before")
    if config.policy == "refuse":
        if uses >= config.max_uses:
            return Level(alpha=None, wear=wear, reason=f"{held}, the most is {config.max_uses}; give new tasks")
        return Level(alpha=alpha, wear=wear, reason=f"{held}, the most is {config.max_uses}")
    spent = alpha * spending(uses + 1)
    if uses == 0:
        held = "no gate was held on these items before, and others will be"
    return Level(alpha=spent, wear=wear, reason=f"{held}: the level is {spent:.2g} instead of {alpha:g}")


def levels_of_gates(
    wear: GateWear, alpha: float, config: WearConfig, *, will_reuse: bool, num_gates: int
) -> tuple[Level, ...]:
    """The levels of the next gates of a run, if a finalist goes to each of them.

    `wear` is what others have left before the first one; with `will_reuse` every gate that is held wears the next.
    """
    levels: list[Level] = []
    for _ in range(num_gates):
        levels.append(level_after(wear, alpha, config, will_reuse=will_reuse))
        if will_reuse and levels[-1].alpha is not None:
            wear = wear.model_copy(update={"num_used": wear.num_items, "num_holdings": wear.num_holdings + 1})
    return tuple(levels)


def spending(number: int) -> float:
    """Share of the level that the holding with this number, from 1, may spend; over all numbers they add up to 1.

    The first spends 61%, so a set that is used once loses little: 6 / (pi^2 number^2).
    """
    if number < 1:
        raise ValueError(f"expected a number of at least 1, got {number}")
    return 6.0 / (math.pi * number) ** 2


def run_of(name: str, identity: str) -> str:
    """What a holding says of its run.

    A name, or a directory, would let a second run there pass for the first one continued, and wear nothing.
    """
    return f"{name}:{identity}"


def wear_path(problems: ProblemsConfig, directory: Path) -> Path:
    """Beside a user's file, whose items every run on it wears; procedural items are a run's own, in `directory`."""
    if isinstance(problems, FileProblems):
        return problems.path.with_name(f"{problems.path.name}.{WEAR}")
    return directory / WEAR


class WearLedger:
    """Holdings of the gate on one set of items, by whatever run; beside a user's file or in a run's directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """All holdings so far; none where the file is not there yet. Raises LedgerError where it is damaged."""
        if not self._path.is_file():
            return ()
        return tuple(Holding.model_validate(e.payload) for e in Ledger(self._path, readonly=True).entries())

    def note(self, held: Holding) -> bool:
        """Write a holding down; False where this run's generation is already there. Call it before the gate is judged.

        Raises:
            ValueError: this run's generation is there with other items.
            memory.ledger.AlreadyLocked: another process is writing.
        """
        with self._locked():
            return self._note(held)

    def decide(self, held: Holding, level_of: Callable[[Sequence[Holding]], Level]) -> Level:
        """The level of a holding after all others, and the holding written down if it may be held and tests anything.

        Both happen under one lock: of two runs on one file the second to come sees the first one's holding.
        Raises as `note` does.
        """
        with self._locked():
            level = level_of(self.holdings)
            if level.alpha is not None and held.num_finalists:
                self._note(held)
            return level

    def _locked(self) -> AbstractContextManager[None]:
        return exclusive_lock(self._path.with_name(f".{self._path.name}.lock"))

    def _note(self, held: Holding) -> bool:
        for one in self.holdings:
            if one.name == held.name:
                if one.keys != held.keys:
                    raise ValueError(
                        f"generation {held.generation} of run '{held.run}' has held its gate on other items; "
                        "restore this run's problems, or start a new one"
                    )
                return False
        Ledger(self._path).append(KIND, held.model_dump(mode="json"))
        return True


def _hashed(keys: Iterable[str]) -> tuple[str, ...]:
    """Short hashes: the ledger need not repeat the questions."""
    return tuple(sorted({content_hash(key)[:16] for key in keys}))
