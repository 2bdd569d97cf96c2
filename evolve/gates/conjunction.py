"""Who may be seated, all conditions at once: better than the incumbents, than mere form, than one more sample. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from pydantic import Field, model_validator

from evolve.gates.arrangements import Endpoint
from evolve.gates.gate import ArmKind, GateRecord, GateResult, Guard, detectable_effect, holm
from evolve.gates.paired import PairedTest, flip_p, paired_test
from memory.types import Record, content_hash

RivalKind = Literal["incumbent", "placebo", "budget"]

MEANING: dict[RivalKind, str] = {
    "incumbent": "the incumbents",
    "placebo": "its placebo, which learned form alone",
    "budget": "one more sample of the best incumbent in its place",
}


class Rival(Record):
    """An arrangement that the candidate's must beat, on the same problems at equal budget."""

    kind: RivalKind
    name: str
    right: tuple[bool, ...] = Field(description="was its vote, or its councils' verdict, right, problem by problem")


class Contest(Record):
    """One arrangement, a candidate's or a control's, with all that it has to beat."""

    name: str
    kind: ArmKind = Field(default="candidate", description="controls are tested by the same rule and never promoted")
    endpoint: Endpoint = Field(default="vote", description="what is right or wrong, of it and of its rivals")
    right: tuple[bool, ...] = Field(description="was its vote, or its councils' verdict, right, problem by problem")
    rivals: tuple[Rival, ...] = Field(min_length=1, description="the incumbents first; at most one of each kind")
    task_types: tuple[str, ...]
    clusters: tuple[str, ...] = Field(default=(), description="near-duplicate cluster of each problem; empty: none")
    exempt: tuple[RivalKind, ...] = Field(
        default=(), description="rivals that it cannot have and need not beat: what learned from no rows has no placebo"
    )
    num_left_out: int = Field(default=0, description="problems that are not here, since calls about them failed")

    @model_validator(mode="after")
    def _one_table(self) -> Contest:
        kinds = [rival.kind for rival in self.rivals]
        if kinds[0] != "incumbent" or len(set(kinds)) < len(kinds):
            raise ValueError(f"contest '{self.name}': expected the incumbent first and each kind once, got {kinds}")
        lengths = {len(self.right), len(self.task_types), *(len(rival.right) for rival in self.rivals)}
        lengths |= {len(self.clusters)} if self.clusters else set()
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(
                f"contest '{self.name}': expected results of the same problems, at least one, got lengths "
                f"{sorted(lengths)}"
            )
        return self


class Versus(Record):
    """A contest against one rival."""

    kind: RivalKind
    name: str
    test: PairedTest


class ContestResult(Record):
    """What the gate found about one arrangement."""

    name: str
    kind: ArmKind
    endpoint: Endpoint = "vote"
    versus: tuple[Versus, ...] = Field(description="the incumbents first")
    p_adjusted: float = Field(description="Holm over the candidates; for a control the same as p")
    threshold: float = Field(description="level that every test had to reach")
    guards: tuple[Guard, ...]
    missing: tuple[RivalKind, ...] = Field(default=(), description="rivals that were required and not measured")
    exempt: tuple[RivalKind, ...] = Field(default=(), description="rivals that it cannot have and need not beat")
    num_left_out: int = Field(
        default=0,
        description="problems that no side was held to, since calls about them failed",
        # Records from before there were any keep their digest.
        exclude_if=lambda number: number == 0,
    )
    shown: bool = Field(description="every rival is shown to be beaten")
    reason: str = Field(description="the decision in plain words")

    @property
    def p(self) -> float:
        """The largest p over the rivals: the p of the claim that all are beaten."""
        return max(versus.test.p for versus in self.versus)

    @property
    def gain(self) -> float:
        """Difference in accuracy to the incumbents, in shares."""
        return self.versus[0].test.gain

    @property
    def harmed(self) -> tuple[Guard, ...]:
        """Task types shown to be worse than under the incumbents."""
        return tuple(guard for guard in self.guards if guard.harmed)

    @property
    def inconsistent(self) -> tuple[RivalKind, ...]:
        """Rivals for whom the two calculations of p contradict each other."""
        return tuple(versus.kind for versus in self.versus if not versus.test.is_consistent)

    @property
    def would_pass(self) -> bool:
        """The rule says yes, whatever the kind; of an A/A arm that is a false promotion."""
        return self.shown and not self.harmed and not self.missing and not self.inconsistent

    @property
    def passed(self) -> bool:
        """A candidate of whom the rule says yes."""
        return self.would_pass and self.kind == "candidate"


class ConjunctionRecord(Record):
    """One holding of the gate over whole conjunctions."""

    alpha: float = Field(description="chance of promoting anything when no candidate beats all its rivals")
    num_candidates: int
    results: tuple[ContestResult, ...] = Field(description="in the order of the contests")

    @property
    def promoted(self) -> tuple[ContestResult, ...]:
        """Those that passed, largest gain over the incumbents first."""
        return tuple(sorted((r for r in self.results if r.passed), key=lambda r: -r.gain))

    def gate_record(self) -> GateRecord:
        """The same decision in short: counts against the incumbents, p of the conjunction."""
        results = tuple(_gate_result(result) for result in self.results)
        return GateRecord(alpha=self.alpha, num_candidates=self.num_candidates, results=results)


def hold(
    contests: Sequence[Contest],
    alpha: float,
    *,
    required: Collection[RivalKind] = (),
    seed: int,
) -> ConjunctionRecord:
    """Test every contest: an intersection-union test over its rivals, Holm's procedure over the candidates.

    Each rival is tested at the candidate's full level: "beats all" is claimed only if every single test claims it, so
    the chance of a false claim is at most that of one test (Berger 1982). Controls are tested alone and never pass.

    Args:
        contests: one for each finalist and control.
        alpha: chance of promoting anything that does not beat all its rivals.
        required: a candidate without one of these rivals is refused, unless it is exempt from it.
        seed: of the cross-check by relabelling.

    Raises:
        ValueError: alpha outside (0, 1), or two contests of one name.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"expected alpha between 0 and 1, got {alpha}")
    if len({contest.name for contest in contests}) != len(contests):
        raise ValueError(f"expected contests of different names, got {[contest.name for contest in contests]}")
    versus = [_versus(contest, seed) for contest in contests]
    p_values = [max(one.test.p for one in tests) for tests in versus]
    candidates = [index for index, contest in enumerate(contests) if contest.kind == "candidate"]
    corrected = dict(zip(candidates, holm([p_values[index] for index in candidates], alpha), strict=True))
    results = []
    for index, contest in enumerate(contests):
        p_adjusted, threshold, shown = corrected.get(index, (p_values[index], alpha, p_values[index] <= alpha))
        result = ContestResult(
            name=contest.name,
            kind=contest.kind,
            endpoint=contest.endpoint,
            versus=versus[index],
            p_adjusted=p_adjusted,
            threshold=threshold,
            guards=_guards(contest),
            missing=_missing(contest, required),
            exempt=contest.exempt,
            num_left_out=contest.num_left_out,
            shown=shown,
            reason="",
        )
        results.append(result.model_copy(update={"reason": _reason(result)}))
    return ConjunctionRecord(alpha=alpha, num_candidates=len(candidates), results=tuple(results))


def _missing(contest: Contest, required: Collection[RivalKind]) -> tuple[RivalKind, ...]:
    """Of a candidate. A control has the incumbents alone to beat: one that lacked a rival could never be alarming."""
    if contest.kind != "candidate":
        return ()
    have = {*contest.exempt, *(rival.kind for rival in contest.rivals)}
    return tuple(kind for kind in MEANING if kind in required and kind not in have)


def _versus(contest: Contest, seed: int) -> tuple[Versus, ...]:
    return tuple(
        Versus(
            kind=rival.kind,
            name=rival.name,
            test=paired_test(
                rival.right,
                contest.right,
                contest.clusters,
                seed=int(content_hash([seed, contest.name, rival.kind])[:8], 16),
            ),
        )
        for rival in contest.rivals
    )


def _guards(contest: Contest) -> tuple[Guard, ...]:
    """Each task type beside the incumbents, by whole clusters as the gain is."""
    names = contest.clusters or tuple(str(index) for index in range(len(contest.right)))
    before = contest.rivals[0].right
    guards = []
    for task_type in dict.fromkeys(contest.task_types):
        mine = [index for index, name in enumerate(contest.task_types) if name == task_type]
        steps = [int(before[index]) - int(contest.right[index]) for index in mine]
        harm: dict[str, int] = {}
        for index, step in zip(mine, steps, strict=True):
            harm[names[index]] = harm.get(names[index], 0) + step
        wins, losses = steps.count(-1), steps.count(1)
        p_harm = flip_p(list(harm.values()))
        guards.append(Guard(task_type=task_type, n=len(mine), wins=wins, losses=losses, p_harm=p_harm))
    return tuple(guards)


def _reason(result: ContestResult) -> str:
    facts = "; ".join(
        f"{one.test.wins} won and {one.test.losses} lost of {one.test.n} against {MEANING[one.kind]} "
        f"({one.test.gain:+.1%}, p = {_short(one.test.p)})"
        for one in result.versus
    )
    facts = f"in full councils {facts}" if result.endpoint == "council" else facts
    if "placebo" in result.exempt:
        facts += "; it learned from no rows, so it has no placebo"
    if result.num_left_out:
        facts += f"; {result.num_left_out} more were left out, since calls about them failed"
    level = f"every p must reach {_short(result.threshold)}"
    if result.kind != "candidate":
        found = "would have passed" if result.would_pass else "would not have passed"
        return f"control ({result.kind}): {facts}; {level}: {found}; a control is never promoted"
    if result.missing:
        return f"refused: {facts}; not measured against {' and '.join(MEANING[kind] for kind in result.missing)}"
    if result.inconsistent:
        return f"refused: {facts}; two calculations of p contradict each other, which is a defect: report it"
    if not result.shown:
        unbeaten = [MEANING[one.kind] for one in result.versus if one.test.p > result.threshold]
        return f"refused: {facts}; {level}: not shown to beat {' or '.join(unbeaten) or 'them after correction'}"
    if result.harmed:
        worst = ", ".join(f"{g.task_type} ({g.wins} won, {g.losses} lost)" for g in result.harmed)
        return f"refused: {facts}; {level}: all are beaten, but it is shown to harm {worst}"
    return f"passed: {facts}; {level}: all are beaten, and no task type is shown to be harmed"


def _gate_result(result: ContestResult) -> GateResult:
    first = result.versus[0].test
    return GateResult(
        name=result.name,
        kind=result.kind,
        n=first.n,
        wins=first.wins,
        losses=first.losses,
        p=result.p,
        p_two_sided=first.p_two_sided,
        p_adjusted=result.p_adjusted,
        threshold=result.threshold,
        difference=first.difference,
        guards=result.guards,
        detectable_effect=detectable_effect(
            round(first.n / max(1.0, first.design_effect)), first.discordance, result.threshold
        ),
        significant=result.shown,
        passed=result.passed,
        reason=result.reason,
    )


def _short(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}" if p > 0 else "0"
