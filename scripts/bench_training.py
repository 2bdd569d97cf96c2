"""What a warm worker spares: N adapters of one base trained by one process, against N processes that each load it.

    python scripts/bench_training.py [--model smollm2-135m-instruct] [--adapters 4] [--rounds 1] [--json FILE]
    python scripts/bench_training.py --tiny        # a random model made on the spot, to try the script itself

Aim: warm over cold at most 0.60 of the wall time. What is spared is the start of a process (torch, TRL and PEFT are
imported) and loading the base; the steps themselves take as long. So the ratio depends on how long the jobs are: the
table also says from which length of a job on it is above the aim, and with --steps the length can be chosen. Rounds
take turns in which goes first. Both ways must give the same adapters, byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path
from statistics import median

from pydantic import Field

from evolve.learning.recipe_rows import TrainingRow
from evolve.learning.recipes import Recipe
from evolve.training.config import LoraTraining, WorkersConfig
from evolve.training.job import TrainingJob, TrainingReport
from evolve.training.workers import run_jobs
from memory.ledger import publish_json
from memory.types import Record
from mesh.types import Message, Part
from serving.cluster import start_local_ray
from serving.config import RayConfig


class Timed(Record):
    """All jobs, one way."""

    warm: bool
    wall_s: float
    step_s: float = Field(description="of this, optimizer steps")
    load_s: float = Field(description="of this, loading and tokenising")
    adapters: tuple[str, ...]
    tokens_per_s: float

    @property
    def start_s(self) -> float:
        """The rest: processes that start and import, and Ray."""
        return self.wall_s - self.step_s - self.load_s


def rows(num: int, seed: int) -> tuple[TrainingRow, ...]:
    """Sums, as short as the quickstart's."""
    rng = random.Random(seed)
    made = []
    for number in range(num):
        a, b = rng.randrange(10, 99), rng.randrange(10, 99)
        shown = Message(role="user", parts=(Part(text=f"Add up step by step.\nWhat is {a} + {b}?"),))
        text = f"{a} + {b} = {a + b}\nAnswer: {a + b}"
        made.append(TrainingRow(task_id=str(number), task_type="sum", messages=(shown,), completion=text))
    return tuple(made)


def jobs(options: argparse.Namespace, base: Path, out: Path) -> list[TrainingJob]:
    """`--adapters` jobs that differ in their rows and seeds."""
    training = LoraTraining(
        rank=options.rank,
        alpha=2 * options.rank,
        num_epochs=100,
        max_steps=options.steps,
        batch_size=options.batch_size,
        num_threads=options.threads,
    )
    made = []
    for number in range(options.adapters):
        name = f"bench-{number}"
        recipe = Recipe(name=name, base="bench", family="any", mix=("own_correct",), training=training, seed=number)
        made.append(
            TrainingJob(
                base_name=base.name,
                base_dir=str(base.resolve()),
                recipe=recipe,
                rows=rows(options.rows, number),
                seed=number,
                out_dir=str(out / name),
            )
        )
    return made


async def measure(options: argparse.Namespace, base: Path, *, warm: bool) -> Timed:
    """Train all, from nothing."""
    config = WorkersConfig(timeout_s=3600, poll_s=0.1, warm=warm, num_gpus=options.gpus)
    with tempfile.TemporaryDirectory() as out:
        work = jobs(options, base, Path(out))
        started = time.perf_counter()
        reports = await run_jobs(work, config)
        wall = time.perf_counter() - started
    failed = [report.reason for report in reports if report.status != "ok"]
    if failed:
        raise SystemExit(f"a job failed: {failed[0]}")
    return summary(warm, wall, reports)


def summary(warm: bool, wall: float, reports: list[TrainingReport]) -> Timed:
    """What the reports say of one way."""
    steps = sum(report.seconds for report in reports)
    return Timed(
        warm=warm,
        wall_s=wall,
        step_s=steps,
        load_s=sum(report.load_seconds for report in reports),
        adapters=tuple(report.adapter_sha256 or "" for report in reports),
        tokens_per_s=sum(report.trained_tokens for report in reports) / steps,
    )


def longest_job(cold: Timed, warm: Timed, num: int, aim: float) -> float | None:
    """Seconds of steps a job may have for warm over cold to stay at `aim`; None: no length reaches it.

    Steps s a job take the same either way: (num * s + warm overhead) / (num * s + cold overhead) = aim.
    """
    over_cold, over_warm = cold.wall_s - cold.step_s, warm.wall_s - warm.step_s
    longest = (aim * over_cold - over_warm) / ((1 - aim) * num)
    return longest if longest > 0 else None


def show(found: list[Timed], num: int, aim: float) -> float:
    """A table and the ratio."""
    print(f"\n{'way':<6}{'wall s':>9}{'start s':>9}{'load s':>9}{'steps s':>9}{'tokens/s':>10}")
    for one in found:
        print(
            f"{'warm' if one.warm else 'cold':<6}{one.wall_s:>9.1f}{one.start_s:>9.1f}{one.load_s:>9.1f}"
            f"{one.step_s:>9.1f}{one.tokens_per_s:>10.0f}"
        )
    cold = min((one for one in found if not one.warm), key=lambda one: one.wall_s)
    warm = min((one for one in found if one.warm), key=lambda one: one.wall_s)
    ratio = median(one.wall_s for one in found if one.warm) / median(one.wall_s for one in found if not one.warm)
    print(f"\n{num} adapters, warm over cold: {ratio:.2f} of the wall time (aim: {aim:.2f} or less)")
    longest = longest_job(cold, warm, num, aim)
    if longest is not None:
        print(f"the aim is met by jobs of up to {longest:.0f} s of steps each; these had {cold.step_s / num:.0f} s")
    return ratio


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="directory of the model in the store")
    parser.add_argument("--store", type=Path, default=Path("models"))
    parser.add_argument("--tiny", action="store_true", help="a random model made on the spot")
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=32, help="rows a job learns from")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps a job takes")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs a process asks for")
    parser.add_argument("--aim", type=float, default=0.6)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        base = options.store / options.model
        if options.tiny:
            from tests.evolve.tiny_model import make_model

            base = make_model(Path(made) / "tiny")
        if not base.is_dir():
            raise SystemExit(f"{base}: expected a model; run `make setup`, or try the script with --tiny")
        running = start_local_ray(RayConfig(num_cpus=options.threads, object_store_mib=80))
        try:
            found = []
            for number in range(options.rounds):
                for warm in (False, True) if number % 2 == 0 else (True, False):
                    print(f"round {number + 1}, {'one process' if warm else 'a process each'} ...", flush=True)
                    found.append(asyncio.run(measure(options, base, warm=warm)))
        finally:
            running.close()
    ratio = show(found, options.adapters, options.aim)
    if len({one.adapters for one in found}) > 1:
        raise SystemExit("the two ways gave different adapters, which they never should")
    print("both ways gave the same adapters, byte for byte")
    if options.json:
        publish_json(options.json, {"ratio": ratio, "ways": [one.model_dump(mode="json") for one in found]})


if __name__ == "__main__":
    main()
