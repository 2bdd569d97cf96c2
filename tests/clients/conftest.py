"""A door that clients of others are tried against: `evomesh serve` as a process of its own, over scripted engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CONFIG = """
name: clients
run_dir: {directory}/run
serving:
  in_process: true
  engines:
    - {{kind: scripted, name: ada, family: alpha, skill: 1.0}}
    - {{kind: scripted, name: ben, family: beta, skill: 1.0}}
    - {{kind: scripted, name: cid, family: gamma, skill: 0.0}}
endpoint: {{state: {directory}/state}}
"""


@pytest.fixture(scope="session")
def door_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the door listens, without /v1."""
    directory = tmp_path_factory.mktemp("door")
    config = directory / "config.yaml"
    config.write_text(CONFIG.format(directory=directory))
    command = [sys.executable, "-m", "evolve.cli", "serve", str(config), "--port", "0", "--json"]
    # No client may look for a proxy or report to anybody.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd(), env=quiet()) as process:
        assert process.stdout is not None
        yield _first_object(process.stdout)["url"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def quiet() -> dict[str, str]:
    """The environment for a client: offline, and nothing is traced anywhere."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return kept | {"HF_HUB_OFFLINE": "1", "LANGSMITH_TRACING": "false", "DO_NOT_TRACK": "1"}


def _first_object(lines: Iterator[str]) -> dict[str, str]:
    text = ""
    for line in lines:
        text += line
        try:
            found: dict[str, str] = json.loads(text)
        except ValueError:
            continue
        return found
    raise AssertionError(f"expected the door to say where it listens, got {text!r}")
