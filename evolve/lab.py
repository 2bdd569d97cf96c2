"""What a run works with: its journal, engines that start when first needed, the judge, memory, and who is watching."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TypeVar

from evolve.ahead import HeldAhead
from evolve.config import RunConfig
from evolve.evaluate import Judgements, answers_of
from evolve.journal import Journal, step_id
from evolve.judging.judge import Judge
from evolve.judging.kept import Judged, judged_each
from evolve.judging.panel import Authors, Brief, authors_of, is_settled
from evolve.judging.panel_asking import panel_of, verdicts_on
from evolve.judging.unchecked import keep_unchecked, unchecked_of
from evolve.outage import Pulse, failed_in
from evolve.problems.config import FileProblems, GymProblems
from evolve.problems.draw import draw_generation, draw_problems
from evolve.problems.permits import Permit
from evolve.problems.sealed import Asked, SealedProblem, SealError, SplitProblems
from evolve.problems.types import Problem, clusters_sentence
from evolve.progress import Observer, StageTime
from evolve.run_files import TRAINING
from evolve.times import StageTimes
from evolve.training.job import ADAPTER_NAME
from evolve.training.scripted_train import scripted_shape
from memory.store import Memory
from memory.types import Namespace, Recall, Record, content_hash
from mesh.config import ProtocolConfig
from mesh.deliberate import deliberate
from mesh.job import Job
from mesh.types import Deliberation, Member, Outcome, Task
from serving.adapters import Adapter, AdapterCorrupt, AdapterMissing, AdapterRefused, AdapterStore
from serving.admission import BaseModelShape
from serving.config import EngineSpec, ScriptedSpec, VllmSpec, prices
from serving.fleet import Fleet
from serving.fleet_host import close_fleet, open_fleet
from serving.models import ModelStore
from serving.placement import GpuPlace
from serving.ticket import Ticket, with_ticket
from serving.training_room import training_room
from serving.windows import wait_open

_T = TypeVar("_T")

NOTED_S = 5.0
"""Seconds of judging from which on they are kept: of most verifiers there are fewer."""
LOAD = "load "
"""Begins the name under which the time of a hot-load is kept; the adapter's hash follows."""


class Ask(Record):
    """One deliberation to hold: who is asked what, under which protocol and seed."""

    key: str
    task: Task
    members: tuple[Member, ...]
    protocol: ProtocolConfig
    seed: int
    recalled: Recall = Recall()


class Lab:
    """The tools of one run, wired in one place. Used as an async context manager; leaving it stops what it started."""

    def __init__(
        self,
        config: RunConfig,
        *,
        journal: Journal,
        judge: Judge,
        memory: Memory | None,
        observer: Observer,
    ) -> None:
        self.config = config
        self.directory = config.run_dir
        self.journal = journal
        self.judge = judge
        self.memory = memory
        self.observer = observer
        self.adapters = AdapterStore(config.run_dir / "adapters")
        self.job = Job(prices=prices(config.serving))
        self.panel = panel_of(config)
        """How free text is judged; None: there is none."""
        self._fleet: Fleet | None = None
        self._loaded: set[tuple[str, str]] = set()
        self.pulse = Pulse()
        """Asks again where calls failed, and stops at an engine that is gone."""
        self._ahead = HeldAhead(config.run_dir / "ahead.jsonl")
        self.times = StageTimes(config.run_dir / "times.jsonl")

    async def __aenter__(self) -> Lab:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.job.close()
        if self._fleet is not None:
            await close_fleet(self._fleet)
            self._fleet = None

    @property
    def namespace(self) -> Namespace:
        """Where this run remembers."""
        return self.config.memory.namespace(self.config.name)

    @property
    def reads(self) -> tuple[str, ...]:
        """The namespaces that this run recalls from."""
        return self.config.memory.scope(self.config.name)

    async def fleet(self) -> Fleet:
        """The engines, once evolution may run at this time; started at the first call, which takes minutes.

        Every stage that needs them asks for them anew, so a run stops between two stages when its window closes.
        """
        await wait_open(self.config.serving.fleet.windows, "evolve", told=self._say_when)
        if self._fleet is None:
            started = time.perf_counter()
            self.observer.stage("start engines", len(self.config.serving.engines), "engine")
            self._fleet = await open_fleet(self.config.serving, self.adapters, lambda _engine: self.observer.advance())
            self.times.note(StageTime(stage="start engines", seconds=time.perf_counter() - started))
        return self._fleet

    async def load_adapters(self, members: Iterable[Member]) -> dict[str, float]:
        """Make the adapters of these members usable in the running engines; seconds by adapter newly loaded."""
        fleet, seconds = await self.fleet(), {}
        for engine, adapter in dict.fromkeys((m.engine, adapter) for m in members for adapter in m.adapters):
            if (engine, adapter) in self._loaded:
                continue
            took = await fleet.load_adapter(engine, await asyncio.to_thread(self._whole, engine, adapter))
            seconds[adapter] = took
            self.times.note(StageTime(stage=f"{LOAD}{adapter}", seconds=took))
            self._loaded.add((engine, adapter))
        return seconds

    def _whole(self, engine: str, adapter: str) -> Adapter:
        """An admitted adapter as it was admitted; one that was damaged since is taken from where it was trained.

        Raises:
            AdapterMissing, AdapterCorrupt: there is no whole copy of it in the run.
        """
        try:
            self.adapters.path(adapter)
        except (AdapterMissing, AdapterCorrupt) as error:
            spec = self.spec(engine)
            assert spec.kind != "remote", "a remote engine has no adapters"
            for trained in sorted(self.directory.glob(f"generation-*/{TRAINING}/*/{ADAPTER_NAME}")):
                with suppress(AdapterRefused):
                    if self.adapters.restore(adapter, trained, self.base_shape(engine), max_rank=spec.max_lora_rank):
                        self.observer.say(f"adapter {adapter[:12]} was damaged and is restored from {trained}: {error}")
                        break
            else:
                raise
        return self.adapters.get(adapter)

    @asynccontextmanager
    async def training_room(self) -> AsyncIterator[tuple[GpuPlace, ...]]:
        """GPUs of engines that sleep while the block runs; none where training has its own, as the configuration says.

        Raises EngineError as `serving.training_room` does.
        """
        fleet = await self.fleet()
        members = [Member(name=key[1], engine=key[0], family="", adapter=key[1]) for key in sorted(self._loaded)]
        room = training_room(self.config.serving, fleet, members, self.adapters, told=self.observer.say)
        async with room as engines:
            yield await _places(fleet, engines)

    async def hold(self, stage: str, path: Path, asks: Sequence[Ask]) -> list[Deliberation]:
        """The deliberations of a stage, journalled one by one and sealed at `path`.

        An ask with calls that an engine failed is asked once more. What fails again is data, if the engine lives.

        Raises EngineGone where it does not: the stage stays open, and what was accepted of it is kept.
        """
        inputs = [content_hash(ask) for ask in asks]
        name = stage.replace(" ", "-")
        if self.journal.is_done(name, inputs):
            held = await self.journal.deliberations(name, inputs, path, _keys_only(asks), concurrency=1)
            if asks:
                self.times.note_once(_stage_time(stage, 0.0, held))
            return held
        fleet = await self.fleet()
        await self.load_adapters(member for ask in asks for member in ask.members)
        self.observer.stage(stage, len(asks), "ask")
        works = [
            (ask.key, self._ahead.or_else(ask, self._asking(stage, ask, fleet, order)))
            for order, ask in enumerate(asks)
        ]
        with self.times.ticking(stage) as seconds:
            held = await self.journal.deliberations(
                name, inputs, path, works, concurrency=self.config.concurrency, on_done=self._advance
            )
            self.times.note(_stage_time(stage, seconds(), held))
        return held

    def _asking(self, stage: str, ask: Ask, fleet: Fleet, order: int) -> Callable[[], Awaitable[Deliberation]]:
        def lose(held: Deliberation) -> None:
            self.times.note_part(_stage_time(stage, 0.0, [held]))

        async def work() -> Deliberation:
            return await self.pulse.asked_twice(
                _holding(ask, fleet, self.job, order),
                failed_in,
                fleet,
                stage=stage,
                timeout_s=ask.protocol.call_timeout_s,
                lost=lose,
            )

        return work

    def _advance(self, _: Deliberation) -> None:
        self.observer.advance()

    async def hold_ahead(self, asks: Sequence[Ask]) -> None:
        """Hold what a later step will ask, while something else goes on; the step then takes it as its own.

        Nothing is accepted here, so the order of the journal does not depend on it; nor is anything kept in which a
        call failed: the step asks that itself.
        """
        fleet = await self.fleet()
        slots = asyncio.Semaphore(self.config.concurrency)

        async def one(order: int, ask: Ask) -> None:
            async with slots:
                await self._ahead.hold(ask, _holding(ask, fleet, self.job, order))

        async with asyncio.TaskGroup() as group:
            for order, ask in enumerate(asks):
                group.create_task(one(order, ask))

    def forget_ahead(self) -> None:
        """What was held ahead is accepted by now, or wanted by nobody."""
        self._ahead.forget()

    async def judge_all(
        self,
        stage: str,
        deliberations: Sequence[Deliberation],
        problems: Iterable[Asked],
        permit: Permit | None = None,
    ) -> Judgements:
        """What the judge says of every distinct answer of a stage. GATE and AUDIT problems need their permit.

        Free text goes to the panel first, which leaves out the families that wrote it. Until all are judged, what was
        judged lies in a ledger in the run's directory, so that a kill costs seconds of it.

        Raises SealError: a sealed problem without a permit, or with one for another split.
        """
        by_id = {problem.task.id: problem for problem in problems}
        pairs = answers_of(deliberations)

        keys = sorted({by_id[task_id].key for task_id, _ in pairs})
        name, inputs = f"judge-{stage}".replace(" ", "-"), {"pairs": pairs, "problems": keys}
        partial = self.directory / f"{name.replace('/', '-')}.partial.jsonl"

        async def work() -> Judgements:
            answers = [(by_id[task_id], answer) for task_id, answer in pairs]
            await self.consult(stage, answers, authors_of(deliberations), permit)
            self.observer.stage(f"judge {stage}", len(pairs), "answer")

            def judge(place: int) -> Judged:
                outcome = self._judged(*answers[place], permit)
                return Judged(outcome=outcome, reason=self.judge.reason_of(outcome))

            with self._judging(stage):
                judged = await judged_each(partial, step_id(name, inputs), pairs, judge, self.observer.advance)
            reasons = {(one.outcome.task_id, one.outcome.answer): one.reason for one in judged}
            outcomes = tuple(one.outcome for one in judged)
            unchecked = unchecked_of(stage, outcomes, lambda one: reasons[one.task_id, one.answer])
            if unchecked.groups:
                self.observer.say(unchecked.sentence)
            keep_unchecked(self.directory, unchecked)
            return Judgements(outcomes=outcomes)

        found = await self.journal.record(name, inputs, Judgements, work)
        partial.unlink(missing_ok=True)
        return found

    @contextmanager
    def _judging(self, stage: str) -> Iterator[None]:
        """Keep the time of judging, where it is worth a word: a budget counts it, the pace of engines does not."""
        name = f"judge {stage}"
        with self.times.ticking(name) as seconds:
            yield
            if seconds() >= NOTED_S:
                self.times.note_part(StageTime(stage=name, seconds=seconds()))

    async def consult(
        self,
        stage: str,
        answers: Iterable[tuple[Asked, str]],
        authors: Authors | None = None,
        permit: Permit | None = None,
    ) -> None:
        """Have the panel say what it makes of answers, where free text is judged by one; then the judge knows it.

        Raises SealError as `judge_all` does.
        """
        if self.panel is None:
            return
        briefs: dict[str, Brief] = {}
        items: dict[tuple[str, str], tuple[Brief, str, tuple[str, ...]]] = {}
        for problem, answer in answers:
            known = (problem.task.id, answer)
            if known[0] not in briefs:
                briefs[known[0]] = self.judge.brief(_dealt(problem), permit)
            if is_settled(briefs[known[0]], answer) is None:
                items[known] = (briefs[known[0]], answer, (authors or {}).get(known, ()))
        if not items:
            return
        self.judge.take_panel(await verdicts_on(self, stage, list(items.values())))

    async def heard_out(self, stage: str, work: Callable[[], _T]) -> _T:
        """What `work`, which judges open problems, comes to once the panel has said all that it needs of it.

        `work` is called anew for that; answers here are nobody's, so no family is left out.
        """
        for turn in count():
            with self.judge.rehearsal() as missing:
                result = work()
            if not missing:
                break
            await self.consult(f"{stage} {turn}", missing.values())
        return result

    def _judged(self, problem: Asked, answer: str, permit: Permit | None) -> Outcome:
        dealt = _dealt(problem)
        if isinstance(dealt, Problem):
            return self.judge.judge(dealt, answer)
        if permit is None:
            raise SealError(f"'{dealt.task.id}' is a {dealt.split.value} problem; only the gate and the audit judge it")
        return self.judge.judge_sealed(dealt, answer, permit)

    async def draw_problems(self) -> SplitProblems:
        """AUDIT of the run, and TRAIN, DEV and GATE of generation 0."""

        async def work() -> SplitProblems:
            self.observer.stage("draw problems", 1)
            with self.times.timed("draw problems"):
                return draw_problems(self.config.problems, self.config.seed)

        inputs = self.config.problems.model_dump(mode="json")
        return self._say_notes(await self.journal.record("problems", inputs, SplitProblems, work))

    async def draw_generation(self, number: int, seen: Collection[str], levels: Mapping[str, int]) -> SplitProblems:
        """TRAIN, DEV and GATE of a later generation: items that no generation before has seen. Not for a user's file.

        Args:
            number: of the generation, from 1.
            seen: canonical keys that were drawn before.
            levels: task type to the level of its TRAIN items.
        """
        stage = f"generation {number} problems"

        async def work() -> SplitProblems:
            self.observer.stage(stage, 1)
            with self.times.timed(stage):
                config = self.config
                assert isinstance(config.problems, GymProblems), "a user's file has no fresh items to give"
                return draw_generation(config.problems, config.seed, number, seen, levels=levels)

        inputs = {
            "problems": self.config.problems.model_dump(mode="json"),
            "seen": content_hash(sorted(seen)),
            "levels": dict(sorted(levels.items())),
        }
        return self._say_notes(await self.journal.record(f"problems-generation-{number}", inputs, SplitProblems, work))

    def _say_notes(self, problems: SplitProblems) -> SplitProblems:
        for note in problems.report.notes:
            self.observer.say(note)
        if problems.clusters and isinstance(self.config.problems, FileProblems):
            near = self.config.problems.near_duplicates
            self.observer.say(clusters_sentence(problems.clusters, problems.report.num_items, near))
        return problems

    def base_of(self, engine_name: str) -> tuple[str, str]:
        """(name, directory) of an engine's base model; the directory is "" for a made-up base."""
        spec = self.spec(engine_name)
        if isinstance(spec, VllmSpec):
            directory = ModelStore(self.config.serving.model_store).path(spec.model)
            return directory.name, str(directory.resolve())
        return spec.name, str(spec.base_shape) if isinstance(spec, ScriptedSpec) and spec.base_shape else ""

    def base_shape(self, engine_name: str) -> BaseModelShape:
        """What an adapter for this engine must fit."""
        name, directory = self.base_of(engine_name)
        return BaseModelShape.from_directory(Path(directory)) if directory else scripted_shape(name)

    def rank_of(self, engine: str, adapter: str) -> int:
        """LoRA rank of an admitted adapter, by its content hash.

        Raises:
            AdapterMissing, AdapterCorrupt: its record cannot be read, and there is no whole copy of it in the run.
        """
        try:
            return self.adapters.get(adapter).rank
        except (AdapterMissing, AdapterCorrupt):
            return self._whole(engine, adapter).rank

    def spec(self, engine_name: str) -> EngineSpec:
        """The configuration of an engine."""
        return next(engine for engine in self.config.serving.engines if engine.name == engine_name)

    def _say_when(self, opening: datetime) -> None:
        self.observer.say(f"evolution may run from {opening:%a %d %b %H:%M} on (serving.fleet.windows); waiting")


def _dealt(problem: Asked) -> Problem | SealedProblem:
    assert isinstance(problem, Problem | SealedProblem), "problems are open or sealed"
    return problem


async def _places(fleet: Fleet, engines: Sequence[str]) -> tuple[GpuPlace, ...]:
    if not engines:
        return ()
    from serving.cluster import gpu_places  # Ray takes seconds to import; a run without sleeping engines does without

    return await gpu_places(fleet, engines)


def _holding(ask: Ask, fleet: Fleet, job: Job, order: int) -> Callable[[], Awaitable[Deliberation]]:
    ticket = Ticket(priority="evolve", order=order, affinity=content_hash(ask.task.id)[:16])

    async def work() -> Deliberation:
        return await deliberate(
            ask.task,
            ask.members,
            with_ticket(fleet, ticket),
            ask.protocol,
            seed=ask.seed,
            recalled=ask.recalled,
            job=job,
        )

    return work


def _keys_only(asks: Sequence[Ask]) -> list[tuple[str, Callable[[], Awaitable[Deliberation]]]]:
    async def never() -> Deliberation:
        raise AssertionError("a finished stage asks nobody")

    return [(ask.key, never) for ask in asks]


def _stage_time(stage: str, seconds: float, held: Sequence[Deliberation]) -> StageTime:
    usages = [deliberation.usage for deliberation in held]
    return StageTime(
        stage=stage,
        seconds=seconds,
        output_tokens=sum(usage.output_tokens for usage in usages),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        engine_seconds=math.fsum(usage.engine_seconds for usage in usages),
    )
