"""A laboratory of two scripted engines and a few sums, for tests of what a run measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evolve.config import RunConfig
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.lab import Lab
from evolve.problems.config import NumericVerifier
from evolve.problems.sealed import SplitProblems, seal
from evolve.problems.splits import Split
from evolve.problems.types import DrawReport, Problem
from evolve.progress import Silent
from mesh.engine import Engine, EngineError
from mesh.types import Completion, Member, Message, Sampling, Task
from serving.config import ScriptedSpec
from serving.fleet import Fleet
from serving.scripted_engine import ScriptedEngine

ADA = Member(name="ada", engine="ada", family="alpha")
BEN = Member(name="ben", engine="ben", family="beta")


def sums(name: str, count: int, start: int = 0) -> list[Problem]:
    """Sums of two types."""
    return [
        Problem(
            task=Task(
                id=f"{name}-{place}",
                question=f"{start + place} + {100 + place} =",
                type="even" if place % 2 == 0 else "odd",
                answer_kind="number",
            ),
            reference=str(start + 100 + 2 * place),
            verifier=NumericVerifier(),
            key=f"{name}-key-{place}",
            max_tokens=16,
        )
        for place in range(count)
    ]


def dealt(num_train: int = 4, num_dev: int = 4, num_audit: int = 6) -> SplitProblems:
    """Problems with AUDIT sealed; the first two AUDIT items are near duplicates."""
    audit = tuple(seal(problem, Split.AUDIT) for problem in sums("audit", num_audit, 300))
    return SplitProblems(
        train=tuple(sums("train", num_train, 100)),
        dev=tuple(sums("dev", num_dev, 200)),
        audit=audit,
        report=DrawReport(source="made up"),
        clusters={problem.task.id: "pair" for problem in audit[:2]},
    )


def small_config(
    directory: Path,
    *,
    skills: tuple[float, float] = (0.5, 0.4),
    adapter_gain: float = 0.1,
    temperature: float = 0.7,
    gate: Mapping[str, object] | None = None,
    **evaluation: object,
) -> RunConfig:
    """What a lab in `directory` is configured by."""
    return RunConfig.model_validate(
        {
            "name": "small",
            "run_dir": str(directory),
            "seed": 3,
            "serving": {
                "in_process": True,
                "engines": [
                    {"kind": "scripted", "name": name, "family": family, "skill": skill, "adapter_gain": adapter_gain}
                    for name, family, skill in zip(("ada", "ben"), ("alpha", "beta"), skills, strict=True)
                ],
            },
            "deliberation": {"sampling": {"temperature": temperature}},
            "problems": {"kind": "file", "path": str(directory / "unused.jsonl"), "verifier": {"kind": "numeric"}},
            "training": {"kind": "scripted"},
            "memory": {"enabled": False},
            "evaluation": evaluation,
            "gate": gate or {},
            "concurrency": 4,
        }
    )


def small_lab(
    directory: Path,
    *,
    skills: tuple[float, float] = (0.5, 0.4),
    gate: Mapping[str, object] | None = None,
    **evaluation: object,
) -> Lab:
    """A lab in `directory`; as an async context manager it ends its engines."""
    return lab_of(small_config(directory, skills=skills, gate=gate, **evaluation))


def lab_of(config: RunConfig, engines: Mapping[str, Engine] | None = None) -> Lab:
    """The lab of a configuration; `engines` stand in for those that it would start."""
    parts: dict[str, Any] = {"journal": Journal(config.run_dir), "judge": Judge(), "memory": None, "observer": Silent()}
    return Lab(config, **parts) if engines is None else _LabOn(Fleet(engines), config, **parts)


class Frail(ScriptedEngine):
    """A scripted engine that fails the calls that `fails` picks by the member and the whole prompt, and notes all."""

    def __init__(self, member: Member, fails: Callable[[Member, str], bool], *, skill: float = 0.5) -> None:
        super().__init__(ScriptedSpec(name=member.engine, family=member.family, skill=skill))
        self.fails = fails
        self.asked: list[str] = []

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling, *, rank: int = 0
    ) -> tuple[tuple[Completion, ...], int]:
        """As `ScriptedEngine.complete`, but for what it fails."""
        self._note(member, messages)
        return await super().complete(member, messages, sampling, rank=rank)

    async def choose(
        self, member: Member, messages: Sequence[Message], labels: Sequence[str], *, rank: int = 0
    ) -> tuple[float, ...]:
        """As `ScriptedEngine.choose`, but for what it fails."""
        self._note(member, messages)
        return await super().choose(member, messages, labels, rank=rank)

    def _note(self, member: Member, messages: Sequence[Message]) -> None:
        prompt = "\n".join(message.text for message in messages)
        self.asked.append(prompt)
        if self.fails(member, prompt):
            raise EngineError(f"engine {self.spec.name!r}: the device fell off the bus")


class _LabOn(Lab):
    def __init__(self, fleet: Fleet, config: RunConfig, **parts: Any) -> None:
        super().__init__(config, **parts)
        self._given = fleet

    async def fleet(self) -> Fleet:
        return self._given
