"""What one recipe learned from."""

from __future__ import annotations

from pydantic import Field

from evolve.learning.dataset_card import DatasetCard
from evolve.learning.recipe_rows import PairSelection, RowSelection
from memory.types import Record


class Taught(Record):
    """The rows and pairs of a recipe, from which its twin on shuffled targets can be made later."""

    rows: RowSelection
    pairs: PairSelection = PairSelection()
    card: DatasetCard | None = Field(default=None, description="of the rows; None: there are none")
