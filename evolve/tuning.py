"""Each member's best temperature and measured weight, taken on DEV before AUDIT is asked: everyone at its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from evolve.asks import first_of_each_type, proposal_asks
from evolve.evaluate import Pool, member_scores
from evolve.lab import Ask, Lab
from evolve.problem_types import Problem
from evolve.rivals import again
from memory.types import Record
from mesh.reliability import Reliability, judged_answers, measure, seat_key
from mesh.types import Deliberation, Member


class Tried(Record):
    """One temperature on DEV."""

    temperature: float
    right: float = Field(description="mean share of right samples over the problems")
    n: int = Field(description="problems")


class Tuned(Record):
    """What DEV says of one member: how it should be sampled, and how good it is."""

    member: str
    tried: tuple[Tried, ...] = Field(min_length=1, description="in the order of the configuration")

    @property
    def sampled(self) -> Tried:
        """The best temperature for several samples, which must differ; of equals the earlier one."""
        warm = [one for one in self.tried if one.temperature > 0.0]
        return max(warm or self.tried, key=lambda one: one.right)

    @property
    def greedy(self) -> Tried | None:
        """The one draw at temperature 0 beside them; None: not tried, or nothing else was."""
        cold = next((one for one in self.tried if one.temperature == 0.0), None)
        return cold if cold is not None and cold != self.sampled else None

    @property
    def best(self) -> Tried:
        """The best way to ask it once; of equals the sampled one."""
        return max(self.sampled, self.greedy or self.sampled, key=lambda one: one.right)


class Tuning(Record):
    """What DEV says of all members."""

    members: dict[str, Tuned] = Field(description="by member name")
    reliability: Reliability = Field(description="of every member at the temperature its samples are best at")


async def tune(lab: Lab, stage: str, members: Sequence[Member], dev: Sequence[Problem]) -> Tuning:
    """Try the configured temperatures with every member; what each is worth, and what its votes should weigh.

    Without temperatures to try the configured one is measured, so that a best single can be chosen on DEV.

    Args:
        dev: DEV problems; of each type the first `evaluation.tuning_items_per_type` are asked.
    """
    settings = lab.config.evaluation
    items = first_of_each_type(dev, settings.tuning_items_per_type)
    temperatures = settings.temperatures or (lab.config.deliberation.sampling.temperature,)
    asks = [ask for t in temperatures for ask in _asks(lab, stage, items, members, t)]
    drawn = await lab.hold(stage, lab.directory / "audit" / f"{stage.replace(' ', '-')}.parquet", asks)
    judged = (await lab.judge_all(stage, drawn, items)).lookup()
    pool = Pool(drawn)
    tuned = {
        member.name: Tuned(
            member=member.name,
            tried=tuple(
                Tried(temperature=t, right=_mean(member_scores(pool, _at(member, t), items, judged)), n=len(items))
                for t in temperatures
            ),
        )
        for member in members
    }
    return Tuning(members=tuned, reliability=reliability_of(drawn, judged, members, tuned))


def reliability_of(
    drawn: Sequence[Deliberation],
    judged: Mapping[tuple[str, str], bool],
    members: Sequence[Member],
    tuned: Mapping[str, Tuned],
) -> Reliability:
    """What the tuning's draws say of the members themselves: of each only those at its best temperature."""
    own = {seat_key(_at(m, tuned[m.name].sampled.temperature)): seat_key(m) for m in members}
    rows = (row for row in judged_answers(drawn, judged) if row.member in own)
    return measure(row.model_copy(update={"member": own[row.member]}) for row in rows)


def at_temperature(asks: Sequence[Ask], temperatures: Mapping[str, float]) -> list[Ask]:
    """The same first proposals, each at its member's temperature; by member name, others as they are."""
    return [
        ask if ask.members[0].name not in temperatures else heated(ask, temperatures[ask.members[0].name])
        for ask in asks
    ]


def best_of(members: Sequence[Member], tuned: Mapping[str, Tuned]) -> Member:
    """The member that is best on DEV when it is asked once, at its own best temperature; of equals the earlier."""
    return max(members, key=lambda member: tuned[member.name].best.right)


def best_sampled(members: Sequence[Member], tuned: Mapping[str, Tuned]) -> Member:
    """The member whose samples are best on DEV; of equals the earlier."""
    return max(members, key=lambda member: tuned[member.name].sampled.right)


def shared_temperature(members: Sequence[Member], tuned: Mapping[str, Tuned]) -> float:
    """The one temperature above 0 at which these members' samples are best on average; of equals the earlier.

    A council has one temperature for all of its members.
    """
    tried = [one.temperature for one in tuned[members[0].name].tried]
    worth = {t: sum(one.right for m in members for one in tuned[m.name].tried if one.temperature == t) for t in tried}
    return max([t for t in tried if t > 0.0] or tried, key=lambda t: worth[t])


def _asks(lab: Lab, stage: str, items: Sequence[Problem], members: Sequence[Member], temperature: float) -> list[Ask]:
    count = 1 if temperature == 0.0 else lab.config.evaluation.dev_samples_per_member
    aliases = [_at(member, temperature) for member in members]
    asks = proposal_asks(lab.config, stage, items, aliases, count)
    return at_temperature(asks, {alias.name: temperature for alias in aliases})


def _at(member: Member, temperature: float) -> Member:
    return again(member, f"t{temperature:g}")


def heated(ask: Ask, temperature: float) -> Ask:
    """The same, all of it at one temperature."""
    sampling = ask.protocol.sampling.model_copy(update={"temperature": temperature})
    return ask.model_copy(update={"protocol": ask.protocol.model_copy(update={"sampling": sampling})})


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores) if scores else 0.0
