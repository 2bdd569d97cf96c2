"""DEV: a cheap screen stops broken candidates, halving measures the others as far as they hold; finalists remain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from evolve.asks import first_of_each_type, proposal_asks
from evolve.candidate import Candidate
from evolve.config import RunConfig
from evolve.evaluate import Judgements, Pool, member_scores, right_votes
from evolve.gates.arrangements import Arrangement, alone, distinct, together, weakest_places, widest
from evolve.gates.council_trials import Councils, Trials, try_in_councils
from evolve.gates.finalists import Shown, finalists_of
from evolve.gates.halving import balanced_order, kept_whole, next_step, plan_halving
from evolve.gates.paired import PairedTest, paired_test
from evolve.gates.remeasure import Remeasured, remeasured
from evolve.gates.rivals import members_of
from evolve.gates.screening import Sampled, screen
from evolve.gates.shapley import Contributions, ballot_box, contributions
from evolve.lab import Lab
from evolve.learning.quality import check, samples_of
from evolve.learning.recipe_rows import RowSelection
from evolve.lineage import Generation, seat
from evolve.problems.config import FileProblems
from evolve.problems.sealed import SplitProblems
from evolve.problems.splits import Split
from evolve.problems.types import Problem
from evolve.run_files import DEV, DEV_AGAIN, DEV_SEATS, DEV_TWINS
from evolve.ties import by_reliability, cross_fitted, standing
from evolve.training.stage import Ahead
from memory.types import Record
from mesh.reliability import Reliability
from mesh.seeds import derive_seed
from mesh.types import Deliberation, Member

SCREEN = "screen"


class DevScore(Record):
    """One arrangement on DEV, beside the incumbents on the same problems."""

    arrangement: Arrangement
    test: PairedTest

    @property
    def gain(self) -> float:
        """Of the vote over the incumbents', in shares; flattering, since finalists are chosen by it."""
        return self.test.gain


class Measured(Record):
    """One member alone on the DEV problems that choosing may use."""

    name: str
    scores: tuple[float, ...] = Field(description="share of right samples, problem by problem")
    num_samples: int = Field(ge=1, description="for each problem")


class DevRecord(Record):
    """What DEV showed, and what goes to the gate because of it."""

    task_types: tuple[str, ...] = Field(default=(), description="of each problem that choosing used, in order")
    keys: tuple[str, ...] = Field(default=(), description="their canonical keys")
    scores: tuple[DevScore, ...] = Field(default=(), description="arrangements of those who saw all problems")
    members: tuple[Measured, ...] = Field(default=(), description="seats first, then candidates that saw all problems")
    standing: Reliability = Field(
        default=Reliability(), description="of everybody measured, by `weights_key`: who decides ties on other problems"
    )
    contributions: Contributions | None = Field(default=None, description="of the seats, exact, on these problems")
    trials: Trials | None = Field(default=None, description="of critics and synthesisers in councils; None: of nobody")
    stopped: dict[str, str] = Field(default_factory=dict, description="candidate to why it got no further")
    finalists: tuple[Arrangement, ...] = Field(
        default=(), description="what goes to the gate; the first that passes there is seated"
    )
    reason: str = Field(default="", description="why nothing goes to the gate; empty when something does")

    def member(self, name: str) -> Measured | None:
        """How a member did alone; None: it did not see all problems."""
        return next((one for one in self.members if one.name == name), None)


def divided(problems: SplitProblems, config: RunConfig, generation: int) -> tuple[list[Problem], list[Problem]]:
    """(DEV problems to choose by, DEV problems kept for measuring the winner), each a balanced mix of task types.

    A user's file has the same DEV problems in every generation, so they are divided once for all: dealt anew, those
    kept in one generation would be some that an earlier one chose by. Near duplicates stay together.
    """
    dev = problems.of(Split.DEV)
    is_finite = isinstance(config.problems, FileProblems)
    seed = derive_seed(config.seed, "dev order", *([] if is_finite else [generation]))
    order = balanced_order([p.task.type for p in dev], [p.key for p in dev], seed)
    clusters = [problems.cluster_of(problem) for problem in dev]
    count = int(len(dev) * config.evaluation.remeasure_share) if config.gate.remeasure else 0
    kept = kept_whole(order, clusters, count)
    return [dev[i] for i in order if clusters[i] not in kept], [dev[i] for i in order if clusters[i] in kept]


async def compare_on_dev(
    lab: Lab,
    generation: Generation,
    candidates: Sequence[Candidate],
    selections: Mapping[str, RowSelection],
    problems: SplitProblems,
) -> DevRecord:
    """Measure candidates beside today's seats; only what does better on DEV is a finalist."""
    contenders = {c.member.name: c for c in candidates if not c.is_helper}
    helpers = [c for c in candidates if c.is_helper]
    items, _ = divided(problems, lab.config, generation.number)
    if not items:
        return DevRecord(reason="there are no DEV problems to choose by")
    seats = seat(generation)
    drawing = _Drawing(lab, generation.number, items, problems)
    await drawing.draw(DEV_SEATS, seats, 0, len(items))
    stopped = await _stop_broken(drawing, seats, contenders, selections, drawing.clusters)
    running = {name: c.member for name, c in contenders.items() if name not in stopped}
    clusters = drawing.clusters
    ties = cross_fitted(drawing.pool, seats, items, drawing.judged, clusters)
    found = contributions(ballot_box(drawing.pool, seats, items, drawing.judged, ties), clusters)
    places = weakest_places(seats, {one.member: one.value for one in found.members})
    survivors = await _halve(drawing, seats, running, places, stopped) if running else []
    people = [*seats, *survivors]
    scores = {m.name: tuple(member_scores(drawing.pool, m, items, drawing.judged)) for m in people}
    ranked = sorted(survivors, key=lambda m: -sum(scores[m.name]))
    arrangements = distinct(
        [*(alone(seats, m, places) for m in ranked), together(seats, ranked, places), widest(seats, ranked, scores)]
    )
    by_vote = _by_vote(drawing, seats, people, [one for one in arrangements if one.candidates])
    trials = await try_in_councils(lab, generation, helpers, selections, items)
    talking = _in_councils(trials, lab.config.seed, generation.number, problems, items)
    finalists = finalists_of(
        [
            *(Shown(score.arrangement, score.gain, right) for score, right in by_vote),
            *(Shown(score.arrangement, score.gain) for score in talking),
        ],
        scores,
        seats,
        clusters,
        at_most=lab.config.gate.max_finalists,
        seed=derive_seed(lab.config.seed, "finalists", generation.number),
    )
    return DevRecord(
        task_types=tuple(problem.task.type for problem in items),
        keys=tuple(problem.key for problem in items),
        scores=(*(score for score, _ in by_vote), *talking),
        members=tuple(
            Measured(name=m.name, scores=scores[m.name], num_samples=lab.config.evaluation.dev_samples_per_member)
            for m in people
        ),
        standing=standing(drawing.pool, people, items, drawing.judged),
        contributions=found,
        trials=trials,
        stopped=stopped | (trials.stopped if trials else {}),
        finalists=finalists,
        reason=_why_none([*contenders.values(), *helpers], bool(running or (trials and trials.trials)), finalists),
    )


def head_start(lab: Lab, generation: Generation, problems: SplitProblems) -> Ahead:
    """What can be drawn of a candidate as soon as it is admitted, while others still train: its screen."""
    items, _ = divided(problems, lab.config, generation.number)
    screened = items[: lab.config.evaluation.screen_items]

    async def draw(candidate: Candidate) -> None:
        if not candidate.is_helper:
            stage = _stage(generation.number, SCREEN)
            samples = lab.config.evaluation.dev_samples_per_member
            await lab.hold_ahead(proposal_asks(lab.config, stage, screened, [candidate.member], samples))

    return draw


async def measure_twins(
    lab: Lab, generation: Generation, twins: Sequence[Member], problems: SplitProblems
) -> Reliability:
    """How good placebos are on the problems that candidates were chosen by, for the gate decides their ties alike."""
    items, _ = divided(problems, lab.config, generation.number)
    if not twins or not items:
        return Reliability()
    drawing = _Drawing(lab, generation.number, items, problems)
    await drawing.draw(DEV_TWINS, twins, 0, len(items))
    return standing(drawing.pool, twins, items, drawing.judged)


async def measure_again(
    lab: Lab, generation: Generation, winner: Arrangement, dev: DevRecord, problems: SplitProblems
) -> Remeasured | None:
    """The winner's gain on DEV problems that nothing was chosen by; None where none are kept for that."""
    _, kept = divided(problems, lab.config, generation.number)
    chosen = next((score for score in dev.scores if score.arrangement == winner), None)
    if not kept or chosen is None:
        return None
    seats, number = seat(generation), generation.number
    alone: dict[str, float] = {}
    if winner.endpoint == "council":
        kept = first_of_each_type(kept, lab.config.gate.councils_per_type)
        directory = lab.directory / f"generation-{number}" / DEV / "councils-again"
        councils = Councils(lab, f"generation {number} {DEV} councils again", directory, kept)
        before, after = await councils.right("before", seats), await councils.right(winner.name, winner.seats)
    else:
        drawing, people = _Drawing(lab, number, kept, problems), members_of([seats, winner.seats])
        await drawing.draw(DEV_AGAIN, people, 0, len(kept))
        ties = by_reliability(dev.standing)
        before, after = (right_votes(drawing.pool, one, kept, drawing.judged, ties) for one in (seats, winner.seats))
        alone = {m.name: sum(member_scores(drawing.pool, m, kept, drawing.judged)) / len(kept) for m in people}
    fresh = paired_test(
        before,
        after,
        [problems.cluster_of(problem) for problem in kept],
        seed=derive_seed(lab.config.seed, "again", number),
    )
    return remeasured(winner.name, chosen.test, len(dev.scores), fresh, alone)


class _Drawing:
    """Proposals for DEV problems so far, stage by stage, and what the judge says of them."""

    def __init__(self, lab: Lab, number: int, items: Sequence[Problem], problems: SplitProblems) -> None:
        self.lab, self.number, self.items = lab, number, items
        self.clusters = tuple(problems.cluster_of(problem) for problem in items)
        self.judged: dict[tuple[str, str], bool] = {}
        self._held: list[Deliberation] = []

    @property
    def pool(self) -> Pool:
        return Pool(self._held)

    def held_on(self, items: Sequence[Problem]) -> list[Deliberation]:
        """What was drawn for these problems so far, whole."""
        asked = {problem.task.id for problem in items}
        return [one for one in self._held if one.task.id in asked]

    async def draw(self, label: str, members: Sequence[Member], start: int, stop: int) -> None:
        """First proposals of these members for the problems from `start` to before `stop`."""
        items, config = self.items[start:stop], self.lab.config
        stage = _stage(self.number, label)
        held = await self.lab.hold(
            stage,
            self.lab.directory / f"generation-{self.number}" / DEV / f"{label.replace(' ', '-')}.parquet",
            proposal_asks(config, stage, items, members, config.evaluation.dev_samples_per_member),
        )
        judged: Judgements = await self.lab.judge_all(stage, held, items)
        self._held += held
        self.judged |= judged.lookup()

    def votes(self, seats: Sequence[Member], items: Sequence[Problem], people: Sequence[Member]) -> tuple[bool, ...]:
        """Was the vote of these seats right; ties fall to whoever of all `people` is better on the other folds."""
        ties = cross_fitted(self.pool, people, self.items, self.judged, self.clusters)
        return right_votes(self.pool, seats, items, self.judged, ties)


def _stage(number: int, label: str) -> str:
    return f"generation {number} {DEV} {label}"


async def _stop_broken(
    drawing: _Drawing,
    seats: Sequence[Member],
    contenders: Mapping[str, Candidate],
    selections: Mapping[str, RowSelection],
    clusters: Sequence[str],
) -> dict[str, str]:
    """Candidates that are plainly worse than their engine's seat, or write no language any more, with the reason."""
    count = min(drawing.lab.config.evaluation.screen_items, len(drawing.items))
    if not contenders:
        return {}
    if not count:
        drawing.lab.observer.say("evaluation.screen_items is 0: nobody looks for candidates that are plainly broken")
        return {}
    await drawing.draw(SCREEN, [c.member for c in contenders.values()], 0, count)
    pool, items, stopped = drawing.pool, drawing.items[:count], {}
    config = drawing.lab.config
    num_texts, least = count * config.evaluation.dev_samples_per_member, config.quality.min_texts
    if num_texts < least:
        drawing.lab.observer.say(
            f"no candidate's wording is looked at: the screen asks for {num_texts} texts, and {least} are the least to "
            "judge (quality.min_texts); raise evaluation.screen_items"
        )
    for name, candidate in contenders.items():
        base = next(m for m in seats if m.engine == candidate.member.engine)
        reason = screen(
            _sampled(pool, candidate.member, items, drawing.judged),
            _sampled(pool, base, items, drawing.judged),
            clusters[:count],
        )
        if reason is None:
            rows = selections[name].rows if name in selections else ()
            said = drawing.held_on(items)
            limits, before = config.quality, samples_of(said, base.name)
            reason = check(samples_of(said, name), rows, limits, before=before)
        if reason is not None:
            stopped[name] = f"stopped by the screen: {reason}"
    return stopped


async def _halve(
    drawing: _Drawing,
    seats: Sequence[Member],
    running: Mapping[str, Member],
    places: Mapping[str, int],
    stopped: dict[str, str],
) -> list[Member]:
    """Candidates that are left when each rung has dropped the worse ones; those have seen every problem."""
    config, items = drawing.lab.config, drawing.items
    plan = plan_halving(len(running), len(items), num_finalists=config.gate.max_finalists, keep=config.evaluation.keep)
    seen = min(config.evaluation.screen_items, len(items))
    drawn = dict.fromkeys(running, seen)
    results: dict[str, tuple[bool, ...]] = dict.fromkeys(running, ())
    people = [*seats, *running.values()]
    base = drawing.votes(seats, items, people)
    seed = derive_seed(config.seed, "halving", drawing.number)
    for rung, stop in enumerate(plan.rungs):
        step = next_step(plan, base, results, seed=seed)
        if stop > max(drawn[name] for name in step.arms):
            start = max(drawn[name] for name in step.arms)
            await drawing.draw(f"rung {rung}", [running[name] for name in step.arms], start, stop)
            drawn.update(dict.fromkeys(step.arms, stop))
        for name in step.arms:
            results[name] = drawing.votes(alone(seats, running[name], places).seats, items[:stop], people)
        base = drawing.votes(seats, items, people)
    step = next_step(plan, base, results, seed=seed)
    complete = [name for name in running if len(results[name]) == len(items)]
    for name, reason in step.dropped.items():
        stopped[name] = reason
    return [running[name] for name in complete]


def _sampled(pool: Pool, member: Member, items: Sequence[Problem], judged: Mapping[tuple[str, str], bool]) -> Sampled:
    """The member's first sample of each problem; a call that failed is an answer that nothing could be read from."""
    first = [next(iter(pool.of(member, problem.task)), None) for problem in items]
    answers = tuple(None if one is None else one.answer for one in first)
    return Sampled(
        answers=answers,
        right=tuple(
            answer is not None and judged.get((problem.task.id, answer), False)
            for problem, answer in zip(items, answers, strict=True)
        ),
        num_chars=tuple(0 if one is None else len(one.text) for one in first),
    )


def _by_vote(
    drawing: _Drawing,
    seats: Sequence[Member],
    people: Sequence[Member],
    arrangements: Sequence[Arrangement],
) -> list[tuple[DevScore, tuple[bool, ...]]]:
    """Each arrangement beside today's seats, and whether its vote was right, problem by problem."""
    base = drawing.votes(seats, drawing.items, people)
    found = []
    for one in arrangements:
        right = drawing.votes(one.seats, drawing.items, people)
        seed = derive_seed(drawing.lab.config.seed, "dev", drawing.number, one.name)
        found.append((DevScore(arrangement=one, test=paired_test(base, right, drawing.clusters, seed=seed)), right))
    return found


def _in_councils(
    trials: Trials | None, seed: int, number: int, problems: SplitProblems, items: Sequence[Problem]
) -> list[DevScore]:
    if trials is None:
        return []
    cluster = {problem.key: problems.cluster_of(problem) for problem in items}
    return [
        DevScore(
            arrangement=one.arrangement,
            test=paired_test(
                trials.incumbents,
                one.right,
                [cluster[key] for key in trials.keys],
                seed=derive_seed(seed, "dev", number, one.arrangement.name),
            ),
        )
        for one in trials.trials
    ]


def _why_none(contenders: Sequence[Candidate], any_measured: bool, finalists: Sequence[Arrangement]) -> str:
    if finalists:
        return ""
    if not contenders:
        return "no candidate was trained, admitted and loaded"
    if not any_measured:
        return "every candidate was stopped by the screen"
    return "no arrangement did better than the incumbents on DEV"
