"""Durable steps: what was accepted is never repeated, and the same command continues where it was cut off."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from evolve.run_files import JOURNAL, TRAINING
from memory.ledger import Ledger, publish_json, read_record
from memory.types import Record, content_hash
from mesh.types import Deliberation
from serving.traces import read_traces, write_traces

_R = TypeVar("_R", bound=Record)

TIME_FIELDS = frozenset({"seconds", "load_seconds", "engine_seconds"})

_OWN = ("steps", "audit", "emergence", "unchecked")
"""A run's directories beside those of its generations in which nobody but the driver writes."""
_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")


class JournalError(RuntimeError):
    """What the journal accepted is not what lies on disk."""


def timeless(value: object) -> object:
    """`value` as plain JSON data without its time fields: what two equal runs have in common."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIME_FIELDS}
    if isinstance(value, list | tuple):
        return [timeless(item) for item in value]
    return value


class Journal:
    """The hash-chained list of accepted steps of one run, and the results they point to.

    A step's id is the hash of its name and inputs. Results lie in `steps/` (records) or at a path of the caller's
    (traces); the journal keeps their digest, taken without time fields, so that a run that was cut off and continued
    has the same journal, byte for byte, as one that was not.
    """

    def __init__(self, directory: Path, *, on_commit: Callable[[str], None] | None = None) -> None:
        """Opens or creates the journal in `directory`; `on_commit` hears of every durable append, after it.

        What a kill left half-written is removed, so the caller must be the only one who works here.
        """
        self._steps = directory / "steps"
        self._steps.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        self._on_commit = on_commit or (lambda _: None)
        self._ledger = Ledger(directory / JOURNAL)
        self._digests = {entry.payload["id"]: entry.payload["digest"] for entry in self._ledger.entries()}

    def __len__(self) -> int:
        return len(self._ledger)

    def is_done(self, name: str, inputs: object) -> bool:
        """True when this very step was accepted before."""
        return step_id(name, inputs) in self._digests

    async def record(self, name: str, inputs: object, model: type[_R], work: Callable[[], Awaitable[_R]]) -> _R:
        """The result of `work`, or what it gave when it was accepted earlier.

        Raises:
            JournalError: the stored result is missing or was changed.
        """
        identity = step_id(name, inputs)
        path = self._steps / f"{name}-{identity[:12]}.json"
        if identity in self._digests:
            result = _read(path, model)
            self._check(identity, path, result)
            return result
        result = await work()
        publish_json(path, result)
        self._accept(name, identity, content_hash(timeless(result)))
        return result

    async def deliberations(
        self,
        name: str,
        inputs: object,
        path: Path,
        works: Sequence[tuple[str, Callable[[], Awaitable[Deliberation]]]],
        *,
        concurrency: int,
        on_done: Callable[[Deliberation], None] = lambda _: None,
    ) -> list[Deliberation]:
        """All deliberations of a stage in the order of `works`, each accepted on its own as it ends.

        Until the stage is complete they lie in a ledger beside `path`; then they are sealed there as Parquet.

        Raises:
            JournalError: as `record`. What the first work that failed raises; the others are cancelled.
        """
        identity = step_id(name, inputs)
        partial = path.with_suffix(".partial.jsonl")
        if identity in self._digests:
            partial.unlink(missing_ok=True)
            sealed = _read_sealed(path)
            self._check(identity, path, [item.model_dump(mode="json") for item in sealed])
            return sealed
        path.parent.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(partial)
        done = {
            entry.payload["key"]: Deliberation.model_validate(entry.payload["deliberation"])
            for entry in ledger.entries()
            if entry.payload["step"] == identity
        }
        for deliberation in done.values():
            on_done(deliberation)
        slots = asyncio.Semaphore(concurrency)

        async def one(key: str, work: Callable[[], Awaitable[Deliberation]]) -> None:
            async with slots:
                deliberation = await work()
            payload = {"step": identity, "key": key, "deliberation": deliberation.model_dump(mode="json")}
            ledger.append("deliberation", payload)
            self._on_commit(f"{name}:{key}")
            done[key] = deliberation
            on_done(deliberation)

        try:
            async with asyncio.TaskGroup() as group:
                for key, work in works:
                    if key not in done:
                        group.create_task(one(key, work))
        except ExceptionGroup as failed:
            # What ended the stage; the others, of calls in flight, follow from it. A group alone would say nothing.
            raise failed.exceptions[0]  # noqa: B904 - its own cause tells a full disk from other faults
        result = [done[key] for key, _ in works]
        write_traces(path, result)
        self._accept(name, identity, content_hash(timeless([item.model_dump(mode="json") for item in result])))
        partial.unlink()
        return result

    def _accept(self, name: str, identity: str, digest: str) -> None:
        self._ledger.append("step", {"step": name, "id": identity, "digest": digest})
        self._digests[identity] = digest
        self._on_commit(name)

    def _check(self, identity: str, path: Path, result: object) -> None:
        found = content_hash(timeless(result))
        if found != self._digests[identity]:
            raise JournalError(
                f"{path} was changed after it was accepted: expected digest {self._digests[identity][:12]}, found "
                f"{found[:12]}; restore the file, or start a new run directory"
            )


def _sweep(directory: Path) -> None:
    """Remove the temporary files of records and traces that were being written when the process was killed.

    What lies under `training` is left alone: a training process may have outlived its driver, and still write there.
    """
    for folder in [directory, *(directory / name for name in _OWN), *directory.glob("generation-*")]:
        for inside, names, files in os.walk(folder):
            names[:] = [] if folder == directory else [name for name in names if name != TRAINING]
            for name in files:
                if _TEMPORARY.fullmatch(name):
                    (Path(inside) / name).unlink()


def step_id(name: str, inputs: object) -> str:
    """Hash of a step's name and inputs."""
    return content_hash({"step": name, "inputs": timeless(inputs)})


def _read(path: Path, model: type[_R]) -> _R:
    if not path.is_file():
        raise JournalError(f"{path} is missing, but the journal accepted it; restore it, or start a new run directory")
    return read_record(path, model)


def _read_sealed(path: Path) -> list[Deliberation]:
    if not path.is_file():
        raise JournalError(f"{path} is missing, but the journal accepted it; restore it, or start a new run directory")
    return list(read_traces(path))
