"""The commands of channels: from a run's generation to what is served, and everything that cannot be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from evolve.audit.measured import publish_reliability
from evolve.cli import app
from evolve.lineage import Lineage, Specialist, founders, successor
from mesh.reliability import AnswerCount, Reliability
from mesh.types import Member
from serving.adapter_share import SharedAdapters
from serving.adapters import Adapter, AdapterStore
from serving.channels import Channel
from tests.serving.lora_files import admitted

ADA, BEN = Member(name="ada", engine="ada", family="alpha"), Member(name="ben", engine="ben", family="beta")


def evomesh(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(result: Result) -> str:
    return re.sub(r"\s+", " ", result.stdout + result.stderr)


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    return admitted(AdapterStore(tmp_path / "run" / "adapters"), tmp_path / "scratch")


@pytest.fixture
def run(tmp_path: Path, adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two generations, the second of a specialist alone; and its directory as the current one."""
    directory = tmp_path / "run"
    first = founders([ADA, BEN])
    specialist = Specialist(
        name="g1-ada", engine="ada", family="alpha", adapter=adapter.hash, generation=1, recipe="own",
        data_digest="d", gate_digest="g",
    )  # fmt: skip
    seats = [Member(name="g1-ada", engine="ada", family="alpha", adapter=adapter.hash)]
    lineage = Lineage(directory / "generations.jsonl")
    lineage.append(first)
    lineage.append(successor(first, seats, [specialist]))
    counts = {"ada": 20, "ben": 70, f"g1-ada@{adapter.hash[:12]}": 90}
    answers = [
        AnswerCount(member=name, task_type="sum", num_judged=100, num_answered=100, num_correct=count)
        for name, count in counts.items()
    ]
    publish_reliability(directory / "reliability.json", Reliability(answers=tuple(answers)))
    monkeypatch.chdir(tmp_path)
    return Path("run")


def configured(tmp_path: Path, **changes: object) -> Path:
    engines = [
        {"kind": "scripted", "name": "ada", "family": "alpha"} | changes,
        {"kind": "scripted", "name": "ben", "family": "beta"},
    ]
    serving = {"engines": engines, "channels": "elsewhere", "adapter_store": str(tmp_path / "shared")}
    path = tmp_path / "mesh.yaml"
    path.write_text(yaml.safe_dump({"name": "mesh", "run_dir": "run", "serving": serving}))
    return path


def test_a_generation_is_promoted_with_its_adapters_weights_and_the_best_base_member(
    run: Path, adapter: Adapter, tmp_path: Path
) -> None:
    result = evomesh("promote", f"{run}@1", "--channel", "prod", "--reason", "gate passed", "--by", "mia")
    assert result.exit_code == 0, result.stderr
    assert "run@1 is in force now" in said(result)
    roster = Channel(Path("channels"), "prod").current().roster
    assert roster is not None
    assert [seat.name for seat in roster.seats] == ["g1-ada"]
    assert (roster.bases, roster.safe) == ((ADA, BEN), "ben")
    assert roster.reliability is not None
    node = SharedAdapters(tmp_path / "node", "channels/adapters")
    assert node.get(adapter.hash).rank == adapter.rank
    again = evomesh("promote", run, "--channel", "prod", "--json")
    assert json.loads(again.stdout)["changed"] is False


def test_rolling_back_freezing_and_the_history(run: Path) -> None:
    for generation in (0, 1):
        assert evomesh("promote", f"{run}@{generation}", "--channel", "prod").exit_code == 0
    back = json.loads(evomesh("rollback", "--channel", "prod", "--reason", "too slow", "--json").stdout)
    assert back["source"] == "run@0"
    first, second = (change.roster for change in Channel(Path("channels"), "prod").history()[:2])
    assert first is not None
    assert second is not None
    forward = evomesh("rollback", "--channel", "prod", "--to", second[:6])
    assert second in said(forward)
    assert "is frozen" in said(evomesh("freeze", "--channel", "prod", "--reason", "audit"))
    refused = evomesh("promote", f"{run}@0", "--channel", "prod")
    assert refused.exit_code == 2
    assert "frozen (audit)" in said(refused)
    assert evomesh("rollback", "--channel", "prod", "--to", first).exit_code == 0
    assert "takes promotions" in said(evomesh("unfreeze", "--channel", "prod"))
    history = json.loads(evomesh("channels", "prod", "--json").stdout)["history"]
    assert [change["kind"] for change in history] == [
        *("promote", "promote", "rollback", "rollback", "freeze", "rollback", "unfreeze")
    ]
    assert "too slow" in said(evomesh("channels", "prod"))
    assert "run@0" in said(evomesh("channels"))
    listed = json.loads(evomesh("channels", "--json").stdout)
    assert [one["channel"] for one in listed["channels"]] == ["prod"]


def test_the_configuration_says_where_channels_are_and_which_engines_serve(run: Path, tmp_path: Path) -> None:
    config = configured(tmp_path)
    result = evomesh("promote", f"{run}@1", "--channel", "prod", "--config", config)
    assert result.exit_code == 0, result.stderr
    assert Channel(Path("elsewhere"), "prod").current().roster is not None
    assert not Path("channels").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "zoe"}, "expected an engine 'ada' of family 'alpha'"),
        ({"family": "omega"}, "expected an engine 'ada' of family 'alpha'"),
        ({"max_lora_rank": 1}, "its adapter has rank 2, engine 'ada' takes at most 1"),
        (
            {"kind": "remote", "base_url": "http://localhost", "model": "m"},
            "engine 'ada' takes no adapters",
        ),
    ],
)
def test_seats_that_the_engines_could_not_serve_are_refused(
    run: Path, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    result = evomesh("promote", f"{run}@1", "--channel", "prod", "--config", configured(tmp_path, **changes))
    assert result.exit_code == 2
    assert reason in said(result)
    assert not Path("elsewhere").exists()


@pytest.mark.parametrize(
    ("target", "channel", "reason"),
    [
        ("run@2", "prod", "expected one of its generations 0 to 1, got 2"),
        ("run@x", "prod", "expected RUN@GENERATION"),
        ("run@-1", "prod", "expected RUN@GENERATION"),
        ("nowhere@1", "prod", "expected the directory of a run"),
        ("run@1", "../prod", "channel: expected"),
        ("run@1", "adapters", "channel: expected"),
    ],
)
def test_what_cannot_be_promoted_is_said_and_leaves_nothing(run: Path, target: str, channel: str, reason: str) -> None:
    result = evomesh("promote", target, "--channel", channel)
    assert result.exit_code == 2
    assert reason in said(result)
    assert not Path("channels").exists()


def test_a_damaged_adapter_is_not_promoted(run: Path, adapter: Adapter) -> None:
    weights = run / "adapters" / adapter.hash / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    result = evomesh("promote", f"{run}@1", "--channel", "prod")
    assert result.exit_code != 0
    assert "expected content hash" in said(result)
    assert not Path("channels", "prod").exists()


def test_commands_on_a_channel_that_is_not_there_name_the_ones_that_are(run: Path) -> None:
    evomesh("promote", f"{run}@0", "--channel", "prod")
    for command in (("rollback", "--channel"), ("freeze", "--channel"), ("unfreeze", "--channel"), ("channels",)):
        result = evomesh(*command, "prdo")
        assert result.exit_code == 2, command
        assert "(there: prod)" in said(result)
    assert "expected one of" in said(evomesh("rollback", "--channel", "prod", "--to", "zzz"))


def test_a_run_that_measured_nothing_is_promoted_with_equal_weights(run: Path) -> None:
    (run / "reliability.json").unlink()
    assert evomesh("promote", f"{run}@0", "--channel", "prod").exit_code == 0
    roster = Channel(Path("channels"), "prod").current().roster
    assert roster is not None
    assert (roster.reliability, roster.safe) == (None, "ada")
