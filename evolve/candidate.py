"""A trained adapter that was admitted, waiting to be measured."""

from __future__ import annotations

from pydantic import Field

from evolve.learning.recipes import Recipe
from memory.types import Record
from mesh.types import Member


class Candidate(Record):
    """A trained adapter that was admitted and sits in a running engine, waiting to be measured."""

    member: Member
    recipe: Recipe
    data_digest: str = Field(description="hash of the rows it learned from")
    parents: tuple[str, ...] = Field(default=(), description="adapters it descends from: teachers, or what was merged")
    generation: int = Field(default=0, ge=0, description="number of the generation whose traces it was bred from")
    job: str = Field(default="", description="digest of its training job")

    @property
    def is_helper(self) -> bool:
        """A critic or synthesiser: it answers nothing by itself, and is measured in councils."""
        return self.recipe.role != "proposer"

    @property
    def is_placebo(self) -> bool:
        """It learned form alone, and may never be seated."""
        return self.recipe.placebo
