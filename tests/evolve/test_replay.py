"""A kept deliberation is held again without a model call, under the settings that its id proves; and by asking anew."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from evolve.cli import app
from evolve.commands.replay_settings import settings_for
from evolve.commands.replaying import ReplayError, Settings, replay_best
from evolve.commands.unasked import Unasked, exchanges_of
from evolve.config import MeshConfig, load_mesh
from mesh.config import CouncilConfig, ProtocolConfig, VoteConfig
from mesh.engine import EngineError
from mesh.equivalence import same_answer
from mesh.oversight import OversightConfig
from mesh.types import Deliberation, Message, Part, Sampling
from serving.kept_traces import KeptTrace, find_traces
from serving.traces import TraceError, write_traces
from tests.mesh.doubles import Desk, hold
from tests.mesh.test_budget import CONFIGS, COUNCIL, MEMBERS, TASK, name_of, quarrelling

SIMULATED = Path("configs/simulated.yaml")


def evomesh(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def candidates(*protocols: ProtocolConfig) -> list[Settings]:
    return [Settings(one, f"candidate {index}", None, "equal") for index, one in enumerate(protocols)]


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_every_protocol_comes_to_the_same_verdict_again_and_nobody_is_asked(config: ProtocolConfig) -> None:
    trace = hold(TASK, MEMBERS, quarrelling(), config)
    found = asyncio.run(replay_best(trace, candidates(config), {}, "here"))
    assert found.same
    assert found.is_exact
    assert found.num_repeated == found.num_calls == len(exchanges_of(trace))
    assert found.differences == ()


def test_the_id_finds_the_protocol_among_others_of_its_kind() -> None:
    trace = hold(TASK, MEMBERS, quarrelling(), COUNCIL)
    others = [COUNCIL.model_copy(update={"rounds": 3}), VoteConfig(), COUNCIL]
    found = asyncio.run(replay_best(trace, candidates(*others), {}, "here"))
    assert found.is_exact
    assert found.protocol == "council, candidate 2"


def test_without_the_protocol_one_of_its_kind_is_taken_and_called_so() -> None:
    trace = hold(TASK, MEMBERS, quarrelling(), COUNCIL)
    near = COUNCIL.model_copy(update={"call_timeout_s": 17.0})
    found = asyncio.run(replay_best(trace, candidates(near), {}, "here"))
    assert found.same
    assert not found.is_exact


def test_without_any_protocol_of_its_kind_the_replay_says_what_to_give() -> None:
    trace = hold(TASK, MEMBERS, quarrelling(), COUNCIL)
    with pytest.raises(ReplayError, match="give the configuration of that day"):
        asyncio.run(replay_best(trace, candidates(VoteConfig()), {}, "here"))


def test_a_changed_trace_comes_to_another_verdict_and_the_difference_is_shown() -> None:
    trace = hold(TASK, MEMBERS, quarrelling(), COUNCIL)
    forged = trace.model_copy(update={"verdict": trace.verdict.model_copy(update={"answer": "forged"})})
    found = asyncio.run(replay_best(forged, candidates(COUNCIL), {}, "here"))
    assert not found.same
    assert [one.then for one in found.differences if one.what == "answer"] == ["forged"]


def test_whoever_asks_the_stand_in_for_an_answer_is_refused() -> None:
    engine = Unasked(hold(TASK, MEMBERS, quarrelling(), COUNCIL))
    message = Message(role="user", parts=(Part(text="something new"),))
    with pytest.raises(EngineError, match="expected only calls that the trace holds"):
        asyncio.run(engine.complete(MEMBERS[0], [message], Sampling()))


def test_lengths_come_from_the_trace_then_from_a_counter_then_from_an_estimate() -> None:
    trace = hold(TASK, MEMBERS, quarrelling(), COUNCIL)
    sent = next(exchange for exchange in exchanges_of(trace) if exchange.usage.prompt_tokens)
    member = next(member for member in MEMBERS if member.name == sent.member)
    new = Message(role="user", parts=(Part(text="a prompt that was never sent " * 20),))

    async def count(*_: object) -> int:
        return 77

    async def nothing(*_: object) -> None:
        return None

    engine = Unasked(trace, count)
    assert asyncio.run(engine.count_tokens(member, sent.messages)) == sent.usage.prompt_tokens
    assert asyncio.run(engine.count_tokens(member, [new])) == 77
    assert engine.num_estimated == 0
    engine = Unasked(trace, nothing)
    assert 0 < asyncio.run(engine.count_tokens(member, [new])) < len(new.text)
    assert engine.num_estimated == 1


def test_a_person_of_the_trace_gives_the_same_answer_again() -> None:
    config = COUNCIL.model_copy(update={"oversight": OversightConfig(always=True)})
    trace = hold(TASK, MEMBERS, quarrelling(), config, desk=Desk(lambda question: 0))
    assert trace.replies
    found = asyncio.run(replay_best(trace, candidates(config), {}, "here"))
    assert found.same


def kept(config: MeshConfig, tmp_path: Path) -> tuple[Path, str]:
    """A trace that `evomesh deliberate` printed, as a file, and its id."""
    done = evomesh("deliberate", "What is 17 + 25?", "--number", "-c", str(SIMULATED), "--json")
    path = tmp_path / "paused-1.json"
    path.write_text(done.stdout)
    return path, json.loads(done.stdout)["id"]


def test_the_command_replays_a_file_and_an_id_and_exits_with_1_where_something_else_came_out(tmp_path: Path) -> None:
    path, identity = kept(load_mesh(SIMULATED), tmp_path)
    said = json.loads(evomesh("replay", str(path), "-c", str(SIMULATED), "--json").stdout)
    assert said["same"]
    assert said["is_exact"]
    assert said["num_repeated"] == said["num_calls"] > 0
    by_id = evomesh("replay", identity[:8], "--in", str(tmp_path), "-c", str(SIMULATED))
    assert by_id.exit_code == 0, by_id.stderr
    assert "The same verdict came out: 42" in by_id.stdout
    data = json.loads(path.read_text())
    data["verdict"]["answer"] = "43"
    path.write_text(json.dumps(data))
    done = evomesh("replay", str(path), "-c", str(SIMULATED))
    assert done.exit_code == 1
    assert "Another verdict came out" in done.stdout


def test_asked_again_the_engines_of_a_simulation_say_the_same(tmp_path: Path) -> None:
    path, _ = kept(load_mesh(SIMULATED), tmp_path)
    said = json.loads(evomesh("replay", str(path), "-c", str(SIMULATED), "--live", "--json").stdout)
    assert said["is_live"]
    assert said["same"]
    assert said["differences"] == []


def test_asked_again_a_worse_engine_answers_otherwise_and_the_command_shows_who(tmp_path: Path) -> None:
    path, _ = kept(load_mesh(SIMULATED), tmp_path)
    worse = tmp_path / "worse.yaml"
    worse.write_text(SIMULATED.read_text().replace("skill: 0.35", "skill: 0.0").replace("skill: 0.3,", "skill: 0.0,"))
    done = evomesh("replay", str(path), "-c", str(worse), "--live", "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert not said["same"]
    assert any(one["what"].startswith("last position of ") for one in said["differences"])


def test_a_live_replay_without_the_engines_of_the_trace_says_which_are_missing(tmp_path: Path) -> None:
    path, _ = kept(load_mesh(SIMULATED), tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text(SIMULATED.read_text().replace("name: ben", "name: bob"))
    done = evomesh("replay", str(path), "-c", str(other), "--live", "--json")
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "EM-REPLAY"
    assert "ben" in error["message"]


def test_an_unknown_id_and_a_place_that_is_not_there_are_said(tmp_path: Path) -> None:
    unknown = evomesh("replay", "0123abcd", "--in", str(tmp_path), "-c", str(SIMULATED), "--json")
    assert json.loads(unknown.stdout)["error"]["code"] == "EM-REPLAY"
    nowhere = evomesh("replay", "0123abcd", "--in", str(tmp_path / "none"), "-c", str(SIMULATED), "--json")
    assert json.loads(nowhere.stdout)["error"]["code"] == "EM-FILE-MISSING"


def traces(number: int) -> list[Deliberation]:
    return [
        hold(TASK.model_copy(update={"id": f"task {index}"}), MEMBERS, quarrelling(), VoteConfig())
        for index in range(number)
    ]


def test_a_trace_is_found_by_its_id_or_its_tasks_in_parquet_in_parts_and_below(tmp_path: Path) -> None:
    first, second, third = traces(3)
    write_traces(tmp_path / "runs" / "generation-0" / "councils.parquet", [first])
    (tmp_path / "batch" / "parts").mkdir(parents=True)
    (tmp_path / "batch" / "parts" / "00000000.json").write_text(second.model_dump_json())
    (tmp_path / "reviews").mkdir()
    (tmp_path / "reviews" / "paused-1.json").write_text(third.model_dump_json(indent=2))
    for trace in (first, second, third):
        assert [one.trace for one in find_traces([tmp_path], trace.id[:10])] == [trace]
        assert [one.trace for one in find_traces([tmp_path], trace.task.id)] == [trace]
    assert len(find_traces([tmp_path], "")) == 3
    assert find_traces([tmp_path], first.id[:3]) == [], "three characters fit too much"


def test_damaged_files_are_passed_over_unless_they_are_named(tmp_path: Path) -> None:
    (good,) = traces(1)
    write_traces(tmp_path / "good.parquet", [good])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but nothing else")
    (tmp_path / "paused-2.json").write_text('{"id": "' + "ab" * 16 + '", "task": 1}')
    store = tmp_path / "deliberations" / "team"
    store.mkdir(parents=True)
    (store / f"{'cd' * 16}.json.gz").write_bytes(gzip.compress(b"{}"))
    assert [one.trace for one in find_traces([tmp_path], good.task.id)] == [good]
    for path, wanted in ((tmp_path / "bad.parquet", ""), (tmp_path / "paused-2.json", "abab")):
        with pytest.raises(TraceError):
            find_traces([path], wanted)


def test_two_deliberations_of_one_task_are_listed_so_that_one_can_be_chosen(tmp_path: Path) -> None:
    one, two = (
        hold(TASK, MEMBERS, quarrelling(), VoteConfig()),
        hold(TASK, MEMBERS, quarrelling(), CouncilConfig()),
    )
    write_traces(tmp_path / "traces.parquet", [one, two])
    done = evomesh("replay", TASK.id, "--in", str(tmp_path), "-c", str(SIMULATED), "--json")
    message = json.loads(done.stdout)["error"]["message"]
    assert "fits 2 deliberations" in message
    assert one.id in message
    assert two.id in message


def test_what_was_kept_with_the_trace_is_believed(tmp_path: Path) -> None:
    trace = hold(TASK, MEMBERS, quarrelling(), COUNCIL).model_copy(update={"id": "f" * 32})
    found = KeptTrace(trace, tmp_path / "x.json.gz", protocol=COUNCIL)
    settings = list(settings_for(found, load_mesh(SIMULATED)))
    assert all(one.is_known and one.protocol == COUNCIL for one in settings)
    replayed = asyncio.run(replay_best(trace, settings, {}, "here"))
    assert replayed.same
    assert replayed.is_exact
    assert same_answer(trace.verdict.answer, trace.verdict.answer, "text") or trace.verdict.answer is None
