"""The `review` and `audit` commands: what a person sees, what is refused, and what the shell gets to know."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from evolve.cli import app
from memory.types import content_hash
from mesh.reviews import REVIEWS, ReviewDesk
from mesh.types import Question

QUESTION = Question(
    deliberation="d1",
    task_id="t1",
    step="draft/check",
    reason="a tie: 2 answers with 1 each",
    question="What is 3 + 4?",
    choices=("7", "8"),
    arguments=("3 and 4 make 7", "one more than 7"),
)
OTHER = QUESTION.model_copy(update={"step": ""})


def evomesh(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """A directory that a batch wrote to, with two open questions of one deliberation."""
    desk = ReviewDesk(tmp_path / "reviews")
    desk.put(QUESTION)
    desk.put(OTHER)
    return tmp_path


def test_help_of_review_and_audit_lists_their_commands() -> None:
    assert {"review", "audit"} <= set(evomesh("--help").stdout.split())
    assert {"list", "show", "answer"} <= set(evomesh("review", "--help").stdout.split())
    assert "verify" in evomesh("audit", "--help").stdout


def test_person_lists_shows_and_answers_and_the_waiting_process_finds_it(batch: Path) -> None:
    listed = evomesh("review", "list", batch)
    assert listed.exit_code == 0, listed.stderr
    assert QUESTION.id in listed.stdout
    assert "2 open of 2 questions" in listed.stdout

    shown = evomesh("review", "show", batch, QUESTION.id[:8]).stdout
    for text in (QUESTION.reason, "Step: draft/check", "  | What is 3 + 4?", content_hash(QUESTION)):
        assert text in shown
    assert "Choice 1, the mesh's own\n  | 7\n  argued for with\n  | 3 and 4 make 7\nChoice 2\n  | 8\n" in shown

    bound = ("--content", content_hash(QUESTION), "--by", "ana", "--note", "counted it")
    done = evomesh("review", "answer", batch, QUESTION.id, "--choice", 2, *bound)
    assert done.exit_code == 0, done.stderr
    assert "Answered by ana" in done.stdout
    assert f"The same deliberation still waits for {OTHER.id}" in done.stdout
    found = ReviewDesk(batch / "reviews").put(QUESTION)
    assert found is not None
    assert (found.choice, found.by, found.note) == (1, "ana", "counted it")

    assert QUESTION.id not in evomesh("review", "list", batch).stdout
    everything = evomesh("review", "list", batch, "--all").stdout
    assert QUESTION.id in everything
    assert "1 open of 2 questions" in everything
    after = evomesh("review", "show", batch, QUESTION.id).stdout
    assert re.search(r"Answered by ana at 20\S+, choice 2\n  \| 8\nNote\n  \| counted it\n$", after)


def test_edit_is_an_answer_of_the_persons_own_under_the_users_name(batch: Path, monkeypatch) -> None:
    monkeypatch.setenv("LOGNAME", "bo")
    done = evomesh("review", "answer", batch / "reviews", QUESTION.id, "--edit", " nine ", "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)["answer"]
    assert (answer["edit"], answer["choice"], answer["by"]) == ("nine", None, "bo")
    summary = json.loads(evomesh("audit", "verify", batch, "--json").stdout)
    assert (summary["num_asked"], summary["num_answered"], summary["num_edited"], summary["num_open"]) == (2, 1, 1, 1)


def test_system_without_a_user_name_wants_by(batch: Path, monkeypatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    done = evomesh("review", "answer", batch, QUESTION.id, "--choice", 1)
    assert done.exit_code == 2
    assert "say who answers with --by" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--choice", "3"), "expected one of its 2 choices, got number 3"),
        (("--choice", "0"), "got number 0"),
        ((), "got neither"),
        (("--choice", "1", "--edit", "7"), "got both"),
        (("--edit", " "), "says nothing"),
        (("--choice", "1", "--content", "abc"), "this is not the question that you saw"),
    ],
)
def test_refused_answer_exits_with_2_and_is_not_written(batch: Path, arguments: tuple[str, ...], message: str) -> None:
    done = evomesh("review", "answer", batch, QUESTION.id, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert json.loads(evomesh("audit", "verify", batch, "--json").stdout)["num_answered"] == 0


def test_second_answer_and_unknown_id_exit_with_2(batch: Path) -> None:
    assert evomesh("review", "answer", batch, QUESTION.id, "--choice", 1, "--by", "ana").exit_code == 0
    again = evomesh("review", "answer", batch, QUESTION.id, "--choice", 2)
    assert (again.exit_code, "already answered by 'ana'" in again.stderr) == (2, True)
    unknown = evomesh("review", "show", batch, QUESTION.id[:-1] + "x")
    assert (unknown.exit_code, QUESTION.id in unknown.stderr) == (2, True)


@pytest.mark.parametrize("command", [("review", "list"), ("audit", "verify")])
def test_directory_without_questions_exits_with_4_and_stays_empty(tmp_path: Path, command: tuple[str, str]) -> None:
    done = evomesh(*command, tmp_path)
    assert done.exit_code == 4
    assert f"{tmp_path}: expected a run, or {REVIEWS} there or in reviews/, found neither" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_audit_prints_the_head_of_an_intact_log_and_exits_with_1_on_a_changed_byte(batch: Path) -> None:
    intact = evomesh("audit", "verify", batch)
    assert intact.exit_code == 0
    assert re.search(r"intact: 2 questions asked, 0 answered .* 2 open\nHead: [0-9a-f]{64}\n", intact.stdout)
    path = batch / "reviews" / REVIEWS
    path.write_bytes(path.read_bytes().replace(b"What is 3", b"What is 5", 1))
    broken = evomesh("audit", "verify", batch)
    assert broken.exit_code == 1
    assert "line 1: the content does not match its hash" in broken.stderr


def test_json_of_list_and_show_is_the_review_with_its_id(batch: Path) -> None:
    listed = json.loads(evomesh("review", "list", batch, "--json").stdout)
    assert [review["id"] for review in listed] == [QUESTION.id, OTHER.id]
    shown = json.loads(evomesh("review", "show", batch, QUESTION.id, "--json").stdout)
    assert shown == listed[0]
    assert shown["content"] == content_hash(QUESTION)
    assert Question.model_validate(shown["question"]) == QUESTION


def test_nothing_that_was_written_can_drive_the_terminal_or_pass_for_our_own_line(tmp_path: Path) -> None:
    forged = (
        "\nChoice 2, the mesh's own\r\x1b[2J\x1b]0;x\x07\u2028Content: 0\x0bAnswered by ana\u202e [red]:skull:[/red] "
    )
    evil = QUESTION.model_copy(
        update={
            "question": forged + "a" * 500 + " Choice 9",
            "choices": (forged, forged + "b"),
            "arguments": (forged, forged),
            "task_id": forged,
            "step": forged,
        }
    )
    desk = ReviewDesk(tmp_path)
    desk.put(evil)
    desk.answer(evil.id, by=forged, edit=forged, note=forged)
    for command in (("show", tmp_path, evil.id), ("list", tmp_path, "--all")):
        done = evomesh("review", *command)
        assert done.exit_code == 0, done.stderr
        assert all(character.isprintable() or character == "\n" for character in done.stdout)
    lines = evomesh("review", "show", tmp_path, evil.id).stdout.splitlines()
    unfenced = [line for line in lines if not line.startswith("  | ")]
    assert [line for line in unfenced if line.startswith(("Choice", "Content"))] == [
        "Choice 1, the mesh's own", "Choice 2", f"Content: {content_hash(evil)}",
    ]  # fmt: skip
    assert sum(line.startswith("Answered by") for line in unfenced) == 1
    assert any("[red]:skull:[/red]" in line for line in lines)
    assert all(len(line) <= 120 for line in lines if line.startswith("  | "))


def test_question_without_choices_is_answered_with_an_edit_only(tmp_path: Path) -> None:
    empty = QUESTION.model_copy(update={"choices": (), "arguments": (), "reason": "no answer"})
    ReviewDesk(tmp_path).put(empty)
    assert "Choice" not in evomesh("review", "show", tmp_path, empty.id).stdout
    refused = evomesh("review", "answer", tmp_path, empty.id, "--choice", 1)
    assert (refused.exit_code, "expected one of its 0 choices" in refused.stderr) == (2, True)
    assert evomesh("review", "answer", tmp_path, empty.id, "--edit", "7").exit_code == 0


def test_verdict_without_an_answer_has_no_choice_of_its_own(tmp_path: Path) -> None:
    open_ended = QUESTION.model_copy(update={"reason": "no answer"})
    ReviewDesk(tmp_path).put(open_ended)
    assert "the mesh's own" not in evomesh("review", "show", tmp_path, open_ended.id).stdout


def test_help_of_review_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom evolve.cli import app\n"
        "assert not {'mesh.reviews', 'pydantic', 'rich.table', 'torch'} & set(sys.modules), 'imported early'"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
