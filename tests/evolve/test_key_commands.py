"""The `keys` commands: the key is shown once, lists and errors never hold one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from evolve.cli import app
from serving.endpoint.keys import KeyRing


def evomesh(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.yaml"
    path.write_text(
        f"name: test\nrun_dir: {tmp_path}/run\nendpoint: {{state: {tmp_path}/door}}\n"
        "serving: {in_process: true, engines: [{kind: scripted, name: a, family: a}]}\n"
    )
    return path


def test_a_key_is_made_listed_and_revoked(config: Path, tmp_path: Path) -> None:
    made = evomesh(
        "keys", "create", "--team", "billing", "--quota", 5000, "--per", "hour", "--note", "[b]x", "-c", config
    )
    assert made.exit_code == 0, made.stderr
    assert (tmp_path / "door").stat().st_mode & 0o077 == 0
    secret, _, words = made.stdout.partition("\n")
    ring = KeyRing(tmp_path / "door" / "keys.json")
    record = ring.find(secret)
    assert record is not None
    assert "billing/default, 5000 tokens per hour" in words

    listed = evomesh("keys", "list", "-c", config).stdout
    assert record.id in listed
    assert "[b]x" in listed
    assert "1 of 1 keys open the door" in listed
    assert secret not in listed
    assert record.digest not in evomesh("keys", "list", "--json", "-c", config).stdout

    assert evomesh("keys", "revoke", record.id, "-c", config).exit_code == 0
    assert ring.find(secret) is None
    assert "0 of 1 keys open the door" in evomesh("keys", "list", "-c", config).stdout


def test_json_holds_the_key_and_nothing_but_json(config: Path) -> None:
    made = json.loads(evomesh("keys", "create", "--team", "search", "--days", 1, "--json", "-c", config).stdout)
    assert made["key"].startswith(f"em_{made['id']}_")
    assert made["expires_at"] - made["created_at"] == pytest.approx(86_400)
    assert "digest" not in made


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--team", "a/b"), "team"),
        (("create", "--team", "a", "--per", "week"), "expected hour, day, month, got 'week'"),
        (("create", "--team", "a", "--quota", "0"), "greater than or equal"),
        (("revoke", "123"), "expected the id of one key"),
    ],
)
def test_bad_input_exits_with_2_and_says_what_was_expected(config: Path, arguments: tuple[str, ...], said: str) -> None:
    done = evomesh("keys", *arguments, "-c", config)
    assert done.exit_code == 2
    assert said in done.stderr
