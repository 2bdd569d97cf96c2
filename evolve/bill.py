"""What a run costs beyond tokens and time: floating-point operations, money, and the gain its whole gate can show."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import Field

from evolve.config import RunConfig
from evolve.plan import TOKENS_PER_ROW, Plan, Problems, training_tokens
from evolve.power import Assumed, ConjunctionPower, conjunction_power, detectable_conjunction
from evolve.splits import Split
from memory.types import Record
from serving.config import EngineSpec, VllmSpec, prices
from serving.models import ModelError, ModelStore
from serving.safetensors_header import read_header

FORWARD, FROZEN = 2, 4
"""Operations a weight and token: a forward pass, and forward and backward through a base that gets no gradient."""
ASSUMED_ACCURACY = 0.5
"""Of the incumbents, where nothing was measured; the worst case for what a gate can show."""


class Bill(Record):
    """The rest of an estimate."""

    inference_flops: float | None = Field(description="2 a weight and token, prompts included; None: no weights here")
    training_flops: float | None = Field(description="4 a weight and token: the base gets no gradient; None: as above")
    engine_hours: float = Field(description="hours of the run times its engines, replicas counted")
    money: float | None = Field(description="None: an engine has no price_per_hour")
    detectable: ConjunctionPower | None = Field(
        description="power at the smallest gain that passes the whole conjunction (every rival in gate.required, every "
        "guard) with 80%; None: none does"
    )
    expected: ConjunctionPower | None = Field(
        default=None, description="power of the whole conjunction at a gain of 5 points; None: impossible here"
    )


def bill_of(
    config: RunConfig, problems: Problems, plan: Plan, *, accuracy: float = ASSUMED_ACCURACY, rounds: int = 1000
) -> Bill:
    """The bill of a planned run.

    Args:
        accuracy: of the incumbents' vote on these tasks; `evomesh assess` measures it.
        rounds: simulated gates for each power.
    """
    specs = config.serving.engines
    weights = [num_weights(spec, config.serving.model_store) for spec in specs]
    known = [count for count in weights if count is not None]
    each = 1.0 / len(specs)  # calls and tokens are shared evenly: every seat answers everything
    tokens = plan.output_tokens + TOKENS_PER_ROW * sum(stage.num_calls for stage in plan.stages)
    rows = training_tokens(config, problems)
    hours = plan.seconds / 3600.0 * sum(spec.replicas for spec in specs)
    whole = len(known) == len(specs)
    return Bill(
        inference_flops=FORWARD * tokens * each * sum(known) if whole else None,
        training_flops=FROZEN * rows * sum(known) if whole else None,
        engine_hours=hours,
        money=_money(config, plan.seconds / 3600.0),
        detectable=_detectable(config, problems, accuracy, rounds),
        expected=_expected(config, problems, accuracy, rounds),
    )


def num_weights(spec: EngineSpec, store: Path) -> int | None:
    """Weights of an engine's base model, read from the headers of its files; None: they are not here."""
    if not isinstance(spec, VllmSpec):
        return None
    try:
        directory = ModelStore(store).path(spec.model)
    except ModelError:
        return None
    tensors = {name: info for file in directory.glob("*.safetensors") for name, info in read_header(file).items()}
    return sum(math.prod(info.shape) for info in tensors.values()) if tensors else None


def bill_lines(bill: Bill) -> list[str]:
    """What a person is told after the plan."""
    lines = []
    if bill.inference_flops is not None and bill.training_flops is not None:
        lines.append(f"About {bill.inference_flops:.2g} FLOPs of inference and {bill.training_flops:.2g} of training.")
    money = "no engine has a price_per_hour" if bill.money is None else f"{bill.money:.2f} in money"
    lines.append(f"{bill.engine_hours:.1f} engine-hours, {money}.")
    if bill.detectable is None:
        lines.append("The whole gate (every rival and guard) finds no gain with 80% power.")
    else:
        gain = bill.detectable.assumed.gain
        lines.append(f"The whole gate finds a gain of {100 * gain:.0f} points with {bill.detectable.power:.0%} power.")
    if bill.expected is not None:
        lines.append(f"For example, {bill.expected.sentence}.")
    return lines


def _money(config: RunConfig, hours: float) -> float | None:
    costs = prices(config.serving)
    if len(costs) < len(config.serving.engines):
        return None
    return hours * sum(costs[spec.name] * spec.replicas for spec in config.serving.engines)


def _assumed(config: RunConfig, problems: Problems, accuracy: float, gain: float) -> Assumed | None:
    items = problems.of(Split.GATE)
    if not items:
        return None
    discordance = min(config.gate.expected_discordance, 2 * accuracy, 2 * (1 - accuracy))
    fits = abs(gain) <= discordance and (discordance + gain) / 2 <= 1 - accuracy
    if not fits:
        return None
    return Assumed(
        num_problems=len(items),
        num_task_types=len({problem.task.type for problem in items}),
        accuracy=accuracy,
        gain=gain,
        discordance=discordance,
        placebo_gain=0.0 if "placebo" in config.gate.required else None,
        budget_gain=0.0 if "budget" in config.gate.required else None,
        alpha=config.gate.alpha,
        num_finalists=config.gate.max_finalists,
    )


def _detectable(config: RunConfig, problems: Problems, accuracy: float, rounds: int) -> ConjunctionPower | None:
    assumed = _assumed(config, problems, accuracy, 0.0)
    return None if assumed is None else detectable_conjunction(assumed, rounds=rounds, seed=config.seed)


def _expected(config: RunConfig, problems: Problems, accuracy: float, rounds: int) -> ConjunctionPower | None:
    assumed = _assumed(config, problems, accuracy, 0.05)
    return None if assumed is None else conjunction_power(assumed, rounds=rounds, seed=config.seed)
