"""Whether memory helps: a stream of problems that come back, real engines, one memory (or none) for each arm.

    python scripts/bench_memory_use.py --seed SEED [--split audit] [--per-cell 4] [--siblings 8]

First sights are drawn once for all arms, with more samples than later: every distinct answer is judged, so that what
any sample got right is there to be remembered. That is the price of a verifier, and its tokens are printed. Afterwards
each arm recalls, answers and remembers by itself. What is drawn is kept under the run directory, so that the same
command continues; `--report` prints the tables again without an engine, and `--plot` draws success by kind.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Protocol

import numpy as np
from memory_stream import RETURNING, Estimate, Kind, Row, Visit, mean_of, paired, ratio_of, stream

from evolve.config import RunConfig, load_config
from evolve.judging.judge import Judge, best_constant
from evolve.problems.draw import draw_open
from evolve.problems.splits import Split
from evolve.problems.types import Problem
from evolve.seats import base_seats
from memory.config import MemoryConfig
from memory.embed import Embedder, Vectors, embedder_named
from memory.ledger import Ledger, publish_json, read_json
from memory.store import Memory
from memory.types import (
    Cue,
    Edge,
    Experience,
    Level,
    Namespace,
    Observation,
    Recall,
    Recollection,
    Relation,
    content_hash,
)
from memory.types import Kind as NoteKind
from mesh.config import VoteConfig
from mesh.deliberate import deliberate
from mesh.engine import Engine, EngineError
from mesh.equivalence import same_answer
from mesh.lessons import lessons, told_answer
from mesh.seeds import derive_seed
from mesh.tally import plurality
from mesh.types import Completion, Deliberation, Member, Message, Outcome, Profile, Proposal, Sampling, Score
from serving.adapters import AdapterStore
from serving.cluster import start_fleet, stop_fleet

TEMPERATURE = 0.4
FIRST_SAMPLES = 8
"""Samples of each member at first sight; the first `SAMPLES` of them make the verdict that returns are held against."""
SAMPLES = 4
LIMIT = 2
"""Most notes shown, as configured by default."""
NAMESPACE = Namespace(team="bench", project="memory-use")


class NotDrawn(EngineError):
    """Only what is kept was to be given, and this is not kept."""


class KeptEngine:
    """Implements `Engine`: what was drawn for one request (member, messages, sampling, seed) is kept and given again.

    Two arms that show the same prompt in the same episode get the same samples: they differ by the prompt alone.
    """

    def __init__(self, engine: Engine | None, path: Path) -> None:
        """`engine` None: only what is kept already is given."""
        self._engine, self._ledger = engine, Ledger(path)
        self._kept: dict[str, tuple[tuple[Completion, ...], int]] = {}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.num_drawn = 0
        for entry in self._ledger.entries():
            said = tuple(Completion.model_validate(one) for one in entry.payload["completions"])
            self._kept[entry.payload["key"]] = (said, entry.payload["prompt_tokens"])

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        """As `Engine.complete`."""
        asked = [message.model_dump(mode="json") for message in messages]
        key = content_hash([member.name, asked, sampling.model_dump(mode="json")])
        async with self._locks[key]:
            if key not in self._kept:
                if self._engine is None:
                    raise NotDrawn("expected what was drawn before, got a request that was not; run without --report")
                said, prompt_tokens = await self._engine.complete(member, messages, sampling)
                self.num_drawn += 1
                kept = [one.model_dump(mode="json") for one in said]
                self._ledger.append("said", {"key": key, "completions": kept, "prompt_tokens": prompt_tokens})
                self._kept[key] = (said, prompt_tokens)
            return self._kept[key]

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        """Not asked for here."""
        raise NotImplementedError("a vote over first proposals makes no choices")

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
        """Not asked for here."""
        raise NotImplementedError("a vote over first proposals scores nothing")

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """Not asked for here."""
        raise NotImplementedError("a vote over first proposals counts nothing")

    async def profile(self, member: Member) -> Profile:
        """As `Engine.profile`."""
        return _no_profile(member) if self._engine is None else await self._engine.profile(member)


class Told(KeptEngine):
    """Implements `Engine`: says what memory told, at no tokens."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        """The same answer every time."""
        return (Completion(text=self._answer),) * sampling.num_samples, 0

    async def profile(self, member: Member) -> Profile:
        """Of no model."""
        return _no_profile(member)


def _no_profile(member: Member) -> Profile:
    return Profile(
        engine=member.engine, model=member.engine, max_model_len=1024, has_chat_template=False,
        accepts_system_role=False, adds_bos=False, token_exact=True,
    )  # fmt: skip


class CachedEmbedder:
    """Implements `Embedder`: each text is embedded once for all arms."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder, self._known = embedder, dict[str, Vectors]()
        self.id, self.dim = embedder.id, embedder.dim

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self._embedder.embed([text])[0]
        return np.stack([self._known[text] for text in texts]).astype(np.float32)


class Arm(Protocol):
    """One way to remember."""

    def recall(self, visit: Visit) -> Recall:
        """What the members are shown."""
        ...

    def answer(self, recalled: Recall) -> str | None:
        """What it answers by itself, so that nobody is asked; None: the members are asked."""
        ...

    def learn(self, visit: Visit, held: Deliberation, outcomes: Sequence[Outcome]) -> None:
        """Take in an episode and what was judged of every answer in it."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class Nothing:
    """Remembers nothing."""

    def recall(self, visit: Visit) -> Recall:
        """Nothing."""
        return Recall()

    def answer(self, recalled: Recall) -> str | None:
        """Nothing."""
        return None

    def learn(self, visit: Visit, held: Deliberation, outcomes: Sequence[Outcome]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Transcripts(Nothing):
    """Puts in the past episode nearest in meaning as it is; nothing was judged."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._texts: list[str] = []
        self._vectors: list[Vectors] = []

    def recall(self, visit: Visit) -> Recall:
        """One transcript, as a note of an earlier question."""
        if not self._texts:
            return Recall()
        near = np.stack(self._vectors) @ self._embedder.embed([visit.problem.task.question])[0]
        text = self._texts[int(near.argmax())]
        note = _note(NoteKind.ATTEMPT, text, visit.problem.task.type)
        return Recall(shown=(note.model_copy(update={"same": False, "level": Level.OBSERVED}),))

    def learn(self, visit: Visit, held: Deliberation, outcomes: Sequence[Outcome]) -> None:
        """Question, each member's first words, verdict."""
        said = [f"{p.member}: {' '.join(p.text.split())}" for p in held.proposals if p.sample == 0]
        lines = [held.task.question, *said, f"Decided: {counted(held).answer or 'nothing'}"]
        self._texts.append("\n".join(lines))
        self._vectors.append(self._embedder.embed([held.task.question])[0])


class Ours(Nothing):
    """Our memory: lessons of every judged answer in, recollections and what came of them out."""

    def __init__(self, directory: Path, embedder: Embedder, config: MemoryConfig) -> None:
        self._memory = Memory.open(directory, embedder, config=config)

    def recall(self, visit: Visit) -> Recall:
        """As a run recalls before a task."""
        task = visit.problem.task
        cue = Cue(
            text=task.question, namespaces=(str(NAMESPACE),), task_type=task.type, episode=f"{visit.place}", limit=LIMIT
        )
        return self._memory.recall(cue)

    def learn(self, visit: Visit, held: Deliberation, outcomes: Sequence[Outcome]) -> None:
        """The lessons of each judged answer, and the use of what was recalled."""
        for outcome in outcomes:
            learnt = lessons(held, outcome, namespace=NAMESPACE, split="train", also=outcomes)
            self._memory.remember(learnt.observations, learnt.edges)
            if learnt.use is not None:
                self._memory.used(learnt.use)

    def close(self) -> None:
        """Close the store."""
        self._memory.close()


class Alone(Ours):
    """Our memory, of which members read verified solutions of the very problem, one alone, and nothing else."""

    def recall(self, visit: Visit) -> Recall:
        """One note or none."""
        shown = super().recall(visit).shown
        return Recall(shown=tuple(n for n in shown if n.same and n.kind is NoteKind.SOLUTION and not n.warning)[:1])


class AtItsWord(Alone):
    """Our memory, whose verified solution of the very problem is the answer: no member is asked."""

    def answer(self, recalled: Recall) -> str | None:
        """What the note tells."""
        return next((told_answer(note, "text") for note in recalled.shown), None)


class Unverified(Ours):
    """Our memory without a verifier: the verdict is remembered as a solution that nobody checked, and is shown."""

    def learn(self, visit: Visit, held: Deliberation, outcomes: Sequence[Outcome]) -> None:
        """The problem, and the verdict as its solution."""
        task, answer = held.task, counted(held).answer
        if answer is None:
            return
        problem = Experience(
            kind=NoteKind.PROBLEM, text=task.question, namespace=NAMESPACE, task_type=task.type, split="train"
        )
        told = f"{task.question}\nAnswer: {answer}"
        solution = problem.model_copy(update={"kind": NoteKind.SOLUTION, "text": told})
        seen = [Observation(experience=one, source="mesh", episode=held.id) for one in (problem, solution)]
        edge = Edge(source=problem.id, relation=Relation.RESOLVED_BY, target=solution.id)
        self._memory.remember(seen, [edge])


class RandomNotes(Nothing):
    """Any verified solution met so far, whatever is asked: what having a note at all does."""

    def __init__(self) -> None:
        self._notes: list[tuple[str, str]] = []

    def recall(self, visit: Visit) -> Recall:
        """One note, called similar."""
        if not self._notes:
            return Recall()
        text, task_type = random.Random(derive_seed(1, str(visit.place), "", "random", 0)).choice(self._notes)
        return Recall(shown=(_note(NoteKind.SOLUTION, text, task_type).model_copy(update={"same": False}),))

    def learn(self, visit: Visit, held: Deliberation, outcomes: Sequence[Outcome]) -> None:
        """Every right answer."""
        right = [outcome.answer for outcome in outcomes if outcome.correct]
        self._notes += [(f"{held.task.question}\nAnswer: {answer}", held.task.type) for answer in right]


class Oracle(Nothing):
    """The true answer to what comes back, as it was asked first, solved or not; nothing where it never was asked."""

    def __init__(self, visits: Sequence[Visit]) -> None:
        self._visits = visits

    def recall(self, visit: Visit) -> Recall:
        """One note of the very problem."""
        if visit.first is None or visit.kind is Kind.LOOKALIKE:
            return Recall()
        first = self._visits[visit.first].problem
        return Recall(
            shown=(_note(NoteKind.SOLUTION, f"{first.task.question}\nAnswer: {first.reference}", first.task.type),)
        )


def _note(kind: NoteKind, text: str, task_type: str) -> Recollection:
    return Recollection(
        experience_id=content_hash(text), kind=kind, text=text, task_type=task_type, score=1.0, lane="fingerprint",
        why="put in by the benchmark.", same=True, level=Level.VERIFIED, trust=1.0,
    )  # fmt: skip


def arms_of(names: Sequence[str], directory: Path, embedder: Embedder, visits: Sequence[Visit]) -> dict[str, Arm]:
    """A fresh memory for each arm."""
    shutil.rmtree(directory, ignore_errors=True)

    def ours(name: str, made: type[Ours] = Ours, **changes: object) -> Arm:
        config = MemoryConfig.model_validate({"holdout_share": 0.0, **changes})
        return made(directory / name.replace(" ", "-").replace(",", ""), embedder, config)

    made: dict[str, Callable[[], Arm]] = {
        "none": Nothing,
        "raw transcripts": lambda: Transcripts(embedder),
        "ours": lambda: ours("ours"),
        "ours, one alone": lambda: ours("ours, one alone", Alone),
        "ours, at its word": lambda: ours("ours, at its word", AtItsWord),
        "ours, unverified": lambda: ours("ours, unverified", Unverified, shown_from=Level.OBSERVED),
        "random memory": RandomNotes,
        "oracle": lambda: Oracle(visits),
    }
    return {name: made[name]() for name in names}


@dataclass
class Bench:
    """What all arms share."""

    config: RunConfig
    engine: KeptEngine
    judge: Judge
    visits: Sequence[Visit]
    seats: tuple[Member, ...]
    seed: int
    firsts: dict[int, Deliberation] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    num_done: int = 0

    async def hold(self, visit: Visit, samples: int, recalled: Recall, told: str | None = None) -> Deliberation:
        """One episode: a vote of all members. The seed is that of the place, the same in every arm."""
        sampling = Sampling(temperature=TEMPERATURE, max_tokens=visit.problem.max_tokens, stop=("\n",))
        config = VoteConfig(sampling=sampling, samples_per_member=samples)
        seed = derive_seed(self.seed, str(visit.place), "", "stream", 0)
        engine = self.engine if told is None else Told(told)
        return await deliberate(visit.problem.task, self.seats, engine, config, seed=seed, recalled=recalled)

    async def see_all(self) -> None:
        """First sights, once for all arms."""
        gate = asyncio.Semaphore(self.config.concurrency)

        async def one(visit: Visit) -> None:
            async with gate:
                self.firsts[visit.place] = await self.hold(visit, FIRST_SAMPLES, Recall())

        await asyncio.gather(*(one(visit) for visit in self.visits if visit.kind is Kind.FIRST))
        print(f"{len(self.firsts)} first sights, {self.seconds:.0f} s", flush=True)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started

    def judged(self, problem: Problem, held: Deliberation) -> list[Outcome]:
        """What the check says of every distinct answer, abstentions included."""
        said = dict.fromkeys([*(p.answer for p in held.proposals), held.verdict.answer])
        return self.judge.judge_many((problem, answer) for answer in said)

    async def follow(self, name: str, arm: Arm) -> list[Row]:
        """The whole stream in one arm, episode after episode."""
        rows = []
        for visit in self.visits:
            if visit.kind is Kind.FIRST:
                held, recalled = self.firsts[visit.place], Recall()
            else:
                recalled = await asyncio.to_thread(arm.recall, visit)
                held = await self.hold(visit, SAMPLES, recalled, arm.answer(recalled))
                if any(failure.kind == NotDrawn.__name__ for failure in held.failures):
                    break
            outcomes = self.judged(visit.problem, held)
            await asyncio.to_thread(arm.learn, visit, held, outcomes)
            if visit.kind is not Kind.FIRST:
                rows.append(self.row(name, visit, held, outcomes))
                self.num_done += 1
                if self.num_done % 100 == 0:
                    print(
                        f"  {self.num_done} episodes, {self.engine.num_drawn} calls, {self.seconds:.0f} s", flush=True
                    )
        arm.close()
        return rows

    def row(self, name: str, visit: Visit, held: Deliberation, outcomes: Sequence[Outcome]) -> Row:
        """The figures of one episode."""
        right = {outcome.answer: outcome.correct for outcome in outcomes}
        said, verdict, usage = held.proposals, held.verdict.answer, held.usage
        notes = held.recalled
        told = [
            told_answer(n, held.equality) for n in notes if n.same and not n.warning and n.kind is NoteKind.SOLUTION
        ]
        solutions = [n for n in notes if not n.warning and n.kind is NoteKind.SOLUTION]
        warnings = [n for n in notes if n.warning]
        by_member = [
            (m.name, _share(p for p in said if p.member == m.name)(lambda p: right[p.answer])) for m in self.seats
        ]
        row = Row(
            arm=name, place=visit.place, kind=visit.kind, family=visit.problem.task.type, band=visit.band,
            detail=visit.detail, right=right.get(verdict, False), share_right=_share(said)(lambda p: right[p.answer]),
            output_tokens=usage.output_tokens, prompt_tokens=usage.prompt_tokens,
            same_solution=sum(n.same for n in solutions), similar_solution=sum(not n.same for n in solutions),
            same_warning=sum(n.same for n in warnings), similar_warning=sum(not n.same for n in warnings),
            other_note=len(notes) - len(solutions) - len(warnings), withheld=len(held.withheld),
            answered=any(answer is not None and same_answer(answer, verdict, "text") for answer in told),
            share_by_member=tuple(by_member),
        )  # fmt: skip
        return row if visit.first is None else row.model_copy(update=self._against_first(visit, held))

    def _against_first(self, visit: Visit, held: Deliberation) -> dict[str, object]:
        seen = self.visits[visit.first or 0]
        before = self.firsts[seen.place]
        first, verdict = counted(before), held.verdict.answer
        judged = {outcome.answer: outcome.correct for outcome in self.judged(seen.problem, before)}
        early = [p for p in before.proposals if p.sample < SAMPLES]
        wrong = [answer for answer, is_right in judged.items() if answer is not None and not is_right]
        found: dict[str, object] = {
            "first_right": judged.get(first.answer, False),
            "first_share": _share(early)(lambda p: judged[p.answer]),
            "was_solved": any(judged.values()),
        }
        if visit.kind is Kind.LOOKALIKE:

            def is_old(answer: str | None) -> bool:
                return (
                    self.judge.judge(seen.problem, answer).correct
                    and not self.judge.judge(visit.problem, answer).correct
                )

            return {
                **found,
                "transfers": is_old(verdict),
                "share_transfers": _share(held.proposals)(lambda p: is_old(p.answer)),
            }
        if first.answer is not None and not judged.get(first.answer, False):
            found["repeats"] = same_answer(first.answer, verdict, "text")
        found["share_repeats"] = _share(held.proposals)(lambda p: any(same_answer(p.answer, w, "text") for w in wrong))
        return found


def counted(held: Deliberation) -> _Verdict:
    """The verdict of the first `SAMPLES` samples of each member."""
    return _Verdict(plurality([p for p in held.proposals if p.sample < SAMPLES], held.task.answer_kind).answer)


@dataclass(frozen=True)
class _Verdict:
    answer: str | None


def _share(proposals: Iterable[Proposal]) -> Callable[[Callable[[Proposal], bool]], float]:
    kept = list(proposals)
    return lambda test: mean(test(p) for p in kept) if kept else 0.0


ARMS = (
    "none", "raw transcripts", "ours", "ours, one alone", "ours, at its word", "ours, unverified", "random memory",
    "oracle",
)  # fmt: skip


async def work(options: argparse.Namespace) -> None:
    """First sights, then all arms side by side, then the tables."""
    config = load_config(options.config)
    split = Split(options.split)
    directory = options.out or config.run_dir
    name = f"{options.split}-{options.seed}"
    problems = draw_open(config.problems, options.seed, split_seeds={split: options.seed}).of(split)
    visits = stream(problems, options.per_cell, options.siblings, options.seed)
    fleet = None
    if not options.report:
        print("starting engines", flush=True)
        fleet = await start_fleet(config.serving, AdapterStore(config.run_dir / "adapters"))
    try:
        with Judge() as judge:
            engine = KeptEngine(fleet, directory / f"said-{name}.jsonl")
            bench = Bench(config, engine, judge, visits, base_seats(config), options.seed)
            await bench.see_all()
            embedder = CachedEmbedder(embedder_named("minilm"))
            arms = arms_of(options.arms, directory / f"memories-{name}", embedder, visits)
            found = await asyncio.gather(*(bench.follow(arm, made) for arm, made in arms.items()))
            common = set.intersection(*({row.place for row in some} for some in found))
            rows = [row for some in found for row in some if row.place in common]
            publish_json(directory / f"rows-{name}.json", [row.model_dump(mode="json") for row in rows])
            print(f"{engine.num_drawn} calls drawn, {bench.seconds:.0f} s")
            report(bench, rows)
    finally:
        if fleet is not None:
            await stop_fleet(fleet)


def main() -> None:
    """Read the arguments and go."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, required=True, help="of the items, the order and the samples")
    parser.add_argument("--split", choices=("dev", "audit"), default="audit")
    parser.add_argument("--config", type=Path, default=Path("configs/bench_memory_use.yaml"))
    parser.add_argument("--per-cell", type=int, default=4, help="returns of each kind, band and family")
    parser.add_argument("--siblings", type=int, default=8, help="fresh problems of each family")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--out", type=Path, default=None, help="directory; default: run_dir of the configuration")
    parser.add_argument("--report", action="store_true", help="print the tables from what is there, without engines")
    parser.add_argument("--plot", type=Path, default=None, help="draw success by kind from the rows of a finished run")
    options = parser.parse_args()
    if options.plot is None:
        asyncio.run(work(options))
        return
    kept = (options.out or load_config(options.config).run_dir) / f"rows-{options.split}-{options.seed}.json"
    plot([Row.model_validate(row) for row in read_json(kept)], options.plot)


def report(bench: Bench, rows: Sequence[Row]) -> None:
    """The tables."""
    arms = list(dict.fromkeys(row.arm for row in rows))
    print_price(bench)
    print_success(bench, rows, arms)
    print_harm(rows, arms)
    print_tokens(rows, arms)
    print_notes(rows, arms)
    print_parts(rows, arms)


def print_price(bench: Bench) -> None:
    """What first sights cost, and what they found."""
    held = bench.firsts.values()
    outcomes = [bench.judged(bench.visits[place].problem, one) for place, one in bench.firsts.items()]
    solved = mean(any(o.correct for o in judged) for judged in outcomes)
    checks = sum(len(judged) for judged in outcomes)
    used = sum(one.usage.output_tokens for one in held), sum(one.usage.prompt_tokens for one in held)
    verdicts = mean(
        bench.judge.judge(bench.visits[place].problem, counted(one).answer).correct
        for place, one in bench.firsts.items()
    )
    print(
        f"\nfirst sights: {len(outcomes)}, verdict right {verdicts:.3f}, solved by any of {2 * FIRST_SAMPLES} samples "
        f"{solved:.3f}; {checks} checks; tokens out {used[0]}, in {used[1]} "
        f"({used[0] / len(outcomes):.0f} and {used[1] / len(outcomes):.0f} each)"
    )
    for family in sorted({v.problem.task.type for v in bench.visits}):
        own = [v.problem for v in bench.visits if v.kind is not Kind.FIRST and v.problem.task.type == family]
        answer, share = best_constant(own, bench.judge)
        print(f"best constant on {family}: {answer!r} {share:.3f}")


def print_success(bench: Bench, rows: Sequence[Row], arms: Sequence[str]) -> None:
    """Success by kind, and its paired differences from none and from first sight."""
    for kind in (*RETURNING, Kind.SIBLING):
        own = [row for row in rows if row.kind is kind]
        if not own:
            continue
        per_arm = len(own) // len(arms)
        print(f"\n{kind.value}: {per_arm} episodes an arm. Verdict right | minus none | minus first sight | proposals")
        for arm in arms:
            mine = [row for row in own if row.arm == arm]
            since = [row.right - row.first_right for row in mine if row.first_right is not None]
            print(
                f"  {arm:20} {mean_of([row.right for row in mine])} | "
                f"{mean_of(paired(own, arm, 'none', lambda r: float(r.right)))} | "
                f"{mean_of(since) if since and kind is not Kind.LOOKALIKE else '-':25} | "
                f"{mean(r.share_right for r in mine):.3f} "
                f"{mean_of(paired(own, arm, 'none', lambda r: r.share_right))}"
            )


def print_harm(rows: Sequence[Row], arms: Sequence[str]) -> None:
    """The same wrong answer again; the old answer to a look-alike; right before and wrong now."""
    again = [row for row in rows if row.repeats is not None]
    back = [row for row in rows if row.share_repeats is not None]
    like = [row for row in rows if row.kind is Kind.LOOKALIKE]
    print("\nsame wrong verdict again | minus none | proposals that repeat a wrong answer of first sight")
    for arm in arms:
        print(
            f"  {arm:20} {mean_of([bool(r.repeats) for r in again if r.arm == arm])} | "
            f"{mean_of(paired(again, arm, 'none', lambda r: float(bool(r.repeats))))} | "
            f"{mean_of([r.share_repeats or 0.0 for r in back if r.arm == arm])}"
        )
    print("\nlook-alikes: old answer given | minus none | proposals | right to wrong, wrong to right")
    for arm in arms:
        gaps = paired(like, arm, "none", lambda r: float(r.right))
        print(
            f"  {arm:20} {mean_of([bool(r.transfers) for r in like if r.arm == arm])} | "
            f"{mean_of(paired(like, arm, 'none', lambda r: float(bool(r.transfers))))} | "
            f"{mean(r.share_transfers or 0.0 for r in like if r.arm == arm):.3f} | "
            f"{sum(gap < 0 for gap in gaps)} | {sum(gap > 0 for gap in gaps)}"
        )


def print_tokens(rows: Sequence[Row], arms: Sequence[str]) -> None:
    """Tokens for one right verdict, by kind."""
    print("\ntokens out, in, for one right verdict (identical, reworded, all kinds)")
    for arm in arms:
        cells = []
        for kinds in ((Kind.IDENTICAL,), (Kind.REWORDED,), tuple(Kind)):
            mine = [row for row in rows if row.arm == arm and row.kind in kinds]
            right = [float(row.right) for row in mine]
            out, into = (
                ratio_of([getattr(row, f"{way}_tokens") for row in mine], right) for way in ("output", "prompt")
            )
            cells.append(f"{_whole(out)}, {_whole(into)}")
        print(f"  {arm:20} " + " | ".join(cells))


def _whole(found: Estimate) -> str:
    return f"{found.value:.0f} [{found.low:.0f}, {found.high:.0f}]"


def print_notes(rows: Sequence[Row], arms: Sequence[str]) -> None:
    """What was shown, an episode; and the share of returns whose verdict is that of a shown solution."""
    print(
        "\nnotes an episode: same solution, similar solution, same warning, similar warning, other; answered by memory"
    )
    fields = ("same_solution", "similar_solution", "same_warning", "similar_warning", "other_note")
    for kind in (*RETURNING, Kind.SIBLING):
        for arm in arms:
            mine = [row for row in rows if row.arm == arm and row.kind is kind]
            shown = [mean(getattr(row, name) for row in mine) for name in fields]
            if sum(shown):
                answered = mean(row.answered for row in mine)
                print(
                    f"  {kind.value:11} {arm:20} " + "  ".join(f"{n:.2f}" for n in shown) + f"  answered {answered:.3f}"
                )


def print_parts(rows: Sequence[Row], arms: Sequence[str]) -> None:
    """Success by band, family, sort of change and member."""
    parts: list[tuple[str, Callable[[Row], str]]] = [
        ("band", lambda r: f"{r.kind.value} {r.band}"),
        ("family", lambda r: f"{r.kind.value} {r.family}"),
        ("sort", lambda r: f"{r.kind.value} {r.detail}"),
        ("solved", lambda r: f"{r.kind.value} {'solved' if r.was_solved else 'not solved'} at first sight"),
        ("shown", _what_was_shown(rows)),
    ]
    for title, part in parts:
        print(f"\nverdict right by {title}: " + ", ".join(arms))
        names = sorted({part(row) for row in rows if row.kind is not Kind.SIBLING or title in ("family", "shown")})
        for name in names:
            cells = [[row for row in rows if row.arm == arm and part(row) == name] for arm in arms]
            print(f"  {name:45} n={len(cells[0]):<4}" + " ".join(
                f"{mean(r.right for r in own):.2f}" if own else " -- " for own in cells))  # fmt: skip
    print("\nproposals right by member")
    for kind in (*RETURNING, Kind.SIBLING):
        for arm in arms:
            mine = [dict(row.share_by_member) for row in rows if row.arm == arm and row.kind is kind]
            shares = {name: mean(one[name] for one in mine) for name in (mine[0] if mine else {})}
            print(f"  {kind.value:11} {arm:20} " + "  ".join(f"{n} {s:.3f}" for n, s in shares.items()))


def _what_was_shown(rows: Sequence[Row]) -> Callable[[Row], str]:
    """Episodes by what `ours` showed in them, whichever arm the row is of."""
    shown: Mapping[int, str] = {
        row.place: (
            "same solution" if row.same_solution
            else "same warnings only" if row.same_warning and not row.similar_solution and not row.similar_warning
            else "similar notes" if row.similar_solution or row.similar_warning
            else "nothing"
        )
        for row in rows if row.arm == "ours"
    }  # fmt: skip
    return lambda row: f"{row.kind.value} ours showed {shown.get(row.place, '?')}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Success by kind and arm, with 95% bootstrap intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arms = list(dict.fromkeys(row.arm for row in rows))
    kinds = [kind for kind in (*RETURNING, Kind.SIBLING) if any(row.kind is kind for row in rows)]
    figure, axes = plt.subplots(1, len(kinds), figsize=(11, 3.6), sharex=True, sharey=True, layout="constrained")
    for axis, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        for height, arm in enumerate(reversed(arms)):
            found = mean_of([row.right for row in rows if row.arm == arm and row.kind is kind])
            colour = "C1" if arm.startswith("ours") else "0.3" if arm == "none" else "C0"
            axis.plot([found.low, found.high], [height, height], color=colour, lw=2)
            axis.plot([found.value], [height], "o", color=colour)
        base = mean(row.right for row in rows if row.arm == "none" and row.kind is kind)
        axis.axvline(base, color="0.7", lw=1, ls=":")
        count = len({row.place for row in rows if row.kind is kind})
        axis.set_title(f"{kind.value} (n = {count})", fontsize=10)
        axis.set_yticks(range(len(arms)), list(reversed(arms)), fontsize=9)
        axis.set_xlim(-0.02, 1.02)
        axis.grid(axis="x", alpha=0.3)
    figure.supxlabel("share of right verdicts, 95% bootstrap interval; dotted: without memory", fontsize=9)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
