"""What was served: every deliberation whole, in its team's directory, and no more of them than configured."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import zlib
from collections import OrderedDict
from pathlib import Path

from pydantic import Field, ValidationError

from memory.ledger import publish_bytes
from memory.types import Record
from mesh.config import ProtocolConfig
from mesh.types import Deliberation
from serving.endpoint.keys import Caller

SUFFIX = ".json.gz"
NUM_RECENT = 64
"""Deliberations held in memory too: what is read is mostly what has just ended."""

_ID = re.compile(r"[0-9a-f]{32}")


class Kept(Record):
    """One served deliberation, and what else is needed to answer the same request again."""

    id: str = Field(description="of the deliberation, as the client has it")
    key_id: str = Field(description="of the key it was asked with; empty: without one")
    team: str
    project: str
    model: str = Field(description="model that was asked")
    digest: str = Field(description="hash of the request; another one under the same idempotency key is refused")
    roster: str = Field(description="id of the seats that decided")
    channel: str = Field(description="where those seats were published")
    protocol: ProtocolConfig = Field(description="as it was held, with the caller's sampling")
    seed: int
    created: int = Field(description="when it was asked, in seconds since 1970")
    seconds: float = Field(description="wall seconds it took")
    content: str = Field(description="what was answered")
    problem: str = Field(
        default="", description="why the answer was refused after all: it fitted no form; empty: it did"
    )
    may_train: bool = Field(default=False, description="whether the operator let served traffic become training data")
    deliberation: Deliberation


class DeliberationStore:
    """Compressed JSON files, `DIRECTORY/TEAM/ID.json.gz`; one process writes. A team finds its own and no other's.

    What `keep` was given is on the disk when it returns; the oldest files go when there are more than `limit`.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        """`limit` 0: nothing is written, and only the last few are found, until the process ends."""
        self._directory = directory
        self._limit = limit
        self._recent: OrderedDict[tuple[str, str], Kept] = OrderedDict()
        self._files: OrderedDict[Path, None] = OrderedDict.fromkeys(_oldest_first(directory))

    def __len__(self) -> int:
        """Number of deliberations on the disk."""
        return len(self._files)

    async def keep(self, kept: Kept) -> None:
        """Write one down. Raises OSError where the disk does not take it; it is found meanwhile all the same."""
        self._recent[kept.team, kept.id] = kept
        while len(self._recent) > NUM_RECENT:
            self._recent.popitem(last=False)
        if self._limit == 0:
            return
        path = self._path(kept.team, kept.id)
        await asyncio.to_thread(_write, path, kept)
        self._files[path] = None
        self._files.move_to_end(path)
        too_old = [self._files.popitem(last=False)[0] for _ in range(len(self._files) - self._limit)]
        if too_old:
            await asyncio.to_thread(_remove, too_old)

    async def find(self, caller: Caller, id: str) -> Kept | None:
        """The deliberation of this id, if it was asked by the caller's team; None: there is none (any more)."""
        if not _ID.fullmatch(id):
            return None
        held = self._recent.get((caller.team, id))
        path = self._path(caller.team, id)
        if held is not None or path not in self._files:
            return held
        return await asyncio.to_thread(read_kept, path)

    def _path(self, team: str, id: str) -> Path:
        return self._directory / team / f"{id}{SUFFIX}"


def read_kept(path: Path) -> Kept | None:
    """The deliberation in a file; None: the file is gone, or damaged."""
    try:
        return Kept.model_validate_json(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, zlib.error, ValidationError):
        return None


def find_in(directory: Path, id: str) -> Kept | None:
    """The deliberation whose id begins with `id`, of whatever team: for whoever runs the door. None: none, or several.

    `directory`: the `deliberations` of a door's state.
    """
    if not re.fullmatch(r"[0-9a-f]{1,32}", id):
        return None
    found = sorted(directory.glob(f"*/{id}*{SUFFIX}"))
    return read_kept(found[0]) if len(found) == 1 else None


def _write(path: Path, kept: Kept) -> None:
    publish_bytes(path, gzip.compress(kept.model_dump_json().encode(), compresslevel=3))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _oldest_first(directory: Path) -> list[Path]:
    found = [Path(entry.path) for team in _directories(directory) for entry in os.scandir(team)]
    return sorted((path for path in found if path.name.endswith(SUFFIX)), key=lambda path: path.stat().st_mtime_ns)


def _directories(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return [Path(entry.path) for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
