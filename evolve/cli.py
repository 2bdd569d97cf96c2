"""The command line: every command in a line or two; what it needs is imported when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer


class ExitCode(IntEnum):
    """What the shell gets to know."""

    OK = 0
    FAILED = 1
    BAD_CONFIG = 2
    LOCKED = 3
    MISSING = 4


DEFAULT_CONFIG = Path("configs/quickstart.yaml")

app = typer.Typer(
    help="A mesh of local models of different families that deliberates, learns from its verified traces, "
    "and measures whether that helped. Exit codes: 0 done, 1 failed, 2 bad configuration or input, "
    "3 another process works there, 4 weights or files missing, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
memory_app = typer.Typer(help="What the mesh remembers of a run.", no_args_is_help=True)
config_app = typer.Typer(help="Check, show and describe configurations.", no_args_is_help=True)
review_app = typer.Typer(help="Questions that a mesh puts to a person.", no_args_is_help=True)
audit_app = typer.Typer(help="The log of what people were asked and decided.", no_args_is_help=True)
app.add_typer(memory_app, name="memory")
app.add_typer(review_app, name="review")
app.add_typer(audit_app, name="audit")
app.add_typer(config_app, name="config")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Config = Annotated[Path, typer.Argument(help="YAML configuration of a run.")]
WithConfig = Annotated[Path, typer.Option("--config", "-c", help="Configuration that names engines and protocol.")]
RunDir = Annotated[Path, typer.Argument(help="Directory of a run.")]
ReviewDir = Annotated[Path, typer.Argument(metavar="DIR", help="Directory that a batch wrote its answers to.")]
QuestionId = Annotated[str, typer.Argument(metavar="ID", help="Id of a question, or how it begins.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol", "-p", help="A protocol by name (single, vote, switch, council, escalate, rank...) or a YAML file."
    ),
]
Measured = Annotated[
    Path | None, typer.Option("--reliability", help="Measured weights; default: reliability.json of --run, if there.")
]
FromMemory = Annotated[
    Path | None,
    typer.Option(
        "--memory", help="Recall from this memory, a run's directory or its own; a batch freezes a copy."
    ),
]
FromRun = Annotated[
    Path | None, typer.Option("--run", help="Use the seats and adapters of this run's last generation.")
]


@app.command()
def evolve(
    config: Config,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Where the run lives, instead of run_dir.")] = None,
    as_json: Json = False,
) -> None:
    """Run evolution generations; the same command continues a run that was cut off."""
    from evolve.commands import evolve_command

    _exit(lambda: evolve_command(config, run_dir, as_json=as_json))


@app.command()
def deliberate(
    question: Annotated[str, typer.Argument(help="What to ask the mesh.")],
    config: WithConfig = DEFAULT_CONFIG,
    run: FromRun = None,
    protocol: Protocol = None,
    reliability: Measured = None,
    memory: FromMemory = None,
    task_type: Annotated[str, typer.Option("--type", help="Task type, for memory and measured weights.")] = "general",
    answer: Annotated[str, typer.Option("--answer", help="What the answer is: text, number, math or free.")] = "text",
    number: Annotated[bool, typer.Option("--number", help="Short for --answer number.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed, another draw.")] = 0,
    as_json: Json = False,
) -> None:
    """Put one question to the mesh and show the whole transcript."""
    from evolve.commands import How, deliberate_command

    kind = "number" if number else answer
    how = How(config, run, protocol, reliability, memory)
    _exit(lambda: deliberate_command(how, question, (task_type, kind), seed, as_json=as_json))


@app.command()
def batch(
    tasks: Annotated[Path, typer.Argument(help="JSONL or Parquet of tasks: question, and optionally id, type.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for answers, traces and errors.")],
    config: WithConfig = DEFAULT_CONFIG,
    run: FromRun = None,
    protocol: Protocol = None,
    reliability: Measured = None,
    memory: FromMemory = None,
    as_json: Json = False,
) -> None:
    """Deliberate a file of tasks; the same command continues where it was cut off."""
    from evolve.commands import How, batch_command

    _exit(lambda: batch_command(How(config, run, protocol, reliability, memory), tasks, out, as_json=as_json))


@app.command()
def reliability(
    run: RunDir,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: RUN/reliability.json.")] = None,
    as_json: Json = False,
) -> None:
    """Measure members on a run's judged traces: the weights, pairs and confidences that deliberations rest on."""
    from evolve.commands import reliability_command

    _exit(lambda: reliability_command(run, out, as_json=as_json))


@app.command()
def report(run: RunDir, as_json: Json = False) -> None:
    """Print a run's summary and where its report is; rebuild report.html if it is missing."""
    from evolve.commands import report_command

    _exit(lambda: report_command(run, as_json=as_json))


@app.command()
def models(
    store: Annotated[Path, typer.Option(help="Model store.")] = Path("models"),
    as_json: Json = False,
) -> None:
    """List prepared models and whether their files are intact."""
    from evolve.commands import models_command

    _exit(lambda: models_command(store, as_json=as_json))


@app.command()
def estimate(config: Config, as_json: Json = False) -> None:
    """Work out tokens, time, disk and the detectable effect of a run, before it starts."""
    from evolve.commands import estimate_command

    _exit(lambda: estimate_command(config, as_json=as_json))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Tell what this machine can run and what is missing."""
    from evolve.commands import doctor_command

    _exit(lambda: doctor_command(as_json=as_json))


@memory_app.command("search")
def memory_search(
    run: RunDir,
    text: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option(min=1, help="Most results.")] = 5,
    as_json: Json = False,
) -> None:
    """Find experiences by meaning and by words."""
    from evolve.memory_commands import search_command

    _exit(lambda: search_command(run, text, limit, as_json=as_json))


@memory_app.command("brief")
def memory_brief(
    run: RunDir,
    words: Annotated[int, typer.Option(min=1, help="Length of the brief.")] = 200,
    as_json: Json = False,
) -> None:
    """What a new session should know, in so many words."""
    from evolve.memory_commands import brief_command

    _exit(lambda: brief_command(run, words, as_json=as_json))


@memory_app.command("stats")
def memory_stats(run: RunDir, as_json: Json = False) -> None:
    """Count what is remembered."""
    from evolve.memory_commands import stats_command

    _exit(lambda: stats_command(run, as_json=as_json))


@review_app.command("list")
def review_list(
    directory: ReviewDir,
    everything: Annotated[bool, typer.Option("--all", help="Answered questions too.")] = False,
    as_json: Json = False,
) -> None:
    """List the questions that wait for a person."""
    from evolve.review_commands import list_command

    _exit(lambda: list_command(directory, everything=everything, as_json=as_json))


@review_app.command("show")
def review_show(directory: ReviewDir, question: QuestionId, as_json: Json = False) -> None:
    """Show one question: why it is asked, the choices and what argues for each."""
    from evolve.review_commands import show_command

    _exit(lambda: show_command(directory, question, as_json=as_json))


@review_app.command("answer")
def review_answer(
    directory: ReviewDir,
    question: QuestionId,
    choice: Annotated[int | None, typer.Option(help="Number of a choice, as shown, from 1.")] = None,
    edit: Annotated[str | None, typer.Option(help="An answer of your own.")] = None,
    by: Annotated[str | None, typer.Option(help="Who answers.", show_default="your user name")] = None,
    note: Annotated[str, typer.Option(help="Why; kept in the log.")] = "",
    content: Annotated[
        str | None, typer.Option(help="Content hash as shown: refuse the answer if the question is another.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer a question, once and for all."""
    from evolve.review_commands import answer_command

    _exit(lambda: answer_command(directory, question, (choice, edit), by, note, content, as_json=as_json))


@audit_app.command("verify")
def audit_verify(directory: ReviewDir, as_json: Json = False) -> None:
    """Check every hash of the log of questions and answers, and that each answer fits its question."""
    from evolve.review_commands import verify_command

    _exit(lambda: verify_command(directory, as_json=as_json))


@config_app.command("validate")
def config_validate(config: Config, as_json: Json = False) -> None:
    """Check a configuration; the first wrong key is named with the nearest right one."""
    from evolve.commands import validate_command

    _exit(lambda: validate_command(config, as_json=as_json))


@config_app.command("show")
def config_show(config: Config, as_json: Json = False) -> None:
    """Print a configuration with every default filled in."""
    from evolve.commands import show_command

    _exit(lambda: show_command(config, as_json=as_json))


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a configuration; editors complete and check YAML with it."""
    from evolve.config import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


def main() -> None:
    """Entry point of the `evomesh` command."""
    app()


def _exit(command: Callable[[], None]) -> NoReturn:
    """Run a command; a foreseeable error becomes one message on stderr and an exit code, not a traceback."""
    from evolve.commands import foreseeable

    kinds = foreseeable()
    try:
        command()
    except tuple(kinds) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        code = next(code for kind, code in kinds.items() if isinstance(error, kind))
        sys.exit(code)
    except KeyboardInterrupt:
        typer.secho("interrupted; the same command continues here", fg="yellow", err=True)
        sys.exit(130)
    sys.exit(ExitCode.OK)


if __name__ == "__main__":
    main()
