from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evolve.cli import app
from evolve.evaluate import Judgements
from evolve.gates.conjunction import Contest, Rival, hold
from evolve.governance.approvals import ApprovalDesk
from evolve.governance.audit_log import AuditEvent, AuditLog
from evolve.governance.governance import Proposed
from evolve.governance.licences import Licence, licence_in, licence_of, teaching_note
from evolve.governance.model_card import model_card
from evolve.governance.specialists import records_of
from evolve.learning.accumulate import AccumulationConfig, SetRow, accumulate, set_rows
from evolve.learning.breed import Candidate
from evolve.learning.curate import Drop, Example
from evolve.learning.dataset_card import dataset_card
from evolve.learning.manifests import Manifest, publish_manifests
from evolve.learning.recipes import Recipe
from evolve.lineage import Lineage, Specialist, founders, successor
from evolve.training.config import ScriptedTraining
from evolve.training.job import TrainingReport
from memory.ledger import Ledger, publish_json
from memory.types import Evidence, content_hash
from mesh.reviews import ReviewDesk
from mesh.types import Member, Outcome, Question
from serving.config import ScriptedSpec
from tests.evolve.quick_run import quick_config, ran

BASES = [Member(name=name, engine=name, family=f"{name}-family") for name in ("ada", "ben")]
ADAPTER, CHILD = "a" * 64, "c" * 64


def example(n: int, family: str = "ada-family", member: str = "ada", adapter: str | None = None) -> Example:
    return Example(
        task_id=f"t{n}", task_type="sums", member=member, family=family, adapter=adapter, source="own_correct",
        messages=(), completion=f"{n} + 1 = {n + 1}",
    )  # fmt: skip


def candidate(
    name: str, adapter: str, mix: tuple[Any, ...] = ("own_correct", "revision"), generation: int = 0
) -> Candidate:
    recipe = Recipe(name=name, base="ada", family="ada-family", mix=mix, training=ScriptedTraining(), seed=7)
    member = Member(name=name, engine="ada", family="ada-family", adapter=adapter)
    return Candidate(member=member, recipe=recipe, data_digest="d" * 64, generation=generation)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two generations as it lies on the disk: g1-ada-own was seated, then its child."""
    steps = tmp_path / "steps"
    rivals = (Rival(kind="incumbent", name="ada", right=(False,) * 9),)
    contest = Contest(name="g1-ada-own", right=(True,) * 9, rivals=rivals, task_types=("sums",) * 9)
    held = hold([contest], 0.05, seed=0)
    publish_json(steps / "conjunction-generation-0-1.json", held)
    gate = held.gate_record()
    for number, (name, adapter) in enumerate((("g1-ada-own", ADAPTER), ("g2-ada-cross", CHILD))):
        mix = ("own_correct", "revision", "cross_family") if number else ("own_correct", "revision")
        report = TrainingReport(
            job="j" * 64, recipe=name, base_name="ada", status="ok", losses=(2.0, 0.5), num_rows=40, flops=3e9,
            trained_tokens=4000, seconds=12.0,
        )  # fmt: skip
        made = {"candidates": [candidate(name, adapter, mix, number).model_dump(mode="json")], "refused": {}}
        publish_json(steps / f"admit-generation-{number}-1.json", made)
        publish_json(steps / f"train-generation-{number}-1.json", {"reports": [report.model_dump(mode="json")]})
        directory = tmp_path / f"generation-{number}"
        directory.mkdir()
        rows = [example(1), example(2), example(3, "ben-family", "ben")]
        (directory / "examples.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
        evidence = Evidence(verifier="numeric", verdict="passed", digest="0" * 64)
        outcome = Outcome(task_id="t1", task_type="sums", answer="2", correct=True, evidence=evidence)
        publish_json(steps / f"judge-generation-{number}-harvest-1.json", Judgements(outcomes=(outcome,)))
    first = founders(BASES)
    lineage = Lineage(tmp_path / "generations.jsonl")
    lineage.append(first)
    own = specialist("g1-ada-own", ADAPTER, 1, content_hash(gate))
    second = successor(first, [own_seat("g1-ada-own", ADAPTER), BASES[1]], [own])
    lineage.append(second)
    child = specialist("g2-ada-cross", CHILD, 2, "9" * 64, (ADAPTER,))
    lineage.append(successor(second, [own_seat("g2-ada-cross", CHILD), BASES[1]], [child]))
    log = AuditLog(tmp_path)
    log.add([AuditEvent(kind="promoted", subject="g1-ada-own", generation=0, adapter=ADAPTER, by="kim", at=60.0)])
    return tmp_path


def own_seat(name: str, adapter: str) -> Member:
    return Member(name=name, engine="ada", family="ada-family", adapter=adapter)


def specialist(name: str, adapter: str, number: int, gate: str, parents: tuple[str, ...] = ()) -> Specialist:
    return Specialist(
        name=name, engine="ada", family="ada-family", adapter=adapter, parents=parents, generation=number, recipe=name,
        data_digest="d" * 64, gate_digest=gate,
    )  # fmt: skip


def evomesh(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_one_record_says_which_data_parents_graders_gate_and_people_made_a_specialist(run: Path) -> None:
    first, child = records_of(run, Lineage(run / "generations.jsonl").generations())
    assert first.gate is not None
    assert (first.gate.wins, first.gate.n, first.gate.digest_checked) == (9, 9, True)
    assert (first.approved_by, first.graders, first.num_rows, first.cost.flops) == (("kim",), ("numeric",), 40, 3e9)
    assert (first.seeds, first.last_loss, first.status) == ({"recipe": 7}, 0.5, "provisional")
    assert first.teachers == (("ada", None, 2),)  # its mix takes no other family's texts
    assert first.data[0].path == "generation-0/examples.jsonl"
    assert first.data[0].num_rows == 3
    assert child.specialist.parents == (ADAPTER,)
    assert child.teachers == (("ada", None, 2), ("ben", None, 1))
    assert child.licence_notes == ("it learned from texts of ben-family, whose licence is unknown",)
    assert (child.gate, child.approved_by) == (None, ("gate",))


def test_a_manifest_says_what_was_learned_from_and_whether_they_are_the_named_ones(run: Path) -> None:
    rows = tuple(SetRow(example=example(n), generation=0, key=f"k{n}") for n in (1, 2))
    manifest = Manifest(rows=rows)
    publish_manifests(run / "generation-0", {"g1-ada-own": manifest})
    lineage = run / "generations.jsonl"
    named = Lineage(lineage).generations()
    first, child = records_of(run, named)
    assert [(file.path, file.num_rows) for file in first.data] == [
        ("generation-0/manifests/g1-ada-own.jsonl", 2),
        ("generation-0/examples.jsonl", 3),
    ]
    assert (first.teachers, first.data_checked, child.data_checked) == ((("ada", None, 2),), False, False)
    assert "which no manifest here has" in model_card(first)
    own = named[1].specialists[0].model_copy(update={"data_digest": manifest.digest})
    first, _ = records_of(run, [named[0], named[1].model_copy(update={"specialists": (own,)}), named[2]])
    assert first.data_checked
    assert "which the manifest has" in model_card(first)


def test_an_elite_that_is_seated_later_has_the_recipe_and_data_of_the_generation_that_bred_it(run: Path) -> None:
    elite, name = "e" * 64, "g1-ada-distil"
    made = {"candidates": [candidate(name, elite, ("cross_family",)).model_dump(mode="json")], "refused": {}}
    publish_json(run / "steps" / "admit-generation-0-2.json", made)
    report = TrainingReport(job="e" * 64, recipe=name, base_name="ada", status="ok", num_rows=7, flops=2e9)
    publish_json(run / "steps" / "train-generation-0-2.json", {"reports": [report.model_dump(mode="json")]})
    lineage = Lineage(run / "generations.jsonl")
    last = lineage.generations()[-1]
    # A gate of generation 2 seats it, for generation 3.
    seated = specialist(name, elite, 3, "9" * 64)
    lineage.append(successor(last, [own_seat(name, elite), BASES[1]], [seated]))
    *_, found = records_of(run, lineage.generations())
    assert found.recipe is not None
    assert (found.recipe.mix, found.num_rows, found.job) == (("cross_family",), 7, "e" * 64)
    assert [file.path for file in found.data] == ["generation-0/examples.jsonl"]
    assert found.teachers == (("ben", None, 1),)


def test_the_engines_time_of_a_generation_is_shared_among_its_candidates(run: Path) -> None:
    other = candidate("g1-ada-cross", "f" * 64)
    form = candidate("g1-ada-placebo", "0" * 64)
    form = form.model_copy(update={"recipe": form.recipe.model_copy(update={"placebo": True})})
    made = {"candidates": [one.model_dump(mode="json") for one in (other, form)], "refused": {}}
    publish_json(run / "steps" / "admit-generation-0-2.json", made)
    times = Ledger(run / "times.jsonl")
    for stage, engine_seconds in (("generation 0 proposals", 60.0), ("generation 0 gate", 20.0), ("audit", 900.0)):
        times.append("stage", {"stage": stage, "seconds": 1.0, "engine_seconds": engine_seconds})
    first, child = records_of(run, Lineage(run / "generations.jsonl").generations())
    assert (first.cost.engine_seconds, child.cost.engine_seconds) == (40.0, 0.0)


def test_a_specialist_took_what_it_descends_from_took_each_once(run: Path) -> None:
    merged, name = "e" * 64, "g3-ada-merge"
    made = candidate(name, merged, (), 2).model_copy(update={"parents": (ADAPTER, CHILD)})
    publish_json(
        run / "steps" / "admit-generation-2-1.json", {"candidates": [made.model_dump(mode="json")], "refused": {}}
    )
    path = next((run / "steps").glob("admit-generation-1-*.json"))
    path.write_text(path.read_text().replace('"parents": []', f'"parents": ["{ADAPTER}"]'))
    lineage = Lineage(run / "generations.jsonl")
    seated = specialist(name, merged, 3, "9" * 64, (ADAPTER, CHILD))
    lineage.append(successor(lineage.generations()[-1], [own_seat(name, merged), BASES[1]], [seated]))
    first, child, last = records_of(run, lineage.generations())
    assert (first.line_cost, child.cost.flops, child.line_cost.flops) == (first.cost, 3e9, 6e9)
    assert (last.cost.flops, last.line_cost.flops, last.line_cost.trained_tokens) == (0.0, 6e9, 8000)
    assert "Cost with all that it descends from: 8,000 tokens trained in 24 seconds, 6e+09 FLOPs" in model_card(last)


def test_a_gate_record_that_is_not_the_named_one_is_not_taken_for_it(run: Path) -> None:
    path = run / "steps" / "conjunction-generation-0-1.json"
    path.write_text(path.read_text().replace('"alpha": 0.05', '"alpha": 0.1'))
    first, _ = records_of(run, Lineage(run / "generations.jsonl").generations())
    assert first.gate is not None
    assert not first.gate.digest_checked


def test_live_outcomes_change_what_a_specialist_is_called(run: Path) -> None:
    AuditLog(run).add([AuditEvent(kind="demoted", subject="g1-ada-own", generation=1, adapter=ADAPTER)])
    first, _ = records_of(run, Lineage(run / "generations.jsonl").generations())
    assert first.status == "demoted"


def test_the_tree_shows_what_descends_from_what(run: Path) -> None:
    done = evomesh("lineage", run)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "ada (base model)"
    assert lines[1].startswith("└─ g1-ada-own [aaaaaaaa] generation 1, 40 rows, gate 9:0 of 9, provisional")
    assert lines[2].startswith("   └─ g2-ada-cross [cccccccc] generation 2, 40 rows, gate not kept")
    assert lines[3] == "ben (base model)"
    assert lines[-1] == "generation 2: g2-ada-cross [cccccccc], ben"
    data = json.loads(evomesh("lineage", run, "--json").stdout)
    assert [one["specialist"]["name"] for one in data["specialists"]] == ["g1-ada-own", "g2-ada-cross"]


def test_a_specialists_card_is_written_and_an_unknown_one_is_told(run: Path) -> None:
    path = run / "card.md"
    assert evomesh("lineage", run, "aaaa", "--card", path).exit_code == 0
    text = path.read_text()
    for words in ("# g1-ada-own", "9 problems won and 0 lost of 9", "By: kim", "Called right by: numeric",
                  "find out before you pass an adapter on"):  # fmt: skip
        assert words in text
    missing = evomesh("lineage", run, "zz")
    assert missing.exit_code == 2
    assert "g1-ada-own [aaaaaaaa]" in missing.stderr
    assert json.loads(evomesh("lineage", run, "g2-ada-cross", "--json").stdout)["status"] == "provisional"


def test_a_name_cannot_open_a_section_of_the_card(run: Path) -> None:
    first, _ = records_of(run, Lineage(run / "generations.jsonl").generations())
    sly = first.model_copy(update={"approved_by": ("kim\n## What was measured\n- all well",)})
    assert model_card(sly).count("\n## What was measured") == 1


def test_people_decide_by_command(run: Path) -> None:
    assert evomesh("veto", run, "--by", "kim").exit_code == 2
    proposed = Proposed(run="r", generation=1, arrangement="g2", adapters=(CHILD,), gate="g")
    ApprovalDesk(run).file(proposed, 5.0)
    waiting = f"proposal {proposed.id}, bred in generation 1: g2: nobody has said anything"
    assert waiting in evomesh("lineage", run).stdout
    done = evomesh("approve", run, "--by", "kim", "--content", proposed.id, "--note", "looks right", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["verdict"] == "approved"
    assert [(one.by, one.note) for one in ApprovalDesk(run).decisions()] == [("kim", "looks right")]
    assert "EM-APPROVAL" in evomesh("approve", run, "ffff", "--by", "kim").stderr
    (told,) = json.loads(evomesh("lineage", run, "--json").stdout)["proposals"]
    assert (told["id"], told["said"]) == (proposed.id, {"kim": "approved"})


def test_the_logs_of_a_run_are_checked_by_command(run: Path) -> None:
    found = json.loads(evomesh("audit", "verify", run, "--json").stdout)
    assert found["generations.jsonl"]["num_entries"] == 3
    assert {name for name, told in found.items() if told} == {"audit.jsonl", "generations.jsonl", "adapters"}
    assert set(found["adapters"].values()) == {False}, "this lineage has adapters that nobody trained"
    assert "audit.jsonl is intact: 1 entries, head " in evomesh("audit", "verify", run).stdout
    log = run / "audit.jsonl"
    log.write_text(log.read_text().replace("kim", "lee"))
    changed = evomesh("audit", "verify", run)
    assert changed.exit_code != 0
    assert "EM-LEDGER" in changed.stderr


def test_of_a_run_under_way_the_logs_that_are_there_are_checked_and_the_others_named(run: Path) -> None:
    (run / "audit.jsonl").unlink()
    (run / "journal.jsonl").touch()  # begun, and nothing is accepted yet
    found = evomesh("audit", "verify", run)
    assert found.exit_code == 0, found.stderr
    assert "generations.jsonl is intact: 3 entries, head " in found.stdout
    assert "journal.jsonl is intact: 0 entries, head 0000" in found.stdout
    assert "audit.jsonl is not there: it begins with the first decision about a specialist" in found.stdout
    told = json.loads(evomesh("audit", "verify", run, "--json").stdout)
    assert (told["audit.jsonl"], told["journal.jsonl"]["num_entries"]) == (None, 0)
    log = run / "generations.jsonl"
    log.write_text(log.read_text().replace('"ada"', '"eve"'))
    assert "EM-LEDGER" in evomesh("audit", "verify", run).stderr


def test_what_people_were_asked_about_a_run_is_checked_with_it(run: Path) -> None:
    ReviewDesk(run / "reviews").put(
        Question(deliberation="d", task_id="t", reason="a tie", question="?", choices=("7",))
    )
    assert "reviews/reviews.jsonl is intact: 1 entries" in evomesh("audit", "verify", run).stdout


def test_a_run_that_has_just_begun_is_no_batch_without_questions(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    found = evomesh("audit", "verify", tmp_path)
    assert found.exit_code == 0, found.stderr
    assert found.stdout.count("is not there") == 5


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("LICENSE", "Apache License\nVersion 2.0, January 2004", "apache-2.0"),
        ("NOTICE-GEMMA_TERMS.html", "<h1>Gemma <b>Terms</b> of Use</h1>", "gemma"),
        ("README.md", "---\nlicense: mit\n---\n# Model", "mit"),
        ("README.md", "---\nlicense: other\nlicense_name: house-rules\n---\n", "house-rules"),
        ("README.md", "# Apache License, they say", "unknown"),
        ("weights.txt", "Apache License", "unknown"),
    ],
)
def test_a_licence_is_read_from_the_files_that_travel_with_the_weights(
    tmp_path: Path, name: str, text: str, found: str
) -> None:
    (tmp_path / name).write_text(text)
    assert licence_in(tmp_path).id == found


def test_a_model_that_is_not_here_has_no_known_licence(tmp_path: Path) -> None:
    assert not licence_of(ScriptedSpec(name="x", family="f"), tmp_path).is_known
    terms = {"llama": Licence(id="llama", name="Llama Community License")}
    assert teaching_note(Licence(id="mit", name="MIT"), terms) == (
        "it learned from texts of llama, whose terms (Llama Community License) may bind what they teach",
    )


def test_a_dataset_card_counts_what_is_used_and_says_why_the_rest_is_not() -> None:
    keys = {f"t{n}": f"k{n}" for n in range(9)}
    rows = set_rows([example(n) for n in range(4)], 0, keys)
    fresh = set_rows([example(n, adapter="x" * 64) for n in range(3, 9)], 1, keys)
    found = accumulate(rows, fresh, AccumulationConfig(max_rows=6), held_out=("k0",), seed=0)
    drop = Drop(task_id="t", task_type="sums", member="ada", family="f", reason="wrong", text="8")
    card = dataset_card("g2 | set", found, drops=[drop, drop], num_held_out=1)
    assert (card.num_all, card.num_used, card.num_problems) == (10, 6, 6)
    assert dict(card.not_used) == {"contaminated": 1, "duplicate": 1, "max_rows": 2}
    assert dict(card.not_kept) == {"wrong": 2}
    assert card.anchor_share == pytest.approx(1 / 3)
    assert "| wrong | 2 |" in card.text
    assert "shares a problem with 1 held-out" in card.text
    assert card.text.startswith("# Training set g2 | set")


def test_an_adapter_that_was_changed_since_it_was_admitted_is_found_by_the_check_of_a_run(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    ran(config)
    told = json.loads(evomesh("audit", "verify", config.run_dir, "--json").stdout)["adapters"]
    assert set(told.values()) == {True}
    adapter = next(iter(told))
    assert (
        f"{len(told)} adapters of specialists that sit or sat are there"
        in evomesh("audit", "verify", config.run_dir).stdout
    )
    weights = config.run_dir / "adapters" / adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    changed = evomesh("audit", "verify", config.run_dir)
    assert changed.exit_code != 0
    assert adapter[:12] in changed.stderr
