"""How often does the gate promote what is no better, and find what is? By simulation, on the code that decides.

    python scripts/gate_simulation.py --rounds 2000 --problems 150 --families 3 --finalists 3

Part 1 draws finalists that are exactly as good as the incumbents and counts gates that promote anything. The finalists
meet the same incumbent results, as in a run, so their tests are correlated. Part 2 draws one truly better finalist and
compares how often it is found with the estimate that is printed before a run; "all guards" is the whole conjunction.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evolve.gate import Arm, decide, detectable_effect, power_of  # the path has to be set first
from evolve.intervals import wilson


def main() -> None:
    """Print both parts as tables; exit status 1 when false promotions are shown to exceed alpha."""
    options = _options()
    rng = np.random.default_rng(options.seed)
    print(
        f"{options.rounds} gates each, {options.problems} problems of {options.families} task types, "
        f"{options.finalists} finalists, alpha {options.alpha}\n"
    )
    exceeded = _false_promotions(options, rng)
    _power(options, rng)
    if exceeded:
        sys.exit("false promotions exceed alpha")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000, help="simulated gates for each line")
    parser.add_argument("--problems", type=int, default=150, help="GATE problems")
    parser.add_argument("--families", type=int, default=3, help="task types, in equal shares")
    parser.add_argument("--finalists", type=int, default=3, help="candidates at one gate")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _false_promotions(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    print("1. false promotions: no finalist is better")
    print(f"{'discordance':>12} {'promoted':>10} {'95% interval':>18}")
    exceeded = False
    for discordance in (0.05, 0.1, 0.2, 0.3, 0.4):
        promoted = 0
        for _ in range(options.rounds):
            arms = _arms(options, rng, discordance, [0.0] * options.finalists)
            promoted += any(result.passed for result in decide(arms, options.alpha).results)
        interval = wilson(promoted, options.rounds)
        exceeded = exceeded or interval.low > options.alpha
        print(f"{discordance:>12.2f} {promoted / options.rounds:>10.4f}    [{interval.low:.4f}, {interval.high:.4f}]")
    print()
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
            for _ in range(options.rounds):
                arms = _arms(options, rng, discordance, [gain] + [0.0] * (options.finalists - 1))
                first = decide(arms, options.alpha).results[0]
                shown, passed = shown + first.significant, passed + first.passed
            estimate = power_of(options.problems, discordance, gain, level)
            print(
                f"{discordance:>12.2f} {gain:>10.3f} {estimate:>10.3f} "
                f"{shown / options.rounds:>11.3f} {passed / options.rounds:>11.3f}"
            )
        note = "none of this discordance" if effect is None else f"{effect:.3f}"
        print(f"{'':>12} detectable with 80% power at alpha / {options.finalists}: {note}")


def _arms(options: argparse.Namespace, rng: np.random.Generator, discordance: float, gains: list[float]) -> list[Arm]:
    """Arms whose results flip the incumbents' so that discordance and gain hold in expectation."""
    accuracy = 0.5
    incumbent = rng.random(options.problems) < accuracy
    task_types = tuple(f"family {index % options.families}" for index in range(options.problems))
    arms = []
    for index, gain in enumerate(gains):
        lose, win = (discordance - gain) / 2 / accuracy, (discordance + gain) / 2 / (1 - accuracy)
        flipped = rng.random(options.problems) < np.where(incumbent, lose, win)
        arms.append(
            Arm(
                name=f"finalist {index}",
                incumbent=tuple(incumbent.tolist()),
                candidate=tuple((incumbent ^ flipped).tolist()),
                task_types=task_types,
            )
        )
    return arms


if __name__ == "__main__":
    main()
