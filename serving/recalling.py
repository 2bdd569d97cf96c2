"""What a task is told from memory before anybody proposes: one memory, the namespaces it may read, and how much."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from memory.store import Memory
from memory.types import Cue, Recall
from mesh.types import Task


class Recaller:
    """Recalls for tasks whose outcome is not known yet; so nothing is held out, and nothing is written."""

    def __init__(self, memory: Memory, namespaces: Sequence[str], limit: int) -> None:
        """`namespaces`: the patterns it reads, see `memory.types.Cue`. `limit`: most recollections for a task."""
        self.memory = memory
        self.namespaces = tuple(namespaces)
        self.limit = limit

    @property
    def head(self) -> str:
        """Hash of the memory's history: with it, what is recalled can be repeated."""
        return self.memory.head

    async def recall(self, task: Task) -> Recall:
        """What may help with `task`; embedding it takes a thread some 20 ms."""
        cue = Cue(text=task.question, namespaces=self.namespaces, task_type=task.type, limit=self.limit)
        return await asyncio.to_thread(self.memory.recall, cue)
