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
    WAITING = 5


DEFAULT_CONFIG = Path("configs/quickstart.yaml")

app = typer.Typer(
    help="A mesh of local models of different families that deliberates, learns from its verified traces, "
    "and measures whether that helped. Exit codes: 0 done, 1 failed, 2 bad configuration or input, "
    "3 another process works there, 4 weights or files missing, 5 waiting for a person, 130 interrupted; "
    "`evomesh why CODE` explains an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
memory_app = typer.Typer(help="What the mesh remembers: of a run, or in a directory.", no_args_is_help=True)
config_app = typer.Typer(help="Check, show and describe configurations.", no_args_is_help=True)
review_app = typer.Typer(help="Questions that a mesh puts to a person.", no_args_is_help=True)
audit_app = typer.Typer(help="The log of what people were asked and decided.", no_args_is_help=True)
keys_app = typer.Typer(help="Keys that open the door, each bound to a team.", no_args_is_help=True)
fleet_app = typer.Typer(help="Engines that stay up for serve, batch and evolve alike.", no_args_is_help=True)
app.add_typer(fleet_app, name="fleet")
outcomes_app = typer.Typer(help="What came of a batch's answers.", no_args_is_help=True)
traces_app = typer.Typer(help="What was said in a batch, word for word.", no_args_is_help=True)
problems_app = typer.Typer(help="Tasks of your own that a run learns from and is measured on.", no_args_is_help=True)
app.add_typer(outcomes_app, name="outcomes")
app.add_typer(traces_app, name="traces")
app.add_typer(problems_app, name="problems")
app.add_typer(memory_app, name="memory")
app.add_typer(review_app, name="review")
app.add_typer(audit_app, name="audit")
app.add_typer(keys_app, name="keys")
app.add_typer(config_app, name="config")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Config = Annotated[Path, typer.Argument(help="YAML configuration of a run.")]
WithConfig = Annotated[Path, typer.Option("--config", "-c", help="Configuration that names engines and protocol.")]
FleetOf = Annotated[Path, typer.Argument(help="Configuration whose serving.fleet.directory names the fleet.")]
RunDir = Annotated[Path, typer.Argument(help="Directory of a run.")]
Remembered = Annotated[Path, typer.Argument(metavar="RUN_OR_DIR", help="A run, or the directory of a memory.")]
ExperienceId = Annotated[str, typer.Argument(metavar="ID", help="Id of an experience, or how it begins.")]
EmbedderName = Annotated[
    str | None, typer.Option("--embedder", help="minilm or hashed; default: what the memory works with.")
]
Namespaces = Annotated[
    list[str] | None, typer.Option("--namespace", help="team/project/run; * stands for any project or run. Repeatable.")
]
Reason = Annotated[str, typer.Option(help="Why; kept in the history.")]
ToChannel = Annotated[str, typer.Option("--channel", help="Name of the channel, e.g. prod.")]
ForChannels = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="Configuration that says where channels and adapters are.", show_default="usual places"
    ),
]
ByWhom = Annotated[str | None, typer.Option("--by", help="Who does it.", show_default="your user name")]
ProposalId = Annotated[
    str | None, typer.Argument(metavar="PROPOSAL", help="Id of a proposal, or how it begins; default: the last one.")
]
AsSeen = Annotated[
    str | None, typer.Option("--content", help="Id of the proposal you looked at: any other is refused.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask. With --json nothing is done without it.")]
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
    typer.Option("--memory", help="Recall from this memory, a run's directory or its own; a batch freezes a copy."),
]
LookIn = Annotated[
    list[Path] | None,
    typer.Option(
        "--in",
        help="Where to look: a door's state, a batch's output, a run, a file of traces. Repeatable; default: "
        "the configuration's own.",
    ),
]
FromRun = Annotated[
    Path | None, typer.Option("--run", help="Use the seats and adapters of this run's last generation.")
]

FromMeasured = Annotated[
    Path | None,
    typer.Option(
        "--measured",
        help="An assessment or a run whose speeds the estimate goes by.",
        show_default="the run's own, or an assessment of the same engines in its directory",
    ),
]


@app.command()
def evolve(
    config: Config,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Where the run lives, instead of run_dir.")] = None,
    measured: FromMeasured = None,
    as_json: Json = False,
) -> None:
    """Run evolution generations; the same command continues a run that was cut off."""
    from evolve.commands.general import evolve_command

    _exit(lambda: evolve_command(config, run_dir, measured, as_json=as_json))


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
    from evolve.commands.general import How, deliberate_command

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
    schema: Annotated[Path | None, typer.Option(help="JSON schema file that every answer has to follow.")] = None,
    channel: Annotated[str | None, typer.Option(help="Decide with the seats of this channel, as they change.")] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Begin nothing after it (06:00, or a date and time); cheaper as it comes near.")
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Do a sample and say what the whole will take.")] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Tasks of the sample; default: 20, or twice as many as run at once.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Tasks in flight at the same time.")] = None,
    as_json: Json = False,
) -> None:
    """Deliberate a file of tasks; the same command continues where it was cut off."""
    from evolve.commands.batch import BatchOptions, batch_command
    from evolve.commands.general import How

    how = How(config, run, protocol, reliability, memory)
    options = BatchOptions(schema, channel, deadline, estimate, sample, concurrency)
    _exit(lambda: batch_command(how, tasks, out, options, as_json=as_json))


@app.command()
def serve(
    config: Config,
    host: Annotated[str | None, typer.Option(help="Address to listen on; beyond loopback a key is mandatory.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0: any free one, which is told.")] = None,
    safe: Annotated[bool, typer.Option("--safe", help="The single best base member answers alone.")] = False,
    channel: Annotated[str | None, typer.Option("--channel", help="Follow this channel's seats.")] = None,
    run: FromRun = None,
    as_json: Json = False,
) -> None:
    """Open the OpenAI-compatible door to the mesh, until ctrl-C or SIGTERM."""
    from evolve.commands.serve import ServeOptions, serve_command

    _exit(lambda: serve_command(config, ServeOptions(host, port, channel, run, safe), as_json=as_json))


@app.command()
def reliability(
    run: RunDir,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: RUN/reliability.json.")] = None,
    as_json: Json = False,
) -> None:
    """Measure members on a run's judged traces: the weights, pairs and confidences that deliberations rest on."""
    from evolve.commands.general import reliability_command

    _exit(lambda: reliability_command(run, out, as_json=as_json))


@app.command()
def report(run: RunDir, as_json: Json = False) -> None:
    """Print a run's summary and where its report is; rebuild report.html if it is missing."""
    from evolve.commands.general import report_command

    _exit(lambda: report_command(run, as_json=as_json))


@app.command()
def models(
    store: Annotated[Path, typer.Option(help="Model store.")] = Path("models"),
    as_json: Json = False,
) -> None:
    """List prepared models and whether their files are intact."""
    from evolve.commands.general import models_command

    _exit(lambda: models_command(store, as_json=as_json))


@app.command()
def estimate(config: Config, measured: FromMeasured = None, as_json: Json = False) -> None:
    """Work out tokens, time, disk, money and the gain that the whole gate can show, before a run starts."""
    from evolve.commands.general import estimate_command

    _exit(lambda: estimate_command(config, measured, as_json=as_json))


@app.command()
def assess(
    tasks: Annotated[Path, typer.Argument(help="JSONL or Parquet of your own tasks: question, answer, type if any.")],
    config: WithConfig = DEFAULT_CONFIG,
    minutes: Annotated[float, typer.Option(min=0.1, help="About how long the look may take.")] = 15.0,
    items: Annotated[
        int | None, typer.Option(min=1, help="Items to measure on; default: as many as fit into the minutes.")
    ] = None,
    councils: Annotated[int, typer.Option(min=0, help="Items that go through a full council as well.")] = 16,
    night: Annotated[float, typer.Option(min=0.1, help="Hours a night has.")] = 10.0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory of the look.", show_default="RUN_DIR/assess/HASH")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at your own tasks before a night is spent: is the verifier sound, is there room, can the gate see it?"""
    from evolve.commands.assess import assess_command
    from evolve.studies.assessing import AssessOptions

    options = AssessOptions(minutes=minutes, num_items=items, num_councils=councils, night_hours=night)
    _exit(lambda: assess_command(tasks, config, out, options, as_json=as_json))


@app.command()
def study(
    tasks: Annotated[Path, typer.Argument(help="JSONL or Parquet of tasks that no run has learned from.")],
    run: Annotated[Path, typer.Option("--run", help="Run whose last generation is the evolved mesh.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="Configuration with engines beside the run's own.", show_default="the run's"
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Your present system: an engine of the configuration, e.g. remote:NAME.")
    ] = None,
    rft: Annotated[
        Path | None,
        typer.Option(help="Where the best single model was trained alone; default: RUN/arms/rft, if it is there."),
    ] = None,
    train_rft: Annotated[
        bool, typer.Option("--train-rft", help="Train the best single model alone first, with what the run spent.")
    ] = False,
    num_tasks: Annotated[int | None, typer.Option("--tasks", min=1, help="Tasks at most; default: all.")] = None,
    baseline_price: Annotated[
        float | None, typer.Option(min=0.0, help="Money for a million output tokens of the baseline.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory of the study.", show_default="RUN_DIR/study/HASH")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the evolved mesh with generation 0, single models and your present system, at equal budget."""
    from evolve.commands.study import study_command
    from evolve.studies.studying import StudyOptions

    options = StudyOptions(run=run, baseline=baseline, rft=rft, num_tasks=num_tasks, baseline_price=baseline_price)
    _exit(lambda: study_command(tasks, config, out, options, train_rft=train_rft, as_json=as_json))


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Also show where its engines would stand, or why not.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what this machine can run and what is missing."""
    from evolve.commands.general import doctor_command

    _exit(lambda: doctor_command(config, as_json=as_json))


@app.command()
def status(
    config: WithConfig = DEFAULT_CONFIG,
    directories: Annotated[
        list[Path] | None, typer.Option("--in", help="A directory of further runs and batches. Repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how everything stands: fleet, door, channels, runs, disks. Exit code 1: something is amiss."""
    from evolve.commands.status_command import status_command

    _exit(lambda: status_command(config, directories or [], as_json=as_json))


@app.command()
def why(
    wanted: Annotated[
        str, typer.Argument(metavar="ID", help="A request, deliberation or task; or an error code such as EM-LOCKED.")
    ],
    config: WithConfig = DEFAULT_CONFIG,
    places: LookIn = None,
    as_json: Json = False,
) -> None:
    """Tell the life of one request or task: when, who decided, what failed, what took long; or explain an error."""
    from evolve.commands.status_command import why_command

    _exit(lambda: why_command(wanted, config, places or [], as_json=as_json))


@app.command()
def replay(
    deliberation: Annotated[
        str,
        typer.Argument(metavar="DELIBERATION", help="Id of a deliberation, how it begins, its task's id, or a file."),
    ],
    config: WithConfig = DEFAULT_CONFIG,
    places: LookIn = None,
    protocol: Protocol = None,
    reliability: Measured = None,
    live: Annotated[bool, typer.Option("--live", help="Ask the engines again, and show what differs.")] = False,
    as_json: Json = False,
) -> None:
    """Hold a kept deliberation again from its trace, without a model call: does the same verdict come out?"""
    from evolve.commands.replay import ReplayOptions, replay_command

    options = ReplayOptions(config, tuple(places or ()), protocol, reliability, live)
    _exit(lambda: replay_command(deliberation, options, as_json=as_json))


@app.command()
def bundle(
    config: WithConfig = DEFAULT_CONFIG,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Archive to write.", show_default="evomesh-bundle-TIME.tar.gz"),
    ] = None,
    directories: Annotated[
        list[Path] | None, typer.Option("--in", help="A directory of further runs, batches or a door. Repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a support archive: how everything stands and what happened, without anybody's text, keys or names."""
    from evolve.commands.bundle_command import bundle_command

    _exit(lambda: bundle_command(config, out, directories or [], as_json=as_json))


@app.command()
def promote(
    target: Annotated[str, typer.Argument(metavar="RUN@GENERATION", help="E.g. runs/quickstart@1; RUN: its last one.")],
    channel: ToChannel,
    config: ForChannels = None,
    reason: Reason = "",
    by: ByWhom = None,
    as_json: Json = False,
) -> None:
    """Put a generation's seats in force in a channel; whoever serves it switches without dropping a request."""
    from evolve.commands.channels import Note, Where, promote_command

    _exit(lambda: promote_command(target, Where(channel, config), Note(reason, by), as_json=as_json))


@app.command()
def lineage(
    run: RunDir,
    adapter: Annotated[
        str | None, typer.Argument(help="A specialist by name, or how its adapter's hash begins.")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Write the specialist's card (Markdown) to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Show which specialists a run made and what they descend from; or one of them with all that made it."""
    from evolve.commands.lineage import lineage_command

    _exit(lambda: lineage_command(run, adapter, card, as_json=as_json))


@app.command()
def approve(
    run: RunDir,
    proposal: ProposalId = None,
    by: ByWhom = None,
    note: Reason = "",
    content: AsSeen = None,
    as_json: Json = False,
) -> None:
    """Agree to the promotion that a run waits with."""
    from evolve.commands.lineage import decide_command

    _exit(lambda: decide_command(run, proposal, "approved", by, note, content, as_json=as_json))


@app.command()
def veto(
    run: RunDir,
    proposal: ProposalId = None,
    by: ByWhom = None,
    note: Reason = "",
    content: AsSeen = None,
    as_json: Json = False,
) -> None:
    """Refuse the promotion that a run waits with."""
    from evolve.commands.lineage import decide_command

    _exit(lambda: decide_command(run, proposal, "vetoed", by, note, content, as_json=as_json))


@app.command()
def rollback(
    channel: ToChannel,
    to: Annotated[str | None, typer.Option(help="Roster to go back to, by id; default: the one before.")] = None,
    config: ForChannels = None,
    reason: Reason = "",
    by: ByWhom = None,
    as_json: Json = False,
) -> None:
    """Put the seats before in force again; also works in a frozen channel."""
    from evolve.commands.channels import Note, Where, rollback_command

    _exit(lambda: rollback_command(Where(channel, config), to, Note(reason, by), as_json=as_json))


@app.command()
def freeze(
    channel: ToChannel, config: ForChannels = None, reason: Reason = "", by: ByWhom = None, as_json: Json = False
) -> None:
    """Refuse promotions to a channel until it is unfrozen."""
    from evolve.commands.channels import Note, Where, freeze_command

    _exit(lambda: freeze_command(Where(channel, config), Note(reason, by), frozen=True, as_json=as_json))


@app.command()
def unfreeze(
    channel: ToChannel, config: ForChannels = None, reason: Reason = "", by: ByWhom = None, as_json: Json = False
) -> None:
    """Allow promotions to a channel again."""
    from evolve.commands.channels import Note, Where, freeze_command

    _exit(lambda: freeze_command(Where(channel, config), Note(reason, by), frozen=False, as_json=as_json))


@app.command()
def channels(
    name: Annotated[str | None, typer.Argument(help="Show the history of this one.")] = None,
    config: ForChannels = None,
    as_json: Json = False,
) -> None:
    """List the channels and what is in force in each, or tell the history of one."""
    from evolve.commands.channels import channels_command

    _exit(lambda: channels_command(name, config, as_json=as_json))


@fleet_app.command("up")
def fleet_up(
    config: Config,
    drain: Annotated[float, typer.Option(min=0.0, help="Seconds that requests may take to end after SIGTERM.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Start the engines and keep them up until SIGTERM or Ctrl-C; what an earlier, killed one left is cleaned up."""
    from evolve.commands.fleet import up_command

    _exit(lambda: up_command(config, drain, as_json=as_json))


@fleet_app.command("down")
def fleet_down(
    config: FleetOf = DEFAULT_CONFIG,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds to wait until it has drained and ended.")] = 120.0,
    now: Annotated[bool, typer.Option("--now", help="Kill it, requests under way included.")] = False,
    as_json: Json = False,
) -> None:
    """Drain and end the fleet that is up, or clean up after one that was killed."""
    from evolve.commands.fleet import down_command

    _exit(lambda: down_command(config, timeout, now=now, as_json=as_json))


@fleet_app.command("show")
def fleet_show(config: FleetOf = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Tell whether a fleet is up, and how each of its replicas stands."""
    from evolve.commands.fleet import show_command

    _exit(lambda: show_command(config, as_json=as_json))


@memory_app.command("brief")
def memory_brief(
    where: Remembered,
    tokens: Annotated[int, typer.Option("--tokens", "--words", min=1, help="Length of the brief.")] = 300,
    namespaces: Namespaces = None,
    embedder: EmbedderName = None,
    as_json: Json = False,
) -> None:
    """What a new session should know, in so many tokens."""
    from evolve.commands.memory import brief_command

    _exit(lambda: brief_command(where, tokens, namespaces or [], embedder, as_json=as_json))


@memory_app.command("search")
def memory_search(
    where: Remembered,
    text: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option(min=1, help="Most results.")] = 5,
    namespaces: Namespaces = None,
    embedder: EmbedderName = None,
    as_json: Json = False,
) -> None:
    """Find experiences of any standing by meaning and by words."""
    from evolve.commands.memory import search_command

    _exit(lambda: search_command(where, text, limit, namespaces or [], embedder, as_json=as_json))


@memory_app.command("show")
def memory_show(
    where: Remembered,
    experience: ExperienceId,
    svg: Annotated[Path | None, typer.Option(help="Write the picture of its story to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the picture and the text.")] = None,
    nodes: Annotated[int, typer.Option(min=1, max=500, help="Most experiences of the story.")] = 60,
    as_json: Json = False,
) -> None:
    """Show an experience, how far it is trusted and why, and the story around it."""
    from evolve.commands.memory import show_command

    _exit(lambda: show_command(where, experience, svg, html, nodes, as_json=as_json))


@memory_app.command("verify")
def memory_verify(
    where: Remembered,
    experience: ExperienceId,
    verdict: Annotated[str, typer.Option(help="passed or failed.")],
    by: Annotated[str, typer.Option(help="Who checked it.")],
    note: Annotated[str, typer.Option(help="What was checked; its hash is kept as the evidence.")] = "",
    episode: Annotated[str, typer.Option(help="In which episode; a pattern needs checks from two.")] = "",
    as_json: Json = False,
) -> None:
    """Store what a person found when checking an experience."""
    from evolve.commands.memory import verify_command

    _exit(lambda: verify_command(where, experience, verdict, by, note, episode, as_json=as_json))


@memory_app.command("retire")
def memory_retire(where: Remembered, experience: ExperienceId, reason: Reason = "", as_json: Json = False) -> None:
    """Set an experience aside: kept and found by search, never recalled."""
    from evolve.commands.memory import mark_command

    _exit(lambda: mark_command("retire", where, experience, reason, as_json=as_json))


@memory_app.command("restore")
def memory_restore(where: Remembered, experience: ExperienceId, reason: Reason = "", as_json: Json = False) -> None:
    """Take a retirement back."""
    from evolve.commands.memory import mark_command

    _exit(lambda: mark_command("restore", where, experience, reason, as_json=as_json))


@memory_app.command("rollback")
def memory_rollback(
    where: Remembered,
    source: Annotated[str | None, typer.Option(help="As if this source had never said or judged anything.")] = None,
    since: Annotated[
        str | None, typer.Option(help="As if nothing had happened since: event number or ISO time.")
    ] = None,
    reason: Reason = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Derive everything without a source, or without what happened since; shows what would change and asks."""
    from evolve.commands.memory import rollback_command

    _exit(lambda: rollback_command(where, source, since, reason, yes=yes, as_json=as_json))


@memory_app.command("erase")
def memory_erase(where: Remembered, experience: ExperienceId, yes: Yes = False, as_json: Json = False) -> None:
    """Remove an experience for good, and list the datasets and adapters that were made from it."""
    from evolve.commands.memory import erase_command

    _exit(lambda: erase_command(where, experience, yes=yes, as_json=as_json))


@memory_app.command("export")
def memory_export(
    where: Remembered,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Directory for memory.jsonl and experiences.parquet.")],
    namespaces: Namespaces = None,
    as_json: Json = False,
) -> None:
    """Write everything that stands as JSONL, and a table for analysis as Parquet."""
    from evolve.commands.memory import export_command

    _exit(lambda: export_command(where, out, namespaces or [], as_json=as_json))


@memory_app.command("import")
def memory_import(
    where: Remembered,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="An exported memory.jsonl, or its directory.")],
    into: Annotated[str | None, typer.Option(help="Give all of it to this namespace: team/project/run.")] = None,
    embedder: EmbedderName = None,
    as_json: Json = False,
) -> None:
    """Take an exported memory in; what is known already changes nothing, bad lines are told by number."""
    from evolve.commands.memory import import_command

    _exit(lambda: import_command(where, path, into, embedder, as_json=as_json))


@memory_app.command("rebuild")
def memory_rebuild(where: Remembered, embedder: EmbedderName = None, as_json: Json = False) -> None:
    """Derive every table and index anew from the events and the texts."""
    from evolve.commands.memory import rebuild_command

    _exit(lambda: rebuild_command(where, embedder, as_json=as_json))


@memory_app.command("doctor")
def memory_doctor(where: Remembered, as_json: Json = False) -> None:
    """Check every hash, the index, its measured recall and the files; says what to do."""
    from evolve.commands.memory import doctor_command

    _exit(lambda: doctor_command(where, as_json=as_json))


@memory_app.command("stats")
def memory_stats(where: Remembered, as_json: Json = False) -> None:
    """Count what is remembered."""
    from evolve.commands.memory import stats_command

    _exit(lambda: stats_command(where, as_json=as_json))


@review_app.command("list")
def review_list(
    directory: ReviewDir,
    everything: Annotated[bool, typer.Option("--all", help="Answered questions too.")] = False,
    as_json: Json = False,
) -> None:
    """List the questions that wait for a person."""
    from evolve.commands.review import list_command

    _exit(lambda: list_command(directory, everything=everything, as_json=as_json))


@review_app.command("show")
def review_show(directory: ReviewDir, question: QuestionId, as_json: Json = False) -> None:
    """Show one question: why it is asked, the choices and what argues for each."""
    from evolve.commands.review import show_command

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
    from evolve.commands.review import answer_command

    _exit(lambda: answer_command(directory, question, (choice, edit), by, note, content, as_json=as_json))


@audit_app.command("verify")
def audit_verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a run, or one that a batch wrote to.")],
    as_json: Json = False,
) -> None:
    """Check every hash of a run's logs, or of a batch's questions and answers, and that these fit each other."""
    from evolve.commands.review import verify_command

    _exit(lambda: verify_command(directory, as_json=as_json))


@keys_app.command("create")
def keys_create(
    team: Annotated[str, typer.Option(help="Whose key it is: no other team sees what is asked with it.")],
    config: WithConfig = DEFAULT_CONFIG,
    project: Annotated[str, typer.Option(help="Second part of the namespace.")] = "default",
    quota: Annotated[int | None, typer.Option(min=1, help="Tokens it may spend in a period; default: any.")] = None,
    per: Annotated[str, typer.Option(help="The period: hour, day or month, in UTC.")] = "day",
    days: Annotated[float | None, typer.Option(min=0.001, help="Days until it expires; default: never.")] = None,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once."""
    from evolve.commands.keys import create_command

    _exit(lambda: create_command(config, team, project, (quota, per), days=days, note=note, as_json=as_json))


@keys_app.command("list")
def keys_list(config: WithConfig = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """List all keys by id; the keys themselves are stored nowhere."""
    from evolve.commands.keys import list_command

    _exit(lambda: list_command(config, as_json=as_json))


@keys_app.command("revoke")
def keys_revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="Id of a key, or how it begins.")],
    config: WithConfig = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Take a key out of use, at once also where a door is open."""
    from evolve.commands.keys import revoke_command

    _exit(lambda: revoke_command(config, key, as_json=as_json))


@outcomes_app.command("import")
def outcomes_import(
    labels: Annotated[Path, typer.Argument(help="CSV, JSONL or Parquet with the task's id and `answer` or `correct`.")],
    key: Annotated[str, typer.Option(help="Column that holds the task's id.")] = "id",
    batch: Annotated[
        Path | None, typer.Option(help="Directory of the batch.", show_default="where the labels lie")
    ] = None,
    memory: Annotated[
        Path | None, typer.Option(help="Tell this memory.", show_default="the one the batch was started with")
    ] = None,
    use_memory: Annotated[bool, typer.Option("--tell-memory/--no-memory", help="Whether memory is told.")] = True,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Whose memory it is.", show_default="as the batch")
    ] = None,
    reliability: Annotated[
        Path | None, typer.Option(help="File to write weights to.", show_default="reliability.json of the batch")
    ] = None,
    add_to: Annotated[Path | None, typer.Option(help="Add what was measured elsewhere before.")] = None,
    by: Annotated[str, typer.Option(help="Who or what the labels come from; kept as evidence.")] = "label",
    replace: Annotated[bool, typer.Option("--replace", help="Take a label that contradicts an earlier one.")] = False,
    run: Annotated[
        Path | None, typer.Option(help="Run whose specialists answered.", show_default="the batch's run or channel")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring late labels to a batch's outcomes, to memory and to measured weights; again, it changes nothing."""
    from evolve.commands.outcomes import ImportOptions, import_command

    options = ImportOptions(batch, key, memory, use_memory, config, reliability, add_to, by, replace, run)
    _exit(lambda: import_command(labels, options, as_json=as_json))


@problems_app.command("add")
def problems_add(
    file: Annotated[Path, typer.Argument(help="JSONL or Parquet with more tasks, in the form of those there are.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration whose problems.path is added to.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Add tasks to a file: no old one changes its split, and a near duplicate goes where its like is."""
    from evolve.commands.problems import add_command

    _exit(lambda: add_command(file, config, dry_run=dry_run, as_json=as_json))


@traces_app.command("export")
def traces_export(
    source: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="Directory of a batch, or its traces.parquet.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSONL file to write; a README appears beside it.")],
    kind: Annotated[
        str,
        typer.Option("--format", help="trl, trl-preference, axolotl, llamafactory or llamafactory-preference."),
    ] = "trl",
    only_verified: Annotated[
        bool, typer.Option("--only-verified", help="Only answers that a label says are right.")
    ] = False,
    min_confidence: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Leave out unjudged answers the mesh was less sure of.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Write traces as training data that TRL, axolotl and LLaMA-Factory load unchanged."""
    from evolve.commands.traces import export_command

    _exit(lambda: export_command(source, kind, out, (only_verified, min_confidence), as_json=as_json))


@config_app.command("validate")
def config_validate(config: Config, as_json: Json = False) -> None:
    """Check a configuration; the first wrong key is named with the nearest right one."""
    from evolve.commands.general import validate_command

    _exit(lambda: validate_command(config, as_json=as_json))


@config_app.command("show")
def config_show(config: Config, as_json: Json = False) -> None:
    """Print a configuration with every default filled in."""
    from evolve.commands.general import show_command

    _exit(lambda: show_command(config, as_json=as_json))


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a configuration; editors complete and check YAML with it."""
    from evolve.config import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


def main() -> None:
    """Entry point of the `evomesh` command."""
    from evolve.commands.errors import run_app

    run_app(app, sys.argv[1:])


def _exit(command: Callable[[], None]) -> NoReturn:
    """Run a command; a foreseeable error becomes one message with a code and an exit code, not a traceback."""
    from inspect import getclosurevars

    from evolve.commands.errors import Reported

    # Every command hands --json on to its work, so the closure knows whether it was given.
    with Reported(as_json=getclosurevars(command).nonlocals.get("as_json") is True):
        command()
    sys.exit(ExitCode.OK)


if __name__ == "__main__":
    main()
