"""Which split every item of a user's file was dealt to, version by version: a ledger beside the file.

The file stays the user's own. Without the ledger (nothing was ever added by `evomesh problems add`) places follow from
the configuration alone; with it, an item keeps its split whatever is added later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from evolve.problems.config import FileProblems, NearDuplicatesConfig
from evolve.problems.near_duplicates import Place
from evolve.problems.splits import SplitShares
from evolve.problems.types import ProblemsError
from memory.ledger import Ledger, LedgerError
from memory.types import Record

KIND = "version"


class DealSettings(Record):
    """What a file was dealt by; it may not change once items are pinned.

    But for one thing: a file that was pinned item by item (`near_duplicates` null) stays so, whatever is configured.
    """

    split_seed: int
    shares: SplitShares
    near_duplicates: NearDuplicatesConfig | None


class Version(Record):
    """One version of a file: the items that came with it and where they went."""

    version: int = Field(ge=1)
    settings: DealSettings
    source: str = Field(description="name of the file the items came from")
    places: tuple[Place, ...]


class Dealt(Record):
    """All versions together."""

    version: int = Field(default=0, description="0: nothing was added yet, so nothing is pinned")
    places: dict[str, Place] = Field(default_factory=dict, description="by key")
    near_duplicates: NearDuplicatesConfig | None = Field(description="what new items are dealt by; None: one by one")


def deal_path(config: FileProblems) -> Path:
    """The ledger of a file: tasks.jsonl has tasks.deal.jsonl."""
    return config.path.with_name(f"{config.path.stem}.deal.jsonl")


def settings_of(config: FileProblems) -> DealSettings:
    """The part of a configuration that decides splits."""
    return DealSettings(split_seed=config.split_seed, shares=config.shares, near_duplicates=config.near_duplicates)


def read_deal(config: FileProblems) -> Dealt:
    """What is pinned.

    Raises:
        ProblemsError: the ledger is damaged, or was made with other settings.
    """
    path = deal_path(config)
    if not path.is_file():
        return Dealt(near_duplicates=config.near_duplicates)
    try:
        ledger = Ledger(path, readonly=True)
        versions = [Version.model_validate(entry.payload) for entry in ledger.entries()]
    except (LedgerError, ValueError) as error:
        raise ProblemsError(f"{path}: expected a ledger of splits, but: {error}; restore it from a backup") from error
    settings = settings_of(config)
    if versions and versions[0].settings.near_duplicates is None:
        settings = settings.model_copy(update={"near_duplicates": None})
    for version in versions:
        if version.settings != settings:
            raise ProblemsError(
                f"{path}: the items were dealt with {_shown(version.settings)}, the configuration says "
                f"{_shown(settings)}; go back to the former, or use a copy of the file, where every item "
                "is dealt anew and no earlier result counts"
            )
    places = {place.key: place for version in versions for place in version.places}
    return Dealt(version=len(versions), places=places, near_duplicates=settings.near_duplicates)


def pin(config: FileProblems, source: str, places: Sequence[Place]) -> int:
    """Write down where new items went; the number of the version. Hold `exclusive_lock` around reading and pinning."""
    dealt = read_deal(config)
    settings = settings_of(config).model_copy(update={"near_duplicates": dealt.near_duplicates})
    record = Version(version=dealt.version + 1, settings=settings, source=source, places=tuple(places))
    Ledger(deal_path(config)).append(KIND, record.model_dump(mode="json"))
    return record.version


def _shown(settings: DealSettings) -> str:
    return settings.model_dump_json()
