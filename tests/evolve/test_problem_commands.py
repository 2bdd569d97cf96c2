from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from evolve.cli import ExitCode, app


@pytest.fixture
def config(tmp_path: Path) -> Path:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(
        "".join(json.dumps({"question": f"What is {n} + {n}?", "answer": 2 * n}) + "\n" for n in range(20))
    )
    path = tmp_path / "run.yaml"
    values = {
        "name": "adding",
        "run_dir": str(tmp_path / "run"),
        "serving": {"engines": [{"kind": "scripted", "name": name, "family": name} for name in ("one", "two")]},
        "training": {"kind": "scripted"},
        "problems": {"kind": "file", "path": str(tasks), "near_duplicates": {}},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_tasks_are_added_and_the_table_says_where(config: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text('{"question": "What is 30 + 31?", "answer": 61}\n{"question": "What is 3 + 3?", "answer": 6}\n')
    dry = CliRunner().invoke(app, ["problems", "add", str(more), "--config", str(config), "--dry-run"])
    assert dry.exit_code == ExitCode.OK, dry.output
    assert "1 tasks would be added" in dry.output
    assert "not added, line 2: the file has this question" in dry.output
    done = CliRunner().invoke(app, ["problems", "add", str(more), "--config", str(config), "--json"])
    told = json.loads(done.stdout)
    assert (told["version"], sum(told["added"].values()), sum(told["total"].values())) == (1, 1, 21)
    assert (tmp_path / "tasks.deal.jsonl").is_file()


def test_made_up_problems_are_not_added_to(config: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(config.read_text())
    values["problems"] = {"kind": "reasoning_gym", "families": [{"name": "gcd"}]}
    config.write_text(yaml.safe_dump(values))
    done = CliRunner().invoke(app, ["problems", "add", str(tmp_path / "x.jsonl"), "-c", str(config)])
    assert done.exit_code == ExitCode.BAD_CONFIG
    assert "only problems.kind 'file' is added to" in done.output
