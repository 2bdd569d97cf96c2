"""A specialist's card in Markdown: what it is, what made it, what was measured, and what is not promised. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from evolve.governance.demotion import LiveRecord
from evolve.governance.lineage_costs import Cost
from evolve.governance.specialists import SpecialistRecord
from evolve.training.config import Role

ROLES: dict[Role, str] = {
    "proposer": "proposer: it answers tasks itself",
    "critic": "critic: its seat's objections to others' answers are its own; it answers nothing itself",
    "synthesiser": "synthesiser: it writes its seat's answers after reading others'; first answers are another's",
}


def model_card(record: SpecialistRecord, *, live: LiveRecord | None = None) -> str:
    """The card of one specialist; what is not known is said to be not known.

    Names and reasons come from the run's own files; line breaks in them are folded, so that none opens a section.
    """
    sections = [
        _head(record),
        _section("What it is", _about(record)),
        _section("What it learned from", _data(record)),
        _section("How it was trained", _training(record)),
        _section("What was measured", _measured(record, live)),
        _section("Who let it be seated", _people(record)),
        _section("Licence", _licence(record)),
        _section("What is not promised", _limits(record)),
    ]
    return "\n".join(sections)


def _head(record: SpecialistRecord) -> str:
    front = [
        "---",
        f"base_model: {_one_line(record.base) or 'unknown'}",
        "library_name: peft",
        f"license: {record.licence.id}",
        "---",
        "",
        f"# {_one_line(record.specialist.name)}",
        "",
        f"A LoRA specialist of generation {record.specialist.generation} of the run "
        f"{_one_line(record.run) or 'unknown'}. It is {record.status}.",
        "",
    ]
    return "\n".join(front)


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {_one_line(line)}" for line in lines), ""])


def _about(record: SpecialistRecord) -> list[str]:
    specialist = record.specialist
    niche = ", ".join(specialist.niche) or "every task type of the run"
    parents = ", ".join(parent[:12] for parent in specialist.parents) or "none: the base model"
    return [
        f"Adapter: {specialist.adapter}",
        f"Base model: {record.base or 'not known'} (weights {record.base_fingerprint[:12] or 'not known'}), "
        f"engine {specialist.engine}, family {specialist.family}",
        f"Bred for: {niche}",
        f"Role: {ROLES[specialist.role]}",
        f"Parents: {parents}",
    ]


def _data(record: SpecialistRecord) -> list[str]:
    checked = "which the manifest has" if record.data_checked else "which no manifest here has"
    lines = [f"{record.num_rows} rows, digest {record.specialist.data_digest[:16]}, {checked}"]
    lines += [f"{file.path}: {file.num_rows} rows, sha256 {file.sha256[:16]}" for file in record.data]
    lines += [
        f"Written by {member}{'' if adapter is None else f' with adapter {adapter[:12]}'}: {count} examples"
        for member, adapter, count in record.teachers
    ]
    graders = ", ".join(record.graders) or "not known"
    lines.append(f"Called right by: {graders}")
    if record.recipe is not None and record.recipe.placebo:
        lines.append("A placebo: its targets were shuffled")
    return lines


def _training(record: SpecialistRecord) -> list[str]:
    recipe = record.recipe
    lines = [f"Recipe: {record.specialist.recipe}"]
    if recipe is not None:
        settings = recipe.training.model_dump(mode="json")
        shown = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
        lines += [f"Mix: {', '.join(recipe.mix)}", f"Settings: {shown}"]
    seeds = ", ".join(f"{name} {seed}" for name, seed in record.seeds.items()) or "not known"
    loss = "not known" if record.last_loss is None else f"{record.last_loss:.4g}"
    return [
        *lines,
        f"Seeds: {seeds}",
        f"Cost: {_cost(record.cost)}",
        f"Cost with all that it descends from: {_cost(record.line_cost)}",
        f"Last loss: {loss}",
        f"Training job: {record.job[:16] or 'not known'}; configuration {record.config_sha256[:16] or 'not known'}",
    ]


def _cost(cost: Cost) -> str:
    return (
        f"{cost.trained_tokens:,} tokens trained in {cost.training_seconds:.0f} seconds, {cost.flops:.3g} FLOPs; "
        f"{cost.engine_seconds:.0f} engine-seconds, its share of the generation that bred it"
    )


def _measured(record: SpecialistRecord, live: LiveRecord | None) -> list[str]:
    gate = record.gate
    lines = ["The run keeps no gate record of it (yet)"]
    if gate is not None:
        p = "not tested" if gate.p is None else f"{gate.p:.3g}"
        file = f"steps/conjunction-generation-{record.specialist.generation - 1}-*.json"
        checked = f"the run keeps it in {file}" if gate.digest_checked else "the run does not keep it"
        lines = [
            f"Gate, arrangement {gate.arrangement}: {gate.wins} problems won and {gate.losses} lost of {gate.n} "
            f"against the seats before; against the hardest of its rivals p = {p}, alpha {gate.alpha:g}",
            f"Decision: {gate.reason}",
            f"Gate record {gate.digest[:16]}: {checked}",
        ]
        if gate.detectable_effect is not None:
            lines.append(f"A gain of {100 * gate.detectable_effect:.0f} points would be found with 80% power")
    # What the outcomes show and what was done about it are two things: demotion may be off.
    lines.append("Live: not measured" if live is None else f"Live: {live.reason}; it is {record.status}")
    return lines


def _people(record: SpecialistRecord) -> list[str]:
    lines = [f"By: {', '.join(record.approved_by)}"]
    for event in record.history:
        when = datetime.fromtimestamp(event.at, UTC).isoformat(sep=" ", timespec="seconds") if event.at else "undated"
        who = "" if event.subject == record.specialist.name else f" {event.subject}"
        lines.append(f"{when}: {event.kind}{who}{f' by {event.by}' if event.by else ''}. {event.reason}".rstrip())
    return lines


def _licence(record: SpecialistRecord) -> list[str]:
    found = f" (from {record.licence.found_in})" if record.licence.found_in else ""
    return [f"Base model: {record.licence.name}{found}", *record.licence.duties, *record.licence_notes]


def _limits(record: SpecialistRecord) -> list[str]:
    compared = "votes" if record.specialist.role == "proposer" else "full councils"
    lines = [
        f"The gate compared {compared} of the whole mesh with and without it; alone it may be better or worse",
        "It was measured on the task types of its run and on no others",
    ]
    if record.num_rows and record.num_rows < 100:
        lines.append(f"{record.num_rows} rows are few: it may have learned form sooner than the task")
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())
