from __future__ import annotations

from pathlib import Path

from evolve.problems.config import ExactVerifier, NearDuplicatesConfig
from evolve.problems.sealed import SplitProblems, seal
from evolve.problems.splits import Split
from evolve.problems.types import DrawReport, Problem
from evolve.studies.fresh_tasks import LeftOut, fresh_tasks, questions_seen
from memory.ledger import publish_json
from mesh.types import Demonstration, Task

NEAR = NearDuplicatesConfig()
HARBOUR = "Which of the ships that lay in the harbour of Bergen that winter was the first to leave it in spring?"
BAKER = "Why did the baker of the small town beside the river never open his shop before noon?"
CLOUDS = "How many clouds stood over the lighthouse when the keeper wrote the first line of his diary?"


def problem(question: str, key: str = "") -> Problem:
    task = Task(id=question, question=question, type="words")
    return Problem(task=task, reference="a", verifier=ExactVerifier(), key=key or f"some family|{question}")


def questions(problems: list[Problem]) -> list[str]:
    return [one.task.question for one in problems]


def test_the_very_question_and_a_near_duplicate_are_left_out_and_counted_apart() -> None:
    tasks = [problem(BAKER), problem(HARBOUR.upper()), problem(HARBOUR + " Tell."), problem(CLOUDS)]
    fresh, left_out = fresh_tasks(tasks, [HARBOUR], NEAR)
    assert questions(fresh) == [BAKER, CLOUDS]
    assert left_out == LeftOut(num_same=1, num_near=1)
    assert left_out.num_tasks == 2


def test_what_is_near_only_through_another_task_is_left_out_as_it_would_share_a_split() -> None:
    words = f"{HARBOUR} {BAKER} {CLOUDS}".split()
    chain = [" ".join(words[4 * cut :]) for cut in range(4)]
    near = NearDuplicatesConfig(threshold=0.85)
    alone, _ = fresh_tasks([problem(chain[-1])], chain[:1], near)
    assert questions(alone) == [chain[-1]]
    together, left_out = fresh_tasks([problem(one) for one in chain[1:]], chain[:1], near)
    assert (together, left_out.num_near) == ([], 3)


def test_without_a_measure_of_nearness_only_the_very_question_is_left_out_and_that_is_said() -> None:
    fresh, left_out = fresh_tasks([problem(HARBOUR), problem(HARBOUR + " Tell.")], [HARBOUR], None)
    assert questions(fresh) == [HARBOUR + " Tell."]
    assert left_out == LeftOut(num_same=1, num_near=None)


def test_tasks_that_are_near_each_other_and_new_to_the_run_stay() -> None:
    fresh, left_out = fresh_tasks([problem(BAKER), problem(BAKER + " Tell.")], [HARBOUR], NEAR)
    assert (len(fresh), left_out.num_tasks) == (2, 0)


def drawn(run: Path, name: str, **splits: tuple[Problem, ...]) -> None:
    """The problems of a generation as a run leaves them; `gate` and `audit` are sealed here."""
    closed = {
        split.value: tuple(seal(one, split) for one in splits.pop(split.value, ()))
        for split in (Split.GATE, Split.AUDIT)
    }
    shown = {"words": (Demonstration(question="Shown?", answer="yes"),)}
    found = SplitProblems.model_validate(
        {**splits, **closed, "demonstrations": shown, "report": DrawReport(source="made up")}
    )
    publish_json(run / "steps" / name, found)


def test_a_run_saw_train_dev_gate_and_demonstrations_of_all_generations_and_not_audit(tmp_path: Path) -> None:
    drawn(
        tmp_path,
        "problems-0123456789ab.json",
        train=(problem("Train?"),),
        dev=(problem("Dev?"),),
        gate=(problem("Gate?"),),
        audit=(problem("Audit?"),),
    )
    drawn(tmp_path, "problems-generation-1-0123456789ab.json", train=(problem("Later?"),), dev=(), gate=())
    assert questions_seen([tmp_path]) == ["Train?", "Dev?", "Gate?", "Shown?", "Later?"]
    assert questions_seen([tmp_path / "nothing"]) == []
