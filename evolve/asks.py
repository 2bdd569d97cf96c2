"""What is asked of whom: from problems and seats to the deliberations of a stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import TypeVar

from evolve.config import RunConfig
from evolve.lab import Ask
from evolve.problems.sealed import Asked
from memory.types import Recall
from mesh.config import CouncilConfig, VoteConfig
from mesh.seeds import derive_seed
from mesh.types import Member, Sampling

_A = TypeVar("_A", bound=Asked)

Recalled = Callable[[Asked], Recall]


def proposal_asks(
    config: RunConfig,
    stage: str,
    problems: Iterable[Asked],
    members: Sequence[Member],
    num_samples: int,
    *,
    temperature: float | None = None,
) -> list[Ask]:
    """First proposals of each member on its own for each problem, so that any set of seats can be replayed."""
    return [
        Ask(
            key=f"{problem.task.id}/{member.name}",
            task=problem.task,
            members=(member.at("propose"),),
            protocol=VoteConfig(samples_per_member=num_samples, **_limits(config, problem, temperature)),
            seed=derive_seed(config.seed, stage),
        )
        for problem in problems
        for member in members
    ]


def proposal_asks_in_parts(
    config: RunConfig, stage: str, problems: Iterable[Asked], members: Sequence[Member], num_samples: int, at_once: int
) -> list[Ask]:
    """As `proposal_asks`, with `at_once` samples in a call at most; each part has a seed of its own.

    Of a hundred samples in one call the last come too late on a busy machine, and then all of them are lost. `Pool`
    puts the parts together again.
    """
    items, starts = list(problems), range(0, num_samples, at_once)
    return [
        ask.model_copy(update={"key": f"{ask.key}/{number}"})
        for number, start in enumerate(starts)
        for ask in proposal_asks(config, f"{stage} {number}", items, members, min(at_once, num_samples - start))
    ]


def council_asks(
    config: RunConfig,
    stage: str,
    problems: Iterable[Asked],
    members: Sequence[Member],
    recalled: Recalled = lambda _: Recall(),
) -> list[Ask]:
    """Full councils of all members together."""
    talk = config.deliberation.model_dump(exclude={"kind", "sampling", "call_timeout_s", "budget"})
    return [
        Ask(
            key=problem.task.id,
            task=problem.task,
            members=tuple(members),
            protocol=CouncilConfig(**talk, **_limits(config, problem)),
            seed=derive_seed(config.seed, stage),
            recalled=recalled(problem),
        )
        for problem in problems
    ]


def first_of_each_type(problems: Iterable[_A], num_items: int, *, skip: int = 0) -> list[_A]:
    """`num_items` problems of every task type, after `skip` of them; wraps around where a type has too few."""
    by_type: dict[str, list[_A]] = defaultdict(list)
    for problem in problems:
        by_type[problem.task.type].append(problem)
    chosen = []
    for items in by_type.values():
        wanted = min(num_items, len(items))
        chosen += [items[(skip + offset) % len(items)] for offset in range(wanted)]
    return chosen


def types_in_turn(problems: Iterable[_A]) -> list[_A]:
    """The same problems, one of each task type, then the next of each: the first few hold all types alike."""
    by_type: dict[str, list[_A]] = defaultdict(list)
    for problem in problems:
        by_type[problem.task.type].append(problem)
    return [problem for row in zip_longest(*by_type.values()) for problem in row if problem is not None]


def _limits(config: RunConfig, problem: Asked, temperature: float | None = None) -> dict[str, object]:
    sampling: Sampling = config.deliberation.sampling
    warmth = {} if temperature is None else {"temperature": temperature}
    return {
        "sampling": sampling.model_copy(update={"max_tokens": problem.max_tokens, **warmth}),
        "call_timeout_s": config.deliberation.call_timeout_s,
        "budget": config.deliberation.budget,
    }
