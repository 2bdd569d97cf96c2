"""What the memory benchmarks share: many entries with real texts, whose vectors are real embeddings, perturbed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from memory.embed import MiniLmEmbedder, Vectors
from memory.store import Submission
from memory.types import Edge, Evidence, Experience, Kind, Observation, Relation

FAMILIES: dict[str, dict[str, int]] = {
    "chain_sum": {},
    "number_filtering": {},
    "needle_haystack": {"min_num_statements": 2, "max_num_statements": 8},  # else it is all that its questions are
    "word_sequence_reversal": {},
    "gcd": {},
    "spell_backward": {},
}
NUM_BASE = 2_000
SPREAD = 0.35
"""Length of the noise that makes an entry of a base vector of length 1: the cosine to it is about .94."""
QUERY_SPREAD = 0.2
"""The same for a query near an entry: cosine about .98; many neighbours in the entry's cluster are hardly further."""

_CASE = re.compile(r"case (\d+)([ps])(?: asked (\d+))?")


class Load:
    """Entries number 0, 1, 2, ...: problems and their solutions, over questions of reasoning-gym families."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def questions(self) -> list[tuple[str, str]]:
        """(family, question), NUM_BASE of them."""
        import reasoning_gym

        each = NUM_BASE // len(FAMILIES) + 1
        drawn = [
            (family, item["question"])
            for family, settings in FAMILIES.items()
            for item in reasoning_gym.create_dataset(family, size=each, seed=5, **settings)
        ]
        return drawn[:NUM_BASE]

    @cached_property
    def base(self) -> Vectors:
        """MiniLM's vectors of the questions (NUM_BASE, 384); kept, since they take a minute."""
        path = self.directory / "base.npy"
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            np.save(path, MiniLmEmbedder().embed([question for _, question in self.questions]))
        return np.load(path)

    def problem(self, number: int) -> Experience:
        """The problem of this number; a rare word makes its text its own."""
        family, question = self.questions[number % NUM_BASE]
        return Experience(kind=Kind.PROBLEM, text=f"{question} case {number}p", task_type=family)

    def submission(self, numbers: Sequence[int]) -> Submission:
        """Problems and checked solutions."""
        observations, edges = [], []
        for number in numbers:
            problem = self.problem(number)
            text = f"{problem.text}\nAnswer: {number * 7 % 1000} case {number}s"
            solution = Experience(kind=Kind.SOLUTION, text=text, task_type=problem.task_type)
            passed = Evidence(verifier="exact", verdict="passed", digest=str(number))
            observations += [
                Observation(experience=problem, source="load", episode=f"e{number}"),
                Observation(experience=solution, source="load", episode=f"e{number}", evidence=passed),
            ]
            edges.append(Edge(source=problem.id, relation=Relation.RESOLVED_BY, target=solution.id))
        return Submission(observations, edges)

    def query(self, number: int, turn: int) -> str:
        """A question near problem `number`, in words and in meaning, and the same as none."""
        return f"{self.questions[number % NUM_BASE][1]} case {number}p asked {turn}"

    def submissions(self, num_entries: int, each: int) -> Iterator[Submission]:
        """Submissions of `each` problems, until there are `num_entries` entries."""
        for start in range(0, num_entries // 2, each):
            yield self.submission(range(start, min(start + each, num_entries // 2)))


class PerturbedEmbedder:
    """An `Embedder` that knows every text of a `Load`: microseconds instead of milliseconds, the same geometry."""

    id = "perturbed-minilm"
    dim = 384

    def __init__(self, load: Load) -> None:
        self._load = load

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        return np.stack([self._one(text) for text in texts]) if texts else np.zeros((0, self.dim), dtype=np.float32)

    def _one(self, text: str) -> Vectors:
        found = _CASE.findall(text)
        if not found:
            raise ValueError(f"expected a text of this load, got {text[:80]!r}")
        number, half, turn = found[-1]
        vector = _moved(self._load.base[int(number) % NUM_BASE], SPREAD, (int(number), ord(half)))
        return _moved(vector, QUERY_SPREAD, (int(number), int(turn), 1)) if turn else vector


def _moved(vector: Vectors, spread: float, seed: tuple[int, ...]) -> Vectors:
    noise = np.random.default_rng(seed).standard_normal(len(vector), dtype=np.float32)
    moved = vector + np.float32(spread / np.sqrt(len(vector))) * noise
    return moved / np.linalg.norm(moved)
