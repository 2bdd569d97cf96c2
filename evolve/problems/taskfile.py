"""A user's own tasks: JSONL or Parquet rows become problems, and a bad line is recorded while the rest goes on."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from pydantic import Field

from evolve.judging.rules import RULED, rule_of
from evolve.judging.verifiers import read_number
from evolve.problems.config import FileProblems, JsonSchemaVerifier
from evolve.problems.deal_file import Dealt, read_deal
from evolve.problems.near_duplicates import Item, Place, deal
from evolve.problems.splits import Split, SplitSizes, is_reserved, normalised_text
from evolve.problems.types import DrawReport, FamilyDraw, Problem, ProblemsError, ProblemSet, Skipped, VerifierSpec
from memory.types import Record, content_hash
from mesh.types import Demonstration, Task

LUMP = 0.1
"""Share of a file above which a single cluster is worth a warning."""
_OUTER = " .?"  # not "!": 5! is not 5


class Row(Record):
    """One readable line of the file."""

    where: str
    id: str
    question: str
    answer: str
    type: str
    key: str
    verifier: VerifierSpec
    raw: dict[str, Any] = Field(default_factory=dict, description="the line as it was read")


def read_rows(config: FileProblems) -> tuple[list[Row], list[Skipped], list[Skipped]]:
    """(usable rows in file order, malformed lines, near-duplicates left out).

    Two rows are near-duplicates when their questions differ in case, spacing or a last full stop only; the first stays.

    Raises:
        ProblemsError: no such file, not a known format, or no usable line.
    """
    rows: list[Row] = []
    malformed: list[Skipped] = []
    duplicates: list[Skipped] = []
    by_key: dict[str, Row] = {}
    by_id: dict[str, Row] = {}
    for where, raw in _raw_rows(config.path):
        row = raw if isinstance(raw, str) else _checked(where, raw, config)
        if isinstance(row, str):
            malformed.append(Skipped(where=where, reason=row))
        elif row.key in by_key:
            first = by_key[row.key]
            conflict = "" if first.answer == row.answer else f", with another answer; {first.where} was kept"
            duplicates.append(Skipped(where=where, reason=f"same question as {first.where} (id {first.id}){conflict}"))
        elif row.id in by_id:
            malformed.append(Skipped(where=where, reason=f"id '{row.id}' is already used on {by_id[row.id].where}"))
        else:
            by_key[row.key] = by_id[row.id] = row
            rows.append(row)
    if not rows:
        example = f" (first: {malformed[0].where}: {malformed[0].reason})" if malformed else ""
        raise ProblemsError(f"expected tasks in '{config.path}', got no usable line{example}")
    return rows, malformed, duplicates


def draw_file(
    config: FileProblems, seed: int, exclude: frozenset[str] = frozenset(), *, pinned: bool = True
) -> ProblemSet:
    """All problems of a user's file, dealt to splits by the hash of their question.

    `seed` orders the items, and with `sizes` it decides which are taken; the split of an item never depends on it.
    `pinned` False: the ledger of `problems add` is not read, for whoever needs no splits.
    """
    rows, malformed, duplicates = read_rows(config)
    places = place_rows(rows, config, pinned=pinned)
    malformed += [Skipped(where=row.where, reason=places[row.key].reason) for row in rows if not _split(row, places)]
    rows = [row for row in rows if _split(row, places)]
    fresh = [row for row in rows if row.key not in exclude]
    share = config.demonstration_share if config.num_demonstrations else 0.0
    reserve = sorted(
        (r for r in rows if is_reserved(places[r.key].cluster, config.split_seed, share)),
        key=lambda r: content_hash(r.key),
    )
    demonstrations: dict[str, tuple[Demonstration, ...]] = {}
    for row in reserve:
        shown = demonstrations.get(row.type, ())
        if len(shown) < config.num_demonstrations:
            demonstrations[row.type] = (*shown, Demonstration(question=row.question, answer=row.answer))
    problems: dict[Split, tuple[Problem, ...]] = {}
    reserved_keys = {row.key for row in reserve}
    for split in Split:
        mine = [r for r in fresh if r.key not in reserved_keys and _split(r, places) is split]
        mine.sort(key=lambda r: content_hash([seed, r.key]))
        limit = len(mine) if config.sizes is None else config.sizes.of(split)
        problems[split] = tuple(_problem(row, config, demonstrations.get(row.type, ())) for row in mine[:limit])
    types = sorted({row.type for row in rows})
    report = DrawReport(
        source=str(config.path),
        families=tuple(_family_draw(name, rows, problems, config, len(demonstrations.get(name, ()))) for name in types),
        malformed=tuple(malformed),
        duplicates=tuple(duplicates),
        warnings=(*_warnings(config, problems, demonstrations, types), *_lumps(rows, places)),
    )
    return ProblemSet(
        problems=problems, demonstrations=demonstrations, report=report, clusters=clusters_of(rows, places)
    )


def key_of(question: str) -> str:
    """Canonical key of a question: case, spacing and a last full stop tell no two apart."""
    return "file|" + normalised_text(question).strip(_OUTER)


def share_of_numbers(path: Path) -> float:
    """Share of a file's answers that are numbers, whatever split they are in; no answer itself is told.

    Raises ProblemsError as `read_rows` does.
    """
    rows, _, _ = read_rows(FileProblems(path=path))
    return sum(read_number(row.answer) is not None for row in rows) / len(rows)


def place_rows(
    rows: Sequence[Row], config: FileProblems, *, pinned: bool = True, held: Mapping[str, Place] | None = None
) -> dict[str, Place]:
    """Key to place: as `problems add` has written it down, unless not `pinned`; else by near duplicates and the hash.

    `held`: places of further items that are as good as written down.

    Raises:
        ProblemsError: the file was dealt with other settings than the configuration's.
    """
    known = read_deal(config) if pinned else Dealt(near_duplicates=config.near_duplicates)
    items = [Item(key=row.key, text=row.question) for row in rows]
    places = {**(held or {}), **known.places}
    dealt = deal(items, places, seed=config.split_seed, shares=config.shares, config=known.near_duplicates)
    return {place.key: place for place in dealt}


def clusters_of(rows: Sequence[Row], places: Mapping[str, Place]) -> dict[str, str]:
    """Task id to cluster, of tasks that have near duplicates."""
    sizes = Counter(places[row.key].cluster for row in rows)
    return {row.id: places[row.key].cluster for row in rows if sizes[places[row.key].cluster] > 1}


def _lumps(rows: Sequence[Row], places: Mapping[str, Place]) -> Iterator[str]:
    """A warning where one cluster holds so much of a file that no split can have its share."""
    sizes = Counter(places[row.key].cluster for row in rows)
    name, size = sizes.most_common(1)[0]
    if size > max(1, LUMP * len(rows)):
        yield (
            f"{size} of {len(rows)} tasks are near duplicates of one another, like "
            f"{name.removeprefix('file|')[:60]!r}, and are all in one split; if they are different tasks in one "
            "wording, raise near_duplicates.threshold or set near_duplicates: null"
        )


def _raw_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(where, row), or (where, reason) for a line that is no JSON object."""
    if not path.is_file():
        raise ProblemsError(f"expected a file of tasks, found none at '{path}'; correct the path")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix == ".jsonl":
        yield from _jsonl_rows(path)
    else:
        raise ProblemsError(f"expected a .jsonl or .parquet file, got '{path}'; convert it or rename it")


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ProblemsError(f"expected a Parquet file at '{path}', but it cannot be read: {error}") from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"row {number}", row


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are both ValueErrors
                yield f"line {number}", f"not a line of JSON: {error}"
                continue
            if isinstance(value, dict):
                yield f"line {number}", value
            else:
                yield f"line {number}", f"expected a JSON object, got {type(value).__name__}"


def _checked(where: str, raw: dict[str, Any], config: FileProblems) -> Row | str:
    """The row, or the reason why it cannot be used."""
    question, answer, name = raw.get("question"), raw.get("answer"), raw.get("type")
    if answer is None and isinstance(config.verifier, RULED):
        answer = ""  # the rule is the key; an answer that follows it is only good to try it with
    elif isinstance(answer, dict | list) and isinstance(config.verifier, JsonSchemaVerifier):
        answer = json.dumps(answer, ensure_ascii=False)
    if not isinstance(question, str) or not question.strip():
        return f"expected 'question' to be text, got {_shown(question)}"
    is_missing = not str(answer).strip() and not isinstance(config.verifier, RULED)
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or is_missing:
        return f"expected 'answer' to be text or a number, got {_shown(answer)}"
    if isinstance(answer, float):
        if not math.isfinite(answer):
            return f"expected 'answer' to be finite, got {answer}"
        answer = int(answer) if answer.is_integer() else answer
    if name is not None and (not isinstance(name, str) or not name.strip()):
        return f"expected 'type' to be text, got {_shown(name)}"
    text = str(answer).strip()
    verifier = rule_of(config.verifier, text, raw.get("check"))
    if isinstance(verifier, str):
        return verifier
    if not isinstance(raw.get("id"), str | int | None):
        return f"expected 'id' to be text or a whole number, got {_shown(raw.get('id'))}"
    key = key_of(question)
    identifier = content_hash(key)[:16] if raw.get("id") in (None, "") else str(raw["id"])
    kind = name.strip() if name else config.default_type
    return Row(
        where=where,
        id=identifier,
        question=question.strip(),
        answer=text,
        type=kind,
        key=key,
        verifier=verifier,
        raw=raw,
    )


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:60]


def _split(row: Row, places: Mapping[str, Place]) -> Split | None:
    return places[row.key].split


def _problem(row: Row, config: FileProblems, demonstrations: tuple[Demonstration, ...]) -> Problem:
    task = Task(
        id=row.id,
        question=row.question,
        type=row.type,
        answer_kind=config.answer_kind,
        instruction=config.instruction,
        demonstrations=demonstrations,
    )
    return Problem(task=task, reference=row.answer, verifier=row.verifier, key=row.key, max_tokens=config.max_tokens)


def _family_draw(
    name: str, rows: list[Row], problems: dict[Split, tuple[Problem, ...]], config: FileProblems, num_shown: int
) -> FamilyDraw:
    mine = sum(row.type == name for row in rows)
    got = {split.value: sum(p.task.type == name for p in items) for split, items in problems.items()}
    return FamilyDraw(
        type=name,
        asked=config.sizes,
        got=SplitSizes(**got),
        num_draws=mine,
        num_duplicates=0,
        num_distinct=mine,
        num_demonstrations=num_shown,
    )


def _warnings(
    config: FileProblems,
    problems: dict[Split, tuple[Problem, ...]],
    demonstrations: dict[str, tuple[Demonstration, ...]],
    types: list[str],
) -> tuple[str, ...]:
    found = [
        f"split {split.value} is empty: the file is small or its share is; add tasks or raise shares.{split.value}"
        for split, items in problems.items()
        if not items and config.shares.of(split) > 0.0 and (config.sizes is None or config.sizes.of(split) > 0)
    ]
    for name in types:
        shown = len(demonstrations.get(name, ()))
        if shown < config.num_demonstrations:
            found.append(
                f"'{name}' has {shown} of the {config.num_demonstrations} demonstrations that were asked for; "
                "raise demonstration_share or add tasks"
            )
    return tuple(found)
