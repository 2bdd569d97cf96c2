"""How often does the gate promote the incumbents themselves? Real engines, one pool, many gates.

    python scripts/gate_aa.py configs/quickstart.yaml --items 100 --gates 10
    python scripts/gate_aa.py configs/quickstart.yaml --items 100 --gates 10 --finalists 3 --deals 500

Every member answers every problem as often as all gates together need, with seeds of its own; no gate shares a sample
with another. A call asks for no more samples than the harvest of a run does; problems about which one failed are left
out and counted. Problems are of TRAIN and DEV, so that no held-out item is worn. The same command goes on where it was
cut off; exit status 1 says that the rate is shown to exceed the gate's alpha, or that nothing could be held.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evolve.asks import proposal_asks_in_parts, types_in_turn
from evolve.commands.console import ConsoleObserver
from evolve.commands.general import OUT
from evolve.config import RunConfig, load_config
from evolve.evaluate import Pool
from evolve.gates.aa_gates import AAGates, failed_calls, fully_drawn, hold_aa_gates, samples_needed
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.lab import Lab
from evolve.preflight import check
from evolve.problems.splits import Split
from evolve.progress import Observer
from evolve.seats import base_seats
from memory.ledger import exclusive_lock, publish_json


def main() -> None:
    """Draw what is missing, hold the gates, print the rate with its interval."""
    options = _options()
    loaded = load_config(options.config)
    config = loaded.model_copy(update={"run_dir": options.out or loaded.run_dir / "gate_aa"})
    check(config, trains=False)
    with ConsoleObserver(OUT) as observer:
        found = asyncio.run(hold(config, options, observer))
    publish_json(config.run_dir / "gate_aa.json", found)
    print(found.sentence)
    if found.interval.low > found.alpha:
        sys.exit("false promotions exceed alpha")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--items", type=int, default=100, help="problems, task types evenly")
    parser.add_argument("--gates", type=int, default=10, help="gates that share no sample")
    parser.add_argument("--finalists", type=int, default=1, help="arrangements at each gate")
    parser.add_argument("--deals", type=int, default=200, help="further gates on the same samples, dealt anew")
    parser.add_argument("--out", type=Path, default=None, help="default: gate_aa in the configuration's run_dir")
    return parser.parse_args()


async def hold(config: RunConfig, options: argparse.Namespace, observer: Observer) -> AAGates:
    """The gates, on the problems that every member has answered. SystemExit where there is none."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    seats, samples = base_seats(config), config.gate.samples_per_member
    count = samples_needed(samples, options.finalists, options.gates)
    with exclusive_lock(config.run_dir / "driver"), Judge() as judge:
        journal = Journal(config.run_dir)
        async with Lab(config, journal=journal, judge=judge, memory=None, observer=observer) as lab:
            problems = await lab.draw_problems()
            usable = [*problems.of(Split.TRAIN), *problems.of(Split.DEV)]
            items = types_in_turn(usable)[: options.items]
            at_once = config.harvest.samples_per_member
            asks = proposal_asks_in_parts(config, "aa gates", items, seats, count, at_once)
            drawn = await lab.hold("aa gates", config.run_dir / "aa.parquet", asks)
            judged = (await lab.judge_all("aa gates", drawn, items)).lookup()
    observer.finished()
    pool = Pool(drawn)
    whole = fully_drawn(pool, seats, items, count)
    if failed := failed_calls(drawn):
        print(f"{failed}; {len(items) - len(whole)} of {len(items)} problems are left out")
    if not whole:
        sys.exit(
            f"expected {count} samples of every member for each of {len(items)} problems, got them for none: "
            f"{failed or 'nothing was drawn'}; lower --gates, harvest.samples_per_member or concurrency, or raise "
            "deliberation.call_timeout_s, and give another --out, for what failed here stays recorded"
        )
    gates = hold_aa_gates(
        pool,
        seats,
        whole,
        judged,
        samples_per_member=samples,
        num_finalists=options.finalists,
        num_dealt_again=options.deals,
        alpha=config.gate.alpha,
        clusters=tuple(problems.cluster_of(problem) for problem in whole),
        seed=config.seed,
    )
    return gates.model_copy(update={"num_left_out": len(items) - len(whole)})


if __name__ == "__main__":
    main()
