"""What a run costs beyond tokens and time: floating-point operations, money, and the gain its whole gate can show."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from evolve.config import RunConfig
from evolve.gates.conjunction import RivalKind
from evolve.gates.gate_wear import Level
from evolve.gates.power import Assumed, ConjunctionPower, conjunction_power, detectable_conjunction, with_gain
from evolve.planning.disk import sizes_of
from evolve.planning.gates_ahead import GateAhead, assumed_gate, later_gates, level_sentence, planned_levels
from evolve.planning.plan import Plan, Problems
from evolve.planning.rates import Basis
from evolve.training.flops import FORWARD, FROZEN
from memory.types import Record
from serving.config import prices

ASSUMED_ACCURACY = 0.5
"""Of the incumbents, where nothing was measured; the worst case for what a gate can show."""
EXAMPLE_GAIN = 0.05
_RIVALS: dict[RivalKind, str] = {
    "incumbent": "the incumbents",
    "placebo": "its placebo",
    "budget": "one more sample of the best incumbent",
}


class Bill(Record):
    """The rest of an estimate."""

    inference_flops: float | None = Field(
        description="2 a weight and token, prompts included; None: a base is not here"
    )
    training_flops: float | None = Field(description="4 a weight and token: the base gets no gradient; None: as above")
    engine_hours: float = Field(description="hours of the run times its engines, replicas counted")
    money: float | None = Field(description="None: an engine has no price_per_hour")
    detectable: ConjunctionPower | None = Field(
        description="power at the smallest gain that passes generation 0's whole gate (every rival in gate.required, "
        "every guard) with 80%; None: none does, or it may not be held"
    )
    expected: ConjunctionPower | None = Field(
        default=None, description="power of the whole conjunction at a gain of 5 points; None: impossible here"
    )
    level: Level | None = Field(
        default=None, description="of generation 0's gate, where wear leaves it less than gate.alpha; None: it has that"
    )
    later: tuple[GateAhead, ...] = Field(default=(), description="some of the gates that work at another level")
    is_accuracy_measured: bool = Field(default=False, description="False: incumbents are taken to be right on half")


def bill_of(config: RunConfig, problems: Problems, plan: Plan, basis: Basis, *, rounds: int = 1000) -> Bill:
    """The bill of a planned run. `rounds`: simulated gates for each power."""
    specs = config.serving.engines
    weights = _mean_weights(config, [spec.name for spec in specs])
    hours = plan.seconds / 3600.0
    accuracy = ASSUMED_ACCURACY if basis.accuracy is None else basis.accuracy
    levels = planned_levels(config, problems)
    gate = assumed_gate(config, problems, levels[0], accuracy, basis.discordance)
    return Bill(
        inference_flops=None if weights is None else FORWARD * (plan.output_tokens + plan.prompt_tokens) * weights,
        training_flops=training_flops(config, plan.trained_tokens),
        engine_hours=hours * sum(spec.replicas for spec in specs),
        money=hours * money_per_hour(config) if len(prices(config.serving)) == len(specs) else None,
        detectable=None if gate is None else detectable_conjunction(gate, rounds=rounds, seed=config.seed),
        expected=None if gate is None else _example(gate, rounds, config.seed),
        level=None if levels[0].alpha == config.gate.alpha else levels[0],
        later=later_gates(gate, levels, rounds=rounds, seed=config.seed),
        is_accuracy_measured=basis.accuracy is not None,
    )


def training_flops(config: RunConfig, trained_tokens: float) -> float | None:
    """Operations of so many trained tokens, 0 where training is only simulated; None: a base's weights are not here."""
    weights = _mean_weights(config, [spec.name for spec in config.serving.engines if spec.kind != "remote"])
    return None if weights is None else FROZEN * trained_tokens * weights


def money_per_hour(config: RunConfig) -> float:
    """Of all engines that have a price, replicas counted: an idle engine is paid for as well."""
    costs = prices(config.serving)
    return sum(costs.get(spec.name, 0.0) * spec.replicas for spec in config.serving.engines)


def bill_lines(bill: Bill) -> list[str]:
    """What a person is told after the plan; what the whole gate can show comes first."""
    lines = [power_sentence(bill)]
    if worn := level_sentence(bill.level, bill.later):
        lines.append(worn)
    if bill.expected is not None:
        lines.append(f"For example, {bill.expected.sentence}.")
    if bill.inference_flops and bill.training_flops is not None:
        lines.append(f"About {bill.inference_flops:.2g} FLOPs of inference and {bill.training_flops:.2g} of training.")
    money = "no engine has a price_per_hour" if bill.money is None else f"{bill.money:.2f} in money"
    lines.append(f"{bill.engine_hours:.1f} engine-hours, {money}.")
    return lines


def power_sentence(bill: Bill) -> str:
    """What the whole gate will be able to show: less than any single test of it."""
    if bill.level is not None and bill.level.alpha is None:
        return "The gate may not be held, so nothing can be seated."
    if bill.detectable is None:
        return (
            "The whole gate (every rival beaten, no guard raised) finds no gain with 80% power: raise the number of "
            "GATE problems."
        )
    found = bill.detectable.assumed
    known = "measured" if bill.is_accuracy_measured else "assumed"
    return (
        f"With {found.num_problems} GATE problems{found.alike}, of which {found.discordance:.0%} may differ, "
        f"the whole gate ({_rivals(found)} beaten, no guard raised) finds a gain of {100 * found.gain:.1f} points with "
        f"{bill.detectable.power:.0%} power; the incumbents' accuracy of {found.accuracy:.0%} is {known}."
    )


def _rivals(assumed: Assumed) -> str:
    names = [_RIVALS[kind] for kind in assumed.rivals]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _example(gate: Assumed, rounds: int, seed: int) -> ConjunctionPower | None:
    """At a gain of five points; None where so large a one is impossible."""
    if 1.0 - gate.accuracy < EXAMPLE_GAIN:
        return None
    return conjunction_power(with_gain(gate, EXAMPLE_GAIN), rounds=rounds, seed=seed)


def _mean_weights(config: RunConfig, engines: Sequence[str]) -> float | None:
    """Weights of a base model, mean over engines, which share calls and rows evenly; None: one's are not here."""
    sizes = [size for name, size in sizes_of(config).items() if name in engines and size is not None]
    return sum(size.num_weights for size in sizes) / len(sizes) if sizes and len(sizes) == len(engines) else None
