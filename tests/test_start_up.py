"""What a command brings along: one on engines of its own process imports no library that it has no use for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TRAINING = {"torch", "transformers", "vllm", "trl", "peft", "datasets", "accelerate", "ray", "scipy", "reasoning_gym"}
MEMORY = {"faiss"}
DOOR = {"fastapi", "starlette", "uvicorn"}
CONFIG = """
name: light
run_dir: {directory}/run
serving:
  in_process: true
  fleet: {{directory: {directory}/fleet}}
  engines:
    - {{kind: scripted, name: ada, family: alpha, skill: 1.0}}
    - {{kind: scripted, name: ben, family: beta, skill: 1.0}}
endpoint: {{state: {directory}/state}}
"""
# Written when the process ends, so that what is imported late counts too.
CODE = """
import atexit, json, sys
seen = open(sys.argv.pop(1), "w")
atexit.register(lambda: (json.dump(sorted({name.split(".")[0] for name in sys.modules}), seen), seen.close()))
from evolve.cli import main
main()
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("light")
    (path / "config.yaml").write_text(CONFIG.format(directory=path))
    (path / "tasks.jsonl").write_text('{"id": "a", "question": "What is 17 + 25?"}\n')
    return path


def command(directory: Path, *arguments: str) -> list[str]:
    filled = [argument.format(config=directory / "config.yaml", directory=directory) for argument in arguments]
    return [sys.executable, "-c", CODE, str(directory / "modules.json"), *filled]


def imported(directory: Path) -> set[str]:
    return set(json.loads((directory / "modules.json").read_text()))


@pytest.mark.parametrize(
    ("arguments", "without"),
    [
        (("deliberate", "What is 17 + 25?", "-c", "{config}"), TRAINING | MEMORY | DOOR | {"pyarrow", "pandas"}),
        (("batch", "{directory}/tasks.jsonl", "-o", "{directory}/out", "-c", "{config}"), TRAINING | DOOR),
        (("status", "-c", "{config}"), TRAINING | DOOR),
        (("fleet", "show", "{config}"), TRAINING | MEMORY | DOOR | {"pyarrow", "pandas"}),
        (("channels", "-c", "{config}"), TRAINING | MEMORY | DOOR | {"pandas"}),
        (("report", "{directory}/run"), TRAINING | DOOR),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_command_imports_nothing_that_it_does_not_use(
    directory: Path, arguments: tuple[str, ...], without: set[str]
) -> None:
    done = subprocess.run(command(directory, *arguments), capture_output=True, text=True, timeout=180)
    assert "Traceback" not in done.stderr
    assert imported(directory) & without == set(), done.stderr


def test_an_open_door_on_engines_of_its_own_process_imports_nothing_of_training_or_of_a_cluster(
    directory: Path,
) -> None:
    asked = command(directory, "serve", "{config}", "--port", "0", "--json")
    with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "{"  # it says where it listens once it does
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(timeout=60) == 0
    assert imported(directory) & TRAINING == set()
