"""The memory behind the door: each team's own, read before its questions and written when it reports outcomes."""

from __future__ import annotations

import asyncio

from memory.store import Memory
from memory.types import Cue, Recall
from mesh.lessons import lessons
from mesh.types import Deliberation, Outcome, Task
from serving.endpoint.keys import Caller

SPLIT = "served"
"""What served experiences are marked with: a run that recalls TRAIN alone never reads them."""


class TeamMemory:
    """One store for all teams; whoever asks reads and writes the namespace of its own team and project, no other."""

    def __init__(self, memory: Memory, run: str, limit: int) -> None:
        """`run`: third part of the namespaces that are written. `limit`: most recollections for a question."""
        self._memory = memory
        self._run = run
        self._limit = limit

    async def recall(self, caller: Caller, task: Task) -> Recall:
        """What may help with `task`. Raises StoreError."""
        cue = Cue(
            text=task.question,
            namespaces=(f"{caller.team}/{caller.project}/*",),
            task_type=task.type,
            limit=self._limit,
        )
        return await asyncio.to_thread(self._memory.recall, cue)

    async def learn(self, caller: Caller, held: Deliberation, outcomes: list[Outcome]) -> None:
        """As `Learner.learn`; saying it again changes nothing."""
        first, *others = outcomes
        learnt = lessons(held, first, namespace=caller.namespace(self._run), split=SPLIT, also=others)
        await asyncio.to_thread(self._memory.remember, learnt.observations, learnt.edges)
        if learnt.use is not None:
            await asyncio.to_thread(self._memory.used, learnt.use)

    def close(self) -> None:
        """Close the store."""
        self._memory.close()
