"""The durable queue in which questions wait for a person; questions and answers together are the audit log."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from memory.ledger import GENESIS, AlreadyLocked, Entry, Ledger, LedgerError, exclusive_lock
from memory.types import Record, content_hash
from mesh.equivalence import canonical
from mesh.parse import MAX_ANSWER_CHARS
from mesh.text import well_formed
from mesh.types import PersonAnswer, Question

REVIEWS = "reviews.jsonl"
"""Name of the ledger of questions and answers; it is the audit log too."""

REVIEWS_LOCK = "reviews.lock"
LOCK_WAIT_S = 10.0
LOCK_RETRY_S = 0.005
SETTLE_ATTEMPTS, SETTLE_S = 10, 0.01
"""How often, and how far apart, an audit looks again at an unfinished last line before it calls it damaged."""

_ASKED, _ANSWERED = "asked", "answered"


class ReviewError(ValueError):
    """An answer, or a question, that the queue cannot take; nothing was written."""


class Review(Record):
    """A question, and what came of it."""

    content: str = Field(description="content hash of the question")
    question: Question
    asked_at: str = Field(description="time of day by the asking machine's clock, UTC, ISO 8601")
    answer: PersonAnswer | None = Field(default=None, description="None: still open")
    answered_at: str | None = None

    @property
    def id(self) -> str:
        """Short name: the beginning of the content hash."""
        return self.content[:12]


class AuditSummary(Record):
    """What an intact audit log holds."""

    num_asked: int
    num_answered: int
    num_edited: int = Field(description="answers in the person's own words; the others are choices")
    num_torn_bytes: int = Field(description="set aside in reviews.jsonl.torn: writes that a crash cut off")
    head: str = Field(description="hash of the last entry; equal heads mean equal logs, so note it elsewhere")

    @property
    def num_open(self) -> int:
        """Questions without an answer."""
        return self.num_asked - self.num_answered


class ReviewDesk:
    """The queue of questions in `directory`: a hash-chained ledger that a batch and people's shells write in turns.

    What `put` or `answer` returned survives a kill and a power cut. Writers wait for each other, for a moment each;
    the methods block meanwhile (a write is one fsync), so asyncio code calls them in a thread, which is safe.

    Not covered: who a person is. `by` is what the caller says; whoever can write the file can rewrite all of it, and
    only a head noted elsewhere shows that.

    Raises, from every method that reads or writes:
        LedgerError: the file is damaged, or what it says makes no sense (an answer to what nobody asked).
        AlreadyLocked: another process held the queue for all of `lock_wait_s`.
    """

    def __init__(self, directory: Path, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        """Touches nothing: the files are made by the first question."""
        self.directory = directory
        self._path = directory / REVIEWS
        self._lock_wait_s = lock_wait_s
        self._mutex = threading.Lock()
        self._known: dict[str, Review] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._ledger: Ledger | None = None

    def put(self, question: Question) -> PersonAnswer | None:
        """Record `question` once, durably; the answer if a person gave one. Costs one `stat` where nothing is new.

        Raises:
            ReviewError: another question has the same id.
        """
        content = content_hash(question)
        with self._mutex:
            if question.id not in self._known or self._stamp != _stamp(self._path):
                with self._writing() as ledger:
                    if question.id not in self._known:
                        payload = {"at": _now(), "content": content, "question": question.model_dump(mode="json")}
                        _replay(self._path, [ledger.append(_ASKED, payload)], self._known)
            known = self._known[question.id]
        if known.content != content:
            raise ReviewError(f"expected one question of id {question.id}, got {content} beside {known.content}")
        return known.answer

    def all(self) -> tuple[Review, ...]:
        """Every question ever asked, in order; empty where there is no queue yet. Changes nothing on disk."""
        with self._mutex:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                entries = Ledger(self._path, readonly=True).entries() if stamp is not None else []
                self._known, self._stamp, self._ledger = _replay(self._path, entries), stamp, None
            return tuple(self._known.values())

    def open_questions(self) -> tuple[Question, ...]:
        """Questions without an answer, in the order they were asked."""
        return tuple(review.question for review in self.all() if review.answer is None)

    def find(self, question_id: str) -> Review:
        """The question with this id, or the only one whose id begins so. Raises ReviewError, naming the nearest."""
        return _find(question_id, {review.id: review for review in self.all()})

    def answer(
        self,
        question_id: str,
        *,
        by: str,
        choice: int | None = None,
        edit: str | None = None,
        note: str = "",
        content: str | None = None,
    ) -> PersonAnswer:
        """Record what `by` decided: `choice`, an index from 0, or `edit`, an answer of the person's own (stripped).

        `question_id` may be shortened while it is unique. `content` binds the answer to what the person saw; None
        takes the question as it stands now. What is returned is on the disk.

        Raises:
            ReviewError: no or several such questions, another content, already answered, both or neither of `choice`
                and `edit`, no such choice, an empty or overlong edit, nobody's name.
        """
        name = " ".join(well_formed(by).split())
        if not name:
            raise ReviewError("expected the name of whoever answers, got none")
        with self._mutex, self._writing(create=False) as ledger:
            review = _find(question_id, self._known)
            _check_content(review, content)
            _check_open(review)
            answer = PersonAnswer(
                question=review.id,
                content=review.content,
                choice=_checked_choice(review, choice, edit),
                edit=_checked_edit(edit),
                by=name,
                note=note.strip(),
            )
            payload = {"at": _now(), "answer": answer.model_dump(mode="json")}
            _replay(self._path, [ledger.append(_ANSWERED, payload)], self._known)
        return answer

    @contextmanager
    def _writing(self, *, create: bool = True) -> Iterator[Ledger]:
        """The ledger alone for a moment, with `_known` as it stands there."""
        if not create and _stamp(self._path) is None:
            raise ReviewError(f"{self._path}: expected questions there, found no such file")
        with _lock_soon(self.directory / REVIEWS_LOCK, self._lock_wait_s):
            ledger = self._ledger
            # Reading all of it again for each question would make a long batch quadratic.
            if ledger is None or self._stamp != _stamp(self._path):
                ledger = Ledger(self._path)
                self._known = _replay(self._path, ledger.entries())
            self._ledger = self._stamp = None
            yield ledger
            self._ledger, self._stamp = ledger, _stamp(self._path)


def verify(directory: Path) -> AuditSummary:
    """Check every hash of the audit log in `directory`, and that every answer fits the question it is bound to.

    Changes nothing. Not covered: whole entries cut off at the end, or a log rewritten from there on; compare `head`
    with one that was noted elsewhere.

    Raises:
        LedgerError: names the first line that is wrong.
        FileNotFoundError: there is no log.
    """
    path = directory / REVIEWS
    entries = _settled_entries(path)
    reviews = _replay(path, entries).values()
    answers = [review.answer for review in reviews if review.answer is not None]
    torn = path.with_name(f"{REVIEWS}.torn")
    return AuditSummary(
        num_asked=len(reviews),
        num_answered=len(answers),
        num_edited=sum(answer.edit is not None for answer in answers),
        num_torn_bytes=torn.stat().st_size if torn.exists() else 0,
        head=entries[-1].hash if entries else GENESIS,
    )


def _find(question_id: str, known: dict[str, Review]) -> Review:
    if question_id in known:
        return known[question_id]
    begun = [review for name, review in known.items() if question_id and name.startswith(question_id)]
    if len(begun) == 1:
        return begun[0]
    near = [review.id for review in begun[:5]] or difflib.get_close_matches(question_id, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"{len(known)} questions are known"
    raise ReviewError(
        f"expected the id of one question, got {question_id!r}, which {len(begun)} ids begin with: {hint}"
    )


def _check_content(review: Review, content: str | None) -> None:
    if content is not None and content != review.content:
        raise ReviewError(
            f"question {review.id}: expected content {review.content}, got {content}: this is not the question that "
            "you saw; look at it again"
        )


def _check_open(review: Review) -> None:
    if review.answer is not None:
        raise ReviewError(
            f"question {review.id}: already answered by {review.answer.by!r} at {review.answered_at}; an answer stays"
        )


def _checked_choice(review: Review, choice: int | None, edit: str | None) -> int | None:
    if (choice is None) == (edit is None):
        raise ReviewError(f"expected one of choice and edit, got {'neither' if choice is None else 'both'}")
    num_choices = len(review.question.choices)
    if choice is not None and not 0 <= choice < num_choices:
        raise ReviewError(
            f"question {review.id}: expected one of its {num_choices} choices, got number {choice + 1}; "
            "take one that is there, or write an answer of your own"
        )
    return choice


def _checked_edit(edit: str | None) -> str | None:
    if edit is None:
        return None
    answer = well_formed(edit).strip()
    if not canonical(answer, "text"):
        raise ReviewError(f"expected an answer of your own, got {edit!r}, which says nothing")
    if len(answer) > MAX_ANSWER_CHARS:
        raise ReviewError(
            f"expected an answer of at most {MAX_ANSWER_CHARS} characters, got {len(answer)}: shorten it, and put the "
            "reasons into the note"
        )
    return answer


class _Asked(Record):
    at: str
    content: str
    question: Question


class _Answered(Record):
    at: str
    answer: PersonAnswer


def _replay(path: Path, entries: Iterable[Entry], known: dict[str, Review] | None = None) -> dict[str, Review]:
    """`known`, by id, with what `entries` add. Raises LedgerError at the first entry that makes no sense."""
    known = {} if known is None else known
    for entry in entries:
        try:
            review = _next_review(entry.kind, entry.payload, known)
        except (ValidationError, ReviewError) as error:
            raise LedgerError(f"{path}, line {entry.seq + 1}: {error}; restore the file") from error
        known[review.id] = review
    return known


def _next_review(kind: str, payload: dict[str, Any], known: dict[str, Review]) -> Review:
    if kind == _ASKED:
        asked = _Asked.model_validate(payload)
        review = Review(content=asked.content, question=asked.question, asked_at=asked.at)
        # The hash is taken of what was written: a later version may read it with more fields than it had.
        if content_hash(payload["question"]) != review.content or review.id in known:
            raise ReviewError(f"expected a new question with the hash of its content, got {review.content}")
        return review
    if kind != _ANSWERED:
        raise ReviewError(f"expected {_ASKED!r} or {_ANSWERED!r}, got {kind!r}")
    answered = _Answered.model_validate(payload)
    answer = answered.answer
    if answer.question not in known:
        raise ReviewError(f"expected an answer to a question that was asked, got one to {answer.question!r}")
    review = known[answer.question]
    _check_content(review, answer.content)
    _check_open(review)
    _checked_choice(review, answer.choice, answer.edit)
    return review.model_copy(update={"answer": answer, "answered_at": answered.at})


def _settled_entries(path: Path) -> list[Entry]:
    """All entries, once no byte is left over: a damaged last line must not pass for a write under way."""
    for _ in range(SETTLE_ATTEMPTS):
        data = path.read_bytes()
        entries = Ledger(path, readonly=True).entries()  # read later: it may hold more than `data`, never less
        if data.count(b"\n") <= len(entries) and data[-1:] in (b"", b"\n"):
            return entries
        time.sleep(SETTLE_S)
    raise LedgerError(
        f"{path}, line {len(entries) + 1}: the last line is no whole entry: what a crash left of a write nobody was "
        f"told had succeeded, or a change. The next question or answer sets it aside in {REVIEWS}.torn; compare it "
        "with a copy first"
    )


@contextmanager
def _lock_soon(path: Path, wait_s: float) -> Iterator[None]:
    deadline = time.monotonic() + wait_s
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(exclusive_lock(path))
                break
            except AlreadyLocked:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(LOCK_RETRY_S)
        yield


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells that the file was written since; None: there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
