"""The memory commands as the shell sees them, on directories filled by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner, Result

from evolve.cli import app
from memory.config import MemoryConfig
from memory.database import FILE_NAME
from memory.ledger import exclusive_lock
from memory.store import Memory
from memory.trust import TrustRules
from memory.types import Artefact, Kind, Level, Namespace
from tests.memory.doubles import APPLES, EMBEDDER, PEARS, failed, note, solved

ELSEWHERE = Namespace(project="other")


def evomesh(*arguments: str, says: str = "") -> Result:
    return CliRunner().invoke(app, ["memory", *arguments], input=says)


def as_json(*arguments: str) -> Any:
    done = evomesh(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    where = tmp_path / "memory"
    with Memory.open(where, EMBEDDER) as memory:
        memory.remember(*failed(APPLES, "9"))
        memory.remember(*solved(APPLES, "5"))
        memory.remember(*solved(PEARS, "6", namespace=ELSEWHERE, source="ben", episode="e2"))
        memory.record_artefact(Artefact(id="data-1", kind="dataset", made_from=("e1",)))
    return where


def first_id(directory: Path, text: str = "Answer: 5") -> str:
    found: list[dict[str, str]] = as_json("search", str(directory), text, "--limit", "20")
    return next(one["experience_id"] for one in found if one["text"].endswith(text))


def test_search_finds_in_the_namespaces_it_is_given(directory: Path) -> None:
    assert "Answer: 5" in evomesh("search", str(directory), APPLES).stdout
    found = as_json("search", str(directory), "pears apples", "--namespace", "default/other/*", "--limit", "9")
    assert {PEARS in one["text"] for one in found} == {True}
    done = evomesh("search", str(directory), "x", "--namespace", "*/a/b")
    assert (done.exit_code, "name the team" in done.stderr) == (2, True)


def test_brief_and_stats_say_what_is_held(directory: Path) -> None:
    assert "Memory of 2 problems" in evomesh("brief", str(directory)).stdout
    assert "Memory of 1 problems" in as_json("brief", str(directory), "--namespace", str(ELSEWHERE))["brief"]
    assert as_json("stats", str(directory))["num_experiences"] == 6
    assert "num_experiences" in evomesh("stats", str(directory)).stdout


def test_show_takes_an_abbreviated_id_and_writes_picture_and_page(directory: Path, tmp_path: Path) -> None:
    id = first_id(directory)
    files = "--svg", str(tmp_path / "story.svg"), "--html", str(tmp_path / "story.html")
    done = evomesh("show", str(directory), id[:10], *files)
    assert done.exit_code == 0, done.output
    assert f"solution {id}" in done.stdout
    assert "check: exact passed" in done.stdout
    ElementTree.parse(tmp_path / "story.svg")
    assert "<svg" in (tmp_path / "story.html").read_text()
    assert as_json("show", str(directory), id[:10])["id"] == id


def test_an_id_that_is_ambiguous_or_unknown_is_refused_with_what_there_is(directory: Path) -> None:
    with Memory.open(directory, EMBEDDER) as memory:
        ids = memory.remember([note(Kind.PROBLEM, f"p{number}") for number in range(40)])
    twins = next([one, other] for one in ids for other in ids if one < other and one[0] == other[0])
    done = evomesh("show", str(directory), twins[0][0])
    assert done.exit_code == 2
    assert "which several do" in done.stderr
    for bad in ("zzz", ""):
        assert evomesh("show", str(directory), bad).exit_code == 2


def test_what_a_person_finds_counts_as_evidence_under_their_name(directory: Path) -> None:
    id = first_id(directory)
    for note_ in ("counted by hand", "counted again"):
        done = as_json("verify", str(directory), id, "--verdict", "failed", "--by", "dee", "--note", note_)
    assert done["standing"]["num_failed"] == 2
    assert (done["standing"]["level"], done["standing"]["warns"]) == ("verified", True)
    done_ = evomesh("verify", str(directory), id, "--verdict", "passed", "--by", "dee")
    assert "2 failed" in done_.stdout
    for bad in (["--verdict", "maybe", "--by", "dee"], ["--verdict", "passed", "--by", " "]):
        assert evomesh("verify", str(directory), id, *bad).exit_code == 2


def test_retire_and_restore(directory: Path) -> None:
    id = first_id(directory)
    assert "is retired (retired: too old)" in evomesh("retire", str(directory), id, "--reason", "too old").stdout
    assert as_json("restore", str(directory), id[:12])["standing"]["level"] == "verified"


def test_rollback_shows_what_would_change_and_asks(directory: Path) -> None:
    asked = evomesh("rollback", str(directory), "--source", "ben", says="n\n")
    assert (asked.exit_code, "2 experiences would be believed differently" in asked.stdout) == (0, True)
    assert "Nothing was changed" in asked.stdout
    preview = as_json("rollback", str(directory), "--source", "ben")
    assert (preview["done"], len(preview["changes"])) == (False, 2)
    assert as_json("stats", str(directory))["num_retired"] == 0
    assert "Rolled back" in evomesh("rollback", str(directory), "--source", "ben", says="y\n").stdout
    assert as_json("stats", str(directory))["num_retired"] == 2
    assert "0 experiences" in evomesh("rollback", str(directory), "--source", "ben").stdout


def test_rollback_goes_by_event_or_by_time(directory: Path) -> None:
    by_event = as_json("rollback", str(directory), "--since", "3", "--yes")
    assert (by_event["done"], by_event["since"]) == (True, 3)
    assert as_json("rollback", str(directory), "--since", "2001-01-01")["since"] == 1
    for bad in (
        ["--since", "yesterday"],
        ["--since", "2999-01-01"],
        [],
        ["--source", "a", "--since", "1"],
        ["--source", ""],
    ):
        assert evomesh("rollback", str(directory), *bad).exit_code == 2


def test_erase_asks_and_names_what_was_made_from_it(directory: Path) -> None:
    id = first_id(directory)
    assert "Nothing was changed" in evomesh("erase", str(directory), id, says="n\n").stdout
    assert evomesh("erase", str(directory), id).exit_code == 1, "nobody answered"
    assert as_json("erase", str(directory), id)["done"] is False
    assert "dataset data-1 was made from it" in evomesh("erase", str(directory), id, "--yes").stdout
    assert evomesh("show", str(directory), id).exit_code == 2


def test_export_and_import_carry_a_memory_to_a_new_directory(directory: Path, tmp_path: Path) -> None:
    out, new = tmp_path / "out", tmp_path / "new"
    assert as_json("export", str(directory), str(out))["num_experiences"] == 6
    assert "6 experiences in" in evomesh("export", str(directory), str(out)).stdout
    with (out / "memory.jsonl").open("a") as file:
        file.write("nonsense\n")
    done = evomesh("import", str(new), str(out), "--embedder", "hashed")
    assert done.exit_code == 0, done.output
    assert "6 experiences" in done.stdout
    assert "was refused" in done.stdout
    assert as_json("import", str(new), str(out), "--into", "team/project/run")["num_experiences"] == 6
    assert set(as_json("stats", str(new))["by_namespace"]) == {
        "default/default/default", "default/other/default", "team/project/run",
    }  # fmt: skip
    assert evomesh("import", str(new), str(out), "--into", "nowhere").exit_code == 2
    assert evomesh("import", str(new), str(tmp_path / "none")).exit_code == 4


def test_rebuild_and_doctor_find_everything_in_order(directory: Path) -> None:
    assert "Derived anew from" in evomesh("rebuild", str(directory)).stdout
    findings = {one["name"]: one for one in as_json("doctor", str(directory))["findings"]}
    assert {one["level"] for name, one in findings.items() if name != "free space"} == {"ok"}, findings
    assert "every hash" in findings["integrity"]["found"]
    assert "flat, exact" in findings["index"]["found"]
    assert "integrity" in evomesh("doctor", str(directory)).stdout


def test_doctor_says_what_is_wrong_and_what_to_do(directory: Path) -> None:
    (directory / "notes.txt").write_text("mine")
    (index,) = (path for path in (directory / "index").iterdir() if path.is_dir())
    (index / ".building-1-ab").mkdir()
    findings = {one["name"]: one for one in as_json("doctor", str(directory))["findings"]}
    assert "notes.txt" in findings["orphaned files"]["found"]
    assert ".building-1-ab" in findings["orphaned files"]["found"]
    store = directory / FILE_NAME
    data = bytearray(store.read_bytes())
    data[5000:9000] = bytes(4000)
    store.write_bytes(data)
    done = evomesh("doctor", str(directory), "--json")
    assert done.exit_code == 1
    assert "restore" in done.stdout


def test_a_writing_command_beside_a_writer_exits_with_3_and_a_reading_one_goes_on(directory: Path) -> None:
    with exclusive_lock(directory):
        done = evomesh("rebuild", str(directory))
        assert (done.exit_code, "is locked by" in done.stderr) == (3, True)
        assert evomesh("stats", str(directory)).exit_code == 0


def test_a_directory_without_a_memory_is_named_with_what_was_expected(tmp_path: Path) -> None:
    for command in (["stats"], ["brief"], ["doctor"], ["search"], ["retire"]):
        arguments = [command[0], str(tmp_path / "none"), *(["x"] if command[0] in ("search", "retire") else [])]
        done = evomesh(*arguments)
        assert done.exit_code == 4
        assert "expected the directory of a run" in done.stderr
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 500)
    assert evomesh("stats", str(tmp_path)).exit_code == 1
    done = evomesh("stats", str(tmp_path / "none"), "--json")
    assert (done.exit_code, json.loads(done.stdout)["error"]["code"]) == (4, "EM-FILE-MISSING")


def test_the_run_says_where_its_memory_lies_and_by_which_rules_it_believes(directory: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    data = yaml.safe_load(Path("configs/simulated.yaml").read_text())
    data["memory"] = {"directory": str(directory), "embedder": "hashed", "team": "default", "project": "other"}
    data["name"] = "default"
    (run / "config.yaml").write_text(yaml.safe_dump(data))
    assert "Memory of 1 problems" in evomesh("brief", str(run)).stdout
    assert as_json("stats", str(run))["num_experiences"] == 6
    assert as_json("retire", str(run), first_id(run))["standing"]["level"] == Level.RETIRED.value


def test_rules_of_its_own_are_not_exchanged_for_the_defaults_by_a_command(tmp_path: Path) -> None:
    where = tmp_path / "memory"
    with Memory.open(where, EMBEDDER, config=MemoryConfig(trust=TrustRules(trusted_verifiers=("mine",)))) as memory:
        (first, second) = memory.remember([note(Kind.SOLUTION, "s", "passed"), note(Kind.PROBLEM, "p")])
    assert evomesh("retire", str(where), second).exit_code == 0
    shown = as_json("show", str(where), first)
    assert "candidate" in json.dumps(shown)  # "exact", who passed it, is nobody here


def test_an_embedder_that_is_none_is_refused(directory: Path) -> None:
    done = evomesh("search", str(directory), "x", "--embedder", "word2vec")
    assert (done.exit_code, "expected minilm or hashed" in done.stderr) == (2, True)
