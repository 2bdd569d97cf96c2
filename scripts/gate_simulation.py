"""How often does the gate promote what is no better, and find what is? By simulation, on the code that decides.

    python scripts/gate_simulation.py --rounds 2000 --problems 150 --families 3 --finalists 3
    python scripts/gate_simulation.py --rounds 500 --problems 300 --parts 3456

Parts 1 and 2 hold gates without rivals but the incumbents, at several discordances. Part 1 draws finalists that are
exactly as good as the incumbents and counts gates that promote anything. The finalists meet the same incumbent results,
as in a run, so their tests are correlated. Part 2 draws one truly better finalist and compares how often its gain is
shown with the exact power of that single test; "all guards" is the gate with its guards. Parts 3 to 6 hold the whole
conjunction (incumbents, placebo, one more sample, guards): false promotions under every way of being no better,
clustered problems included (3); its power against the estimate (4); the winner's curse (5); whole runs of several
generations, beside a loop that seats whatever looks best (6).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evolve.gates.conjunction import Contest, Rival, RivalKind, hold  # the path has to be set first
from evolve.gates.gate import detectable_effect, power_of
from evolve.gates.intervals import wilson
from evolve.gates.paired import paired_test
from evolve.gates.power import Assumed, conjunction_power
from evolve.gates.remeasure import expected_luck, remeasured

CLUSTER = 5
"""Near duplicates in a cluster of the clustered lines."""
COPIES = 0.9
"""Chance that a problem repeats its cluster's outcome; the correlation within a cluster is its square."""
RIVALS: tuple[RivalKind, ...] = ("placebo", "budget")
"""Of a whole conjunction, besides the incumbents."""


def main() -> None:
    """Print the parts as tables; exit status 1 when false promotions are shown to exceed alpha."""
    options = _options()
    rng = np.random.default_rng(options.seed)
    print(
        f"{options.rounds} gates each, {options.problems} problems of {options.families} task types, "
        f"{options.finalists} finalists, alpha {options.alpha}\n"
    )
    parts = {
        "1": _false_promotions,
        "2": _power,
        "3": _false_conjunctions,
        "4": _conjunction_power,
        "5": _winners_curse,
        "6": _generations,
    }
    exceeded = [bool(part(options, rng)) for name, part in parts.items() if name in options.parts]
    if any(exceeded):
        sys.exit("false promotions exceed alpha")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000, help="simulated gates for each line")
    parser.add_argument("--problems", type=int, default=150, help="GATE problems")
    parser.add_argument("--families", type=int, default=3, help="task types, in equal shares")
    parser.add_argument("--finalists", type=int, default=3, help="candidates at one gate")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--parts", default="123456", help="digits of the parts to run")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _false_promotions(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    print("1. false promotions: no finalist is better")
    print(f"{'discordance':>12} {'promoted':>10} {'95% interval':>18}")
    exceeded = False
    for discordance in (0.05, 0.1, 0.2, 0.3, 0.4):
        promoted = 0
        for number in range(options.rounds):
            contests = _contests(options, rng, [0.0] * options.finalists, discordance=discordance)
            promoted += bool(hold(contests, options.alpha, seed=number).promoted)
        interval = wilson(promoted, options.rounds)
        exceeded = exceeded or interval.low > options.alpha
        print(f"{discordance:>12.2f} {promoted / options.rounds:>10.4f}    [{interval.low:.4f}, {interval.high:.4f}]")
    print(flush=True)
    return exceeded


def _power(options: argparse.Namespace, rng: np.random.Generator) -> None:
    level = options.alpha / options.finalists
    print("2. power: one finalist is better, the others are not")
    print(f"{'discordance':>12} {'true gain':>10} {'estimate':>10} {'gain shown':>11} {'all guards':>11}")
    for discordance in (0.1, 0.2, 0.3):
        effect = detectable_effect(options.problems, discordance, level)
        gains = {discordance / 4, discordance / 2, discordance if effect is None else effect}
        for gain in sorted(gains):
            shown = passed = 0
            for number in range(options.rounds):
                gains_drawn = [gain] + [0.0] * (options.finalists - 1)
                contests = _contests(options, rng, gains_drawn, discordance=discordance)
                first = hold(contests, options.alpha, seed=number).results[0]
                shown, passed = shown + first.shown, passed + first.passed
            estimate = power_of(options.problems, discordance, gain, level)
            print(
                f"{discordance:>12.2f} {gain:>10.3f} {estimate:>10.3f} "
                f"{shown / options.rounds:>11.3f} {passed / options.rounds:>11.3f}"
            )
        note = "none of this discordance" if effect is None else f"{effect:.3f}"
        print(f"{'':>12} detectable with 80% power at alpha / {options.finalists}: {note}")
    print(flush=True)


def _false_conjunctions(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    print(f"3. false promotions of the whole conjunction, discordance 0.2; clusters hold {CLUSTER} near duplicates")
    print(f"{'':<50} {'promoted':>10} {'95% interval':>18}")
    worlds: dict[str, tuple[float, float, float, bool, bool]] = {
        "all equal": (0.0, 0.0, 0.0, False, False),
        "form alone: placebo as good, +15 points": (0.15, 0.15, 0.0, False, False),
        "one more sample as good, +15 points": (0.15, 0.0, 0.15, False, False),
        "all equal, clustered problems": (0.0, 0.0, 0.0, True, False),
        "one more sample as good, clustered problems": (0.15, 0.0, 0.15, True, False),
        "the same with the clusters ignored": (0.15, 0.0, 0.15, True, True),
    }
    exceeded = False
    for label, (gain, placebo, budget, is_clustered, ignores) in worlds.items():
        promoted = 0
        for number in range(options.rounds):
            contests = _contests(options, rng, [gain] * options.finalists, placebo, budget, clustered=is_clustered)
            if ignores:
                contests = [contest.model_copy(update={"clusters": ()}) for contest in contests]
            promoted += bool(hold(contests, options.alpha, required=("placebo", "budget"), seed=number).promoted)
        interval = wilson(promoted, options.rounds)
        exceeded = exceeded or (interval.low > options.alpha and not ignores)
        share = promoted / options.rounds
        print(f"{label:<50} {share:>10.4f}    [{interval.low:.4f}, {interval.high:.4f}]", flush=True)
    print(flush=True)
    return exceeded


def _conjunction_power(options: argparse.Namespace, rng: np.random.Generator) -> None:
    print("4. power of the whole conjunction: one finalist is better than all its rivals, the others than none")
    print(f"{'true gain':>10} {'problems':<12} {'estimate':>10} {'passed':>10} {'95% interval':>18}")
    for gain in (0.05, 0.1, 0.15):
        for is_clustered in (False, True):
            assumed = Assumed(
                num_problems=options.problems,
                num_task_types=options.families,
                gain=gain,
                alpha=options.alpha,
                num_finalists=options.finalists,
                cluster_size=CLUSTER if is_clustered else 1,
                cluster_correlation=COPIES**2 if is_clustered else 0.0,
            )
            estimate = conjunction_power(assumed, rounds=2000)
            passed = 0
            for number in range(options.rounds):
                gains = [gain] + [0.0] * (options.finalists - 1)
                contests = _contests(options, rng, gains, 0.0, 0.0, clustered=is_clustered)
                passed += hold(contests, options.alpha, required=("placebo", "budget"), seed=number).results[0].passed
            interval = wilson(passed, options.rounds)
            print(
                f"{gain:>10.3f} {'clustered' if is_clustered else 'independent':<12} {estimate.power:>10.3f} "
                f"{passed / options.rounds:>10.3f}    [{interval.low:.4f}, {interval.high:.4f}]",
                flush=True,
            )
    print(flush=True)


def _winners_curse(options: argparse.Namespace, rng: np.random.Generator) -> None:
    print("5. winner's curse: the best of equal candidates on 200 DEV problems, measured again on 200 fresh ones")
    print(f"{'candidates':>10} {'chosen':>10} {'luck':>10} {'fresh':>10}")
    for count in (3, 8, 20):
        winners = []
        for number in range(max(20, options.rounds // 5)):
            now = rng.random(200) < 0.5
            rivals = [_flip(rng, now, 0.0, 0.24) for _ in range(count)]
            best = max(rivals, key=lambda right: int(right.sum()))
            chosen = paired_test(now.tolist(), best.tolist(), seed=number)
            then = rng.random(200) < 0.5
            fresh = paired_test(then.tolist(), _flip(rng, then, 0.0, 0.24).tolist(), seed=number)
            winners.append(remeasured("winner", chosen, count, fresh))
        chosen_gain = np.mean([winner.chosen_gain for winner in winners])
        fresh_gain = np.mean([winner.fresh.gain for winner in winners])
        print(f"{count:>10} {chosen_gain:>+10.3f} {expected_luck(count, 200, 0.24):>+10.3f} {fresh_gain:>+10.3f}")
    print(flush=True)


def _generations(options: argparse.Namespace, rng: np.random.Generator) -> None:
    num_generations, num_runs = 6, max(20, options.rounds // 10)
    print(f"6. runs of {num_generations} generations, {num_runs} each; true accuracy starts at 0.500")
    print(f"{'candidates':<34} {'seated by':<26} {'seated':>7} {'worse':>7} {'any worse':>10} {'at the end':>11}")
    for label, mean, spread in (("all equal", 0.0, 0.0), ("mostly harmful (-3 +- 5 points)", -0.03, 0.05)):
        for rule in ("the conjunction", "what looks best on GATE"):
            seated, worse, runs_worse, ends = 0, 0, 0, []
            for _ in range(num_runs):
                accuracy, was_worse = 0.5, False
                for number in range(num_generations):
                    gains = np.clip(rng.normal(mean, spread, options.finalists), -0.19, 0.19).tolist()
                    contests = _contests(options, rng, gains, 0.0, 0.0, accuracy=accuracy)
                    if rule == "the conjunction":
                        held = hold(contests, options.alpha, required=("placebo", "budget"), seed=number).promoted
                        chosen = [int(result.name.split()[-1]) for result in held[:1]]
                    else:
                        apparent = [sum(one.right) - sum(one.rivals[0].right) for one in contests]
                        chosen = [int(np.argmax(apparent))] if max(apparent) > 0 else []
                    for index in chosen:
                        seated, accuracy = seated + 1, float(np.clip(accuracy + gains[index], 0.2, 0.8))
                        if gains[index] <= 0.0:
                            worse, was_worse = worse + 1, True
                runs_worse += was_worse
                ends.append(accuracy)
            print(
                f"{label:<34} {rule:<26} {seated / num_runs:>7.2f} {worse / num_runs:>7.2f} "
                f"{runs_worse / num_runs:>10.2f} {np.mean(ends):>11.3f}",
                flush=True,
            )
    print(f"seated and worse (or no better) are counted per run; the conjunction's alpha is {options.alpha} a gate\n")


def _contests(
    options: argparse.Namespace,
    rng: np.random.Generator,
    gains: list[float],
    placebo: float | None = None,
    budget: float | None = None,
    *,
    clustered: bool = False,
    accuracy: float = 0.5,
    discordance: float = 0.2,
) -> list[Contest]:
    """Finalists with true `gains` on the same incumbent results, each with its own placebo and one more sample.

    `placebo` and `budget` are the gains of these; None: they do not take part.
    """
    n = options.problems
    clusters = np.arange(n) // CLUSTER if clustered else np.arange(n)
    copies = rng.random(n) < COPIES if clustered else np.zeros(n, dtype=bool)

    def draw() -> np.ndarray:
        own, shared = rng.random(n), rng.random(n)
        return np.where(copies, shared[clusters], own)

    now = draw() < accuracy
    task_types = tuple(f"family {index}" for index in (clusters % options.families).tolist())
    contests = []
    for index, gain in enumerate(gains):
        arms = {
            name: now
            ^ (draw() < np.where(now, (discordance - g) / 2 / accuracy, (discordance + g) / 2 / (1 - accuracy)))
            for name, g in (("candidate", gain), ("placebo", placebo), ("budget", budget))
            if g is not None
        }
        contests.append(
            Contest(
                name=f"finalist {index}",
                right=tuple(arms["candidate"].tolist()),
                rivals=(
                    Rival(kind="incumbent", name="now", right=tuple(now.tolist())),
                    *(Rival(kind=kind, name=kind, right=tuple(arms[kind].tolist())) for kind in RIVALS if kind in arms),
                ),
                task_types=task_types,
                clusters=tuple(map(str, clusters.tolist())) if clustered else (),
            )
        )
    return contests


def _flip(rng: np.random.Generator, right: np.ndarray, gain: float, discordance: float) -> np.ndarray:
    return right ^ (rng.random(right.size) < np.where(right, discordance - gain, discordance + gain))


if __name__ == "__main__":
    main()
