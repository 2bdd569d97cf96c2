"""Protocols and published rivals on one frozen pool of first proposals, real engines, equal output tokens.

    python scripts/bench_protocols.py --seed SEED [--config configs/bench_protocols.yaml] [--items 100]

Prompt and temperature of every rival are chosen on DEV items; reliability is measured there too. The figures are from
AUDIT items drawn with `--seed`, which the choice never sees. Everything drawn is kept under the run directory, so that
the same command continues, and `--report` prints the tables again without an engine.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from evolve.config import RunConfig, load_config
from evolve.gates.intervals import paired_difference, wilson
from evolve.judging.judge import Judge, best_constant
from evolve.lineage import Lineage
from evolve.problems.draw import draw_open
from evolve.problems.splits import Split
from evolve.problems.types import Problem
from evolve.seats import base_seats
from memory.ledger import publish_json
from memory.types import Record
from mesh.config import (
    CouncilConfig,
    DebateConfig,
    EscalateConfig,
    MixtureConfig,
    ProtocolConfig,
    RankConfig,
    SelfConsistencyConfig,
    SelfMixtureConfig,
    SingleConfig,
    SwitchConfig,
    VoteConfig,
)
from mesh.deliberate import deliberate
from mesh.frozen import FrozenEngine
from mesh.inert import describe_talk, summarise_talk
from mesh.job import Job
from mesh.measuring import measure_traces
from mesh.reliability import Reliability, judged_talks, measure
from mesh.types import Deliberation, Member, Sampling
from serving.adapters import AdapterStore
from serving.cluster import start_fleet, stop_fleet
from serving.traces import read_traces, write_traces

TEMPERATURES = (0.4, 0.8)
DEMONSTRATIONS = (2, 4)
POOL = 8
"""Samples of each member on AUDIT items, for those rivals that only draw; self-consistency takes twice as many."""
DEV_POOL = 4
COPIES = 16
"""Samples of each base model for the copy problem."""
NUM_FAMILIES = 3
DEV_TALKS = 36
"""DEV items that the rivals that talk are tried on; the others are tried on all."""
Make = Callable[[Sampling], ProtocolConfig]


@dataclass(frozen=True)
class Cell:
    """How the members of a rival are asked."""

    demonstrations: int
    temperature: float

    @property
    def slug(self) -> str:
        """A short name, fit for files."""
        return f"d{self.demonstrations}-t{self.temperature:g}"


@dataclass(frozen=True)
class Bench:
    """What everything here works with."""

    config: RunConfig
    directory: Path
    seats: tuple[Member, ...]
    engine: FrozenEngine | None
    judge: Judge

    async def hold(
        self, name: str, problems: Sequence[Problem], make: Make, cell: Cell, job: Job
    ) -> list[Deliberation]:
        """One protocol over these problems; kept under `name`, and read from there when it is there already."""
        path = self.directory / "traces" / f"{name}.parquet"
        if path.exists():
            kept = list(read_traces(path))
            if [trace.task.id for trace in kept] == [problem.task.id for problem in problems]:
                return kept
        if self.engine is None:
            raise SystemExit(f"{path} is missing, or of other items: run without --report first")
        engine, started, gate = self.engine, time.perf_counter(), asyncio.Semaphore(self.config.concurrency)
        before = engine.drawn_tokens

        async def one(problem: Problem) -> Deliberation:
            sampling = Sampling(temperature=cell.temperature, max_tokens=problem.max_tokens, stop=("\n",))
            async with gate:
                return await deliberate(problem.task, self.seats, engine, make(sampling), seed=1, job=job)

        held = list(await asyncio.gather(*(one(problem) for problem in problems)))
        write_traces(path, held)
        seconds, drawn = time.perf_counter() - started, engine.drawn_tokens - before
        print(f"  {name}: {len(held)} tasks, {drawn} tokens drawn, {seconds:.0f} s", flush=True)
        return held

    def pool_path(self, cell: Cell) -> Path:
        """Where the DEV pool of a cell is kept."""
        return self.directory / "traces" / "dev" / f"pool-{cell.slug}.parquet"

    def right(self, problems: Sequence[Problem], held: Iterable[Deliberation]) -> dict[tuple[str, str], bool]:
        """(task id, answer as spelled) to correct, for every proposal and verdict."""
        by_id = {problem.task.id: problem for problem in problems}
        judged: dict[tuple[str, str], bool] = {}
        for trace in held:
            said = [proposal.answer for proposal in trace.proposals]
            for answer in {*said, trace.verdict.answer, trace.first_verdict.answer} - {None}:
                key = (trace.task.id, str(answer))
                if key not in judged:
                    judged[key] = self.judge.judge(by_id[trace.task.id], answer).correct
        return judged

    def scores(self, problems: Sequence[Problem], held: Sequence[Deliberation]) -> dict[str, bool]:
        """Task id to whether the verdict was right; no answer is wrong."""
        right = self.right(problems, held)
        return {t.task.id: right.get((t.task.id, t.verdict.answer or ""), False) for t in held}


@dataclass(frozen=True)
class Chosen:
    """What DEV decided."""

    families: tuple[str, ...]
    choices: dict[str, Choice]
    measured: dict[Cell, Reliability]


class Choice(Record):
    """What DEV chose for one rival."""

    rival: str
    demonstrations: int
    temperature: float
    samples: int
    dev_accuracy: float
    dev_tokens: float

    @property
    def cell(self) -> Cell:
        """How it asks."""
        return Cell(self.demonstrations, self.temperature)


RIVALS: dict[str, Callable[[Sampling, int], ProtocolConfig]] = {
    "single": lambda s, k: SingleConfig(sampling=s),
    "self_consistency": lambda s, k: SelfConsistencyConfig(sampling=s, samples=2 * k),
    "vote": lambda s, k: VoteConfig(sampling=s, samples_per_member=k, tally="plurality"),
    "vote, weighted": lambda s, k: VoteConfig(sampling=s, samples_per_member=k),
    "switch": lambda s, k: SwitchConfig(sampling=s, samples_per_member=k),
    "self_mixture": lambda s, k: SelfMixtureConfig(sampling=s, samples=6),
    "mixture": lambda s, k: MixtureConfig(sampling=s),
    # One round after the first answers: what its authors count as two.
    "debate": lambda s, k: DebateConfig(sampling=s, rounds=1),
    "rank": lambda s, k: RankConfig(sampling=s, samples_per_member=4, method="borda"),
    "council": lambda s, k: CouncilConfig(sampling=s, samples_per_member=4, talk_max_tokens=32),
    "escalate": lambda s, k: EscalateConfig(sampling=s, samples_per_member=4, talk_max_tokens=32),
}
BASELINES = ("single", "self_consistency", "vote", "switch", "self_mixture", "mixture", "debate")
POOLED = ("single", "self_consistency", "vote", "vote, weighted", "switch")
"""Rivals that only draw first proposals; on the pool they cost nothing."""


def output_tokens(held: Sequence[Deliberation]) -> float:
    """Mean output tokens a task."""
    return sum(trace.usage.output_tokens for trace in held) / len(held)


def prompt_tokens(held: Sequence[Deliberation]) -> float:
    """Mean prompt tokens a task, prefix-cache hits included."""
    return sum(trace.usage.prompt_tokens for trace in held) / len(held)


def slug(rival: str) -> str:
    """A file name for a rival."""
    return rival.replace(", ", "-")


def drawn(
    config: RunConfig, split: Split, seed: int, demonstrations: int, most: int, only: Sequence[str] = ()
) -> tuple[Problem, ...]:
    """At most `most` problems a family, families alternating; the same items whatever the prompt. `only`: families."""
    families = tuple(f.model_copy(update={"num_demonstrations": demonstrations}) for f in config.problems.families)
    problems = config.problems.model_copy(update={"families": families})
    found = draw_open(problems, seed, split_seeds={split: seed}).of(split)
    taken: dict[str, int] = defaultdict(int)
    kept = []
    for problem in found:
        taken[problem.task.type] += 1
        if taken[problem.task.type] <= most and (not only or problem.task.type in only):
            kept.append(problem)
    return tuple(kept)


async def measure_members(bench: Bench, problems: Sequence[Problem], cell: Cell) -> tuple[Reliability, float]:
    """Reliability from the DEV pool of a cell, confidence calibrated on its weighted votes; and mean accuracy."""
    held = await bench.hold(
        f"dev/pool-{cell.slug}", problems, lambda s: VoteConfig(sampling=s, samples_per_member=DEV_POOL), cell, Job()
    )
    right = bench.right(problems, held)
    said = [proposal for trace in held for proposal in trace.proposals]
    return measure_traces(held, right), sum(right.get((p_id, a or ""), False) for p_id, a in _answers(held)) / len(said)


def _answers(held: Iterable[Deliberation]) -> Iterator[tuple[str, str | None]]:
    return ((trace.task.id, proposal.answer) for trace in held for proposal in trace.proposals)


def chosen_families(bench: Bench, problems: Mapping[int, Sequence[Problem]], cells: Sequence[Cell]) -> tuple[str, ...]:
    """The `NUM_FAMILIES` in which the best member of the best cell beats the best constant most, on DEV."""
    margins: dict[str, float] = {}
    for family in sorted({problem.task.type for problem in problems[DEMONSTRATIONS[0]]}):
        rates = []
        for cell in cells:
            items = [problem for problem in problems[cell.demonstrations] if problem.task.type == family]
            held = [t for t in read_traces(bench.pool_path(cell)) if t.task.type == family]
            right = bench.right(items, held)
            for member in bench.seats:
                said = [(t.task.id, p.answer) for t in held for p in t.proposals if p.member == member.name]
                rates.append(sum(right.get((i, a or ""), False) for i, a in said) / max(len(said), 1))
        constant = best_constant([p for p in problems[DEMONSTRATIONS[0]] if p.task.type == family], bench.judge)[1]
        margins[family] = max(rates) - constant
        print(f"DEV {family}: best member {max(rates):.3f}, best constant {constant:.3f}", flush=True)
    return tuple(sorted(margins, key=lambda family: -margins[family])[:NUM_FAMILIES])


async def choose_on_dev(bench: Bench, seed: int) -> Chosen:
    """The families, and for every rival the prompt and temperature that were best on DEV."""
    measured: dict[Cell, Reliability] = {}
    level: dict[Cell, float] = {}
    problems = {d: drawn(bench.config, Split.DEV, seed, d, 10**6) for d in DEMONSTRATIONS}
    for cell in (Cell(d, t) for d in DEMONSTRATIONS for t in TEMPERATURES):
        measured[cell], level[cell] = await measure_members(bench, problems[cell.demonstrations], cell)
        print(f"DEV {cell.slug}: one proposal is right {level[cell]:.3f} of the time", flush=True)
    families = chosen_families(bench, problems, list(measured))
    problems = {d: tuple(p for p in items if p.task.type in families) for d, items in problems.items()}
    best_prompt = max(DEMONSTRATIONS, key=lambda d: max(level[Cell(d, t)] for t in TEMPERATURES))
    talk_cells = [Cell(best_prompt, t) for t in TEMPERATURES]
    choices = {}
    for rival in RIVALS:
        cells = list(measured) if rival in POOLED else talk_cells
        tried = []
        for cell in cells:
            items = problems[cell.demonstrations]
            items = items if rival in POOLED else items[:DEV_TALKS]
            held = await bench.hold(
                f"dev/{slug(rival)}-{cell.slug}", items, partial(RIVALS[rival], k=DEV_POOL), cell,
                Job(reliability=measured[cell]),
            )  # fmt: skip
            accuracy = sum(bench.scores(items, held).values()) / len(held)
            if rival == "council":
                talks = judged_talks(held, bench.right(items, held))
                measured[cell] = measured[cell].merge(measure((), talks=talks))
            tried.append(
                Choice(
                    rival=rival, demonstrations=cell.demonstrations, temperature=cell.temperature, samples=DEV_POOL,
                    dev_accuracy=accuracy, dev_tokens=output_tokens(held),
                )
            )  # fmt: skip
        choices[rival] = max(tried, key=lambda choice: choice.dev_accuracy)
    # One pool serves all that only draw, and escalate, which builds on it: the cell that is best for any of them.
    best = max((choices[rival] for rival in POOLED), key=lambda choice: choice.dev_accuracy)
    for rival in POOLED:
        # More samples than on DEV, within what a council writes: every rival is at its best there.
        settings = {"demonstrations": best.demonstrations, "temperature": best.temperature, "samples": POOL}
        choices[rival] = choices[rival].model_copy(update=settings)
    return Chosen(families, choices, measured)


async def test(
    bench: Bench, chosen: Chosen, seed: int, items: int, talk_items: int
) -> dict[str, tuple[tuple[Problem, ...], list[Deliberation]]]:
    """Every rival as chosen, on fresh AUDIT items."""
    results = {}
    for rival, choice in chosen.choices.items():
        most = items if rival in (*POOLED, "escalate") else talk_items
        problems = drawn(bench.config, Split.AUDIT, seed, choice.demonstrations, most, chosen.families)
        make = partial(RIVALS[rival], k=choice.samples)
        job = Job(reliability=chosen.measured[choice.cell])
        results[rival] = (problems, await bench.hold(f"test/{slug(rival)}", problems, make, choice.cell, job))
    return results


async def pools(bench: Bench, chosen: Chosen, seed: int, items: int) -> None:
    """First proposals of every cell that is used, drawn at once; the rivals are prefixes of them."""
    for cell in sorted({chosen.choices[rival].cell for rival in POOLED}, key=lambda cell: cell.slug):
        problems = drawn(bench.config, Split.AUDIT, seed, cell.demonstrations, items, chosen.families)
        await bench.hold(
            f"test/pool-{cell.slug}", problems, lambda s: VoteConfig(sampling=s, samples_per_member=POOL), cell, Job()
        )


async def copies(bench: Bench, chosen: Chosen, seed: int, items: int) -> None:
    """More samples of the base models alone, where self-consistency was asked: what scripts/bench_pool.py compares."""
    cell = chosen.choices["self_consistency"].cell
    problems = drawn(bench.config, Split.AUDIT, seed, cell.demonstrations, items, chosen.families)
    base = replace(bench, seats=tuple(member for member in bench.seats if member.adapter is None))
    await base.hold(
        f"test/copies-{cell.slug}", problems, lambda s: VoteConfig(sampling=s, samples_per_member=COPIES), cell, Job()
    )


def report(
    bench: Bench, choices: Mapping[str, Choice], results: Mapping[str, tuple[tuple[Problem, ...], list[Deliberation]]]
) -> dict[str, object]:
    """Tables on the screen and as data: accuracy, tokens, flips, paired differences from `escalate`."""
    right = {rival: bench.scores(problems, held) for rival, (problems, held) in results.items()}
    problems = results["escalate"][0]
    families = sorted({problem.task.type for problem in problems})
    constant = {}
    for family in families:
        items = [problem for problem in problems if problem.task.type == family]
        constant[family] = best_constant(items, bench.judge)
    rows = []
    print(
        f"\n{'':18}{'n':>4}{'all':>8} "
        + " ".join(f"{family[:16]:>16}" for family in families)
        + "   tokens out/in  flips"
    )
    print(f"{'best constant':18}{'':4}{sum(v for _, v in constant.values()) / len(families):>8.3f} "
          + " ".join(f"{constant[family][1]:>16.3f}" for family in families))  # fmt: skip
    for rival, (own, held) in results.items():
        share = {f: _mean([right[rival][p.task.id] for p in own if p.task.type == f]) for f in families}
        n = len(held)
        hits = sum(right[rival].values())
        interval = wilson(hits, n)
        both, gained, lost, neither = _paired(right["escalate"], right[rival])
        gap = paired_difference(both, gained, lost, neither)
        change = (gained - lost) / (both + gained + lost + neither)
        judged = bench.right(own, held)
        firsts = {t.task.id: judged.get((t.task.id, t.first_verdict.answer or ""), False) for t in held}
        fixed = sum(right[rival][i] and not firsts[i] for i in firsts)
        broken = sum(firsts[i] and not right[rival][i] for i in firsts)
        choice = choices[rival]
        rows.append({
            "rival": rival, "accuracy": hits / n, "low": interval.low, "high": interval.high, "n": n,
            "by_family": share, "output_tokens": output_tokens(held), "prompt_tokens": prompt_tokens(held),
            "escalate_minus": change, "escalate_minus_low": gap.low, "escalate_minus_high": gap.high,
            "wrong_to_right": fixed, "right_to_wrong": broken, "choice": choice.model_dump(),
            "talk": summarise_talk(held).model_dump(),
        })  # fmt: skip
        print(
            f"{rival:18}{n:>4}{hits / n:>8.3f} " + " ".join(f"{share[f]:>16.3f}" for f in families)
            + f"   {output_tokens(held):6.0f}/{prompt_tokens(held):<6.0f}  +{fixed} -{broken}   "
            + f"escalate {100 * change:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]   "
            + f"{choice.cell.slug}, k={choice.samples}"
        )  # fmt: skip
    best = max(BASELINES, key=lambda rival: _mean(list(right[rival].values())))
    alike = [trace for trace in results["escalate"][1] if trace.task.id in right["council"]]
    ratio = output_tokens(alike) / output_tokens(results["council"][1])
    row = next(row for row in rows if row["rival"] == best)
    print(
        f"\nbest baseline on these items: {best}; escalate minus it {100 * row['escalate_minus']:+.1f} points, "
        f"95% [{100 * row['escalate_minus_low']:+.1f}, {100 * row['escalate_minus_high']:+.1f}] (aim: lower bound > -5)"
    )
    print(f"escalate writes {ratio:.0%} of council's tokens (aim: at most 60%)")
    for rival in ("council", "escalate"):
        print(rival + ": " + "; ".join(describe_talk(summarise_talk(results[rival][1]))))
    return {"rows": rows, "best_baseline": best, "escalate_to_council_tokens": ratio,
            "constant": {family: list(found) for family, found in constant.items()}}  # fmt: skip


def _paired(first: Mapping[str, bool], second: Mapping[str, bool]) -> tuple[int, int, int, int]:
    pairs = [(first[i], second[i]) for i in first if i in second]
    return (
        sum(a and b for a, b in pairs), sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs),
        sum(not a and not b for a, b in pairs),
    )  # fmt: skip


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


def seats_of(config: RunConfig, run: Path | None) -> tuple[tuple[Member, ...], AdapterStore]:
    """A base seat for every engine and, with a run, a seat for each of its last generation's specialists."""
    base = base_seats(config)
    store = AdapterStore((run or config.run_dir) / "adapters")
    latest = None if run is None else Lineage(run / "generations.jsonl", readonly=True).latest()
    seated = () if latest is None else tuple(member for member in latest.seats if member.adapter is not None)
    taken = {member.name for member in base}
    named = (m.model_copy(update={"name": f"{m.name}-specialist" if m.name in taken else m.name}) for m in seated)
    return (*base, *named), store


async def work(options: argparse.Namespace) -> None:
    """DEV, then the pool, then the rivals, then the tables."""
    config = load_config(options.config)
    directory = options.out or config.run_dir
    fleet = None
    if not options.report:
        print("starting engines", flush=True)
        fleet = await start_fleet(config.serving, seats_of(config, options.run)[1])
    try:
        frozen = None if fleet is None else FrozenEngine(fleet, seed=config.seed, path=directory / "pool.jsonl")
        with Judge() as judge:
            seats, store = seats_of(config, options.run)
            for member in seats:
                for adapter in member.adapters if fleet is not None else ():
                    await fleet.load_adapter(member.engine, store.get(adapter))
            bench = Bench(config, directory, seats, frozen, judge)
            chosen = await choose_on_dev(bench, config.seed)
            choices, measured = chosen.choices, chosen.measured
            publish_json(directory / "choices.json", {name: choice.model_dump() for name, choice in choices.items()})
            for cell, found in measured.items():
                publish_json(directory / f"reliability-{cell.slug}.json", found)
            if options.dev:
                for choice in choices.values():
                    print(choice)
                return
            await pools(bench, chosen, options.seed, options.items)
            results = await test(bench, chosen, options.seed, options.items, options.talk_items)
            publish_json(directory / f"protocols-{options.seed}.json", report(bench, choices, results))
            await copies(bench, chosen, options.seed, options.items)
    finally:
        if fleet is not None:
            await stop_fleet(fleet)


def main() -> None:
    """Read the arguments and go."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, required=True, help="seed of the AUDIT items; drawn after all was fixed")
    parser.add_argument("--config", type=Path, default=Path("configs/bench_protocols.yaml"))
    parser.add_argument("--items", type=int, default=100, help="AUDIT items a family")
    parser.add_argument(
        "--run", type=Path, default=None, help="a run whose specialists take seats beside the base models"
    )
    parser.add_argument(
        "--talk-items", type=int, default=100, help="items a family for rivals that talk: they are dear"
    )
    parser.add_argument("--out", type=Path, default=None, help="directory; default: run_dir of the configuration")
    parser.add_argument("--dev", action="store_true", help="stop after DEV: what is chosen, without a look at AUDIT")
    parser.add_argument("--report", action="store_true", help="print the tables from what is there, without engines")
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()
