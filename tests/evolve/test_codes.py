"""Every error has a code, every code a line in the runbook, and a command ends as its code says."""

from __future__ import annotations

import ast
import builtins
import errno
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evolve.cli import app
from evolve.commands.codes import CODES, Code, code_named, code_of, code_of_kind
from evolve.commands.errors import Reported, tell
from memory.ledger import Ledger, LedgerError
from mesh.engine import EngineError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("memory", "mesh", "serving", "evolve")

BECOME_DATA = {
    "evolve.commands.doorkeeper.DoorEnded": "what Ray Serve is told of the door that it watches",
    "evolve.training.sharded.ShardedError": "the reason for which a candidate is quarantined",
    "evolve.studies.experiment.SittingOver": "the end of a sitting of scripts/experiment.py: more is to do",
    "memory.exchange_lines.BadLine": "a line of an import that is told by its number",
    "memory.store.UnknownEnd": "an edge of an import that is told by its number",
    "mesh.oversight.Waiting": "a pause for a person, not an error",
    "serving.endpoint.keys.KeyRefused": "an answer of the door",
    "serving.endpoint.body.ClientLeft": "a deliberation that is cancelled",
    "serving.endpoint.errors.Refused": "an answer of the door, with a code of OpenAI's",
    "serving.endpoint.quota.QuotaExceeded": "an answer of the door",
}
"""Errors that never end a command, and what they become instead."""


def exception_classes() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(module.Class, names of its bases) of every class of the four packages that is an exception by its bases."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for path in sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name))
                found[node.name] = (f"{module}.{node.name}", bases)

    def is_error(name: str) -> bool:
        known = getattr(builtins, name, None)
        if isinstance(known, type) and issubclass(known, BaseException):
            return True
        return any(is_error(base) for base in found.get(name, ("", ()))[1])

    for name, (full, _) in found.items():
        if is_error(name) and not name.startswith("_"):  # what is private is caught where it is raised
            ancestors: list[str] = []
            waiting = [name]
            while waiting:
                known, above = found.get(waiting[0], (f"builtins.{waiting[0]}", ()))
                ancestors.append(known)
                waiting = waiting[1:] + list(above)
            yield full, tuple(ancestors)


def test_every_exception_of_the_program_has_a_code_or_becomes_data() -> None:
    coded = {error for code in CODES for error in code.errors}
    missing = [
        name for name, ancestors in exception_classes() if not coded & set(ancestors) and name not in BECOME_DATA
    ]
    assert not missing, f"give these a code in commands/codes.py, or say in BECOME_DATA what they become: {missing}"


def test_every_class_that_the_table_names_exists() -> None:
    classes = {name for name, _ in exception_classes()}
    named = [error for code in CODES for error in code.errors]
    assert len(set(named)) == len(named)
    for error in named:
        module, _, name = error.rpartition(".")
        assert error in classes or (module == "builtins" and hasattr(builtins, name)), error


def test_names_are_unique_and_sentences_end() -> None:
    assert len({code.name for code in CODES}) == len(CODES)
    for code in CODES:
        assert code.means.endswith(".")
        assert code.do.endswith(".")


def runbook_sections() -> dict[str, str]:
    """Text under every heading of the runbook, by heading."""
    text = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    parts = re.split(r"^#{2,4} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_the_runbook_has_a_section_for_each_code_that_says_what_the_command_says(code: Code) -> None:
    section = " ".join(runbook_sections()[code.name].split())
    assert code.means in section
    assert code.do in section


def test_the_runbook_explains_no_code_that_is_none() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    for name in set(re.findall(r"\bEM(?:-[A-Z]+)+\b", text)):
        assert code_named(name) is not None, name


def test_a_subclass_has_the_code_of_its_nearest_ancestor() -> None:
    class Special(LedgerError):
        pass

    class Stranger(Exception):
        pass

    special = code_of(Special("x"))
    assert special is not None
    assert special.name == "EM-LEDGER"
    assert code_of(Stranger("x")) is None
    assert code_of(ValueError("x")) is None


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (errno.ENOSPC, "EM-DISK-FULL"),
        (errno.EADDRINUSE, "EM-PORT"),
        (errno.EMFILE, "EM-OPEN-FILES"),
        (errno.EACCES, "EM-PERMISSION"),
        (errno.ENOENT, "EM-FILE-MISSING"),
        (errno.ECONNREFUSED, "EM-CONNECTION"),
        (errno.EIO, "EM-SYSTEM"),
    ],
)
def test_a_system_error_is_told_by_its_number(number: int, name: str) -> None:
    found = code_of(OSError(number, "as the system says"))
    assert found is not None
    assert found.name == name


def test_a_full_disk_is_found_behind_the_error_that_wraps_it(tmp_path: Path) -> None:
    wrapped = LedgerError("could not append")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    found = code_of(wrapped)
    assert found is not None
    assert found.name == "EM-DISK-FULL"


def test_a_failure_in_a_trace_is_told_by_the_name_of_its_class() -> None:
    for kind, name in {
        "EngineDied": "EM-ENGINE-DIED", "TimeoutError": "EM-CALL-TIMEOUT", "BudgetExhausted": "EM-BUDGET",
        "EngineError": "EM-ENGINE",
    }.items():  # fmt: skip
        found = code_of_kind(kind)
        assert found is not None
        assert found.name == name
    assert code_of_kind("Nonsense") is None


def test_under_json_an_error_is_json_and_the_exit_code_is_that_of_its_kind(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["config", "validate", str(tmp_path / "none.yaml"), "--json"])
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["exit"]) == ("EM-CONFIG", 2)
    assert error["runbook"] == "docs/runbook.md#em-config"
    assert "error EM-CONFIG: " in done.stderr
    assert not CliRunner().invoke(app, ["config", "validate", str(tmp_path / "none.yaml")]).stdout


def test_a_wrong_command_line_has_a_code_too() -> None:
    command = [sys.executable, "-m", "evolve.cli", "models", "--stoer", "x", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "EM-USAGE"
    assert "error EM-USAGE" in done.stderr


def test_a_wrong_command_is_told_once_with_the_usage_and_the_nearest_one() -> None:
    for wrong, nearest in ((["evolv", "x"], "'evolve'"), (["memory", "serch", "x"], "'search'")):
        command = [sys.executable, "-m", "evolve.cli", *wrong]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: ")
        assert done.stderr.count("No such command") == 1
        assert done.stderr.rstrip().endswith(f"Did you mean {nearest}?")


def test_help_that_nobody_asked_for_is_no_error() -> None:
    done = subprocess.run([sys.executable, "-m", "evolve.cli", "config"], capture_output=True, text=True, timeout=60)
    assert "EM-" not in done.stderr


def test_a_defect_keeps_its_traceback_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, Reported(as_json=True):
        raise KeyError("nobody thought of it")
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "Traceback" in said.err
    assert json.loads(said.out)["error"]["code"] == "EM-DEFECT"
    assert "evomesh bundle" in json.loads(said.out)["error"]["do"]


def test_an_interrupted_command_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, Reported(as_json=False):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert "the same command continues" in capsys.readouterr().err


def test_a_block_that_ends_well_or_by_its_own_exit_is_left_alone() -> None:
    with Reported(as_json=True):
        pass
    with pytest.raises(SystemExit) as ended, Reported(as_json=True):
        raise SystemExit(4)
    assert ended.value.code == 4


def test_a_message_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    found = code_of(EngineError("x"))
    assert found is not None
    tell(found, "engine said \x1b[2J\x07 and more\nsecond line", as_json=False)
    said = capsys.readouterr().err
    assert "\x1b[2J" not in said
    assert "second line" in said


def test_a_damaged_ledger_reaches_the_shell_with_its_code(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "generations.jsonl")
    ledger.append("generation", {"number": 0})
    path = tmp_path / "generations.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"number":0', b'"number":1'))
    done = CliRunner().invoke(
        app, ["deliberate", "1 + 1?", "-c", "configs/simulated.yaml", "--run", str(tmp_path), "--json"]
    )
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["code"] == "EM-LEDGER"


def test_every_command_with_json_hands_it_on_to_its_work() -> None:
    """`_exit` finds --json in the closure of the command; one that does not use it would give no JSON error."""
    tree = ast.parse((ROOT / "evolve" / "cli.py").read_text("utf-8"))
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        if any(argument.arg == "as_json" for argument in function.args.args):
            inside = [node for node in ast.walk(function) if isinstance(node, ast.Lambda)]
            names = {node.id for one in inside for node in ast.walk(one) if isinstance(node, ast.Name)}
            assert "as_json" in names, function.name


def test_modules_with_errors_can_be_found_by_the_names_in_the_table() -> None:
    """A class that moved keeps its code only if the table says where it is now; light modules are imported to see."""
    for name in ("memory.ledger.LedgerError", "mesh.engine.EngineError", "evolve.config.ConfigError"):
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__module__ == module
