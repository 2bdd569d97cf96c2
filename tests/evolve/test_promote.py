"""Who is written into the lineage when what passed the gate takes its seats."""

from __future__ import annotations

import asyncio
from pathlib import Path

from evolve.candidate import Candidate
from evolve.config import RunConfig
from evolve.gates.aa import AARecord
from evolve.gates.arrangements import Arrangement
from evolve.gates.dev import DevRecord
from evolve.governance.audit_log import AuditLog
from evolve.governance.config import ApprovedPromotion
from evolve.governance.promote import enter_first, promote
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.lab import Lab
from evolve.learning.breed import Brood
from evolve.learning.curate import Curated
from evolve.learning.recipes import Recipe
from evolve.lineage import Generation, Lineage, founders
from evolve.progress import Silent
from evolve.seats import base_seats, member_on
from evolve.selection.archive import Archive, Update
from evolve.selection.select import Selection
from evolve.training.config import ScriptedTraining


def config(directory: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "small",
            "run_dir": str(directory / "run"),
            "serving": {
                "in_process": True,
                "engines": [
                    {"kind": "scripted", "name": n, "family": n, "persona": "Be brief."} for n in ("ada", "ben")
                ],
            },
            "problems": {"kind": "file", "path": "t"},
            "training": {"kind": "scripted"},
            "memory": {"enabled": False},
        }
    )


def candidate(settings: RunConfig, name: str, generation: int) -> Candidate:
    ada = settings.serving.engines[0]
    recipe = Recipe(name=name, base="ada", family="ada", mix=("own_correct",), training=ScriptedTraining(), seed=7)
    adapter = name[-1] * 64
    return Candidate(member=member_on(ada, name, adapter), recipe=recipe, data_digest="d", generation=generation)


def chosen(generation: Generation, *people: Candidate, retired: tuple[str, ...] = ()) -> Selection:
    """The candidates take the first seats; none: the incumbents stay."""
    names = tuple(one.member.name for one in people)
    seats = (*(one.member for one in people), *generation.seats[len(people) :])
    return Selection(
        dev=DevRecord(),
        chosen=Arrangement(name=" and ".join(names), seats=seats, candidates=names) if people else None,
        archive=Update(archive=Archive(), standings=(), stale=()),
        retired=dict.fromkeys(retired, "it takes away from the vote"),
        reason="tested",
    )


QUIET = AARecord(levels=(0.05, 0.05), num_would_pass=0)
LOUD = AARecord(levels=(0.05, 0.05), num_would_pass=2)


def seated(
    settings: RunConfig, *rounds: tuple[tuple[Candidate, ...], tuple[str, ...]], aa: AARecord = QUIET
) -> list[Generation]:
    """Generation by generation: who passed the gate, and who is retired; `aa` is what there was at the last gate."""

    async def work() -> None:
        settings.run_dir.mkdir(parents=True)
        with Judge() as judge:
            journal = Journal(settings.run_dir)
            async with Lab(settings, journal=journal, judge=judge, memory=None, observer=Silent()) as lab:
                generation = founders(base_seats(settings))
                enter_first(lab, generation)
                for number, (people, retired) in enumerate(rounds, start=1):
                    brood = Brood(curated=Curated(examples=(), drops=()), selections={})
                    selection = chosen(generation, *people, retired=retired)
                    arms = aa if number == len(rounds) else QUIET
                    generation, _ = await promote(lab, generation, brood, people, selection, arms)

    asyncio.run(work())
    return Lineage(settings.run_dir / "generations.jsonl", readonly=True).generations()


def test_an_elite_that_takes_its_seat_again_keeps_the_record_of_the_first_time(tmp_path: Path) -> None:
    settings = config(tmp_path)
    first, second = candidate(settings, "g1-ada-a", 0), candidate(settings, "g2-ada-b", 1)
    found = seated(settings, ((first,), ()), ((second,), ()), ((first,), ()))
    assert [one.seats[0].name for one in found] == ["ada", "g1-ada-a", "g2-ada-b", "g1-ada-a"]
    assert found[3].specialists == found[1].specialists
    assert found[3].specialists[0].generation == 1


def test_a_specialist_that_is_retired_leaves_its_seat_to_generation_0s_member(tmp_path: Path) -> None:
    settings = config(tmp_path)
    one = candidate(settings, "g1-ada-a", 0)
    found = seated(settings, ((one,), ()), ((), (one.member.name,)))
    assert found[2].seats == found[0].seats
    assert found[2].specialists == ()
    [event] = [event for event in AuditLog(settings.run_dir).events() if event.kind == "retired"]
    assert (event.subject, event.generation, event.adapter) == ("g1-ada-a", 1, one.member.adapter)
    assert event.reason == "it takes away from the vote"


def test_what_passed_the_gate_is_seated_as_the_gate_saw_it_and_who_is_to_be_retired_waits(tmp_path: Path) -> None:
    settings = config(tmp_path)
    first, other, new = (candidate(settings, f"g{n}-ada-{n}", n) for n in (1, 2, 3))
    leaving = (other.member.name,)
    found = seated(settings, ((first, other), ()), ((new,), leaving), ((), leaving))
    seats = [[seat.name for seat in one.seats] for one in found]
    assert seats == [["ada", "ben"], ["g1-ada-1", "g2-ada-2"], ["g3-ada-3", "g2-ada-2"], ["g3-ada-3", "ada"]]
    [event] = [event for event in AuditLog(settings.run_dir).events() if event.kind == "retired"]
    assert (event.subject, event.generation) == ("g2-ada-2", 2)


def test_what_is_refused_keeps_nobody_from_being_retired(tmp_path: Path) -> None:
    settings = config(tmp_path)
    first, new = candidate(settings, "g1-ada-a", 0), candidate(settings, "g2-ada-b", 1)
    found = seated(settings, ((first,), ()), ((new,), (first.member.name,)), aa=LOUD)
    assert [seat.name for seat in found[2].seats] == ["ada", "ben"]


def test_two_specialists_of_one_engine_that_are_retired_together_leave_two_seats_with_two_names(
    tmp_path: Path,
) -> None:
    settings = config(tmp_path)
    settings = settings.model_copy(update={"seats_per_engine": 2})
    one, other = candidate(settings, "g1-ada-a", 0), candidate(settings, "g1-ada-b", 0)
    found = seated(settings, ((one, other), ()), ((), (one.member.name, other.member.name)))
    assert [seat.name for seat in found[1].seats] == ["g1-ada-a", "g1-ada-b", "ada-2", "ben-2"]
    assert [seat.name for seat in found[2].seats] == ["ada", "ada-3", "ada-2", "ben-2"]
    assert {seat.adapter for seat in found[2].seats} == {None}


def test_while_the_aa_alarm_is_on_nothing_that_passes_the_gate_is_seated_and_nobody_is_asked(tmp_path: Path) -> None:
    settings = config(tmp_path)
    waiting = settings.governance.model_copy(update={"promotion": ApprovedPromotion()})
    settings = settings.model_copy(update={"governance": waiting})
    found = seated(settings, ((candidate(settings, "g1-ada-a", 0),), ()), aa=LOUD)
    assert found[1].seats == found[0].seats
    [event] = AuditLog(settings.run_dir).events()
    assert (event.kind, event.by) == ("not_promoted", "gate")
    assert event.reason.startswith("2 of 2 A/A arms would have been promoted")
    assert "look for a leak or a cache" in event.reason
