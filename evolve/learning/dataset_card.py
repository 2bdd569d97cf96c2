"""The card of a training set: what is in it, who says it is right, what was left out and why. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from evolve.learning.accumulate import Accumulated, SetRow
from evolve.learning.curate import Drop
from evolve.learning.paths import path_of
from memory.types import Record


class DatasetCard(Record):
    """Counts and hashes of one training set."""

    name: str
    digest: str = Field(description="content hash of the used rows, in order")
    num_all: int = Field(description="verified rows of all generations")
    num_used: int
    num_problems: int = Field(description="distinct problems of the used rows")
    num_paths: int = Field(description="distinct ways to an answer, per problem, of the used rows")
    anchor_share: float
    by_label: tuple[tuple[str, int], ...] = Field(description="(who says so, rows used)")
    by_type: tuple[tuple[str, int], ...]
    by_author: tuple[tuple[str, int], ...] = Field(description="(member or member@adapter, rows used)")
    by_source: tuple[tuple[str, int], ...] = Field(
        description="(own_correct, revision, critique or synthesis, rows used)"
    )
    by_generation: tuple[tuple[str, int], ...]
    not_used: tuple[tuple[str, int], ...] = Field(description="(reason, verified rows that are kept and not used)")
    not_kept: tuple[tuple[str, int], ...] = Field(default=(), description="(reason, answers that became no row)")
    mean_chars: float = Field(description="length of a used completion")
    num_pairs: int = Field(default=0, description="chosen and rejected answers that are learned from after the rows")
    is_placebo: bool = Field(default=False, description="True: the completions were dealt anew among the prompts")
    held_out_checked: int = Field(description="canonical keys of DEV, GATE and AUDIT that no used row has")

    @property
    def text(self) -> str:
        """The card in Markdown."""
        return card_text(self)


def dataset_card(name: str, found: Accumulated, *, drops: Iterable[Drop] = (), num_held_out: int = 0) -> DatasetCard:
    """The card of an accumulated set.

    Args:
        drops: what curation left out of the newest generation's answers.
        num_held_out: number of held-out keys that `accumulate` was given.
    """
    used = found.used
    return DatasetCard(
        name=name,
        digest=found.digest,
        num_all=len(found.all),
        num_used=len(used),
        num_problems=len({row.key for row in used}),
        num_paths=len({(row.key, path_of(row.example.completion)) for row in used}),
        anchor_share=found.anchor_share,
        by_label=_counted(row.label for row in used),
        by_type=_counted(row.example.task_type for row in used),
        by_author=_counted(_author(row) for row in used),
        by_source=_counted(row.example.source for row in used),
        by_generation=_counted(f"generation {row.generation}" for row in used),
        not_used=_counted(drop.reason for drop in found.drops),
        not_kept=_counted(drop.reason for drop in drops),
        mean_chars=sum(len(row.example.completion) for row in used) / len(used) if used else 0.0,
        held_out_checked=num_held_out,
    )


def recipe_card(
    name: str,
    rows: Sequence[SetRow],
    found: Accumulated,
    left_out: Mapping[str, int],
    *,
    num_pairs: int = 0,
    num_held_out: int = 0,
) -> DatasetCard:
    """The card of what one recipe learns from: `rows`, chosen out of the used rows of `found`; the others by reason."""
    whole = Accumulated(all=found.all, used=tuple(rows), drops=())
    card = dataset_card(name, whole, num_held_out=num_held_out)
    not_used = tuple(sorted(left_out.items(), key=lambda item: (-item[1], item[0])))
    return card.model_copy(update={"not_used": not_used, "num_pairs": num_pairs})


def card_text(card: DatasetCard) -> str:
    """The card in Markdown; counts are tables, so that two cards can be compared line by line."""
    head = [
        f"# Training set {' '.join(card.name.split())}",
        "",
        f"{card.num_used} rows used of {card.num_all} verified ones, on {card.num_problems} problems by "
        f"{card.num_paths} ways. {card.anchor_share:.0%} of them were written by base models. A completion has "
        f"{card.mean_chars:.0f} characters on average. Digest `{card.digest[:16]}`.",
        "",
        *([f"Then {card.num_pairs} pairs of a chosen and a rejected answer.", ""] if card.num_pairs else []),
        *(["A placebo: every prompt has another one's completion.", ""] if card.is_placebo else []),
        f"No used row shares a problem with {card.held_out_checked:,} held-out DEV, GATE and AUDIT items."
        if card.held_out_checked
        else "Held-out items were not given, so nothing was checked against them.",
        "",
    ]
    tables = [
        _table("Who says that it is right", "label", card.by_label),
        _table("Task types", "type", card.by_type),
        _table("Authors", "author", card.by_author),
        _table("Sources", "source", card.by_source),
        _table("Generations", "generation", card.by_generation),
        _table("Kept and not used", "reason", card.not_used),
        _table("Answers that became no row", "reason", card.not_kept),
    ]
    return "\n".join([*head, *(line for table in tables for line in table)])


def _author(row: SetRow) -> str:
    adapter = row.example.adapter
    return row.example.member if adapter is None else f"{row.example.member}@{adapter[:12]}"


def _counted(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Most first, of equals by name."""
    return tuple(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _table(title: str, column: str, rows: Sequence[tuple[str, int]]) -> list[str]:
    if not rows:
        return []
    cells = [f"| {' '.join(name.replace('|', '/').split())} | {count} |" for name, count in rows]
    return [f"## {title}", "", f"| {column} | rows |", "|---|---:|", *cells, ""]
