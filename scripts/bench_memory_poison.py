"""Poison: fluent false solutions among honest ones. What is served as trusted, and what does honest recall lose?

    python scripts/bench_memory_poison.py        # two minutes, no model but the sentence embedder

Honest entries are solutions of reasoning-gym problems that a trusted check passed. The poisoner writes false answers
to the very problems that will be asked, at 1, 5 and 10% of all solutions, in every way that is open to somebody who
may report experiences but does not run the checks. One way needs a check that errs: it is counted by itself.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from memory.config import MemoryConfig
from memory.embed import HashedNgramEmbedder, MiniLmEmbedder
from memory.store import Memory
from memory.types import Cue, Edge, Evidence, Experience, Kind, Level, Observation, Relation, Use

FAMILIES = ("chain_sum", "gcd", "word_sequence_reversal", "spell_backward", "number_filtering")
SHARES = (0.01, 0.05, 0.10)
NAMESPACES = ("default/default/default",)


class Problem(NamedTuple):
    """A problem, its true answer, and a fluent false one."""

    family: str
    question: str
    truth: str
    lie: str

    @property
    def experience(self) -> Experience:
        """The problem as memory holds it."""
        return Experience(kind=Kind.PROBLEM, text=self.question, task_type=self.family)

    def solution(self, answer: str) -> Experience:
        """A solution of it, true or not."""
        return Experience(kind=Kind.SOLUTION, text=f"{self.question}\nAnswer: {answer}", task_type=self.family)


Attack = Callable[[Memory, Problem, int], None]
"""Writes one lie; the number makes episodes and names distinct."""


def main() -> None:
    """Print what each attack, at each share, got served."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--embedder", choices=("minilm", "hashed"), default="minilm")
    args = parser.parse_args()
    embedder = MiniLmEmbedder() if args.embedder == "minilm" else HashedNgramEmbedder()
    embedder = Remembering(embedder)
    problems = drawn(args.problems, args.seed)
    rng = random.Random(args.seed)
    print(f"{len(problems)} problems, each solved and checked; asked again as they are and reworded; seed {args.seed}")
    print(f"{'attack':28} {'share':>5} | {'ours: lies':>10} {'right':>6} | {'trusting all: lies':>18} {'right':>6}")
    clean = measure(embedder, problems, [], None, MemoryConfig())
    print(f"{'none':28} {'':>5} | {clean.lies:10} {clean.right:6.3f} | {'':18} {'':6}")
    worst = 0
    for name, attack in ATTACKS.items():
        for share in SHARES:
            victims = rng.sample(problems, max(1, round(share * len(problems) / (1 - share))))
            ours = measure(embedder, problems, victims, attack, MemoryConfig())
            all_ = measure(embedder, problems, victims, attack, MemoryConfig(shown_from=Level.OBSERVED))
            print(f"{name:28} {share:5.0%} | {ours.lies:10} {ours.right:6.3f} | {all_.lies:18} {all_.right:6.3f}")
            worst = max(worst, ours.lies)
    print(f"served as trusted by ours, at most: {worst} (target 0)")
    print("\na trusted check that errs (passes the lie): how often it is served before and after one failed reuse")
    for share in SHARES:
        victims = rng.sample(problems, max(1, round(share * len(problems) / (1 - share))))
        before, after = fooled(embedder, problems, victims)
        print(f"  {share:5.0%}: {before} of {len(victims)} lies served, {after} after a followed reuse failed")
    if worst:
        raise SystemExit(1)


class Served(NamedTuple):
    """Lies shown as solutions over all questions, and the share of questions whose first solution was the truth."""

    lies: int
    right: float


class Remembering:
    """An embedder that embeds a text once."""

    def __init__(self, embedder: MiniLmEmbedder | HashedNgramEmbedder) -> None:
        self._embedder = embedder
        self._known: dict[str, object] = {}
        self.id, self.dim = embedder.id, embedder.dim

    def embed(self, texts):  # type: ignore[no-untyped-def]
        """See `memory.embed.Embedder`."""
        import numpy as np

        for text in texts:
            if text not in self._known:
                self._known[text] = self._embedder.embed([text])[0]
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([self._known[text] for text in texts])


def drawn(count: int, seed: int) -> list[Problem]:
    """Problems of several families; a lie is the true answer of another problem of the family."""
    import reasoning_gym

    each = -(-count // len(FAMILIES))
    found: dict[str, Problem] = {}
    for family in FAMILIES:
        items = [(i["question"], str(i["answer"])) for i in reasoning_gym.create_dataset(family, size=each, seed=seed)]
        for place, (question, truth) in enumerate(items):
            lie = next(other for _, other in items[place + 1 :] + items[:place] if other != truth)
            found.setdefault(question, Problem(family, question, truth, lie))
    return list(found.values())[:count]


def measure(
    embedder: Remembering, problems: list[Problem], victims: list[Problem], attack: Attack | None, config: MemoryConfig
) -> Served:
    """Fill a memory with the honest and then the poison, and ask every problem again, as it was and reworded."""
    with tempfile.TemporaryDirectory() as directory, Memory.open(Path(directory), embedder, config=config) as memory:
        fill(memory, problems)
        for number, victim in enumerate(victims):
            assert attack is not None
            attack(memory, victim, number)
        lies = right = asked = 0
        for problem in problems:
            for question in (problem.question, reworded(problem.question)):
                cue = Cue(text=question, namespaces=NAMESPACES, task_type=problem.family)
                shown = [one.text for one in memory.recall(cue).shown if not one.warning]
                lies += problem.solution(problem.lie).text in shown
                right += bool(shown) and shown[0] == problem.solution(problem.truth).text
                asked += 1
        return Served(lies, right / asked)


def fill(memory: Memory, problems: list[Problem]) -> None:
    """The honest: each problem with its checked solution."""
    for number, problem in enumerate(problems):
        told(memory, problem, problem.truth, "honest", f"e{number}", Evidence(
            verifier=f"reasoning_gym:{problem.family}", verdict="passed", digest=f"d{number}"
        ))  # fmt: skip


def told(
    memory: Memory, problem: Problem, answer: str, source: str, episode: str, evidence: Evidence | None
) -> list[str]:
    """Report a problem and a solution of it."""
    asked, solution = problem.experience, problem.solution(answer)
    return memory.remember(
        [
            Observation(experience=asked, source=source, episode=episode),
            Observation(experience=solution, source=source, episode=episode, evidence=evidence),
        ],
        [Edge(source=asked.id, relation=Relation.RESOLVED_BY, target=solution.id)],
    )


def reworded(question: str) -> str:
    """The same problem, asked politely."""
    return f"Please help me: {question} Thank you."


def unchecked(memory: Memory, problem: Problem, number: int) -> None:
    """A bare claim."""
    told(memory, problem, problem.lie, "mallory", f"m{number}", None)


def signed_by_himself(memory: Memory, problem: Problem, number: int) -> None:
    """The proposer is his own verifier."""
    told(memory, problem, problem.lie, "mallory", f"m{number}", passed("mallory", number))


def signed_as_a_judge(memory: Memory, problem: Problem, number: int) -> None:
    """The proposer signs as a judge of his own name, which the pattern judge:* would match."""
    told(memory, problem, problem.lie, "mallory", f"m{number}", passed("judge:mallory", number))


def signed_by_an_accomplice(memory: Memory, problem: Problem, number: int) -> None:
    """Another member vouches for it."""
    told(memory, problem, problem.lie, "mallory", f"m{number}", passed("trudy", number))


def without_evidence(memory: Memory, problem: Problem, number: int) -> None:
    """A trusted name, and nothing that was checked."""
    evidence = Evidence(verifier="exact", verdict="passed", digest="")
    told(memory, problem, problem.lie, "mallory", f"m{number}", evidence)


def repeated(memory: Memory, problem: Problem, number: int) -> None:
    """The same claim in ten episodes, by ten names."""
    for turn in range(10):
        told(memory, problem, problem.lie, f"mallory{turn}", f"m{number}.{turn}", None)


def superseding(memory: Memory, problem: Problem, number: int) -> None:
    """A bare claim that says it replaces the truth."""
    told(memory, problem, problem.lie, "mallory", f"m{number}", None)
    truth, lie = problem.solution(problem.truth), problem.solution(problem.lie)
    memory.remember([], [Edge(source=lie.id, relation=Relation.SUPERSEDES, target=truth.id)])


def slandering(memory: Memory, problem: Problem, number: int) -> None:
    """A bare claim, and a failed check of the truth signed by himself."""
    told(memory, problem, problem.lie, "mallory", f"m{number}", None)
    failed = Evidence(verifier="mallory", verdict="failed", digest=f"m{number}")
    memory.verify(problem.solution(problem.truth).id, failed, source="mallory", episode=f"m{number}")


def claiming_uses(memory: Memory, problem: Problem, number: int) -> None:
    """A bare claim with ten uses that he says succeeded."""
    told(memory, problem, problem.lie, "mallory", f"m{number}", None)
    lie = problem.solution(problem.lie).id
    for turn in range(10):
        memory.used(
            Use(
                episode=f"m{number}.{turn}",
                success=True,
                verifier="mallory",
                shown=(lie,),
                followed=(lie,),
                same=(lie,),
            )
        )


def passed(verifier: str, number: int) -> Evidence:
    """A check that is said to have passed."""
    return Evidence(verifier=verifier, verdict="passed", digest=f"m{number}")


ATTACKS: dict[str, Attack] = {
    "unchecked": unchecked,
    "signed by himself": signed_by_himself,
    "signed as a judge": signed_as_a_judge,
    "signed by an accomplice": signed_by_an_accomplice,
    "trusted name, no evidence": without_evidence,
    "repeated under ten names": repeated,
    "says it supersedes": superseding,
    "slanders the truth": slandering,
    "claims successful uses": claiming_uses,
}


def fooled(embedder: Remembering, problems: list[Problem], victims: list[Problem]) -> tuple[int, int]:
    """How many lies that a trusted check wrongly passed are served, before and after each was followed and failed."""
    with tempfile.TemporaryDirectory() as directory, Memory.open(Path(directory), embedder) as memory:
        fill(memory, problems)
        for number, victim in enumerate(victims):
            told(memory, victim, victim.lie, "mallory", f"m{number}", passed(f"reasoning_gym:{victim.family}", number))
        before = len(list(served(memory, victims)))
        for number, victim in enumerate(victims):
            lie = victim.solution(victim.lie).id
            memory.used(
                Use(
                    episode=f"reuse{number}", success=False, verifier=f"reasoning_gym:{victim.family}",
                    shown=(lie,), followed=(lie,), same=(lie,),
                )
            )  # fmt: skip
        return before, len(list(served(memory, victims)))


def served(memory: Memory, victims: list[Problem]) -> Iterator[Problem]:
    """The victims whose lie is shown as a solution."""
    for victim in victims:
        cue = Cue(text=victim.question, namespaces=NAMESPACES, task_type=victim.family)
        if victim.solution(victim.lie).text in [one.text for one in memory.recall(cue).shown if not one.warning]:
            yield victim


if __name__ == "__main__":
    main()
