"""What the `review` and `audit` commands do: show a person what a mesh asks, take the answer, check the log."""

from __future__ import annotations

import getpass
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.cells import chop_cells
from rich.table import Table
from rich.text import Text

from evolve.commands.general import OUT, print_json
from evolve.governance.approvals import APPROVALS
from evolve.governance.audit_log import AUDIT_LOG
from evolve.lineage import Lineage
from evolve.run_files import CONFIG, GENERATIONS, JOURNAL
from memory.ledger import Ledger
from mesh.oversight import NO_ANSWER
from mesh.reviews import REVIEWS, Review, ReviewDesk, ReviewError, verify
from mesh.types import PersonAnswer, Question
from serving.adapters import AdapterMissing, AdapterStore

FENCE = "  | "
"""Stands before every line that a model or a user wrote, so that none of them can pass for one of ours."""

MAX_CELL_CHARS = 60
RUN_LEDGERS = {
    AUDIT_LOG: "the first decision about a specialist",
    APPROVALS: "the first proposal that people may speak about",
    GENERATIONS: "generation 0",
    JOURNAL: "the first accepted step",
    f"reviews/{REVIEWS}": "the first question that `deliberate` puts to a person",
}
"""What a run keeps hash-chained, and with what each begins."""
MARKS_OF_A_RUN = (CONFIG, GENERATIONS, AUDIT_LOG)
"""Any of them tells a run from a batch, whose journal has the same name."""


def list_command(directory: Path, *, everything: bool, as_json: bool) -> None:
    """`evomesh review list`."""
    reviews = ReviewDesk(_queue(directory)).all()
    shown = [review for review in reviews if everything or review.answer is None]
    if as_json:
        print_json([_as_data(review) for review in shown])
        return
    if shown:
        OUT.print(_table(shown))
    _say(f"{sum(review.answer is None for review in reviews)} open of {len(reviews)} questions")


def show_command(directory: Path, question_id: str, *, as_json: bool) -> None:
    """`evomesh review show`."""
    review = ReviewDesk(_queue(directory)).find(question_id)
    if as_json:
        print_json(_as_data(review))
        return
    for line in (*_question_lines(review), *_outcome_lines(review)):
        _say(line)
    if review.answer is None:
        answer = f"evomesh review answer {shlex.quote(str(directory))} {review.id} --content {review.content}"
        _say(
            f"Answer it with\n  {answer} --choice NUMBER\nor, in your own words, with --edit TEXT in place of --choice"
        )


def answer_command(
    directory: Path,
    question_id: str,
    decision: tuple[int | None, str | None],
    by: str | None,
    note: str,
    content: str | None,
    *,
    as_json: bool,
) -> None:
    """`evomesh review answer`; `decision` holds the number of a choice, from 1, and the edit."""
    number, edit = decision
    desk = ReviewDesk(_queue(directory))
    answer = desk.answer(
        question_id,
        by=_user() if by is None else by,
        choice=None if number is None else number - 1,
        edit=edit,
        note=note,
        content=content,
    )
    review = desk.find(answer.question)
    if as_json:
        print_json(_as_data(review))
        return
    _say(f"Recorded for question {review.id}")
    for line in _outcome_lines(review):
        _say(line)
    waiting = [asked.id for asked in desk.open_questions() if asked.deliberation == review.question.deliberation]
    if waiting:
        _say(f"The same deliberation still waits for {', '.join(waiting)}")


def verify_command(directory: Path, *, as_json: bool) -> None:
    """`evomesh audit verify`: of a run its hash-chained files, of a batch the log of what people were asked."""
    if any((directory / name).is_file() for name in MARKS_OF_A_RUN):
        _verify_run(directory, as_json=as_json)
        return
    summary = verify(_queue(directory))
    if as_json:
        print_json(summary.model_dump(mode="json") | {"num_open": summary.num_open})
        return
    _say(
        f"The log is intact: {summary.num_asked} questions asked, {summary.num_answered} answered "
        f"({summary.num_edited} in a person's own words), {summary.num_open} open"
    )
    if summary.num_torn_bytes:
        _say(f"{summary.num_torn_bytes} bytes of writes that a crash cut off lie in {REVIEWS}.torn")
    _say(f"Head: {summary.head}")


def _verify_run(run: Path, *, as_json: bool) -> None:
    """Of a run under way, those that it has begun; of the others it is told with what they begin, as JSON null."""
    ledgers = {name: Ledger(run / name, readonly=True) if (run / name).is_file() else None for name in RUN_LEDGERS}
    adapters = _adapters_checked(run)
    if as_json:
        told: dict[str, Any] = {name: None if one is None else _entries_and_head(one) for name, one in ledgers.items()}
        print_json(told | {"adapters": adapters})
        return
    for name, one in ledgers.items():
        if one is None:
            _say(f"{name} is not there: it begins with {RUN_LEDGERS[name]}")
        else:
            _say(f"{name} is intact: {len(one)} entries, head {one.head}")
    _say(f"{sum(adapters.values())} adapters of specialists that sit or sat are there as they were admitted")
    for adapter in (one for one, is_there in adapters.items() if not is_there):
        _say(f"adapters/{adapter} is not there")


def _adapters_checked(run: Path) -> dict[str, bool]:
    """Hash of every adapter in the lineage to whether it is there; its content is then what its hash says.

    Raises AdapterCorrupt for the first whose content is not.
    """
    if not (run / GENERATIONS).is_file():
        return {}
    store = AdapterStore(run / "adapters")
    generations = Lineage(run / GENERATIONS, readonly=True).generations()
    found = {adapter for one in generations for seat in one.seats for adapter in seat.adapters}
    there = {}
    for adapter in sorted(found):
        try:
            store.path(adapter)
            there[adapter] = True
        except AdapterMissing:
            there[adapter] = False
    return there


def _entries_and_head(ledger: Ledger) -> dict[str, int | str]:
    return {"num_entries": len(ledger), "head": ledger.head}


def _queue(directory: Path) -> Path:
    """The folder with the ledger: `directory` itself, or `reviews` in it."""
    for folder in (directory, directory / "reviews"):
        if (folder / REVIEWS).is_file():
            return folder
    raise FileNotFoundError(
        f"{directory}: expected a run, or {REVIEWS} there or in reviews/, found neither: give the directory of "
        "a run, or the one that a batch wrote to; a batch that asked nobody has none"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container may run under a number without a name
        raise ReviewError("expected a user name, got none from this system: say who answers with --by") from error


def _as_data(review: Review) -> dict[str, Any]:
    """The review as JSON data with its id; choices are counted from 0 there."""
    return {"id": review.id, **review.model_dump(mode="json")}


def _table(reviews: list[Review]) -> Table:
    table = Table("id", "task", "step", "because", "question", "answer")
    table.columns[0].no_wrap = True
    for review in reviews:
        asked = review.question
        cells = (asked.task_id, asked.step, asked.reason, asked.question, _outcome(review.answer, asked))
        table.add_row(review.id, *(Text(_one_line(cell)) for cell in cells))
    return table


def _question_lines(review: Review) -> Iterator[str]:
    asked = review.question
    yield f"Question {review.id} of deliberation {_one_line(asked.deliberation)}, task {_one_line(asked.task_id)}"
    if asked.step:
        yield f"Step: {_one_line(asked.step)}"
    yield f"Asked at {_one_line(review.asked_at)} because: {_visible(asked.reason)}"
    yield "The task"
    yield from _fenced(asked.question)
    for index, choice in enumerate(asked.choices):
        own = ", the mesh's own" if index == 0 and not asked.reason.startswith(NO_ANSWER) else ""
        yield f"Choice {index + 1}{own}"
        yield from _fenced(choice)
        argument = asked.arguments[index] if index < len(asked.arguments) else ""
        if argument:
            yield "  argued for with"
            yield from _fenced(argument)
    yield f"Content: {review.content}"


def _outcome_lines(review: Review) -> Iterator[str]:
    answer = review.answer
    if answer is None:
        return
    chosen = "in their own words" if answer.choice is None else f"choice {answer.choice + 1}"
    yield f"Answered by {_one_line(answer.by)} at {_one_line(review.answered_at or '')}, {chosen}"
    yield from _fenced(_outcome(answer, review.question))
    if answer.note:
        yield "Note"
        yield from _fenced(answer.note)


def _outcome(answer: PersonAnswer | None, asked: Question) -> str:
    if answer is None:
        return ""
    return answer.edit or "" if answer.choice is None else asked.choices[answer.choice]


def _fenced(text: str) -> Iterator[str]:
    """Lines of `text` behind the fence, wrapped here: what the terminal wraps would start without it."""
    for line in text.splitlines() or [""]:
        for piece in chop_cells(_visible(line), max(OUT.width - len(FENCE), 20)) or [""]:
            yield f"{FENCE}{piece}"


def _one_line(text: str) -> str:
    line = _visible(" ".join(text.split()))
    return line if len(line) <= MAX_CELL_CHARS else f"{line[:MAX_CELL_CHARS]}..."


def _visible(text: str) -> str:
    return "".join(character if character.isprintable() else "·" for character in text)


def _say(line: str) -> None:
    OUT.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
