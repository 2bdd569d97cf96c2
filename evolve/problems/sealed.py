"""GATE and AUDIT problems as a run holds them: the question in the open, the answer key in a seal.

What is covered: no attribute, `repr`, dump or type gives the key of a sealed problem to code that holds one, a file of
sealed problems shows no answer to a reader or a search, and only the judge opens a seal, for whoever shows a permit.
What is not covered: code that sets out to break the seal. It is a lid, not a lock: the opening word is in this file.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from typing import Literal, Protocol, overload

from pydantic import Field

from evolve.problems.permits import AuditPermit, GatePermit, Permit
from evolve.problems.splits import Split
from evolve.problems.types import DrawReport, Problem, ProblemSet, VerifierSpec
from memory.types import Record
from mesh.types import Demonstration, Task

SealedSplit = Literal[Split.GATE, Split.AUDIT]
OpenSplit = Literal[Split.TRAIN, Split.DEV]


class SealError(RuntimeError):
    """A seal was to be opened without a permit for its split, or it is damaged."""


class Asked(Protocol):
    """What can be asked: an open problem or a sealed one. Code that only asks should take these."""

    @property
    def task(self) -> Task:
        """What members see."""
        ...

    @property
    def key(self) -> str:
        """Canonical operands: two items with one key are the same item."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest answer, in tokens."""
        ...


class Seal(Record):
    """An answer key and its verifier, not readable as it stands."""

    closed: str = Field(repr=False, description="opened by the judge alone")

    def __str__(self) -> str:
        return "Seal()"


class SealedProblem(Record):
    """A GATE or AUDIT task. It has no reference: the key is in the seal, and the judge opens that for a permit."""

    task: Task
    key: str = Field(description="canonical operands: two items with one key are the same item", repr=False)
    split: SealedSplit
    seal: Seal = Field(repr=False)
    max_tokens: int = Field(default=64, ge=1, description="longest answer, in tokens")


class SplitProblems(Record):
    """The problems of a run once they are dealt: TRAIN and DEV open, GATE and AUDIT sealed."""

    train: tuple[Problem, ...] = ()
    dev: tuple[Problem, ...] = ()
    gate: tuple[SealedProblem, ...] = ()
    audit: tuple[SealedProblem, ...] = ()
    demonstrations: dict[str, tuple[Demonstration, ...]] = Field(default_factory=dict)
    report: DrawReport
    clusters: dict[str, str] = Field(
        default_factory=dict, description="task id to cluster, for items with near duplicates; others stand alone"
    )

    def cluster_of(self, problem: Asked) -> str:
        """The cluster of a problem, its own key where it stands alone; errors within one are not independent."""
        return self.clusters.get(problem.task.id, problem.key)

    @overload
    def of(self, split: OpenSplit) -> tuple[Problem, ...]: ...
    @overload
    def of(self, split: SealedSplit) -> tuple[SealedProblem, ...]: ...
    @overload
    def of(self, split: Split) -> tuple[Problem, ...] | tuple[SealedProblem, ...]: ...
    def of(self, split: Split) -> tuple[Problem, ...] | tuple[SealedProblem, ...]:
        """Problems of one split; the type checker knows which are open."""
        by_split: dict[Split, tuple[Problem, ...] | tuple[SealedProblem, ...]] = {
            Split.TRAIN: self.train,
            Split.DEV: self.dev,
            Split.GATE: self.gate,
            Split.AUDIT: self.audit,
        }
        return by_split[split]

    def keys(self, split: Split) -> frozenset[str]:
        """Canonical keys of one split."""
        held: dict[Split, Iterable[Asked]] = {
            Split.TRAIN: self.train,
            Split.DEV: self.dev,
            Split.GATE: self.gate,
            Split.AUDIT: self.audit,
        }
        return frozenset(problem.key for problem in held[split])

    @property
    def nothing_left(self) -> str:
        """That a split was to be drawn and nothing of it came, in words; empty: some of each came."""
        asked = [family.asked for family in self.report.families if family.asked is not None]
        gone = [split.value for split in Split if not self.keys(split) and any(sizes.of(split) for sizes in asked)]
        if not gone:
            return ""
        types = ", ".join(family.type for family in self.report.families)
        return f"no fresh {', '.join(gone)} problems of {types} are left"

    @property
    def held_out_keys(self) -> frozenset[str]:
        """Keys of everything that training may not touch: DEV, GATE and AUDIT."""
        return self.keys(Split.DEV) | self.keys(Split.GATE) | self.keys(Split.AUDIT)

    @property
    def all_keys(self) -> frozenset[str]:
        """Keys of all four splits: what a later generation must not draw again."""
        return self.held_out_keys | self.keys(Split.TRAIN)


def sealed(drawn: ProblemSet) -> SplitProblems:
    """What was drawn, with GATE and AUDIT sealed. The drawing keeps no copy of the keys."""
    return SplitProblems(
        train=drawn.of(Split.TRAIN),
        dev=drawn.of(Split.DEV),
        gate=tuple(seal(problem, Split.GATE) for problem in drawn.of(Split.GATE)),
        audit=tuple(seal(problem, Split.AUDIT) for problem in drawn.of(Split.AUDIT)),
        demonstrations=drawn.demonstrations,
        report=drawn.report,
        clusters=drawn.clusters,
    )


def seal(problem: Problem, split: SealedSplit) -> SealedProblem:
    """`problem` with its key put away."""
    text = json.dumps(problem.model_dump(mode="json", include={"reference", "verifier"}), sort_keys=True)
    closed = base64.b64encode(_masked(text.encode("ascii"), problem.key, split)).decode("ascii")
    return SealedProblem(
        task=problem.task, key=problem.key, split=split, seal=Seal(closed=closed), max_tokens=problem.max_tokens
    )


def open_seal(problem: SealedProblem, permit: Permit) -> Problem:
    """The problem with its key. For `evolve.judging.judge` alone.

    Raises:
        SealError: no permit, a permit for another split, or a damaged seal.
    """
    if not isinstance(permit, GatePermit | AuditPermit):
        raise SealError(f"expected a permit for {problem.split.value} problems, got {type(permit).__name__}")
    if permit.split is not problem.split:
        raise SealError(
            f"'{permit.purpose}' has a permit for {permit.split.value} problems, but '{problem.task.id}' is one of "
            f"{problem.split.value}; judge it where that split is judged"
        )
    try:
        text = _masked(base64.b64decode(problem.seal.closed, validate=True), problem.key, problem.split)
        held = _Held.model_validate(json.loads(text))
    except ValueError as error:  # what base64, json and pydantic raise are all ValueErrors
        raise SealError(
            f"the seal of '{problem.task.id}' is damaged; draw the problems again (remove the run's problems step)"
        ) from error
    return Problem(
        task=problem.task,
        reference=held.reference,
        verifier=held.verifier,
        key=problem.key,
        max_tokens=problem.max_tokens,
    )


class _Held(Record):
    reference: str
    verifier: VerifierSpec


def _masked(data: bytes, key: str, split: Split) -> bytes:
    """`data` under a mask that depends on the item; the same call takes it off again."""
    mask = hashlib.shake_256(f"seal:{split.value}:{key}".encode("utf-8", "surrogatepass")).digest(len(data))
    return bytes(a ^ b for a, b in zip(data, mask, strict=True))
