"""What an estimate rests on: how fast engines are and how much they say, assumed or read off what took place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from evolve.config import ConfigError, MeshConfig, RunConfig, load_config
from evolve.planning.machine import TIMED_CORES, Arithmetic, Machine, machine_of
from evolve.problems.config import FileProblems
from evolve.problems.sealed import Asked
from evolve.progress import StageTime, is_training, merged_times, read_times
from evolve.run_files import CONFIG
from evolve.training.job import REPORT_NAME, TrainingReport
from memory.ledger import read_record
from memory.types import Record, content_hash
from mesh.propose import proposal_messages
from mesh.types import Deliberation, Exchange, Task
from serving.traces import read_traces

TYPICAL_ANSWER_SHARE = 0.5
"""Share of `max_tokens` a first proposal takes on average; answers mostly stop long before the limit."""
TOKENS_PER_CHARACTER, TOKENS_PER_TURN = 1 / 3, 6.0
"""Of a prompt, chat template included: the yardstick that `Rates.prompt_scale` is told against. The harvests of the
quickstart and of the experiment had 0.83 and 0.88 of it."""
OUTPUT_TOKENS_PER_S, PROMPT_TOKENS_PER_S = 110.0, 600.0
"""Over all engines together: the yardstick that a pace is told against."""
ASSESSMENT = "assessment.json"
LEAST_SECONDS = 1.0
"""Stages that took less are timed too roughly to go by."""
ASSUMED = "assumed from models of 135M and 270M weights on 2 CPU cores"
UNLIKE = 10.0
"""How many times longer or shorter a run may take whose models or machine are unlike all that were timed."""
SIMULATED = "those of simulated engines"


def plain_seconds(prompt_tokens: float, output_tokens: float) -> float:
    """What so many tokens take where nothing else was measured."""
    return prompt_tokens / PROMPT_TOKENS_PER_S + output_tokens / OUTPUT_TOKENS_PER_S


class Rates(Record):
    """What the machine manages and the members say.

    The defaults are the quickstart's two models on 2 CPU cores in float32: seed 7 took 25.7 minutes on AVX2 before
    placebos were trained, 37,418 output tokens and 24.6 TFLOP of training, which is some 2.1 times what the run of
    `AMX_RATES` took for as much. Its stages were not kept: engines and training are taken to be slower by the same.
    """

    proposal_pace: float = Field(
        default=0.65, gt=0, description="seconds of first proposals against 110 output and 600 prompt tokens a second"
    )
    council_pace: float = Field(
        default=0.65, gt=0, description="the same of councils and panels, whose prompts are long"
    )
    trained_tokens_per_s: float = Field(default=200.0, gt=0, description="all jobs of a generation together")
    start_s: float = Field(default=150.0, ge=0, description="starting all engines")
    tokens_per_answer: float | None = Field(
        default=None, gt=0, description="of one first proposal, if measured; None: a share of its limit"
    )
    tokens_per_critique: float | None = Field(default=None, gt=0, description="if measured; None: its limit")
    prompt_scale: float = Field(
        default=0.86, gt=0, description="prompt tokens against a third of a token a character and six a turn"
    )
    tokens_per_talk_prompt: float = Field(
        default=115.0, gt=0, description="of a call after the first proposals: critique, revision or vote"
    )

    def answer(self, problem: Asked) -> float:
        """Tokens expected of one answer."""
        measured = self.tokens_per_answer
        return TYPICAL_ANSWER_SHARE * problem.max_tokens if measured is None else min(measured, problem.max_tokens)

    def prompt(self, task: Task) -> float:
        """Tokens expected of the prompt of a first proposal; several samples share it."""
        return self.prompt_scale * _plain_prompt(task)


AMX_RATES = Rates(proposal_pace=0.33, council_pace=0.34, trained_tokens_per_s=400.0)
"""The same models on 2 cores with AMX, in bfloat16: between the quickstart's run in a fresh clone (18.7 minutes: paces
of 0.29 and 0.31, 476 and 507 trained tokens a second, engines up in 142 s) and the experiment of seed 62669 (159
minutes with other work on the machine: 0.37 and 0.37, 296 to 453, 248 s)."""
BF16_RATES = Rates(proposal_pace=0.15, council_pace=0.2, trained_tokens_per_s=550.0, start_s=65.0)
"""The same models on 2 AMD cores with AVX512 and bfloat16 but no AMX: between a quickstart in a fresh clone (12.1
minutes: paces of 0.15 and 0.20, 605 trained tokens a second, engines up in 71 s) and an experiment's first
generation (0.15 and 0.21, 505, 57 s)."""
SIMULATED_RATES = Rates(
    proposal_pace=0.05,
    council_pace=0.015,
    start_s=0.0,
    tokens_per_answer=5.5,
    tokens_per_critique=13.0,
    prompt_scale=0.5,
    tokens_per_talk_prompt=60.0,
)
"""Of engines that are only simulated: a token is a word, and what their made-up answers have of them."""


class Basis(Record):
    """Rates, where they are from, and what was measured of the tasks."""

    rates: Rates = Rates()
    source: str = Field(default=ASSUMED, description="where they are from, in words")
    is_measured: bool = Field(default=False, description="False: they may be far off for these engines")
    is_training_measured: bool = Field(default=False, description="or only simulated")
    spread: float = Field(
        default=1.0, ge=1, description="how many times longer or shorter what engines do may take; 1: it was measured"
    )
    training_spread: float = Field(default=1.0, ge=1, description="the same of training")
    accuracy: float | None = Field(default=None, description="of the mesh's vote on these tasks; None: not measured")
    discordance: float | None = Field(
        default=None, description="share of items on which two votes differ; None: not measured"
    )

    @property
    def is_guess(self) -> bool:
        """Whether any of the time is not known from measuring."""
        return max(self.spread, self.training_spread) > 1.0

    def spread_of(self, stage: str) -> float:
        """How many times longer or shorter a stage of this name may take."""
        return self.training_spread if is_training(stage) else self.spread

    @property
    def sentence(self) -> str:
        """For people: how far hours and money are to be believed."""
        if self.source == SIMULATED:
            return "Speeds are those of simulated engines: they say nothing about models."
        if not self.is_measured:
            unlike = ", and these models or this machine are unlike those" if self.spread >= UNLIKE else ""
            return (
                f"Speeds are {self.source}{unlike}: hours and money are guesses until `evomesh assess` or a run has "
                "measured yours (--measured PATH)."
            )
        training = "" if self.is_training_measured else f"; that of training is {ASSUMED}"
        return f"Speeds are {self.source}{training}."


class _Known(NamedTuple):
    """What was timed with one arithmetic."""

    rates: Rates
    words: str
    spread: float
    """By these rates the quickstart takes 24 minutes on AMX and the experiment of seed 62669 140; they took 18.7 and
    159, and an older quickstart 24.4. Without AMX there is one machine to go by."""


_KNOWN: Mapping[Arithmetic, _Known] = {
    "amx": _Known(AMX_RATES, "with AMX", 1.5),
    "bf16": _Known(BF16_RATES, "with bfloat16 instructions but no AMX", 2.0),
    "float32": _Known(Rates(), "in float32", 2.0),
}
OTHER_CORES = 3.0
"""Least spread where there are more or fewer cores than were timed: nobody knows what engines make of them."""


def assumed_for(config: MeshConfig, machine: Machine | None = None) -> Basis:
    """What is known without measuring. `machine`: of the engines; None: the one that `machine_of` finds."""
    if config.is_simulated:
        return Basis(rates=SIMULATED_RATES, source=SIMULATED)
    machine = machine_of(config) if machine is None else machine
    if machine.arithmetic is None:
        return Basis(spread=UNLIKE, training_spread=UNLIKE)
    known = _KNOWN[machine.arithmetic]
    spread = known.spread if machine.num_cores == TIMED_CORES else max(known.spread, OTHER_CORES)
    if not machine.has_timed_models:
        spread = UNLIKE
    return Basis(rates=known.rates, source=f"{ASSUMED} {known.words}", spread=spread, training_spread=spread)


def basis_for(config: MeshConfig, measured: Path | None = None) -> Basis:
    """What is known of these engines: from `measured`, a run or an assessment; else what is found beside the run.

    That is the run's own times, or the newest assessment of the same engines in its directory.

    Raises:
        ConfigError: `measured` is neither.
    """
    if measured is not None:
        found = _assessed(measured, config) or _ran(measured, config)
        if found is None:
            raise ConfigError(
                f"{measured}: expected an assessment ({ASSESSMENT}) or a run that has held its first harvest, got "
                "neither; give the directory that `evomesh assess` told, or that of a run"
            )
        return found
    if _has_same_engines(config.run_dir, config) and (found := _ran(config.run_dir, config)) is not None:
        return found
    looks = sorted(config.run_dir.glob(f"assess/*/{ASSESSMENT}"), key=lambda path: path.stat().st_mtime)
    for path in reversed(looks):
        if (found := _assessed(path, config, same=True)) is not None:
            return found
    return assumed_for(config)


def engines_id(config: MeshConfig) -> str:
    """Hash of what the engines of a configuration are; prices and what members are told do not count."""
    apart = {"price_per_hour", "persona", "tiers", "skills"}
    return content_hash([engine.model_dump(mode="json", exclude=apart) for engine in config.serving.engines])


def tasks_id(config: MeshConfig) -> str:
    """Hash of the file of tasks that a run learns from; empty: it has none."""
    if not isinstance(config, RunConfig) or not isinstance(config.problems, FileProblems):
        return ""
    return content_hash(config.problems.path.read_bytes().hex())


def rates_from(
    start: Rates, times: Sequence[StageTime], proposals: Sequence[Deliberation], councils: Sequence[Deliberation]
) -> Rates:
    """`start` with all that these times and traces tell better."""
    starts = [one.seconds for one in times if one.stage == "start engines"]
    # A long stage is told in parts, of which only the last has its tokens.
    whole = merged_times(times).values()
    asked = [one for one in whole if one.output_tokens and not one.stage.endswith(" panel")]
    stages = [one for one in asked if one.seconds > LEAST_SECONDS]
    known: dict[str, float] = {}
    if drawn := [one for one in stages if "councils" not in one.stage]:
        known["proposal_pace"] = _pace(drawn)
    if talks := [one for one in stages if "councils" in one.stage]:
        known["council_pace"] = _pace(talks)
    if starts:
        known["start_s"] = starts[-1]
    return start.model_copy(update=known | _said(proposals, councils))


def _said(proposals: Sequence[Deliberation], councils: Sequence[Deliberation]) -> dict[str, float]:
    """How much was said and read."""
    firsts = [one for trace in proposals for one in trace.exchanges if not one.error]
    num_answers = sum(len(one.completions) for one in firsts)
    plain = math.fsum(_plain_prompt(trace.task) for trace in proposals for one in trace.exchanges if not one.error)
    known: dict[str, float] = {}
    if num_answers and plain:
        known["tokens_per_answer"] = max(1.0, _output(firsts) / num_answers)
        known["prompt_scale"] = max(0.01, sum(one.usage.prompt_tokens for one in firsts) / plain)
    talk = [one for trace in councils for one in trace.exchanges if one.phase != "propose" and not one.error]
    if talk:
        known["tokens_per_talk_prompt"] = max(1.0, sum(one.usage.prompt_tokens for one in talk) / len(talk))
    if critiques := [one for one in talk if one.phase == "critique"]:
        known["tokens_per_critique"] = max(1.0, _output(critiques) / len(critiques))
    return known


def _output(exchanges: Iterable[Exchange]) -> int:
    return sum(one.usage.output_tokens for one in exchanges)


def _pace(stages: Sequence[StageTime]) -> float:
    """Wall seconds against those that the quickstart's machine would have taken."""
    plain = math.fsum(plain_seconds(one.prompt_tokens, one.output_tokens) for one in stages)
    return math.fsum(one.seconds for one in stages) / plain


def _plain_prompt(task: Task) -> float:
    messages = proposal_messages(task)
    length = sum(len(part.text) for message in messages for part in message.parts)
    return TOKENS_PER_CHARACTER * length + TOKENS_PER_TURN * len(messages)


def _assessed(path: Path, config: MeshConfig, *, same: bool = False) -> Basis | None:
    """What an assessment found; None: it is none, or with `same`, one of other engines."""
    from evolve.studies.advice import Assessment

    file = path / ASSESSMENT if path.is_dir() else path
    if file.name != ASSESSMENT or not file.is_file():
        return None
    found = read_record(file, Assessment)
    if same and found.engines != engines_id(config):
        return None
    is_of_these = found.tasks == tasks_id(config)
    return Basis(
        rates=found.rates,
        source=f"those of the assessment in {file.parent}",
        is_measured=True,
        is_training_measured=config.is_simulated,
        training_spread=assumed_for(config).training_spread,
        accuracy=found.findings.mesh.mean if is_of_these and found.findings.num_items else None,
        discordance=found.findings.discordance if is_of_these else None,
    )


def _ran(directory: Path, config: MeshConfig) -> Basis | None:
    """What a run's first harvest and all its stages so far tell; None: there is none yet."""
    harvest, councils = (directory / "generation-0" / f"{name}.parquet" for name in ("harvest", "councils"))
    times = read_times(directory)
    if not times or not harvest.is_file():
        return None
    talks = list(read_traces(councils)) if councils.is_file() else []
    assumed = assumed_for(config)
    rates = rates_from(assumed.rates, times, list(read_traces(harvest)), talks)
    trained = _trained_per_s(directory, times)
    if trained is not None:
        rates = rates.model_copy(update={"trained_tokens_per_s": trained})
    return Basis(
        rates=rates,
        source=f"those of the run in {directory}",
        is_measured=True,
        is_training_measured=trained is not None or config.is_simulated,
        training_spread=assumed.training_spread if trained is None else 1.0,
    )


def _trained_per_s(directory: Path, times: Iterable[StageTime]) -> float | None:
    """Tokens over the whole time of training stages, loading included; None: nothing was trained for a second."""
    seconds = math.fsum(one.seconds for one in times if is_training(one.stage))
    reports = [read_record(path, TrainingReport) for path in directory.glob(f"generation-*/training/*/{REPORT_NAME}")]
    tokens = sum(report.trained_tokens for report in reports)
    return tokens / seconds if tokens and seconds > LEAST_SECONDS else None


def _has_same_engines(directory: Path, config: MeshConfig) -> bool:
    if not (directory / CONFIG).is_file():
        return False
    try:
        return engines_id(load_config(directory / CONFIG)) == engines_id(config)
    except ConfigError:
        return False  # of another version of this program
