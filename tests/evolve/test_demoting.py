from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evolve.cli import app
from evolve.config import ConfigError, RunConfig, dump_config
from evolve.governance.audit_log import AuditLog
from evolve.governance.claims import Claims
from evolve.governance.config import DemotionConfig
from evolve.governance.demoting import LiveAnswer, Weighed, runs_of, standing_of, weigh, weighed_lines, without
from evolve.governance.rosters import Target, roster_of
from evolve.lineage import Generation, Lineage, Specialist, founders, successor
from memory.ledger import publish_json
from memory.types import Evidence
from mesh.reliability import AnswerCount, Reliability
from mesh.types import Deliberation, Member, Outcome, Proposal, Task, Verdict
from serving.channels import Channel
from serving.outcomes import LateOutcome
from serving.roster import Roster
from tests.evolve.judged_stages import judged_in

ADAPTER = "a" * 64
ADA = Member(name="ada", engine="ada", family="alpha")
BEN = Member(name="ben", engine="ben", family="beta")
SEAT = Member(name="g1-ada-own", engine="ada", family="alpha", adapter=ADAPTER)
KEY = f"g1-ada-own@{ADAPTER[:12]}"


def specialist(name: str = "g1-ada-own", adapter: str = ADAPTER, generation: int = 1) -> Specialist:
    return Specialist(
        name=name,
        engine="ada",
        family="alpha",
        adapter=adapter,
        generation=generation,
        recipe=name,
        data_digest="d",
        gate_digest="g",
    )


def promises(right: int = 80) -> Claims:
    """The same, on items that it was not chosen by."""
    return Claims(fresh=measured(right))


def measured(right: int = 80) -> Reliability:
    """The specialist was right on so many of a hundred sums."""
    row = AnswerCount(member=KEY, task_type="sums", num_judged=100, num_answered=100, num_correct=right)
    return Reliability(answers=(row,))


def a_run(directory: Path, *, enabled: bool = True, finished: bool = True) -> Path:
    """A run whose generation 1 seats one specialist."""
    run = directory / "run"
    run.mkdir(parents=True)
    config = RunConfig.model_validate(
        {
            "name": "live",
            "run_dir": str(run),
            "serving": {"engines": [{"kind": "scripted", "name": n, "family": n} for n in ("ada", "ben")]},
            "problems": {"kind": "file", "path": "t"},
            "training": {"kind": "scripted"},
            "governance": {"demotion": {"enabled": enabled}},
        }
    )
    (run / "config.yaml").write_text(dump_config(config))
    first = founders([ADA, BEN])
    lineage = Lineage(run / "generations.jsonl")
    lineage.append(first)
    lineage.append(successor(first, [SEAT, BEN], [specialist()]))
    judged_in(run, 0, "dev/again", [SEAT], right=80)
    if finished:
        (run / "report.json").write_text("{}")
    return run


def live(rights: list[bool], task_type: str = "sums", start: int = 0) -> tuple[list[Deliberation], list[LateOutcome]]:
    """Traces in which the specialist said 7, and labels that say whether that was right."""
    traces, late = [], []
    nothing = Verdict(answer="7", method="plurality")
    for number, right in enumerate(rights, start=start):
        own = Proposal(member=SEAT.name, family="alpha", text="7", answer="7", adapter=ADAPTER, round=0, sample=0)
        task = Task(id=f"t{number}", question="?", type=task_type)
        traces.append(
            Deliberation(
                id=f"d{number}",
                task=task,
                protocol="vote",
                seed=0,
                members=(SEAT, BEN),
                proposals=(own,),
                first_verdict=nothing,
                verdict=nothing,
            )
        )
        evidence = Evidence(verifier="label:qa", verdict="passed" if right else "failed", digest="0" * 64)
        outcome = Outcome(task_id=task.id, task_type=task_type, answer="7", correct=right, evidence=evidence)
        late.append(LateOutcome(deliberation=f"d{number}", outcome=outcome))
    return traces, late


def test_tasks_of_another_batch_that_have_the_same_ids_are_tasks_of_their_own(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    traces, late = live([True] * 5)
    weigh(run, traces, late, [], now=5.0)
    others = [one.model_copy(update={"task": one.task.model_copy(update={"question": "another?"})}) for one in traces]
    (standing,) = weigh(run, others, late, [], now=6.0).standings
    assert standing.live.num_judged == 10
    (again,) = weigh(run, others, late, [], now=7.0).standings
    assert again.live.num_judged == 10


def channel(directory: Path, run: Path) -> Channel:
    found = Channel(directory / "channels", "prod")
    found.promote(Roster(channel="prod", seats=(SEAT, BEN), bases=(ADA,), safe="ada", source=f"{run}@1"), by="kim")
    return found


def bring(run: Path, rights: list[bool], channels: list[Channel] | None = None, **more: object) -> Weighed:
    traces, late = live(rights, **more)  # type: ignore[arg-type]
    return weigh(run, traces, late, channels or [], now=5.0)


def last(run: Path) -> Generation:
    return Lineage(run / "generations.jsonl", readonly=True).generations()[-1]


def test_a_specialist_that_fails_live_loses_its_seat_and_the_channel_that_served_it(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    prod = channel(tmp_path, run)
    found = bring(run, [False] * 40, [prod])
    assert (found.demoted, found.generation, found.channels) == (("g1-ada-own",), 2, ("prod",))
    assert last(run).seats == (ADA, BEN)
    assert last(run).specialists == ()
    served = prod.current().roster
    assert served is not None
    assert (served.source, served.seats) == (f"{run}@2", (ADA, BEN))
    (event,) = AuditLog(run).events()
    assert (event.kind, event.subject, event.by) == ("demoted", "g1-ada-own", "live outcomes")
    assert Lineage(run / "generations.jsonl", readonly=True).verify() == 3
    told = " ".join(weighed_lines(found))
    assert "shown to be worse" in told
    assert "Channel prod serves" in told


def test_an_import_that_was_cut_off_before_it_reached_the_channels_is_made_good_by_the_next(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    prod = channel(tmp_path, run)
    bring(run, [False] * 40)  # as if it had ended here: the generation is made, and no channel knows
    found = bring(run, [False] * 40, [prod])
    assert (found.demoted, found.generation, found.channels) == ((), 2, ("prod",))
    assert prod.current().roster == roster_of(Target(run, 2), "prod")
    assert weighed_lines(found)[-1] == f"Channel prod serves {run}@2 now."
    assert bring(run, [False] * 40, [prod]).channels == ()
    assert last(run).number == 2


def test_a_channel_that_serves_another_generation_is_left_where_a_person_put_it(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    back = Channel(tmp_path / "channels", "back")
    back.promote(Roster(channel="back", seats=(ADA, BEN), safe="ada", source=f"{run}@0"), by="kim")
    newer = specialist("g2-ben-own", "b" * 64, 2).model_copy(update={"engine": "ben", "family": "beta"})
    lineage = Lineage(run / "generations.jsonl")
    ben = BEN.model_copy(update={"name": newer.name, "adapter": newer.adapter})
    lineage.append(successor(lineage.generations()[-1], [SEAT, ben], [newer]))
    early = channel(tmp_path, run)
    found = bring(run, [False] * 40, [back, early])
    assert (found.generation, found.channels) == (3, ())
    assert [one.current().roster.source for one in (back, early)] == [f"{run}@0", f"{run}@1"]  # type: ignore[union-attr]
    (note,) = found.notes
    assert note.startswith(f"Channel prod was left at {run}@1, where g1-ada-own sits: promote {run}@3")


def test_labels_told_again_change_nothing(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    bring(run, [False] * 40)
    before = (run / "audit.jsonl").read_bytes(), (run / "generations.jsonl").read_bytes()
    again = bring(run, [False] * 40)
    assert again.demoted == ()
    assert ((run / "audit.jsonl").read_bytes(), (run / "generations.jsonl").read_bytes()) == before


def test_labels_of_several_imports_add_up(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert bring(run, [False] * 12).demoted == ()
    assert bring(run, [False] * 12).standings[0].live.num_judged == 12  # the same tasks
    assert bring(run, [False] * 12, start=12).demoted == ("g1-ada-own",)


def test_one_that_keeps_its_promise_is_confirmed_and_stays(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    found = bring(run, [True] * 150)
    assert found.confirmed == ("g1-ada-own",)
    assert last(run).seats[0] == SEAT
    later = bring(run, [False] * 400, start=150)
    assert later.demoted == ()  # what was decided first stays decided


def test_nothing_is_changed_while_demotion_is_off_but_it_is_said(tmp_path: Path) -> None:
    run = a_run(tmp_path, enabled=False)
    found = bring(run, [False] * 40)
    assert (found.demoted, found.standings[0].live.state) == ((), "demoted")
    assert AuditLog(run).events() == []
    assert last(run).number == 1
    assert "governance.demotion.enabled is false" in " ".join(weighed_lines(found))


def test_tasks_it_was_never_measured_on_say_nothing(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    found = bring(run, [False] * 40, task_type="poems")
    assert found.standings[0].skipped == {"poems": 40}
    assert found.standings[0].live.num_judged == 0
    assert "never measured" in " ".join(weighed_lines(found))


def test_a_frozen_channel_and_a_run_under_way_are_left_alone_with_a_word(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    prod = channel(tmp_path, run)
    prod.freeze(reason="audit", by="kim")
    found = bring(run, [False] * 40, [prod])
    assert (found.demoted, found.channels) == (("g1-ada-own",), ())
    assert "frozen" in found.notes[0]
    going = a_run(tmp_path / "going", finished=False)
    waits = bring(going, [False] * 40)
    assert waits.generation is None
    assert "under way" in waits.notes[0]
    (going / "report.json").write_text("{}")
    assert bring(going, [False] * 40).generation == 2


def test_what_was_promised_is_the_lower_end_of_what_was_measured() -> None:
    answers = [LiveAnswer(adapter=ADAPTER, task_id=str(n), task_type="sums", right=True) for n in range(3)]
    found = standing_of(specialist(), answers, promises(), DemotionConfig(margin=0.0))
    assert found.live.claimed == pytest.approx(measured().accuracy(SEAT, "sums").low)
    assert found.live.claimed < 0.8
    assert standing_of(specialist(), answers, Claims(), DemotionConfig()).skipped == {"sums": 3}


def test_what_a_person_published_of_the_members_is_no_promise(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    before = bring(run, [True] * 5).standings[0].live.claimed
    publish_json(run / "reliability.json", measured(100))
    assert bring(run, [True] * 5).standings[0].live.claimed == before > 0.6


def test_the_seat_goes_back_to_the_last_holder_that_was_not_demoted() -> None:
    first = founders([ADA, BEN])
    second = successor(first, [SEAT, BEN], [specialist()])
    better = specialist("g2-ada-own", "b" * 64, 2)
    third = successor(second, [SEAT.model_copy(update={"name": better.name, "adapter": "b" * 64}), BEN], [better])
    assert without([first, second, third], [better]).seats == (SEAT, BEN)
    assert without([first, second, third], [better]).specialists == (specialist(),)
    assert without([first, second, third], [better, specialist()]).seats == (ADA, BEN)


def test_runs_are_those_named_or_those_a_channel_serves(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    prod = channel(tmp_path, run)
    assert runs_of(None, [prod]) == [run]
    assert runs_of(run, []) == [run]
    assert runs_of(None, []) == []
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        runs_of(tmp_path, [])


def test_who_takes_a_failed_specialists_seat_keeps_its_critic() -> None:
    critic = specialist("c", "c" * 64, 2).model_copy(update={"role": "critic"})
    first = founders([ADA, BEN])
    second = successor(first, [SEAT, BEN], [specialist()])
    helped = SEAT.model_copy(update={"phase_adapters": (("critique", "c" * 64),)})
    third = successor(second, [helped, BEN], [critic])
    found = without([first, second, third], [specialist()])
    assert found.seats[0] == ADA.model_copy(update={"phase_adapters": helped.phase_adapters})
    assert found.specialists == (critic,)


def card(run: Path, *more: str) -> str:
    """What `evomesh lineage` says of the specialist."""
    (run / "report.json").unlink(missing_ok=True)  # a stand-in, which holds nothing to show
    done = CliRunner().invoke(app, ["lineage", str(run), "g1-ada-own", *more])
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def test_the_card_of_a_specialist_says_how_it_did_live_also_after_it_lost_its_seat(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    bring(run, [False] * 40)
    assert last(run).seats == (ADA, BEN)
    text = card(run)
    assert "Live: 0 of 40 live answers right" in text
    assert "shown to be worse" in text
    assert "it is demoted" in text
    told = json.loads(card(run, "--json"))
    assert (told["status"], told["live"]["num_wrong"]) == ("demoted", 40)


def test_without_labels_the_card_says_that_nothing_was_measured_live(tmp_path: Path) -> None:
    assert "Live: not measured" in card(a_run(tmp_path))


def test_where_demotion_is_off_the_card_tells_the_outcomes_and_the_standing_apart(tmp_path: Path) -> None:
    run = a_run(tmp_path, enabled=False)
    bring(run, [False] * 40)
    text = card(run)
    assert "shown to be worse" in text
    assert "it is provisional" in text
