"""A support archive says how everything stands, and not one byte of what anybody asked, answered, named or hid."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from click.testing import Result
from pydantic import BaseModel
from typer.testing import CliRunner

from evolve.cli import app
from evolve.commands import bundle
from evolve.commands.bundle import MANIFEST, Manifest, make_bundle
from evolve.commands.bundle_logs import log_lines
from evolve.commands.bundle_redact import TEXT_KEYS, Pseudonyms, plain, removed, without_secrets
from evolve.commands.bundle_words import known_errors, told
from evolve.config import RunConfig, load_mesh
from evolve.planning.doctor import DoctorReport, Finding
from mesh.config import CouncilConfig
from serving.batch import run_batch
from serving.batch_types import BatchPace
from serving.channels import Channel
from serving.endpoint.keys import KeyRing
from serving.fleet_record import publish_fleet
from tests.serving.batches import mesh_of, plan_of, roster_of
from tests.serving.endpoint.doors import ADA, BEN, QUESTION, Says, ask, opened
from tests.serving.test_fleet_record import record_of

WORD, NUMBER, SENTENCE = "CANARYzebra7f3a", "4711000815", "the quiet zebra sleeps at noon"
CANARY = f"{WORD} {NUMBER} {SENTENCE}"
SECRET = "s3cr3t-Zebra-value"


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing every model of this machine is the doctor's own test. This one quotes what a file said."""
    told = Finding(name="model m", level="fail", found="none", advice=f"run `make setup`: {CANARY}")
    monkeypatch.setattr(bundle, "diagnose", lambda *_: DoctorReport(findings=(told,)))


def config_in(directory: Path, **more: Any) -> Path:
    engines = [
        {"kind": "scripted", "name": "ada", "family": "alpha", "persona": CANARY},
        {"kind": "remote", "name": "ben", "family": "beta", "model": "m", "base_url": f"http://u:{SECRET}@h/v1?k={SECRET}",
         "api_key_env": f"{WORD}_KEY"},
    ]  # fmt: skip
    serving = {
        "engines": engines, "in_process": True, "ray": {"temp_dir": str(directory / "ray")},
        "channels": str(directory / "channels"), "fleet": {"directory": str(directory / "fleet")},
    }  # fmt: skip
    data = {
        "name": "mesh", "run_dir": str(directory / "runs" / "mesh"), "serving": serving,
        "endpoint": {"state": str(directory / "state"), "port": 1}, "memory": {"team": WORD}, **more,
    }  # fmt: skip
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def members_of(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {one.name.removeprefix("evomesh-bundle/"): tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]


def made(config: Path, *directories: Path) -> tuple[Manifest, dict[str, bytes]]:
    out = config.parent / "bundle.tar.gz"
    manifest = make_bundle(config, out, directories)
    return manifest, members_of(out)


def rows(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


async def use_the_door(state: Path, key: str) -> None:
    """A question, a retry, an outcome, an unknown model and a bad request, each with the canary wherever it fits."""
    headers = {
        "authorization": f"Bearer {key}", "x-request-id": WORD, "idempotency-key": WORD, "x-note": WORD,
        "user-agent": WORD,
    }  # fmt: skip
    engine = Says(text=f"{CANARY}\nAnswer: {CANARY}")
    async with (
        opened(state, engine=engine, settings={"require_key": True}) as door,
        door.client(headers=headers) as client,
    ):
        said = await client.post("/v1/chat/completions", json=ask(f"{CANARY}?", user=WORD))
        assert said.status_code == 200, said.text
        about = {"deliberation": said.json()["mesh"]["deliberation"], "correct": False, "answer": CANARY, "by": WORD}
        await client.post("/v1/outcomes", json=about)
        for body in (ask(QUESTION) | {"model": WORD}, ask(QUESTION) | {"temperature": WORD}):
            assert (await client.post("/v1/chat/completions", json=body)).status_code >= 400


def hold_a_batch(directory: Path) -> Path:
    """A batch of three good tasks and two bad lines, every text of which is the canary, with a schema."""
    tasks = directory / "tasks.jsonl"
    lines = [{"id": f"{WORD}-{n}", "question": f"{CANARY} {n}?", "type": WORD, "tags": [WORD]} for n in range(3)]
    tasks.write_text(
        "".join(json.dumps(one) + "\n" for one in lines) + f"{{{CANARY}\n" + json.dumps({"id": CANARY}) + "\n"
    )
    out = directory / "runs" / "nightly"
    schema = json.dumps({"type": "object", "description": CANARY, "properties": {WORD: {"type": "string"}}})
    engine = Says(text=f"{CANARY}\nAnswer: {CANARY}", fails=frozenset({"ben"}))
    plan = plan_of(CouncilConfig(), answer_schema=schema)
    asyncio.run(run_batch(tasks, out, plan, mesh_of(engine, (ADA, BEN)), BatchPace(concurrency=2)))
    return out


def write_logs(directory: Path) -> None:
    logs = directory / "ray" / "session_1" / "logs"
    logs.mkdir(parents=True)
    (directory / "ray" / "session_latest").symlink_to(logs.parent)
    (logs / "worker-1.err").write_text(
        f"(EngineCore pid=12) ERROR 11-21 16:00:00 [core.py:84] EngineCore failed to start. {CANARY}\n"
        f"INFO 11-21 16:00:00 [async_llm.py:1] Added request {NUMBER}: prompt: '{CANARY}'\n"
        f"{CANARY}\n{WORD}Error: {CANARY}\n"
        f'Traceback (most recent call last):\n  File "{bundle.__file__}", line 7, in {WORD}\n    raise {WORD}\n'
        f'  File "/{WORD}.py", line 7, in f\nValueError: CUDA out of memory. Tried to allocate 2.00 GiB. {CANARY}\n'
    )
    (logs / "raylet.out").write_text(
        f"[2026-11-21 16:00:00,123 I 1 1] (raylet) main.cc:1: {CANARY}\n"
        f"[2026-11-21 16:00:01,123 W 1 1] (raylet) memory_monitor.cc:9: memory usage above the threshold {CANARY}\n"
    )


def test_no_byte_of_what_was_asked_answered_named_or_hidden_is_in_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{WORD}_KEY", SECRET)
    config = config_in(tmp_path)
    record, key = KeyRing(tmp_path / "state" / "keys.json").create("zebrateam", note=CANARY)
    asyncio.run(use_the_door(tmp_path / "state", key))
    batch = hold_a_batch(tmp_path)
    write_logs(tmp_path)
    publish_fleet(load_mesh(config).serving.fleet, record_of(load_mesh(config).serving.engines[0], pid=2**22 + 1))
    channel = Channel(tmp_path / "channels", "prod")
    channel.promote(
        roster_of([ADA.model_copy(update={"persona": CANARY}), BEN], channel="prod"), reason=CANARY, by=WORD
    )
    channel.freeze(reason=CANARY, by=WORD)
    manifest, members = made(config, tmp_path / "state")

    whole = b"".join([*members.values(), *(name.encode() for name in members)])
    for hidden in (WORD, NUMBER, "zebra", "sleeps", SECRET, key, key.split("_", 2)[2], record.id, "zebrateam"):
        assert hidden.lower().encode() not in whole.lower(), hidden
    kept = {path.read_bytes() for path in (batch / "answers.jsonl", tmp_path / "tasks.jsonl")}
    assert all(WORD.encode() in data for data in kept), "the canary was really there"
    assert manifest.damaged == ()
    doctor = json.loads(members["doctor.json"])
    assert not doctor["ok"]
    assert doctor["findings"][0] == {
        "name": "model m", "level": "fail", "found": "none", "advice": "run `make setup`[...]",
    }  # fmt: skip

    requests = rows(members["door/requests.jsonl"])  # team-1 is the one in the configuration
    assert (requests[0]["code"], requests[0]["team"], requests[0]["key_id"]) == (200, "team-2", "key-1")
    assert requests[0]["id"].startswith("sha256:")
    assert len({one["code"] for one in requests}) > 1
    journal = rows(members["batches/01-nightly/journal.jsonl"])
    assert journal[0]["kind"] == "start"
    assert journal[-1]["summary"]["num_tasks"] == 3
    assert [one["index"] for one in journal if one["kind"] == "finished"] != []
    assert [one["line"] for one in rows(members["batches/01-nightly/errors.jsonl"])] == [4, 5]
    changes = rows(members["channels/prod.jsonl"])
    assert [(one["kind"], one["by"]) for one in changes] == [("promote", "person-1"), ("freeze", "person-1")]
    log = members["logs/worker-1.err"].decode()
    assert "EngineCore failed to start" in log
    assert "ValueError: CUDA out of memory. Tried to allocate 2.00 GiB" in log
    assert f'File "{without_secrets(bundle.__file__)}", line 7' in log
    assert "memory_monitor.cc:9: memory usage above the threshold" in members["logs/raylet.out"].decode()


def test_what_helps_is_inside_and_the_manifest_names_all_of_it(tmp_path: Path) -> None:
    manifest, members = made(config_in(tmp_path))
    assert next(iter(members)) == MANIFEST
    assert {one.name for one in manifest.members} | {MANIFEST} == set(members)
    assert {"versions.json", "machine.json", "config.json", "doctor.json", "status.json", "disks.json"} <= set(members)
    assert json.loads(members["config.json"])["serving"]["engines"][0]["persona"] == removed(CANARY)
    engine = json.loads(members["config.json"])["serving"]["engines"][1]
    assert engine["base_url"] == "http://[secret]@h/v1?[removed]"
    assert engine["api_key_env"] == "[name of an environment variable]"
    assert json.loads(members["status.json"])["door"]["state"] == "down"
    assert "pydantic" in json.loads(members["versions.json"])["packages"]
    assert json.loads(members[MANIFEST])["never"]


def test_the_archive_is_its_owners_alone(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    make_bundle(config, tmp_path / "out.tar.gz")
    assert (tmp_path / "out.tar.gz").stat().st_mode & 0o777 == 0o600
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        assert {(one.uid, one.uname, one.mode) for one in tar} == {(0, "", 0o600)}


def test_damaged_files_are_listed_and_stop_nothing(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    batch = hold_a_batch(tmp_path)
    journal = (batch / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (batch / "journal.jsonl").write_bytes(
        journal[0] + b"\xff\xfe{{{\n" + b"[" * 100_000 + b"\n" + b"".join(journal[1:])
    )
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "fleet.json").write_text(f'{{"id": "{CANARY}"}}')
    channel = tmp_path / "channels" / "prod"
    channel.mkdir(parents=True)
    (channel / "history.jsonl").write_text(f"{CANARY}\n{CANARY}\n")
    (channel / "current.json").write_text(CANARY)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "requests.jsonl").write_bytes(b"\x00" * 3000 + CANARY.encode() + b"\n\n[]\n7\n")
    manifest, members = made(config)
    told_of = " ".join(one.what for one in manifest.damaged)
    for name in ("nightly/journal.jsonl", "fleet.json", "prod/history.jsonl", "prod/current.json", "requests.jsonl"):
        assert name in told_of, manifest.damaged
    assert any("EM-LEDGER LedgerError" in one.why for one in manifest.damaged)
    assert b"zebra" not in b"".join(members.values())
    notes = {one.name: one.note for one in manifest.members}
    assert "2 lines that cannot be read" in notes["batches/01-nightly/journal.jsonl"]
    assert rows(members["batches/01-nightly/journal.jsonl"])[-1]["kind"] == "complete"


def test_without_a_readable_configuration_the_machine_and_the_named_directories_are_still_told(tmp_path: Path) -> None:
    batch = hold_a_batch(tmp_path)
    bad = tmp_path / "config.yaml"
    bad.write_text(f"name: [{CANARY}\n")
    manifest, members = made(bad, batch)
    assert [one.what for one in manifest.damaged] == [str(bad)]
    assert {"machine.json", "doctor.json", "batches/01-nightly/journal.jsonl"} <= set(members)
    assert b"zebra" not in b"".join(members.values())
    manifest, _ = made(tmp_path / "absent.yaml")
    assert "absent.yaml" in " ".join(one.what for one in (*manifest.damaged, *manifest.left_out))


def test_the_whole_has_a_bound_and_what_has_no_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_in(tmp_path)
    hold_a_batch(tmp_path)
    monkeypatch.setattr(bundle, "MAX_BYTES", 14_000)
    manifest, members = made(config)
    assert sum(one.bytes for one in manifest.members) <= 14_000
    assert any("there is no room for it" in one.why for one in manifest.left_out)
    assert "versions.json" in members


def test_of_a_long_log_the_end_is_told_and_of_many_runs_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path)
    state = tmp_path / "state"
    state.mkdir()
    line = {"id": "0" * 32, "key_id": "", "team": "t", "model": "mesh", "started_at": 1.0, "ended_at": 2.0, "code": 200}
    entry = {"hash": "0" * 64, "kind": "request", "payload": line, "prev": "0" * 64, "seq": 0}
    (state / "requests.jsonl").write_text((json.dumps(entry) + "\n") * 5_000)
    hold_a_batch(tmp_path)
    monkeypatch.setattr(bundle, "MAX_RUNS", 0)
    manifest, members = made(config)
    told_of = rows(members["door/requests.jsonl"])
    assert told_of[0] == {"left out": 3_000}
    assert len(told_of) == 2_001
    assert any("nightly" in one.what and "changed last" in one.why for one in manifest.left_out)


def free_texts(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[str]:
    """Fields of a configuration that take any string at all."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        parts = [field.annotation, *get_args(field.annotation)]
        limited = any("pattern=" in repr(one) for one in field.metadata)
        if not limited and any(part is str or part == tuple[str, ...] for part in parts):
            found.add(name)
        for part in nested(field.annotation):
            if part not in seen:
                seen.add(part)
                found |= free_texts(part, seen)
    return found


def nested(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for part in get_args(annotation) for one in nested(part)]


TOLD_SETTINGS = {
    "name", "family", "revision", "model", "api_key_env", "address", "adapter_store", "member", "aggregator", "first",
    "synthesiser", "planner", "reviewers", "team", "host", "protocols",
}  # fmt: skip
"""Names of machines, models and members, which are told (variables and teams under other names)."""


def test_every_setting_that_takes_any_text_is_either_known_to_be_a_name_or_never_told() -> None:
    undecided = free_texts(RunConfig, set()) - TEXT_KEYS - TOLD_SETTINGS
    assert undecided == set(), "decide whether it may go into a support archive: evolve/commands/bundle_redact.py"


def test_the_same_name_has_the_same_number_and_nobody_stays_nobody() -> None:
    names = Pseudonyms()
    assert [names.of("team", name) for name in ("b", "a", "b", "")] == ["team-1", "team-2", "team-1", ""]
    assert names.of("person", "b") == "person-1"


def test_secrets_are_known_by_their_field_their_shape_and_their_variable() -> None:
    data = {"api_key": "abc", "num_tokens": 7, "max_tokens": 8, "keep": "x", "auth_token": "q", "tokens": "12"}
    assert plain(data, Pseudonyms()) == data | {"api_key": "[secret]", "auth_token": "[secret]"}
    text = f"Bearer abcdefgh12 em_0a1b2c3d4e5f_{'x' * 40} hf_{'y' * 30} http://me:pw@h/x?sig=1 /home/mia/runs {SECRET}"
    shown = without_secrets(text, {"MY_TOKEN": SECRET, "TOKEN_PATH": "/etc/token", "X_KEY": "no"})
    assert shown == "[secret] [secret] [secret] http://[secret]@h/x?[removed] /home/user/runs [secret]"


def test_of_a_message_the_programs_own_words_stay_and_what_it_quotes_goes() -> None:
    said = f"{WORD}: expected a Ray cluster at {NUMBER}, could not join it: {CANARY}"
    assert told(said) == "[...]: expected a [...], could not join it: [...]"
    assert told(CANARY) == told("") == ""
    assert {"LedgerError", "ValueError", "EngineBusy"} <= known_errors()
    assert WORD not in known_errors()


def test_a_log_of_nothing_but_text_becomes_a_count() -> None:
    assert list(log_lines([CANARY, NUMBER, f"{WORD}: {CANARY}"])) == ["[3 lines removed]"]
    assert list(log_lines([])) == []


def evomesh(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_what_is_inside_and_what_was_left_out(tmp_path: Path) -> None:
    config, out = config_in(tmp_path), tmp_path / "b.tar.gz"
    result = evomesh("bundle", "-c", config, "--out", out)
    assert result.exit_code == 0, result.output
    for part in ("versions.json", "Left out:", "no fleet is up", "Never in a bundle:", "questions, answers", str(out)):
        assert part in result.stdout.replace("\n", ""), part
    told_as_json = json.loads(evomesh("bundle", "-c", config, "--out", out, "--json").stdout)
    assert told_as_json["archive"] == str(out)
    assert Manifest.model_validate_json(members_of(out)[MANIFEST]).made_at <= datetime.now(UTC)


def test_a_directory_that_is_not_there_and_an_archive_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    absent = evomesh("bundle", "-c", config, "--out", tmp_path / "b.tar.gz", "--in", tmp_path / "absent")
    assert (absent.exit_code, "EM-FILE-MISSING" in absent.stderr) == (4, True)
    (tmp_path / "file").write_text("")
    assert evomesh("bundle", "-c", config, "--out", tmp_path / "file" / "b.tar.gz").exit_code == 1


def test_the_archive_opens_with_ordinary_tools(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    make_bundle(config, tmp_path / "b.tar.gz")
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "b.tar.gz").read_bytes()), mode="r:gz") as tar:
        assert all(name.startswith("evomesh-bundle/") for name in tar.getnames())
