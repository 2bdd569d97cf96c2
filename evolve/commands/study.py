"""What `evomesh study` does: the evolved mesh against everything one could have done instead, on a user's own tasks."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from rich.table import Table

from evolve.commands.general import OUT, print_json
from evolve.config import ConfigError, RunConfig, load_config, load_mesh
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.lab import Lab
from evolve.preflight import check
from evolve.progress import Observer, Silent
from evolve.report.headline import share
from evolve.run_files import CONFIG
from evolve.studies.assessing import assess_config
from evolve.studies.study import Study
from evolve.studies.studying import StudyOptions, asked_of, study, study_config, study_items
from memory.ledger import exclusive_lock, publish_json, read_record

STUDY = "study.json"


def study_command(
    tasks: Path,
    config: Path | None,
    out: Path | None,
    options: StudyOptions,
    *,
    train_rft: bool = False,
    as_json: bool,
) -> None:
    """`evomesh study`; `train_rft`: first train the best single model alone with what the run spent.

    `config` None: the run's own. Raises ConfigError where the run has none.
    """
    mesh = load_mesh(_own_config(options) if config is None else config)
    if train_rft:
        hold_rft(options, as_json=as_json)
    asked = asked_of(mesh, tasks, options)
    home = options.run if config is None and options.run is not None else mesh.run_dir
    directory = out or home / "study" / asked[:12]
    found = _finished(directory / STUDY, asked)
    if found is None:
        run = study_config(assess_config(mesh, tasks, directory))
        check(run, trains=False)
        found = asyncio.run(hold_study(run, options, Silent(), asked)) if as_json else _watched(run, options, asked)
    if as_json:
        print_json({**found.model_dump(mode="json"), "directory": str(directory)})
        return
    print_study(found, directory)


def hold_rft(options: StudyOptions, *, as_json: bool) -> None:
    """Hold the run's arm rft, or go on with it; a finished one is left as it is. Raises ConfigError without a run."""
    from evolve.studies.experiment import hold_arm_of

    config = load_config(_own_config(options)).model_copy(update={"run_dir": options.run})
    if as_json:
        asyncio.run(hold_arm_of(config, "rft", Silent()))
        return
    from evolve.commands.console import ConsoleObserver

    with ConsoleObserver(OUT) as observer:
        asyncio.run(hold_arm_of(config, "rft", observer))


def _own_config(options: StudyOptions) -> Path:
    if options.run is None or not (options.run / CONFIG).is_file():
        raise ConfigError(f"--run: expected a run with its {CONFIG}, got {options.run}; name the directory of a run")
    return options.run / CONFIG


def _finished(path: Path, asked: str) -> Study | None:
    """The study that was held before; None: none was. Raises ConfigError where it is another one."""
    if not path.is_file():
        return None
    found = read_record(path, Study)
    if found.asked != asked:
        raise ConfigError(
            f"{path}: expected the study of these tasks, seats and options, found another one; give another --out"
        )
    return found


async def hold_study(config: RunConfig, options: StudyOptions, observer: Observer, asked: str = "") -> Study:
    """Carry a study to its end, from wherever it was, and publish it; `asked` as `asked_of` has it.

    Raises AlreadyLocked: another process is at it.
    """
    directory = config.run_dir
    directory.mkdir(parents=True, exist_ok=True)
    items = study_items(config, options)
    with exclusive_lock(directory / "driver"), ExitStack() as stack:
        judge = stack.enter_context(Judge())
        async with Lab(config, journal=Journal(directory), judge=judge, memory=None, observer=observer) as lab:
            found = await study(lab, items, options)
    found = found.model_copy(update={"asked": asked})
    observer.finished()
    publish_json(directory / STUDY, found)
    return found


def print_study(found: Study, directory: Path) -> None:
    """The sentence, then the arms."""
    _say(found.sentence, style="bold")
    table = Table("arm", "right", "95% interval", "evolved minus it", "tokens a task", "tokens a correct one")
    table.add_column("money a correct one")
    table.add_column("break-even (correct answers)")
    for one in found.results:
        interval = one.accuracy.interval
        shown = "" if interval is None else f"{share(interval[0])} to {share(interval[1])}"
        gap = one.difference
        tokens = "" if one.tokens_per_correct is None else f"{one.tokens_per_correct:.0f}"
        money = "" if one.money_per_correct is None else f"{one.money_per_correct:.3g}"
        table.add_row(
            one.name, share(one.accuracy.mean), shown,
            "" if gap is None else f"{100 * gap.mean:+.1f} ({100 * gap.low:+.0f} to {100 * gap.high:+.0f})",
            f"{one.tokens_per_task:.0f}", tokens, money, "" if one.break_even is None else f"{one.break_even:,.0f}",
        )  # fmt: skip
    OUT.print(table)
    paid = "" if found.investment is None else f" The evolution took {found.investment:.2f} in money."
    _say(
        f"{found.num_tasks} tasks, {found.budget} first proposals a task for every vote; intervals are 95% each, not "
        f"corrected for their number. {found.left_out_sentence}{paid} {directory}"
    )
    for note in found.notes:
        _say(f"{note}.")


def _watched(config: RunConfig, options: StudyOptions, asked: str) -> Study:
    from evolve.commands.console import ConsoleObserver

    with ConsoleObserver(OUT) as observer:
        return asyncio.run(hold_study(config, options, observer, asked))


def _say(text: str, style: str | None = None) -> None:
    OUT.print(text, style=style, highlight=False, markup=False)
