"""The records of problem drawing: a task with its key, the sets by split, and what happened on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal

from pydantic import Field

from evolve.problems.config import (
    ExactVerifier,
    MathVerifier,
    NearDuplicatesConfig,
    NumericVerifier,
    PanelVerifier,
    UnitTestsVerifier,
)
from evolve.problems.splits import Split, SplitSizes
from memory.types import Record
from mesh.types import Demonstration, Task

MAX_SKIPPED_SHOWN = 20


class ProblemsError(ValueError):
    """No problems can be drawn: a bad family, setting or file. The message says what to change."""


@contextmanager
def named(what: str) -> Iterator[None]:
    """A ProblemsError of the block says first what it is about: a key of the configuration, or its file."""
    try:
        yield
    except ProblemsError as error:
        raise ProblemsError(f"{what}: {error}") from error


class ReasoningGymVerifier(Record):
    """The family's own scorer; only a full score counts as right."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    family: str
    settings: str = Field(default="{}", description="settings of the family as JSON; some scorers read them")
    entry: str = Field(repr=False, description="the generated entry (question, answer, metadata) as JSON")


class RegexRule(Record):
    """The answer must match a pattern; Python's syntax."""

    kind: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1, repr=False)
    whole: bool = True
    ignore_case: bool = False


class SchemaRule(Record):
    """The answer must be JSON that fits a schema."""

    kind: Literal["json_schema"] = "json_schema"
    schema_text: str = Field(repr=False, description="the schema as JSON")


class Case(Record):
    """One run of a program: what it reads, and what it must print."""

    input: str = ""
    output: str = Field(repr=False)


class UnitTestsRule(Record):
    """The answer must be a Python program that passes cases, or else a test that imports it as `solution`."""

    kind: Literal["unit_tests"] = "unit_tests"
    cases: tuple[Case, ...] = Field(default=(), repr=False)
    test: str = Field(default="", repr=False)
    verifier: UnitTestsVerifier


class PanelRule(Record):
    """The answer must find a panel's approval, see `evolve.judging.panel`."""

    kind: Literal["panel"] = "panel"
    criteria: str = Field(default="", repr=False, description="what counts; empty: the reference says it all")
    verifier: PanelVerifier


VerifierSpec = Annotated[
    ReasoningGymVerifier
    | ExactVerifier
    | NumericVerifier
    | MathVerifier
    | RegexRule
    | SchemaRule
    | UnitTestsRule
    | PanelRule,
    Field(discriminator="kind"),
]


class Problem(Record):
    """A task together with its answer key. Nothing that talks to a model may hold one."""

    task: Task
    reference: str = Field(
        repr=False,
        description="the answer key, hidden from repr so that no log shows it; with a rule (pattern, schema, tests) "
        "an answer that is known to follow it, empty where none is known",
    )
    verifier: VerifierSpec = Field(repr=False)
    key: str = Field(description="canonical operands: two items with one key are the same item", repr=False)
    max_tokens: int = Field(default=64, ge=1, description="longest answer, in tokens")


class Skipped(Record):
    """An item that was not used, and why."""

    where: str = Field(description="'line 3', 'row 3' or 'item 17 of chain_sum'; counting starts at 1")
    reason: str


class FamilyDraw(Record):
    """What drawing one task type gave."""

    type: str
    asked: SplitSizes | None = Field(description="None: everything there was")
    got: SplitSizes
    num_draws: int = Field(description="items generated or read")
    num_duplicates: int = Field(description="items skipped because the same item had been seen before")
    num_distinct: int | None = Field(default=None, description="distinct items, a lower bound; None: not counted")
    num_demonstrations: int = 0


class DrawReport(Record):
    """How the problems of a run came about."""

    source: str
    families: tuple[FamilyDraw, ...] = ()
    malformed: tuple[Skipped, ...] = ()
    duplicates: tuple[Skipped, ...] = Field(default=(), description="duplicates in a user's file, line by line")
    warnings: tuple[str, ...] = ()

    @property
    def num_items(self) -> int:
        """Items generated or read, before they were dealt."""
        return sum(family.num_draws for family in self.families)

    @property
    def notes(self) -> tuple[str, ...]:
        """What went wrong while drawing, for people: warnings, then the lines that were left out and why."""
        shown = [f"not used, {skipped.where}: {skipped.reason}" for skipped in self.malformed[:MAX_SKIPPED_SHOWN]]
        more = len(self.malformed) - len(shown)
        if more > 0:
            shown.append(f"not used: {more} more lines, listed in steps/problems-*.json")
        if self.duplicates:
            first = self.duplicates[0]
            shown.append(f"{len(self.duplicates)} duplicates were left out, the first {first.where}: {first.reason}")
        return (*self.warnings, *shown)


def clusters_sentence(clusters: Mapping[str, str], num_items: int, config: NearDuplicatesConfig | None) -> str:
    """How many of the items of a file say nearly the same, for people; `clusters`: task id to cluster."""
    if config is None:
        return f"Each of {num_items} tasks stands alone: near duplicates are not looked for."
    if not clusters:
        return f"No two of {num_items} tasks are near duplicates."
    num_clusters = len(set(clusters.values()))
    return (
        f"{len(clusters)} of {num_items} tasks are near duplicates of others, in {num_clusters} "
        f"cluster{'' if num_clusters == 1 else 's'}; a cluster is in one split, and its errors count as one draw."
    )


class ProblemSet(Record):
    """Problems by split, the demonstrations by task type, and the report of the draw."""

    problems: dict[Split, tuple[Problem, ...]]
    demonstrations: dict[str, tuple[Demonstration, ...]] = Field(default_factory=dict)
    report: DrawReport
    clusters: dict[str, str] = Field(
        default_factory=dict, description="task id to cluster, for items with near duplicates; others stand alone"
    )

    def of(self, split: Split) -> tuple[Problem, ...]:
        """Problems of one split; empty when none were asked for."""
        return self.problems.get(split, ())

    def keys(self, split: Split) -> frozenset[str]:
        """Canonical keys of one split."""
        return frozenset(problem.key for problem in self.of(split))

    @property
    def held_out_keys(self) -> frozenset[str]:
        """Keys of everything that training may not touch: DEV, GATE and AUDIT."""
        return frozenset(problem.key for split in Split if split is not Split.TRAIN for problem in self.of(split))
