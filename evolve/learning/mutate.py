"""Hyper-parameters changed a little within bounds, the same way for a seed; and who is merged with whom. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evolve.training.config import LoraTraining, MutationConfig, TrainingConfig

LADDERS = ("rank", "alpha_ratio", "num_epochs", "batch_size", "weight_decay")


class Mutation(NamedTuple):
    """A changed training, and what is different, in words."""

    training: TrainingConfig
    changes: tuple[str, ...]


def mutate(training: TrainingConfig, config: MutationConfig, seed: int, max_rank: int | None = None) -> Mutation:
    """Change up to `config.num_changes` hyper-parameters; the rate always is one of them.

    The rate is multiplied by exp(N(0, step)) and thrown back at its bounds; the others take the next value up or down
    of their ladder. Ranks above `max_rank` are not on it. Changing the rank keeps alpha / rank. A scripted training
    has nothing to change.
    """
    if not isinstance(training, LoraTraining):
        return Mutation(training, ())
    rng = random.Random(f"mutate/{seed}")
    ladders: dict[str, tuple[float, ...]] = {name: getattr(config, name) for name in LADDERS}
    ladders["rank"] = tuple(rank for rank in config.rank if max_rank is None or rank <= max_rank)
    before = _values(training)
    after = {**before, "learning_rate": _reflected(before["learning_rate"], config, rng)}
    movable = [name for name in LADDERS if len(ladders[name]) > 1]
    for name in rng.sample(movable, min(config.num_changes - 1, len(movable))):
        after[name] = _next_rung(before[name], ladders[name], rng)
    changed = LoraTraining.model_validate(
        training.model_dump()
        | {
            "learning_rate": float(f"{after['learning_rate']:.3g}"),
            "weight_decay": after["weight_decay"],
            "rank": int(after["rank"]),
            "alpha": max(1, round(after["alpha_ratio"] * after["rank"])),
            "num_epochs": int(after["num_epochs"]),
            "batch_size": int(after["batch_size"]),
        }
    )
    return Mutation(changed, tuple(_differences(training, changed)))


def attraction(first: Sequence[float], second: Sequence[float], difficulty: Sequence[float]) -> float:
    """How much `second` adds to `first`: Σ c_j · max(0, second_j − first_j) over items (M2N2, arXiv 2508.16204).

    `difficulty`: weight c_j of each item.
    """
    return sum(w * max(0.0, b - a) for w, a, b in zip(difficulty, first, second, strict=True))


def partners(scores: Mapping[str, Sequence[float]], first: str, num: int) -> tuple[str, ...]:
    """`first`, then the `num` - 1 others that add most to those before them, greedily; of equals the earlier one.

    An item counts by its difficulty, 1 less the mean score of all.

    Args:
        scores: adapter to its score on every item, all on the same items, in the order that decides between equals.
    """
    chosen, best = [first], list(scores[first])
    difficulty = [1.0 - sum(column) / len(scores) for column in zip(*scores.values(), strict=True)]
    while len(chosen) < num and len(chosen) < len(scores):
        left = [name for name in scores if name not in chosen]
        gains = {name: attraction(best, scores[name], difficulty) for name in left}
        found = max(left, key=lambda name: gains[name])
        chosen.append(found)
        best = [max(a, b) for a, b in zip(best, scores[found], strict=True)]
    return tuple(chosen)


def _values(training: LoraTraining) -> dict[str, float]:
    return {
        "learning_rate": training.learning_rate,
        "rank": training.rank,
        "alpha_ratio": training.alpha / training.rank,
        "num_epochs": training.num_epochs,
        "batch_size": training.batch_size,
        "weight_decay": training.weight_decay,
    }


def _reflected(rate: float, config: MutationConfig, rng: random.Random) -> float:
    low, high = map(math.log, config.learning_rate)
    value = min(max(math.log(rate), low), high) + rng.gauss(0.0, config.step)
    # A value that only stuck to the bound would make the bounds the likeliest rates of all.
    width = high - low
    if width == 0:
        return config.learning_rate[0]
    offset = (value - low) % (2 * width)
    return math.exp(low + min(offset, 2 * width - offset))


def _next_rung(value: float, ladder: Sequence[float], rng: random.Random) -> float:
    nearest = min(range(len(ladder)), key=lambda index: abs(ladder[index] - value))
    steps = [index for index in (nearest - 1, nearest + 1) if 0 <= index < len(ladder)]
    return ladder[rng.choice(steps)]


def _differences(before: LoraTraining, after: LoraTraining) -> list[str]:
    left, right = before.model_dump(), after.model_dump()
    return [f"{name} {left[name]:g} → {right[name]:g}" for name in left if left[name] != right[name]]
