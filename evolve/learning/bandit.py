"""Which kinds of recipe pay: a bandit over arms known by name, its state replayed from what candidates did. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from pydantic import Field

from evolve.training.config import BanditConfig
from memory.types import Record, content_hash


class ArmResult(Record):
    """What one recipe of an arm gave."""

    arm: str = Field(min_length=1, description="`Recipe.arm`")
    recipe: str = Field(description="name of the recipe, unique within a run")
    generation: int = Field(ge=0)
    reward: float = Field(ge=0, le=1, description="see `reward`")


class ArmState(Record):
    """What is known of one arm, older results weighing less."""

    arm: str
    num_tried: int
    weight: float = Field(description="discounted number of results")
    total: float = Field(description="discounted sum of rewards")

    @property
    def mean(self) -> float | None:
        """Discounted mean reward; None before the first result."""
        return self.total / self.weight if self.weight > 0 else None


class BanditState(Record):
    """What is known of all arms that were ever tried, sorted by name."""

    arms: tuple[ArmState, ...] = ()

    def of(self, arm: str) -> ArmState:
        """What is known of `arm`; zeros where it was never tried."""
        known = next((one for one in self.arms if one.arm == arm), None)
        return known or ArmState(arm=arm, num_tried=0, weight=0.0, total=0.0)


def reward(gain: float | None, *, passed_gate: bool, config: BanditConfig) -> float:
    """What a recipe earned: 1 where its candidate passed the gate, else its gain on DEV as a share of `full_gain`.

    No gain, a loss, and no candidate at all (None: quarantined, refused, too few rows) earn 0. A reward only decides
    what is tried next; it lets nothing into a seat.
    """
    if passed_gate:
        return 1.0
    return 0.0 if gain is None else min(1.0, max(0.0, gain / config.full_gain))


def replay(results: Iterable[ArmResult], config: BanditConfig, generation: int) -> BanditState:
    """The state before `generation`, from the results of the generations before; results of later ones do not count.

    A result counts once however often it is given, and the order does not matter, so a resumed run knows the same.
    """
    distinct = {one.recipe: one for one in results if one.generation < generation}
    arms: dict[str, list[ArmResult]] = {}
    for name in sorted(distinct):
        arms.setdefault(distinct[name].arm, []).append(distinct[name])
    return BanditState(arms=tuple(_state(arm, found, config, generation) for arm, found in sorted(arms.items())))


def choose(
    state: BanditState, arms: Sequence[str], config: BanditConfig, *, generation: int, seed: int
) -> tuple[str, ...]:
    """Up to `config.num_recipes` of `arms`, the most promising first; an arm named twice may be taken twice.

    Thompson sampling draws a mean for each arm from Beta(1 + rewards, 1 + the rest); UCB takes the mean plus a bonus,
    and what was never tried before anything else. An arm's draw depends on its name, the generation and the seed
    alone: that other arms come or go does not change it.
    """
    count: dict[str, int] = {}
    scored = []
    for arm in arms:
        count[arm] = count.get(arm, 0) + 1
        draw = random.Random(content_hash([seed, generation, arm, count[arm]]))
        known = state.of(arm)
        total = sum(state.of(one).weight for one in set(arms))
        value = _thompson(known, draw) if config.method == "thompson" else _bound(known, total, config)
        scored.append((-value, draw.random(), arm))
    return tuple(arm for _, _, arm in sorted(scored)[: config.num_recipes])


def _state(arm: str, results: Sequence[ArmResult], config: BanditConfig, generation: int) -> ArmState:
    weights = [config.discount ** (generation - 1 - one.generation) for one in results]
    return ArmState(
        arm=arm,
        num_tried=len(results),
        weight=math.fsum(weights),
        total=math.fsum(weight * one.reward for weight, one in zip(weights, results, strict=True)),
    )


def _thompson(known: ArmState, draw: random.Random) -> float:
    return draw.betavariate(1.0 + known.total, 1.0 + max(0.0, known.weight - known.total))


def _bound(known: ArmState, total: float, config: BanditConfig) -> float:
    mean = known.mean
    if mean is None:
        return math.inf
    return mean + config.exploration * math.sqrt(2 * math.log(max(total, math.e)) / known.weight)
