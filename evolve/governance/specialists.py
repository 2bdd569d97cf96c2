"""One record for every specialist: which data, parents, recipe, seeds, graders, gate and people made it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from evolve.candidate import Candidate
from evolve.config import load_config
from evolve.evaluate import Judgements
from evolve.gates.conjunction import ConjunctionRecord
from evolve.gates.gate import GateRecord, GateResult
from evolve.governance.audit_log import AuditEvent, AuditLog
from evolve.governance.licences import UNKNOWN, Licence, licence_of, teaching_note
from evolve.governance.lineage_costs import Cost, Costs
from evolve.learning.accumulate import SetRow
from evolve.learning.curate import Example
from evolve.learning.manifests import pairs_path, read_manifest, rows_path
from evolve.learning.recipe_rows import ingredient_of
from evolve.learning.recipes import Recipe
from evolve.lineage import Generation, Specialist
from evolve.progress import TIMES, StageTime
from evolve.run_files import CONFIG, FACTS
from evolve.training.job import TrainingReport
from evolve.training.stage import Admitted, Trained
from memory.ledger import Ledger, read_json
from memory.types import Record, content_hash

_R = TypeVar("_R", bound=Record)


class DataFile(Record):
    """One file of what was learned from."""

    path: str = Field(description="inside the run's directory")
    sha256: str
    num_rows: int


class GateNote(Record):
    """What the gate found of the arrangement that seated it."""

    arrangement: str
    n: int
    wins: int = Field(description="problems that only the arrangement's vote had right, not that of the seats before")
    losses: int
    p: float | None = Field(description="against the hardest of its rivals, which are more than the seats before")
    alpha: float
    detectable_effect: float | None = None
    reason: str
    digest: str = Field(description="content hash of the whole gate record, as the specialist names it")
    digest_checked: bool = Field(default=False, description="the record lies in the run and has this hash")


class SpecialistRecord(Record):
    """Everything that answers "which data, parents, graders and approver made this specialist?"."""

    run: str
    specialist: Specialist
    base: str = Field(description="name of the base model, as written into the adapter; empty: not known")
    base_fingerprint: str = Field(default="", description="content fingerprint of its weights; empty: not known")
    licence: Licence = Field(default=UNKNOWN, description="of the base model")
    licence_notes: tuple[str, ...] = ()
    recipe: Recipe | None = Field(default=None, description="None: the run keeps no admission record of it")
    seeds: dict[str, int] = Field(default_factory=dict, description="run, recipe")
    data: tuple[DataFile, ...] = Field(
        default=(), description="its manifest, the rows and pairs it learned from; then what they were chosen from"
    )
    data_checked: bool = Field(default=False, description="the manifest lies in the run, with the digest it names")
    num_rows: int = Field(default=0, description="rows it learned from")
    teachers: tuple[tuple[str, str | None, int], ...] = Field(
        default=(),
        description="(member, adapter or None, rows) whose texts it learned from; without a manifest, could draw on",
    )
    graders: tuple[str, ...] = Field(default=(), description="verifiers that called those texts right")
    gate: GateNote | None = Field(default=None, description="None: the run keeps no gate record yet")
    approved_by: tuple[str, ...] = Field(default=(), description="who let it be seated; 'gate': nobody else had to")
    history: tuple[AuditEvent, ...] = Field(default=(), description="what the audit log holds about it, oldest first")
    job: str = Field(default="", description="digest of the training job")
    cost: Cost = Field(default=Cost(), description="its own training, and its share of the generation that bred it")
    line_cost: Cost = Field(default=Cost(), description="the same of it and all that it descends from, each once")
    last_loss: float | None = None
    config_sha256: str = Field(default="", description="of the resolved configuration of the run")

    @property
    def status(self) -> str:
        """'demoted' or 'confirmed' where live outcomes said so, else 'provisional'."""
        verdicts = [event.kind for event in self.history if event.kind in ("demoted", "confirmed")]
        return verdicts[-1] if verdicts else "provisional"


def records_of(run: Path, generations: Sequence[Generation]) -> tuple[SpecialistRecord, ...]:
    """A record of every specialist that was ever seated in the run in `run`, oldest first, from what the run left.

    Raises ValueError where one of the run's files is not what it should be.
    """
    seen: dict[str, Specialist] = {}
    for generation in generations:
        for specialist in generation.specialists:
            seen.setdefault(specialist.adapter, specialist)
    kept = _kept_in(run)
    return tuple(_record_in(run, specialist, kept) for specialist in seen.values())


def gate_note(record: GateRecord, arrangement: str, digest: str) -> GateNote | None:
    """What a gate record says of one arrangement; None: it was no arm of it."""
    result: GateResult | None = next((one for one in record.results if one.name == arrangement), None)
    if result is None:
        return None
    return GateNote(
        arrangement=arrangement,
        n=result.n,
        wins=result.wins,
        losses=result.losses,
        p=result.p,
        alpha=record.alpha,
        detectable_effect=result.detectable_effect,
        reason=result.reason,
        digest=digest,
        digest_checked=content_hash(record) == digest,
    )


@dataclass(frozen=True)
class _Kept:
    """What a run keeps of all its specialists; what is missing is empty, and not made up."""

    name: str
    seeds: dict[str, int]
    config_sha256: str
    licences: dict[str, Licence]
    """By model family, of its bases."""
    candidates: dict[tuple[str, str], Candidate]
    """By adapter and recipe: a merge that is repeated later may give the same adapter again."""
    reports: dict[str, TrainingReport]
    """By recipe."""
    costs: Costs
    events: tuple[AuditEvent, ...]


def _kept_in(run: Path) -> _Kept:
    config = load_config(run / CONFIG) if (run / CONFIG).is_file() else None
    candidates = [c for found in _steps(run, "admit-generation-*", Admitted) for c in found.candidates]
    reports = [r for found in _steps(run, "train-generation-*", Trained) for r in found.reports]
    path = run / TIMES
    held = Ledger(path, readonly=True).entries() if path.is_file() else []
    serving = None if config is None else config.serving
    return _Kept(
        name="" if config is None else config.name,
        seeds={} if config is None else {"run": config.seed},
        config_sha256="" if config is None else hashlib.sha256((run / CONFIG).read_bytes()).hexdigest(),
        licences={} if serving is None else {s.family: licence_of(s, serving.model_store) for s in serving.engines},
        candidates={(c.member.adapter or "", c.recipe.name): c for c in candidates},
        reports={report.recipe: report for report in reports},
        costs=Costs(candidates, reports, [StageTime.model_validate(entry.payload) for entry in held]),
        events=tuple(AuditLog(run).events()),
    )


def _record_in(run: Path, specialist: Specialist, kept: _Kept) -> SpecialistRecord:
    candidate = kept.candidates.get((specialist.adapter, specialist.recipe))
    report = kept.reports.get(specialist.recipe)
    recipe = None if candidate is None else candidate.recipe
    seated_by = specialist.generation - 1
    # An elite of the archive may take its seat generations after it was bred.
    number = seated_by if candidate is None else candidate.generation
    judged = _steps(run, f"judge-generation-{number}-harvest", Judgements)
    learned = _learned_in(run, number, specialist, recipe)
    teachers = _teachers(learned.examples)
    licence = kept.licences.get(specialist.family, UNKNOWN)
    others = {family for _, family, _, _ in teachers if family != specialist.family}
    history = tuple(_about(specialist, kept.events))
    return SpecialistRecord(
        run=kept.name,
        specialist=specialist,
        base="" if report is None else report.base_name,
        base_fingerprint=_fingerprint(run, specialist.engine),
        licence=licence,
        licence_notes=teaching_note(licence, {family: kept.licences.get(family, UNKNOWN) for family in others}),
        recipe=recipe,
        seeds=kept.seeds | ({} if recipe is None else {"recipe": recipe.seed}),
        data=learned.files,
        data_checked=learned.checked,
        num_rows=0 if report is None else report.num_rows,
        teachers=tuple((member, adapter, count) for member, _, adapter, count in teachers),
        graders=tuple(sorted({o.evidence.verifier for found in judged for o in found.outcomes if o.correct})),
        gate=_gate_in(run, specialist, seated_by),
        approved_by=_approvers(history),
        history=history,
        job="" if report is None else report.job,
        cost=kept.costs.own(specialist.adapter) or Cost(),
        line_cost=kept.costs.of_line(specialist.adapter) or Cost(),
        last_loss=report.losses[-1] if report is not None and report.losses else None,
        config_sha256=kept.config_sha256,
    )


def _about(specialist: Specialist, events: Iterable[AuditEvent]) -> Iterable[AuditEvent]:
    """What names its adapter, or itself among those that were seated together."""
    return (e for e in events if e.adapter == specialist.adapter or specialist.name in e.subject.split(" and "))


def _gate_in(run: Path, specialist: Specialist, number: int) -> GateNote | None:
    """From the journalled gate record; None: the run keeps none."""
    for held in _steps(run, f"conjunction-generation-{number}", ConjunctionRecord):
        record = held.gate_record()
        for result in record.results:
            if result.passed and specialist.name in result.name.split(" and "):
                return gate_note(record, result.name, specialist.gate_digest)
    return None


def _steps(run: Path, name: str, model: type[_R]) -> list[_R]:
    """Every journalled result of a step; a later one first, should there be several."""
    paths = sorted((run / "steps").glob(f"{name}-*.json"), reverse=True)
    return [model.model_validate(read_json(path)) for path in paths]


def _teachers(examples: Iterable[Example]) -> list[tuple[str, str, str | None, int]]:
    """(member, family, adapter, examples), most first."""
    counts: dict[tuple[str, str, str | None], int] = {}
    for example in examples:
        key = (example.member, example.family, example.adapter)
        counts[key] = counts.get(key, 0) + 1
    return [(*key, count) for key, count in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))]


def _let_in(recipe: Recipe, example: Example) -> bool:
    in_niche = not recipe.task_types or example.task_type in recipe.task_types
    return in_niche and ingredient_of(example, recipe.family) in recipe.mix


def _approvers(history: Iterable[AuditEvent]) -> tuple[str, ...]:
    for event in history:
        if event.kind == "promoted":
            return tuple(event.by.split(", "))
    return ("gate",)


def _fingerprint(run: Path, engine: str) -> str:
    if not (run / FACTS).is_file():
        return ""
    return str(dict(read_json(run / FACTS).get("weights", [])).get(engine, ""))


def _data_file(run: Path, path: Path, num_rows: int) -> DataFile:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return DataFile(path=path.relative_to(run).as_posix(), sha256=digest, num_rows=num_rows)


@dataclass(frozen=True)
class _Learned:
    """What a specialist learned from, as far as the run keeps it."""

    files: tuple[DataFile, ...]
    examples: tuple[Example, ...]
    checked: bool


def _learned_in(run: Path, number: int, specialist: Specialist, recipe: Recipe | None) -> _Learned:
    directory = run / f"generation-{number}"
    pool, candidates = _chosen_from(directory)
    pool_file = (_data_file(run, pool, len(candidates)),) if pool.is_file() else ()
    manifest = read_manifest(directory, specialist.recipe)
    if manifest is None:
        drawn = tuple(one for one in candidates if recipe is None or _let_in(recipe, one))
        return _Learned(files=pool_file, examples=drawn, checked=False)
    files = [_data_file(run, rows_path(directory, specialist.recipe), len(manifest.rows))]
    if manifest.pairs:
        files.append(_data_file(run, pairs_path(directory, specialist.recipe), len(manifest.pairs)))
    return _Learned(
        files=(*files, *pool_file),
        examples=tuple(row.example for row in manifest.rows),
        checked=manifest.digest == specialist.data_digest,
    )


def _chosen_from(directory: Path) -> tuple[Path, list[Example]]:
    """The file that recipes chose from; runs of before sets grew over generations have their own examples alone."""
    path = directory / "set-used.jsonl"
    if path.is_file():
        return path, [SetRow.model_validate_json(line).example for line in _lines(path)]
    path = directory / "examples.jsonl"
    return path, [Example.model_validate_json(line) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").split("\n") if line.strip()] if path.is_file() else []
