"""`evomesh serve` as the shell sees it: a process that opens, answers, drains, and refuses what would be unsafe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from evolve.commands.serve import served_protocols
from evolve.config import ConfigError, load_mesh
from memory.ledger import Ledger
from mesh.types import Member

CONFIG = """
name: door
run_dir: {directory}/run
serving:
  in_process: true
  engines:
    - {{kind: scripted, name: ada, family: alpha, skill: 1.0}}
    - {{kind: scripted, name: ben, family: beta, skill: 1.0}}
endpoint: {{state: {directory}/state{endpoint}}}
{more}
"""
SEATS = tuple(Member(name=name, engine=name, family=family) for name, family in (("ada", "alpha"), ("ben", "beta")))
QUESTION = {"messages": [{"role": "user", "content": "What is 17 + 25?"}], "mesh": {"answer": "number"}}


def config(directory: Path, endpoint: str = "", more: str = "") -> Path:
    path = directory / "config.yaml"
    path.write_text(CONFIG.format(directory=directory, endpoint=endpoint, more=more))
    return path


def command(path: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "evolve.cli", "serve", str(path), "--port", "0", "--json", *options]


@contextmanager
def serving(path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A door as a process of its own, and what it said when it had opened."""
    with subprocess.Popen(command(path, *options), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            text = ""
            while not text.endswith("}\n"):
                text += process.stdout.readline()
            yield process, json.loads(text)
        finally:
            process.kill()


def refused(path: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run(command(path, *options), capture_output=True, text=True, timeout=180)
    return done.returncode, done.stderr


def test_a_door_opens_answers_keeps_and_closes_when_it_is_told_to(tmp_path: Path) -> None:
    path = config(tmp_path)
    with serving(path) as (process, said), httpx.Client(base_url=said["url"], timeout=30, trust_env=False) as client:
        assert client.get("/readyz").json()["status"] == "ready"
        assert "evomesh" in client.get("/").text
        answer = client.post("/v1/chat/completions", json={"model": "mesh", **QUESTION}).json()
        alone = client.post("/v1/chat/completions", json={"model": "ada", "messages": QUESTION["messages"]}).json()
        assert answer["choices"][0]["message"]["content"] == "42"
        assert "42" in alone["choices"][0]["message"]["content"]
        code, error = refused(path)
        assert (code, "lock" in error) == (3, True)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    state = tmp_path / "state"
    assert state.stat().st_mode & 0o077 == 0
    assert len(Ledger(state / "requests.jsonl", readonly=True).entries()) == 2
    assert len(list((state / "deliberations" / "local").iterdir())) == 1


def test_a_door_over_a_cluster_lets_what_is_under_way_end(tmp_path: Path) -> None:
    slow = "  in_process: false\n  ray: {object_store_mib: 80}\n  start_timeout_s: 300\n  engines:\n"
    path = config(tmp_path)
    path.write_text(
        path.read_text()
        .replace("  in_process: true\n  engines:\n", slow)
        .replace("skill: 1.0}", "skill: 1.0, latency_s: 1.5}")
    )
    with serving(path) as (process, said), ThreadPoolExecutor() as pool:

        def ask() -> httpx.Response:
            url = f"{said['url']}/v1/chat/completions"
            return httpx.post(url, json={"model": "mesh", **QUESTION}, timeout=120, trust_env=False)

        asked = pool.submit(ask)
        log = tmp_path / "state" / "requests.jsonl"
        time.sleep(1.0)
        assert not asked.done()
        # Ray has its own answer to the signal, which is to exit.
        process.send_signal(signal.SIGTERM)
        answer = asked.result()
        assert (answer.status_code, answer.json()["mesh"]["answer"]) == (200, "42")
        assert process.wait(timeout=120) == 0
    assert len(Ledger(log, readonly=True).entries()) == 1


def test_a_door_in_safe_mode_answers_with_one_base_member(tmp_path: Path) -> None:
    with serving(config(tmp_path), "--safe") as (_, said):
        assert said["models"] == ["mesh"]
        answer = httpx.post(
            f"{said['url']}/v1/chat/completions", json={"model": "mesh", **QUESTION}, timeout=30, trust_env=False
        ).json()
    assert (answer["mesh"]["protocol"], list(answer["mesh"]["adapters"])) == ("single", ["ada"])


@pytest.mark.parametrize(
    ("endpoint", "options", "expected"),
    [
        (", require_key: false", ["--host", "0.0.0.0"], "require_key"),
        ("", ["--run", "nowhere", "--channel", "prod"], "expected one of them"),
        ("", ["--channel", "prod"], "prod"),
        (", max_queud: 3", [], "max_queued"),
    ],
)
def test_what_would_be_unsafe_or_meaningless_is_refused_before_it_opens(
    tmp_path: Path, endpoint: str, options: list[str], expected: str
) -> None:
    code, error = refused(config(tmp_path, endpoint), *options)
    assert code != 0
    assert expected in error
    assert "Traceback" not in error


def test_every_protocol_that_needs_no_settings_is_served_and_those_of_the_endpoint(tmp_path: Path) -> None:
    own = ", protocols: {quick: {kind: vote, samples_per_member: 3}}"
    found = served_protocols(load_mesh(config(tmp_path, own)), SEATS, safe=False)
    assert next(iter(found)) == "mesh"
    assert {"mesh:single", "mesh:vote", "mesh:council", "mesh:escalate", "mesh:debate", "mesh:quick"} <= set(found)
    assert "mesh:sequential" not in found
    assert found["mesh:quick"].kind == "vote"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("protocol: {kind: vote, oversight: {on_family_split: true}}", "asks nobody"),
        ("protocol: {kind: single, member: zed}", "zed"),
    ],
)
def test_a_protocol_that_cannot_be_held_at_a_door_is_refused(tmp_path: Path, more: str, expected: str) -> None:
    try:
        mesh = load_mesh(config(tmp_path, more=more))
    except ConfigError as error:
        pytest.fail(str(error))
    with pytest.raises(ConfigError, match=expected):
        served_protocols(mesh, SEATS, safe=False)
