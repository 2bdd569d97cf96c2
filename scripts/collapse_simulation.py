"""Do the collapse alarms cry wolf, and do they ring when a member narrows? By simulation, on the code that decides.

    python scripts/collapse_simulation.py --rounds 200 --problems 60 --samples 8

Each round compares a member with its forebear on the same problems or on fresh ones. The first lines change nothing,
or only for the better: every alarm is false. The last lines narrow it, shrink its words or lengthen its answers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evolve.audit.collapse import LEVEL, Vitals, examine, vitals_of  # the path has to be set first
from evolve.gates.intervals import wilson

WORDS = np.asarray([f"w{index}" for index in range(80)])
FALSE_ALARMS = 0.05


def main() -> None:
    """Print the table; exit status 1 when false alarms are shown to exceed one comparison in twenty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--samples", type=int, default=8, help="samples of each problem")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print(
        f"{options.rounds} comparisons a line, {options.problems} problems, {options.samples} samples, level {LEVEL}\n"
    )
    print(f"{'what changed':<44} {'any alarm':>10} {'95% interval':>18}  signs")
    exceeded = False
    for label, is_null, is_fresh in (
        ("nothing, same problems", True, False),
        ("nothing, fresh problems", True, True),
        ("better everywhere, same problems", True, False),
        ("narrowing: sure ones surer, rare ones lost", False, False),
        ("the same, fresh problems", False, True),
        ("a third of the words", False, False),
        ("answers half as long again", False, False),
    ):
        rung, signs = 0, {}
        for _ in range(options.rounds):
            alarms = _compare(rng, options, label, is_fresh)
            rung += bool(alarms)
            for sign in alarms:
                signs[sign] = signs.get(sign, 0) + 1
        interval = wilson(rung, options.rounds)
        exceeded = exceeded or (is_null and interval.low > FALSE_ALARMS)
        named = ", ".join(f"{sign} {count / options.rounds:.2f}" for sign, count in sorted(signs.items()))
        share = rung / options.rounds
        print(f"{label:<44} {share:>10.4f}    [{interval.low:.4f}, {interval.high:.4f}]  {named}", flush=True)
    if exceeded:
        sys.exit("false alarms exceed one comparison in twenty")


def _compare(rng: np.random.Generator, options: argparse.Namespace, label: str, is_fresh: bool) -> list[str]:
    solve = rng.beta(0.6, 0.8, size=options.problems)
    then = rng.beta(0.6, 0.8, size=options.problems) if is_fresh else solve
    words, length = WORDS, 12.0
    if label.startswith("better"):
        then = np.sqrt(then)
    elif label.startswith(("narrowing", "the same")):
        then = np.where(then > 0.35, np.minimum(1.0, then + 0.3), 0.0)
    elif label.startswith("a third"):
        words = WORDS[: WORDS.size // 3]
    elif label.startswith("answers"):
        length = 18.0
    before = _vitals(rng, options.samples, solve, WORDS, 12.0, "")
    after = _vitals(rng, options.samples, then, words, length, "fresh " if is_fresh else "")
    return [alarm.sign for alarm in examine(before, after, k=min(8, options.samples)).alarms]


def _vitals(
    rng: np.random.Generator, samples: int, solve: np.ndarray, words: np.ndarray, length: float, mark: str
) -> Vitals:
    texts, answers, right = [], [], []
    for chance in solve:
        hits = rng.random(samples) < chance
        texts.append([" ".join(rng.choice(words, size=size + 2)) for size in rng.poisson(length, samples)])
        answers.append(["right" if hit else str(rng.integers(6)) for hit in hits])
        right.append(hits.tolist())
    return vitals_of("member", 0, [f"{mark}{index}" for index in range(len(solve))], texts, answers, right)


if __name__ == "__main__":
    main()
