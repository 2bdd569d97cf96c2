"""What one frozen pool shows at no further tokens: the copy problem, tallies, calibration, signals of a wrong verdict.

    python scripts/bench_pool.py [--dir runs/bench-protocols] [--plot docs/copy_problem.png]

Reads what scripts/bench_protocols.py drew. Weights and calibration come from DEV items, every figure from AUDIT items.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean

from bench_protocols import Choice

from evolve.config import load_config
from evolve.judging.judge import Judge
from evolve.problems.draw import draw_open
from evolve.problems.splits import Split
from evolve.problems.types import Problem
from memory.ledger import publish_json, read_json, read_record
from mesh.calibrate import brier, expected_calibration_error
from mesh.equivalence import canonical
from mesh.reliability import Reliability
from mesh.signals import separation
from mesh.tally import plurality
from mesh.types import Deliberation, Member, Proposal, Verdict
from mesh.weigh import weighted
from serving.traces import read_traces

SIZES = (1, 2, 4, 8, 16, 32)
DRAWS = 30
"""Random subsets of the pool a task, over which a group of n agents is averaged."""
BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Item:
    """One task with every sample of every member, and which answers are right."""

    trace: Deliberation
    samples: Mapping[str, tuple[Proposal, ...]]
    right: Mapping[str, bool]

    def correct(self, answer: str | None) -> bool:
        """Whether an answer is right; none is wrong."""
        return answer is not None and self.right.get(answer, False)


def items_of(path: Path, judge: Judge, problems: Mapping[str, Problem]) -> list[Item]:
    """The pool as items."""
    items = []
    for trace in read_traces(path):
        samples: dict[str, list[Proposal]] = defaultdict(list)
        for proposal in trace.proposals:
            samples[proposal.member].append(proposal)
        answers = {proposal.answer for proposal in trace.proposals if proposal.answer is not None}
        right = {answer: judge.judge(problems[trace.task.id], answer).correct for answer in answers}
        items.append(Item(trace, {name: tuple(own) for name, own in samples.items()}, right))
    return items


def whole(items: Sequence[Item]) -> list[Item]:
    """The items for which every member gave as many samples as any; the others met a timeout, and are counted."""
    most = max(len(own) for item in items for own in item.samples.values())
    kept = [item for item in items if all(len(item.samples.get(m.name, ())) == most for m in item.trace.members)]
    print(f"{len(kept)} of {len(items)} tasks have {most} samples of each of {len(items[0].trace.members)} members")
    return kept


@dataclass(frozen=True)
class Curve:
    """One kind of group, over the number of its agents; per task values, so that groups can be paired."""

    name: str
    accuracy: Mapping[int, Sequence[float]]
    coverage: Mapping[int, Sequence[float]]
    n_eff: Mapping[int, float]


def curve(name: str, items: Sequence[Item], members: Sequence[str], sizes: Sequence[int], seed: int) -> Curve:
    """Groups of n agents, dealt evenly over `members`: expected plurality accuracy and coverage, task by task."""
    accuracy: dict[int, list[float]] = {}
    coverage: dict[int, list[float]] = {}
    n_eff: dict[int, float] = {}
    for n in sizes:
        counts = {m: n // len(members) + (i < n % len(members)) for i, m in enumerate(members)}
        if any(counts[m] > len(items[0].samples.get(m, ())) for m in members):
            continue
        hits, covers = [], []
        for index, item in enumerate(items):
            dice = random.Random(seed * 100_003 + n * 1009 + index)
            votes, any_right = [], []
            for _ in range(DRAWS):
                # Which member gets the odd one is drawn too, so that a group of one is a fair mix.
                order = dice.sample(list(members), len(members))
                dealt = {m: n // len(members) + (i < n % len(members)) for i, m in enumerate(order)}
                group = [p for m in order for p in dice.sample(item.samples[m], dealt[m])]
                votes.append(item.correct(plurality(group, item.trace.task.answer_kind).answer))
                any_right.append(any(item.correct(p.answer) for p in group))
            hits.append(mean(votes))
            covers.append(mean(any_right))
        accuracy[n], coverage[n] = hits, covers
        n_eff[n] = effective(items, members, n)
    return Curve(name, accuracy, coverage, n_eff)


def effective(items: Sequence[Item], members: Sequence[str], n: int) -> float:
    """Votes that n agents are worth: n / (1 + (n - 1) r), r the mean correlation of errors over their pairs (Kish).

    Two samples of one member are a pair too; the correlation of two members is over all pairs of their samples.
    """
    rates = {m: [mean(item.correct(p.answer) for p in item.samples[m]) for item in items] for m in members}
    counts = {m: n / len(members) for m in members}
    total = pairs = 0.0
    for m in members:
        own = counts[m] * (counts[m] - 1) / 2
        if own > 0:
            total += own * _within(items, m)
            pairs += own
    for a, b in combinations(members, 2):
        total += counts[a] * counts[b] * _between(rates[a], rates[b])
        pairs += counts[a] * counts[b]
    correlation = max(total / pairs, 0.0) if pairs > 0 else 0.0
    return n / (1 + (n - 1) * correlation)


def _within(items: Sequence[Item], member: str) -> float:
    """Intraclass correlation of right and wrong between samples of one member (one-way analysis of variance)."""
    rows = [[float(item.correct(p.answer)) for p in item.samples[member]] for item in items]
    k, grand = len(rows[0]), mean(value for row in rows for value in row)
    between = k * sum((mean(row) - grand) ** 2 for row in rows) / (len(rows) - 1)
    within = sum((value - mean(row)) ** 2 for row in rows for value in row) / (len(rows) * (k - 1))
    bottom = between + (k - 1) * within
    return (between - within) / bottom if bottom else 0.0


def _between(first: Sequence[float], second: Sequence[float]) -> float:
    """Correlation of single samples of two members: covariance of their rates over the spread of single samples."""
    a, b = mean(first), mean(second)
    covariance = mean((x - a) * (y - b) for x, y in zip(first, second, strict=True))
    spread = (a * (1 - a) * b * (1 - b)) ** 0.5
    return covariance / spread if spread else 0.0


def interval(values: Sequence[float], seed: int = 1) -> tuple[float, float]:
    """95% bootstrap interval of a mean over tasks."""
    dice = random.Random(seed)
    means = sorted(mean(dice.choices(values, k=len(values))) for _ in range(BOOTSTRAPS))
    return means[int(0.025 * BOOTSTRAPS)], means[int(0.975 * BOOTSTRAPS) - 1]


def copy_problem(
    items: Sequence[Item], alone: Sequence[Item], members: Sequence[Member], plot: Path | None
) -> dict[str, object]:
    """Copies of one model against mixes of families, over the number of agents. `alone`: base models, more samples."""
    base = [member.name for member in members if member.adapter is None]
    curves = [curve(f"copies of {name}", alone, [name], SIZES, 1) for name in base]
    curves.append(curve(f"mix of {len(base)} families", alone, base, SIZES, 1))
    if len(members) > len(base):
        curves.append(curve("mix with specialists", items, [member.name for member in members], SIZES, 1))
    print("\nThe copy problem: accuracy of a plurality / coverage / effective votes, by number of agents")
    for one in curves:
        cells = [
            f"{n}: {mean(one.accuracy[n]):.3f}/{mean(one.coverage[n]):.3f}/{one.n_eff[n]:.1f}" for n in one.accuracy
        ]
        print(f"  {one.name:24}" + "  ".join(cells))
    print("  going on from 4 agents to the most, in points of accuracy [95%] and of coverage:")
    for one in curves:
        most = max(one.accuracy)
        rise = [100 * (b - a) for a, b in zip(one.accuracy[4], one.accuracy[most], strict=True)]
        wide = [100 * (b - a) for a, b in zip(one.coverage[4], one.coverage[most], strict=True)]
        low, high = interval(rise)
        print(f"  {one.name:24}{mean(rise):+.1f} [{low:+.1f}, {high:+.1f}]   coverage {mean(wide):+.1f}")
    best = max(curves[: len(base)], key=lambda one: mean(one.accuracy[max(one.accuracy)]))
    for mix in curves[len(base) :]:
        for label, of in (("accuracy", "accuracy"), ("coverage", "coverage")):
            n = min(max(getattr(mix, of)), max(getattr(best, of)))
            gaps = [100 * (b - a) for a, b in zip(getattr(best, of)[n], getattr(mix, of)[n], strict=True)]
            low, high = interval(gaps)
            print(f"  {mix.name} minus {best.name} at {n} agents, {label}: {mean(gaps):+.1f} [{low:+.1f}, {high:+.1f}]")
    if plot is not None:
        draw(curves, plot)
        print(f"  drawn to {plot}")
    return {
        one.name: {
            str(n): {"accuracy": mean(one.accuracy[n]), "coverage": mean(one.coverage[n]), "n_eff": one.n_eff[n]}
            for n in one.accuracy
        }
        for one in curves
    }


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Three panels, one line a group, with 95% bands over tasks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(11, 3.4), constrained_layout=True)
    for one in curves:
        sizes = list(one.accuracy)
        style = {"marker": "o", "linewidth": 1.6, "linestyle": "-" if "mix" in one.name else "--"}
        for panel, values in ((panels[0], one.accuracy), (panels[1], one.coverage)):
            (line,) = panel.plot(sizes, [mean(values[n]) for n in sizes], label=one.name, **style)
            bands = [interval(values[n]) for n in sizes]
            panel.fill_between(sizes, [b[0] for b in bands], [b[1] for b in bands], alpha=0.12, color=line.get_color())
        panels[2].plot(sizes, [one.n_eff[n] for n in sizes], label=one.name, **style)
    titles = ("accuracy of a plurality", "coverage: any agent is right", "effective votes")
    for panel, title in zip(panels, titles, strict=True):
        panel.set(title=title, xlabel="agents", xscale="log")
        panel.set_xticks(SIZES, [str(n) for n in SIZES])
        panel.minorticks_off()
        panel.grid(alpha=0.25)
    panels[2].legend(fontsize=8, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


Tally = Callable[[Item, Sequence[Proposal]], Verdict]


def tallies(items: Sequence[Item], members: Sequence[Member], reliability: Reliability) -> dict[str, object]:
    """Tallies on the same ballots, and how far their confidence can be believed."""
    seats = list(members)
    rules: dict[str, Tally] = {
        "plurality": lambda i, p: plurality(p, i.trace.task.answer_kind),
        "weighted, nothing measured": lambda i, p: weighted(
            p, i.trace.task.answer_kind, None, seats, i.trace.task.type
        ),
        "weighted, measured": lambda i, p: weighted(p, i.trace.task.answer_kind, reliability, seats, i.trace.task.type),
        "weighted, no family cap": lambda i, p: weighted(
            p, i.trace.task.answer_kind, reliability, seats, i.trace.task.type, cap_families=False
        ),
    }
    out: dict[str, object] = {}
    for k in (1, 4):
        ballots = {i: [p for m in seats for p in item.samples[m.name][:k]] for i, item in enumerate(items)}
        print(f"\nTallies of {len(seats)} members, {k} samples each, {len(items)} tasks: accuracy, Brier, calibration")
        base = [float(item.correct(rules["plurality"](item, ballots[i]).answer)) for i, item in enumerate(items)]
        for name, rule in rules.items():
            verdicts = [rule(item, ballots[i]) for i, item in enumerate(items)]
            hits = [float(item.correct(v.answer)) for item, v in zip(items, verdicts, strict=True)]
            pairs = [(v.confidence, bool(h)) for v, h in zip(verdicts, hits, strict=True)]
            out[f"{name}, k={k}"] = _tally_line(name, hits, base, pairs, any(v.calibrated for v in verdicts))
        skene = dawid_skene(items, ballots)
        out[f"Dawid-Skene, k={k}"] = _tally_line("Dawid-Skene (crowd-kit)", skene, base, [], False)
    return out


def _tally_line(
    name: str, hits: Sequence[float], base: Sequence[float], pairs: list[tuple[float, bool]], calibrated: bool
) -> dict[str, float]:
    gaps = [100 * (b - a) for a, b in zip(base, hits, strict=True)]
    low, high = interval(gaps)
    row = {"accuracy": mean(hits), "minus_plurality": mean(gaps), "low": low, "high": high}
    text = f"  {name:28}{mean(hits):.3f}  against plurality {mean(gaps):+.1f} [{low:+.1f}, {high:+.1f}]"
    if pairs:
        row |= {"brier": brier(pairs) or 0.0, "ece": expected_calibration_error(pairs) or 0.0}
        text += f"  Brier {row['brier']:.3f}  ECE {row['ece']:.3f}{' (calibrated on DEV)' if calibrated else ''}"
    print(text)
    return row


def dawid_skene(items: Sequence[Item], ballots: Mapping[int, Sequence[Proposal]]) -> list[float]:
    """Dawid-Skene over clusters by rank in the plurality of their task: answers are open, labels must be shared."""
    import pandas
    from crowdkit.aggregation import DawidSkene

    rows: list[dict[str, object]] = []
    meaning: dict[tuple[int, int], str] = {}
    for index, item in enumerate(items):
        kind = item.trace.task.answer_kind
        ranked = [canonical(a, kind) for a, _ in plurality(ballots[index], kind).support]
        spelled = {canonical(a, kind): a for a, _ in plurality(ballots[index], kind).support}
        for proposal in ballots[index]:
            if proposal.answer is not None:
                rank = min(ranked.index(canonical(proposal.answer, kind)), 5)
                meaning.setdefault((index, rank), spelled[ranked[rank]])
                rows.append({"task": index, "worker": f"{proposal.member}#{proposal.sample}", "label": rank})
    found = DawidSkene(n_iter=100).fit_predict(pandas.DataFrame(rows))
    return [
        float(item.correct(meaning.get((index, int(found[index]))) if index in found.index else None))
        for index, item in enumerate(items)
    ]


def wrong_signals(directory: Path, judge: Judge, problems: Mapping[str, Problem]) -> dict[str, object]:
    """AUROC of each signal at telling wrong verdicts from right ones."""
    out: dict[str, object] = {}
    for rival in ("vote-weighted", "council", "escalate"):
        traces = list(read_traces(directory / "traces" / "test" / f"{rival}.parquet"))
        answered = {(t.task.id, t.verdict.answer) for t in traces if t.verdict.answer is not None}
        right = {(i, a): judge.judge(problems[i], a).correct for i, a in answered}
        print(f"\nSignals of a wrong verdict, {rival}: AUROC [95%]")
        rows = {}
        for found in separation(traces, right):
            area = f"{found.auroc:.2f} [{found.low:.2f}, {found.high:.2f}]"
            print(f"  {found.signal:34}{area}  ({found.num_wrong} wrong, {found.num_right} right)")
            rows[found.signal] = found.model_dump(mode="json")
        out[rival] = rows
    return out


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("runs/bench-protocols"))
    parser.add_argument("--config", type=Path, default=Path("configs/bench_protocols.yaml"))
    parser.add_argument("--seed", type=int, required=True, help="the seed that the AUDIT items were drawn with")
    parser.add_argument("--plot", type=Path, default=None, help="where to draw the copy problem, e.g. docs/copies.png")
    options = parser.parse_args()
    config = load_config(options.config)
    choices = {name: Choice.model_validate(one) for name, one in read_json(options.dir / "choices.json").items()}
    cell = choices["self_consistency"].cell
    reliability = read_record(options.dir / f"reliability-{cell.slug}.json", Reliability)
    drawn = draw_open(config.problems, options.seed, split_seeds={Split.AUDIT: options.seed}).of(Split.AUDIT)
    problems = {problem.task.id: problem for problem in drawn}
    with Judge() as judge:
        items = whole(items_of(options.dir / "traces" / "test" / "vote.parquet", judge, problems))
        more = options.dir / "traces" / "test" / f"copies-{cell.slug}.parquet"
        alone = whole(items_of(more, judge, problems)) if more.exists() else items
        members = items[0].trace.members
        data = {
            "copies": copy_problem(items, alone, members, options.plot),
            "tallies": tallies(items, members, reliability),
            "signals": wrong_signals(options.dir, judge, problems),
        }
    publish_json(options.dir / f"pool-{options.seed}.json", data)


if __name__ == "__main__":
    main()
