from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evolve.audit.audit import AuditScores
from evolve.audit.audited import SINCE_THEN, AuditedRoster, AuditItems, better_than_best_single
from evolve.progress import Silent
from evolve.report.answer import rival_sentences
from evolve.report.finished import read_report
from evolve.studies.experiment import ArmAudit, Sitting, SittingOver, hold_experiment, leave_results, rosters_of
from evolve.studies.experiment_results import ExperimentResults, markdown, results_of
from evolve.studies.rival_methods import ArmName, ArmStep, Effort, RivalArm, Spent, frozen_arm
from mesh.types import Member
from tests.evolve.test_plan import config

ADA = Member(name="ada", engine="ada", family="alpha")
BEN = Member(name="ben", engine="ben", family="beta")
N = 100


def roster(name: str, right: int, members: tuple[Member, ...] = (ADA, BEN)) -> AuditedRoster:
    scores = {f"t{n}": float(n < right) for n in range(N)}
    return AuditedRoster(
        name=name,
        members=members,
        samples_each=2,
        ballots=4,
        alone={member.name: scores for member in members},
        vote=scores,
        single_name=members[0].name,
        single=scores,
        consistency_name=members[0].name,
        consistency=scores,
        output_tokens=20.0,
    )


def scores(*rights: int) -> AuditScores:
    items = AuditItems(types={f"t{n}": "sums" for n in range(N)}, clusters={f"t{n}": f"c{n}" for n in range(N)})
    rosters = tuple(roster(f"generation {number}", right) for number, right in enumerate(rights))
    return AuditScores(items=items, constant={}, rosters=rosters, tuned=())


def arm(name: ArmName, *rights: int) -> ArmAudit:
    steps = tuple(ArmStep(number=n, members=(ADA,), effort=Effort(tokens=50)) for n in range(len(rights) + 1))
    made = RivalArm(name=name, num_seats=2, steps=steps)
    found = tuple(roster(f"{name} generation {n}", right, (ADA,)) for n, right in enumerate(rights, start=1))
    return ArmAudit(arm=made, rosters=found)


SPENT = [Spent(generation=n, by_engine={"ada": Effort(steps=1, tokens=100)}) for n in range(2)]


def test_a_seat_that_audit_would_have_chosen_before_dev_s_best_single_is_named() -> None:
    even = roster("generation 1", 50)
    assert better_than_best_single(even) == ""
    better = even.model_copy(update={"alone": even.alone | {"ben": roster("other", 60).alone["ben"]}})
    assert better_than_best_single(better) == (
        "The best single seat of generation 1 was chosen on DEV: ada, 50.0% right on AUDIT. ben alone is right on "
        "60.0% there, so that the mesh beside the best single seat looks better than it is."
    )
    assert better_than_best_single(better, SINCE_THEN).endswith(
        "so that what the best single seat gained since looks larger than it is."
    )


def test_the_mesh_is_held_against_its_beginning_and_against_every_arm() -> None:
    frozen = ArmAudit(arm=frozen_arm([ADA, BEN], 2), rosters=())
    found = results_of(scores(40, 55, 70), [frozen, arm("rft", 60, 50), arm("naive", 45, 30)], SPENT, seed=1)
    assert found.mesh is not None
    assert (found.mesh.gain.before, found.mesh.gain.after) == (0.4, 0.7)
    assert found.mesh.gain.relative == pytest.approx(0.75)
    before = [(one.before.split(" ")[0], one.gain.before) for one in found.against]
    assert before == [("generation", 0.4), ("rft", 0.5), ("naive", 0.3)]
    assert [one.gain.before for one in found.against_best] == [0.4, 0.6, 0.45]
    on_the_way = [(one.before, one.after, one.gain.before, one.gain.after) for one in found.on_the_way]
    assert [(before.split(" (")[0], *rest) for before, *rest in on_the_way] == [
        ("rft generation 1", "generation 1", 0.6, 0.55),
        ("naive generation 1", "generation 1", 0.45, 0.55),
    ]
    tokens = {(point.arm, point.generation): point.effort.tokens for point in found.points}
    assert (tokens["mesh", 2], tokens["rft", 2], tokens["frozen", 2]) == (200, 100, 0)


def test_votes_weighed_on_dev_are_held_against_an_arm_s_weighed_ones_and_nothing_is_made_up_for_an_older_run() -> None:
    def weighed(one: AuditedRoster, right: int) -> AuditedRoster:
        return one.model_copy(update={"weighted": roster("other", right).vote})

    mesh, rival = scores(40, 70), arm("rft", 50)
    assert results_of(mesh, [rival], SPENT[:1], seed=1).weighted_against == ()
    mesh = mesh.model_copy(update={"rosters": tuple(weighed(one, 80) for one in mesh.rosters)})
    rival = rival.model_copy(update={"rosters": tuple(weighed(one, 30) for one in rival.rosters)})
    found = results_of(mesh, [rival], SPENT[:1], seed=1)
    assert [(one.gain.before, one.gain.after) for one in found.weighted_against] == [(0.3, 0.8)]
    assert [(one.gain.before, one.gain.after) for one in found.against] == [(0.5, 0.7)]
    assert "- Both weighed on DEV, from rft generation 1" in markdown(found)


def test_the_best_seat_of_the_mesh_is_held_against_the_arm_s_by_the_vote_of_each_with_itself() -> None:
    mesh, rival = scores(40, 70), arm("rft", 50)
    last = mesh.rosters[-1].model_copy(update={"consistency": roster("other", 90).vote})
    mesh = mesh.model_copy(update={"rosters": (mesh.rosters[0], last)})
    found = results_of(mesh, [rival], SPENT[:1], seed=1)
    assert [(one.gain.before, one.gain.after) for one in found.singles_against] == [(0.5, 0.9)]
    assert "- Best seat by DEV, its self-consistency, from rft generation 1" in markdown(found)


def test_each_seat_is_held_against_the_arm_s_member_of_its_own_base_asked_alone() -> None:
    mesh, rival = scores(40, 70), arm("rft", 50)
    last = mesh.rosters[-1].model_copy(
        update={"alone": {"ada": roster("other", 80).vote, "ben": roster("other", 90).vote}}
    )
    mesh = mesh.model_copy(update={"rosters": (mesh.rosters[0], last)})
    found = results_of(mesh, [rival], SPENT[:1], seed=1)
    seats = [(one.before, one.after, one.gain.before, one.gain.after) for one in found.seats_against]
    assert seats == [("rft generation 1: ada", "ada", 0.5, 0.8)]
    assert "- Asked alone, from rft generation 1: ada to ada of the last mesh: 50.0% to 80.0%" in markdown(found)


def test_the_lead_over_every_arm_is_told_type_by_type() -> None:
    mesh = scores(40, 70)
    kinds = {task_id: "sums" if n < 50 else "words" for n, task_id in enumerate(mesh.items.types)}
    mesh = mesh.model_copy(update={"items": mesh.items.model_copy(update={"types": kinds})})
    found = results_of(mesh, [arm("rft", 50), arm("naive", 30)], SPENT[:1], seed=1)
    lead = {(one.task_type, one.before.split(" ")[0]): one.gain.difference for one in found.types_against}
    expected = {("sums", "rft"): 0.0, ("sums", "naive"): 0.4, ("words", "rft"): 0.4, ("words", "naive"): 0.4}
    assert lead == pytest.approx(expected)
    rows = markdown(found).rpartition("\n\n")[2].splitlines()
    assert rows[0] == "| the last mesh's vote, points against | rft generation 1 | naive generation 1 |"
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| sums", "| words"]
    assert "+40.0 [" in rows[3]


def test_what_is_not_shown_is_said_to_be_not_shown_with_what_could_have_been() -> None:
    text = markdown(results_of(scores(50, 51), [arm("rft", 50)], SPENT[:1], seed=1))
    assert "no difference is shown (the least that so many problems show" in text
    assert "| mesh | 1 | 51.0% |" in text
    assert "shown to be better" not in text


def test_figures_of_simulated_engines_say_so_before_they_say_anything_else() -> None:
    for simulated in (True, False):
        text = markdown(results_of(scores(50, 51), [], SPENT[:1], seed=1, is_simulated=simulated))
        first = text.split("\n\n")[1].splitlines()[0]
        assert first.startswith("- Every engine is simulated" if simulated else "- 100 AUDIT problems")


def test_an_arm_is_audited_in_every_generation_that_learned_with_as_many_votes_as_the_mesh() -> None:
    asks = rosters_of(arm("rft", 1, 1).arm, 2)
    assert [(ask.name, ask.ballots, ask.samples_each) for ask in asks] == [
        ("rft generation 1", 4, 4),
        ("rft generation 2", 4, 4),
    ]
    assert rosters_of(frozen_arm([ADA, BEN], 2), 2) == []


def test_a_sitting_ends_at_the_first_step_after_its_time() -> None:
    now = [0.0]
    sitting = Sitting(2.0, clock=lambda: now[0])
    sitting("a step in time")
    now[0] = 120.0
    with pytest.raises(SittingOver, match="after the next"):
        sitting("the next")
    Sitting(None)("never over")


def test_an_experiment_in_many_sittings_ends_like_one_in_a_single_sitting(tmp_path: Path) -> None:
    def hold(run_dir: str, steps: int | None) -> object:
        """One sitting of so many durable steps; None: it is not over."""
        left = [steps]

        def clock() -> float:
            if left[0] is None:
                return 0.0
            left[0] -= 1
            return 0.0 if left[0] >= 0 else 1e9

        one = config(tmp_path, run_dir=str(tmp_path / run_dir), num_generations=1)
        sitting = Sitting(1.0, clock=clock)
        try:
            return asyncio.run(hold_experiment(one, ("frozen", "rft", "naive"), Silent(), sitting))
        except* SittingOver:
            pass
        return None

    whole = hold("whole", None)
    sittings = 0
    while (found := hold("parts", 150)) is None:
        sittings += 1
        assert sittings < 60
    assert sittings > 1
    assert found == whole
    assert isinstance(found, ExperimentResults)
    for _ in range(2):
        leave_results(tmp_path / "parts", found)
    data = read_report(tmp_path / "parts")
    assert data is not None
    arms = {one.method: one.points[-1].mean for one in data.evolution.curves if one.kind == "arm"}
    last = {point.arm: point.vote.mean for point in found.points}
    assert arms == {"arm rft": last["rft"], "arm naive": last["naive"]}
    told = [sentence for sentence in rival_sentences(data) if "(the best single model, trained on" in sentence]
    assert len(told) == 1, "once, however often the results are left"
    assert "every answer learned from unverified" in (tmp_path / "parts" / "report.html").read_text()
