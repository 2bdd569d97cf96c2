"""What earlier generations of a run left for the next: rows to learn from, parents, what pays, and what was seen."""

from __future__ import annotations

from pydantic import Field

from evolve.candidate import Candidate
from evolve.learning.accumulate import SetRow
from evolve.learning.accumulate_pairs import PairRow
from evolve.learning.bandit import ArmResult
from evolve.learning.recipes import Parent
from evolve.learning.taught import Taught
from evolve.selection.archive import Archive
from memory.types import Record


class Past(Record):
    """Everything a generation inherits besides its seats. Derived from the rounds before it, and never stored."""

    rows: tuple[SetRow, ...] = Field(default=(), description="verified examples of all earlier generations")
    pairs: tuple[PairRow, ...] = Field(default=(), description="likewise, of chosen and rejected answers")
    arms: tuple[ArmResult, ...] = Field(default=(), description="what each recipe earned")
    parents: tuple[Parent, ...] = Field(
        default=(), description="adapters to start from or to merge: seated specialists first, then archive elites"
    )
    archive: Archive = Archive()
    elites: tuple[Candidate, ...] = Field(default=(), description="specialists in the archive, with their adapters")
    taught: dict[str, Taught] = Field(default_factory=dict, description="recipe of each of these to its rows")
    placebos: tuple[Candidate, ...] = Field(default=(), description="their twins, of those that were finalists")
    seen_keys: tuple[str, ...] = Field(default=(), description="canonical keys of every problem drawn so far, sorted")
    held_out: tuple[str, ...] = Field(default=(), description="of these, what no generation may learn from")
    levels: dict[str, int] = Field(default_factory=dict, description="task type to the level of its TRAIN problems")
