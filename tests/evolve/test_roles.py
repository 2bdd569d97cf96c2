"""Critics and synthesisers: bred from councils, measured in councils, seated beside the adapter that answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evolve.candidate import Candidate
from evolve.commands.lineage import tree_lines
from evolve.config import RunConfig
from evolve.gates.arrangements import alone, widest
from evolve.gates.dev import DevRecord
from evolve.gates.roles import PHASES, WORK, council_rivals, helped, helping, place_of
from evolve.governance.model_card import model_card
from evolve.governance.rosters import generations_of
from evolve.governance.specialists import records_of
from evolve.learning.placebos import Placebos
from evolve.learning.recipes import Recipe
from evolve.lineage import founders
from evolve.loop import Run
from evolve.report.page import render
from evolve.report.tree_plot import tree_plot
from evolve.report.view import Facts, report_of
from evolve.selection.archive import Archive, Elite, Niche
from evolve.selection.select import archived
from evolve.training.config import Role, ScriptedTraining
from mesh.types import Member, Sampling
from serving.scripted_engine import ScriptedEngine
from serving.scripted_prompt import Prompt
from tests.evolve.test_evolution import ENGINES, GYM, config_of, evolved

ADA = Member(name="ada", engine="ada", family="alpha", adapter="own")
BEN = Member(name="ben", engine="ben", family="beta")
SEATS = (ADA, BEN)


def candidate(name: str, role: Role = "critic", engine: str = "ada", *, placebo: bool = False) -> Candidate:
    recipe = Recipe(
        name=name, base=engine, family=engine, mix=("critique",), training=ScriptedTraining(), seed=1, role=role,
        placebo=placebo,
    )  # fmt: skip
    member = Member(name=name, engine=engine, family=engine, adapter=f"adapter of {name}")
    return Candidate(member=member, recipe=recipe, data_digest="d")


def test_a_critic_changes_what_its_seat_does_with_others_answers_and_nothing_else():
    seat = helped(ADA, candidate("c"))
    assert seat.at("propose") == ADA
    assert (seat.at("critique").adapter, seat.at("revise").adapter) == ("adapter of c", "own")
    both = helped(seat, candidate("s", "synthesiser"))
    assert (both.at("critique").adapter, both.at("revise").adapter) == ("adapter of c", "adapter of s")
    assert helped(both, candidate("d")).at("critique").adapter == "adapter of d", "one critic takes another's place"


def test_every_phase_of_a_role_is_one_in_which_its_adapter_is_asked():
    for role, work in WORK.items():
        member = BEN.model_copy(update={"phase_adapters": ((work, "it"),)})
        assert all(member.at(phase).adapter == "it" for phase in PHASES[role])


def test_a_critic_helps_the_first_seat_of_its_engine_that_has_none():
    twin = ADA.model_copy(update={"name": "ada-2"})
    first = helping((ADA, BEN, twin), candidate("c"))
    assert (place_of((ADA, BEN, twin), first), first.candidates, first.endpoint) == (0, ("c",), "council")
    assert place_of(first.seats, helping(first.seats, candidate("d"))) == 2
    assert place_of(SEATS, helping(SEATS, candidate("b", engine="ben"))) == 1


def test_rivals_of_a_critic_take_as_many_seats_and_its_placebo_does_the_same_work():
    form, critic = candidate("c-placebo", placebo=True), candidate("c")
    assert Placebos(candidates=(form,)).twin_of("c") == form
    assert Placebos(candidates=(form,)).twin_of("other") is None
    rivals = council_rivals(SEATS, helping(SEATS, critic), form, BEN)
    assert list(rivals) == ["incumbent", "placebo", "budget"]
    assert rivals["incumbent"] == SEATS
    assert rivals["placebo"] == (helped(ADA, form), BEN)
    assert [seat.engine for seat in rivals["budget"]] == ["ben", "ben"]
    assert "placebo" not in council_rivals(SEATS, helping(SEATS, critic), None, BEN)


def test_who_takes_a_seat_keeps_its_critic():
    critic, new = candidate("c"), Member(name="new", engine="ada", family="alpha", adapter="fresh")
    seats = helping(SEATS, critic).seats
    for one in (alone(seats, new, {"ada": 0, "ben": 1}), widest(seats, [new], {"ada": [0], "ben": [1], "new": [1]})):
        assert one is not None
        assert one.seats[0] == helped(new, critic)
        assert one.candidates == ("new",)


def test_critics_of_a_generation_without_councils_stay_in_the_archive_and_wait() -> None:
    niche = Niche(task_type="sums", base="ada", role="critic")
    elite = Elite(name="c", adapter="x", niche=niche, generation=1, measured=0, bank="b", scores=(1.0,), num_samples=1)
    found = archived(Archive(elites=(elite,)), founders(SEATS[1:]), [], DevRecord(), seed=0)
    assert found.archive.elites == (elite,)
    assert found.stale == ("c",)


def test_elites_of_a_family_without_problems_today_wait_and_are_not_compared() -> None:
    niche = Niche(task_type="sums", base="ada")
    one = Elite(name="", adapter="", niche=niche, generation=1, measured=0, bank="", scores=(1.0,), num_samples=1)
    two, three = (
        one.model_copy(update={"name": str(n), "adapter": str(n), "bank": str(n), "scores": (1.0,) * n}) for n in (2, 3)
    )
    found = archived(Archive(elites=(two, three)), founders(SEATS[1:]), [], DevRecord(), seed=0)
    assert set(found.archive.elites) == {two, three}
    assert found.stale == ("2", "3")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"gate": {"councils_per_type": 0}}, "gate.councils_per_type"),
        ({"harvest": {"councils_per_type": 0}}, "harvest.councils_per_type"),
        ({"deliberation": {"critique": False}}, "deliberation.critique"),
    ],
)
def test_roles_that_could_not_be_measured_at_their_work_are_refused_at_once(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(ValidationError, match=key):
        config_of(tmp_path, **({"recipes": {"roles": ["critic"]}, "gate": {"councils_per_type": 4}} | changes))


def test_roles_with_councils_are_taken(tmp_path: Path) -> None:
    roles = {"recipes": {"roles": ["proposer", "critic"]}, "gate": {"councils_per_type": 4}}
    assert config_of(tmp_path, **roles).recipes.roles == ("proposer", "critic")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Members that solve little alone, whose critics name the right answer nearly always."""
    family = {"name": "chain_sum", "settings": {"min_terms": 2, "max_terms": 3, "min_digits": 2, "max_digits": 3}}
    return config_of(
        tmp_path_factory.mktemp("roles"),
        serving={"in_process": True, "engines": [one | {"skill": 0.1, "adapter_gain": 0.9} for one in ENGINES]},
        problems=GYM
        | {
            "items_per_family": {"train": 30, "dev": 60, "gate": 48, "audit": 20},
            "families": [family | {"answer_kind": "number"}],
        },
        harvest={"problems_per_type": 30, "samples_per_member": 1, "councils_per_type": 30},
        recipes={"own": False, "roles": ["critic"], "min_rows": 1, "placebo": True},
        gate={"required": ["placebo"], "aa_every": 1, "councils_per_type": 48},
        evaluation={"audit_councils_per_type": 10, "emergence_tasks": 2, "emergence_samples": 4},
    )


@pytest.fixture(scope="module")
def run(config: RunConfig) -> Iterator[Run]:
    return evolved(config)


def seated_critic(run: Run) -> Candidate:
    first = run.rounds[0]
    assert first.selection.chosen is not None
    return next(c for c in first.brood.candidates if c.member.name == first.selection.chosen.name)


def test_a_good_critic_is_promoted_for_what_councils_come_to_with_it(run: Run) -> None:
    critic, selection = seated_critic(run), run.rounds[0].selection
    assert critic.recipe.role == "critic"
    assert selection.conjunction is not None
    passed = next(one for one in selection.conjunction.results if one.name == critic.member.name)
    assert (passed.endpoint, passed.passed, passed.versus[0].test.n) == ("council", True, 48)
    assert {versus.kind for versus in passed.versus} == {"incumbent", "placebo"}
    assert passed.reason.startswith("passed: in full councils")
    assert selection.remeasured is not None
    assert selection.remeasured.fresh.gain > 0


def test_its_seat_proposes_as_before_and_objects_with_its_adapter(run: Run) -> None:
    before, after = run.rounds[0].generation.seats, run.rounds[1].generation.seats
    critic = seated_critic(run)
    assert [seat.at("propose") for seat in after] == [seat.at("propose") for seat in before]
    [seat] = [seat for seat in after if seat.phase_adapters]
    assert (seat.engine, seat.at("critique").adapter) == (critic.member.engine, critic.member.adapter)
    said = [
        (exchange.phase, completion.adapter)
        for council in run.rounds[1].harvest.councils
        for exchange in council.exchanges
        if exchange.member == seat.name
        for completion in exchange.completions
    ]
    assert {adapter for phase, adapter in said if phase == "critique"} == {critic.member.adapter}
    assert {adapter for phase, adapter in said if phase != "critique"} == {None}


def test_placebo_critics_and_the_incumbents_anew_ride_along_in_councils_and_are_never_seated(run: Run) -> None:
    record = run.rounds[0].selection.conjunction
    assert record is not None
    controls = [one for one in record.results if one.endpoint == "council" and one.kind != "candidate"]
    assert [one.kind for one in controls] == ["aa", "placebo", "placebo"]
    assert not any(one.passed for one in controls)
    placebos = {c.member.adapter for one in run.rounds for c in one.selection.placebos.candidates}
    assert placebos
    assert not placebos & {adapter for seat in run.last.seats for adapter in seat.adapters}


def test_rows_of_a_critic_are_prompts_that_the_mesh_sent_in_that_phase(run: Run) -> None:
    first = run.rounds[0]
    sent = {
        exchange.messages
        for council in first.harvest.councils
        for exchange in council.exchanges
        if exchange.phase == "critique"
    }
    rows = [row for name, chosen in first.brood.selections.items() if "placebo" not in name for row in chosen.rows]
    assert rows
    assert all(row.messages in sent for row in rows)


def test_a_critic_stands_in_a_niche_of_its_own_and_is_measured_again_where_it_sits(run: Run) -> None:
    critic = seated_critic(run)
    for one in run.rounds:
        [elite] = [e for e in one.selection.archive.archive.elites if e.name == critic.member.name]
        assert elite.niche.role == "critic"
        assert elite.adapter == critic.member.adapter
        assert one.selection.dev.trials is not None
    trials = run.rounds[1].selection.dev.trials
    assert trials is not None
    assert elite.scores == tuple(map(float, trials.incumbents))


def test_first_proposals_of_a_seat_with_a_critic_are_drawn_once_for_the_audit(run: Run) -> None:
    first, last = run.audit.scores.rosters[0], run.audit.scores.rosters[-1]
    assert first.members != last.members
    assert first.vote == last.vote
    assert first.council != last.council


def test_the_lineage_its_card_and_the_report_say_what_a_specialist_does(config: RunConfig, run: Run) -> None:
    generations = generations_of(config.run_dir)
    [record] = records_of(config.run_dir, generations)
    critic = seated_critic(run)
    assert record.specialist.role == "critic"
    assert record.recipe == critic.recipe
    assert record.gate is not None
    assert record.gate.digest_checked
    lines = tree_lines(generations, (record,))
    assert any(f"{critic.member.name} [" in line and ", critic" in line for line in lines)
    assert any(f"with critique [{record.specialist.adapter[:8]}]" in line for line in lines)
    assert "critic: its seat's objections" in model_card(record)
    data = report_of(config, run, Facts.model_validate(FACTS), (), None, None)
    assert [one.role for one in data.specialists] == ["critic"]
    assert any(seat.helpers == (("critique", record.specialist.adapter),) for seat in data.generations[-1].seats)
    assert "critic, seated since 1" in tree_plot(data.generations, data.specialists)
    assert f"critique by <code>{record.specialist.adapter[:12]}" in render(data)


FACTS = {"started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:01:00Z", "machine": "m", "versions": []}


def test_a_critic_that_writes_nonsense_is_stopped_by_what_it_says_as_a_critic(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = ScriptedEngine._says

    def loops(self: ScriptedEngine, member: Member, prompt: Prompt, sampling: Sampling, sample: int) -> str:
        said = says(self, member, prompt, sampling, sample)
        return said + " and then" * 9 if prompt.wants == "critique" and member.adapter else said

    monkeypatch.setattr(ScriptedEngine, "_says", loops)
    found = evolved(config.model_copy(update={"run_dir": tmp_path / "run", "num_generations": 1}))
    stopped = found.rounds[0].selection.dev.stopped
    assert set(stopped) == {"g1-ada-critic", "g1-ben-critic"}
    assert all(reason.startswith("stopped for what it writes in councils: ") for reason in stopped.values())
    assert all("end in a loop" in reason for reason in stopped.values())


def test_a_critic_that_helps_nobody_is_not_promoted(tmp_path: Path, config: RunConfig) -> None:
    engines = [one.model_copy(update={"adapter_gain": 0.0}) for one in config.serving.engines]
    serving = config.serving.model_copy(update={"engines": tuple(engines)})
    useless = config.model_copy(update={"run_dir": tmp_path / "run", "serving": serving, "num_generations": 1})
    found = evolved(useless)
    assert [one.gain for one in found.rounds[0].selection.dev.scores] == [0.0, 0.0]
    assert found.rounds[0].selection.reason.endswith("no arrangement did better than the incumbents on DEV")
    assert found.last.seats == found.rounds[0].generation.seats
