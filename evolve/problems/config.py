"""Where problems come from, as configuration: reasoning-gym families or a user's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from evolve.problems.splits import SplitShares, SplitSizes
from memory.types import Record
from mesh.types import AnswerKind

Scalar = bool | int | float | str


class ExactVerifier(Record):
    """The answer is right when it equals the reference, apart from spaces, outer punctuation and letter case."""

    kind: Literal["exact"] = "exact"
    case_sensitive: bool = Field(default=False, description="tell 'Paris' from 'paris'")


class NumericVerifier(Record):
    """The answer is right when it is a number within the tolerance of the reference."""

    kind: Literal["numeric"] = "numeric"
    tolerance: float = Field(default=0.0, ge=0.0, description="largest absolute difference that still counts as right")
    relative_tolerance: float = Field(default=0.0, ge=0.0, le=1.0, description="same, as a share of the reference")


class MathVerifier(Record):
    """The answer is right when it is the same formula or number as the reference, by math-verify in a child process."""

    kind: Literal["math"] = "math"


class RegexVerifier(Record):
    """The answer is right when it matches the row's own pattern, in the column `check`."""

    kind: Literal["regex"] = "regex"
    whole: bool = Field(default=True, description="the whole answer must match; false: some part of it")
    ignore_case: bool = Field(default=False, description="take 'Paris' for 'paris'")


class JsonSchemaVerifier(Record):
    """The answer is right when it is JSON that fits the row's own schema, in the column `check`."""

    kind: Literal["json_schema"] = "json_schema"


class RunLimits(Record):
    """What one run of an answer that is a program may use."""

    wall_s: float = Field(default=10.0, gt=0.0, le=3600.0, description="seconds by the clock, after which it is killed")
    cpu_s: int = Field(default=5, ge=1, le=3600, description="seconds of processor time of each process")
    memory_mb: int = Field(default=512, ge=32, description="address space of each process, and room in /tmp")
    output_kb: int = Field(default=64, ge=1, le=65536, description="output after which it is killed")
    num_processes: int = Field(default=32, ge=1, description="processes and threads")


class BubblewrapRunner(Record):
    """Programs run in bubblewrap: no network, nothing of the machine but /usr and Python, read-only. Linux only."""

    kind: Literal["bubblewrap"] = "bubblewrap"
    command: str = Field(default="bwrap", min_length=1, description="bubblewrap's program")
    read_only: tuple[Path, ...] = Field(default=(), description="more directories that programs may read")


class ContainerRunner(Record):
    """Programs run by a command of the user's own, which must isolate them; that is tried out before anything is run.

    Example: [docker, run, --rm, -i, --network=none, --read-only, --tmpfs=/tmp, --memory=512m, --pids-limit=64,
    "--volume={dir}:/work:ro", "python:3.12-slim"]
    """

    kind: Literal["container"] = "container"
    command: tuple[str, ...] = Field(
        min_length=1,
        description="the command before the program's own; {dir} is replaced by the directory to show as /work",
    )
    python: str = Field(default="python3", description="Python in the container, 3.8 or later")

    @model_validator(mode="after")
    def _shows_the_directory(self) -> ContainerRunner:
        if not any("{dir}" in word for word in self.command):
            raise ValueError("the command names no {dir}; mount it read-only as /work, e.g. --volume={dir}:/work:ro")
        return self


class UnitTestsVerifier(Record):
    """The answer is a Python program, right when it passes the row's tests, in the column `check`.

    `check` is a list of cases ({"input": ..., "output": ...}: standard input and what must be printed), which a program
    cannot talk itself through, or the text of a test that imports `solution`. Such a test shares its process with the
    program, which may change what is tested by: prefer cases. Only the standard library is there.
    """

    kind: Literal["unit_tests"] = "unit_tests"
    runner: Annotated[BubblewrapRunner | ContainerRunner, Field(discriminator="kind")] = Field(
        default=BubblewrapRunner(), description="what keeps the program away from this machine"
    )
    limits: RunLimits = Field(default=RunLimits(), description="what one run may use")


class PanelVerifier(Record):
    """Free text, judged by members of other families than its author's by a closed choice: is it as good as asked?

    The row's `answer` is a model answer, its `check`, if there is one, what counts.
    """

    kind: Literal["panel"] = "panel"
    num_judges: int = Field(default=3, ge=1, le=15, description="members asked, of as many families as there are")
    quorum: float = Field(
        default=0.5, ge=0.5, lt=1.0, description="more than this share of the judges must find it right"
    )
    labels: Path | None = Field(
        default=None, description="human labels the panel is held against; without them it gates nothing"
    )
    min_labels: int = Field(default=100, ge=100, description="human labels needed before the panel may gate")
    min_kappa: float = Field(
        default=0.6, ge=0.0, le=1.0, description="agreement beyond chance (Cohen's kappa) the lower bound must reach"
    )


FileVerifier = Annotated[
    ExactVerifier
    | NumericVerifier
    | MathVerifier
    | RegexVerifier
    | JsonSchemaVerifier
    | UnitTestsVerifier
    | PanelVerifier,
    Field(discriminator="kind"),
]


class GymFamily(Record):
    """One reasoning-gym task family with its settings."""

    name: str = Field(min_length=1, description="family name in reasoning-gym, e.g. 'chain_sum'")
    label: str = Field(default="", description="task type; empty: the name. Needed when a family occurs twice")
    settings: dict[str, Scalar | tuple[Scalar, ...]] = Field(
        default_factory=dict, description="fields of the family's own configuration, e.g. min_terms: 2"
    )
    instruction: str = Field(default="", description="how to answer, shown with every task; empty: nothing is added")
    answer_kind: AnswerKind = Field(default="number", description="how answers are read: number, text, math or free")
    num_demonstrations: int = Field(default=0, ge=0, le=32, description="worked examples shown before every task")
    max_tokens: int = Field(default=32, ge=1, description="longest answer, in tokens")
    weight: float = Field(default=1.0, gt=0.0, description="share of a mix, beside the other families' weights")
    levels: tuple[dict[str, Scalar | tuple[Scalar, ...]], ...] = Field(
        default=(), max_length=32, description="settings from easy to hard, each laid over `settings`; empty: one level"
    )

    @property
    def type(self) -> str:
        """Task type of its problems."""
        return self.label or self.name

    def at_level(self, level: int) -> GymFamily:
        """The family with the settings of one level, from 0; a level beyond the last is the last."""
        if not self.levels:
            return self
        laid_over = self.settings | self.levels[min(level, len(self.levels) - 1)]
        return self.model_copy(update={"settings": laid_over, "levels": ()})


class CurriculumConfig(Record):
    """When a generation's TRAIN problems become harder or easier. DEV, GATE and AUDIT are drawn from all levels."""

    start: int = Field(default=0, ge=0, description="level of generation 0")
    raise_at: float = Field(default=0.75, gt=0.0, le=1.0, description="solve rate from which the next level is taken")
    lower_at: float = Field(default=0.15, ge=0.0, lt=1.0, description="solve rate up to which the level before is")
    min_answers: int = Field(default=40, ge=1, description="with fewer answers than these the level stays")
    review_share: float = Field(
        default=0.2, ge=0.0, le=0.9, description="share of the TRAIN problems taken from the levels below"
    )

    @model_validator(mode="after")
    def _lower_is_below_raise(self) -> CurriculumConfig:
        if self.lower_at >= self.raise_at:
            raise ValueError(f"lower_at {self.lower_at:g} must be below raise_at {self.raise_at:g}; change one")
        return self


class GymProblems(Record):
    """Procedural problems: as many fresh ones as a run needs."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    families: tuple[GymFamily, ...] = Field(min_length=1, description="task families to draw from")
    items_per_family: SplitSizes = Field(
        default=SplitSizes(train=100, dev=50, gate=100, audit=100), description="items of every family for each split"
    )
    mix: SplitSizes | None = Field(
        default=None,
        description="items of all families together, dealt by their weights; empty: items_per_family of every one",
    )
    curriculum: CurriculumConfig | None = Field(
        default=None, description="how TRAIN moves over the families' levels; empty: it is drawn from all of them"
    )
    shares: SplitShares = Field(default=SplitShares(), description="share of the distinct items of each split")
    split_seed: int = Field(default=0, ge=0, description="deals items to splits; keep it over runs")
    demonstration_share: float = Field(
        default=0.02, gt=0.0, lt=1.0, description="share of the distinct items kept for demonstrations, in no split"
    )
    min_distinct_items: int = Field(
        default=5000, ge=0, le=1_000_000, description="warn when a family shows fewer distinct items; 0: do not count"
    )

    @model_validator(mode="after")
    def _types_are_unique(self) -> GymProblems:
        types = [family.type for family in self.families]
        for name in types:
            if types.count(name) > 1:
                raise ValueError(f"task type '{name}' occurs more than once; give one of its families another label")
        return self


class NearDuplicatesConfig(Record):
    """When two of a file's questions say nearly the same, so that both must be in one split."""

    threshold: float = Field(
        default=0.7, gt=0.3, le=1.0, description="share of runs of 5 characters in common; one word in twenty: 0.83"
    )
    numbers_apart: bool = Field(
        default=True, description="questions with different numbers are different: two fillings of one template"
    )


class FileProblems(Record):
    """A user's own tasks with reference answers: JSONL or Parquet with question, answer and, if wanted, id and type."""

    kind: Literal["file"] = "file"
    path: Path = Field(description="a .jsonl or .parquet file")
    answer_kind: AnswerKind = Field(default="text", description="how answers are read: number, text, math or free")
    verifier: FileVerifier = Field(
        default=ExactVerifier(), description="how an answer is checked against the reference"
    )
    instruction: str = Field(default="", description="how to answer, shown with every task; empty: nothing is added")
    default_type: str = Field(default="general", min_length=1, description="task type of rows that name none")
    num_demonstrations: int = Field(default=0, ge=0, le=32, description="worked examples shown before every task")
    max_tokens: int = Field(default=64, ge=1, description="longest answer, in tokens")
    shares: SplitShares = Field(default=SplitShares(), description="share of the items that each split gets")
    sizes: SplitSizes | None = Field(default=None, description="at most so many items a split; empty: all")
    split_seed: int = Field(default=0, ge=0, description="deals items to splits; keep it over runs")
    near_duplicates: NearDuplicatesConfig | None = Field(
        default=NearDuplicatesConfig(),
        description="keep near duplicates in one split, and their errors count as one draw; null: every question "
        "stands alone. A file that was added to before without it stays as it was dealt",
    )
    demonstration_share: float = Field(
        default=0.05, gt=0.0, lt=1.0, description="share of the items kept for demonstrations, where any are asked for"
    )


ProblemsConfig = Annotated[GymProblems | FileProblems, Field(discriminator="kind")]
