"""The experiment of the README: a run of several generations, then the arms it is held against, in sittings.

    python scripts/experiment.py configs/experiment.yaml --seed 20931 --sitting-minutes 170
    python scripts/experiment.py configs/experiment.yaml --seed 20931 --arms rft-equal,naive
    python scripts/experiment.py configs/quickstart.yaml --seed 20931 --audit-items 120    # one sitting, one generation
    python scripts/experiment.py configs/experiment.yaml --seed 20931 --generations 2    # the same recipe, less of it

The recipe has to be committed before the seed is drawn, and the seed draws every problem, AUDIT's among them: a working
tree with changes is refused, and so is a configuration that is not in the last commit as it stands. The same command
continues where a sitting ended, however it ended; exit status 75 says that there is more to do. Results are written to
`results.json` and `results.md` in the run's directory, and its report shows the arms.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evolve.commands.console import ConsoleObserver
from evolve.commands.general import OUT  # the path has to be set first
from evolve.config import ConfigError, RunConfig, load_config
from evolve.preflight import check
from evolve.problems.config import GymProblems
from evolve.run import refuse_other
from evolve.studies.experiment import Sitting, SittingOver, hold_experiment, leave_results
from evolve.studies.experiment_results import ExperimentResults, markdown
from evolve.studies.rival_methods import ARMS, ArmName
from memory.ledger import Ledger

ROOT = Path(__file__).resolve().parent.parent
USUAL: tuple[ArmName, ...] = ("frozen", "rft", "rft-equal", "naive")
MORE_TO_DO = 75
"""EX_TEMPFAIL of sysexits: not an error, try again."""


def main() -> None:
    """Carry the experiment on, and print its figures when it is finished."""
    options = _options()
    commit = committed(ROOT, options.config)
    try:
        config = _sized(_seeded(load_config(options.config), options.seed, options.run_dir), options.audit_items)
        if options.generations is not None:
            config = config.model_copy(update={"num_generations": options.generations})
        check(config)
        _check_arms(config, options.arms)
        refuse_other(config)
    except ConfigError as error:
        sys.exit(str(error))
    commits = note_sitting(config, commit, options.arms)
    try:
        found = _hold(config, options.arms, options.sitting_minutes, commits)
    except SittingOver as over:
        print(over)
        sys.exit(MORE_TO_DO)
    leave_results(config.run_dir, found)
    print(markdown(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seed", type=_from(0), required=True, help="drawn after the configuration was committed")
    parser.add_argument(
        "--arms", type=_arms, default=USUAL, help=f"names with commas between, '' for none; default: {','.join(USUAL)}"
    )
    parser.add_argument("--sitting-minutes", type=float, default=None, help="stop at a boundary after so long")
    parser.add_argument("--run-dir", type=Path, default=None, help="default: the configuration's, with the seed")
    parser.add_argument("--generations", type=_from(1), default=None, metavar="N", help="default: as configured")
    parser.add_argument(
        "--audit-items", type=_from(1), default=None, metavar="N", help="of each family; default: the configuration's"
    )
    return parser.parse_args()


def _from(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, got {text!r}")
        return int(text)

    return whole


def _arms(text: str) -> tuple[ArmName, ...]:
    unknown = [name for name in text.split(",") if name and name not in ARMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(ARMS)}, got {', '.join(unknown)}")
    return tuple(name for name in ARMS if name in text.split(","))


def committed(root: Path, config: Path) -> str:
    """The commit of the working tree in `root`; it must hold everything that is tracked, and the configuration."""
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    if changed:
        sys.exit(f"expected a committed working tree, found changes; commit them first:\n{changed}")
    # Asked for its bytes, since a file that git does not track, or was told not to look at, is no change to `status`.
    path = config.resolve()
    inside = path.relative_to(root.resolve()).as_posix() if path.is_relative_to(root.resolve()) else None
    held = _git(root, "ls-tree", "HEAD", "--", inside).split() if inside else []  # mode, kind, hash, path
    if not held or held[2] != _git(root, "hash-object", "--", str(path)):
        sys.exit(f"expected a configuration that is in the last commit as it stands, got {config}; commit it first")
    return _git(root, "rev-parse", "HEAD")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _seeded(config: RunConfig, seed: int, run_dir: Path | None) -> RunConfig:
    where = run_dir or config.run_dir.with_name(f"{config.run_dir.name}-{seed}")
    return config.model_copy(update={"seed": seed, "run_dir": where})


def _sized(config: RunConfig, audit_items: int | None) -> RunConfig:
    """More AUDIT items tell smaller differences, and change nothing of how the mesh evolves."""
    if audit_items is None:
        return config
    problems = config.problems
    if not isinstance(problems, GymProblems) or problems.mix is not None:
        sys.exit("--audit-items: expected generated problems with items_per_family, got a file or a mix")
    sizes = problems.items_per_family.model_copy(update={"audit": audit_items})
    return config.model_copy(update={"problems": problems.model_copy(update={"items_per_family": sizes})})


def _check_arms(config: RunConfig, arms: Sequence[ArmName]) -> None:
    """Raises ConfigError now where an arm would only find hours later that it cannot be held."""
    if "rft-other" in arms and len(config.serving.engines) == 1:
        raise ConfigError(f"--arms rft-other: expected two models or more, got {config.serving.engines[0].name} alone")


def note_sitting(config: RunConfig, commit: str, arms: Sequence[ArmName]) -> tuple[str, ...]:
    """The commits of all sittings so far, this one last; what each start was to do can be read there later on."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(config.run_dir / "sittings.jsonl")
    ledger.append("sitting", {"commit": commit, "generations": config.num_generations, "arms": list(arms)})
    return tuple(entry.payload["commit"] for entry in ledger.entries())


def _hold(
    config: RunConfig, names: tuple[ArmName, ...], minutes: float | None, commits: tuple[str, ...]
) -> ExperimentResults:
    sitting, over = Sitting(minutes), None
    try:
        with ConsoleObserver(OUT) as observer:
            return asyncio.run(hold_experiment(config, names, observer, sitting, commits=commits))
    except* SittingOver as stopped:
        over = stopped
    raise SittingOver("The time of this sitting is over; the same command continues.") from over


if __name__ == "__main__":
    main()
