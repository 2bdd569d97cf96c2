"""A memory goes out as files and comes back the same; what is bad in a file is told, and the rest goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.database import StoreError
from memory.exchange import EXPERIENCES, LINES, Refusal, export_to, import_from
from memory.exchange_lines import MAX_LINE_BYTES
from memory.importing import _raw_lines
from memory.store import Memory
from memory.types import Artefact, Edge, Kind, Level, Namespace, Relation, Standing, Use
from tests.memory.doubles import (
    APPLES,
    EMBEDDER,
    HERE,
    PEARS,
    Clock,
    cue,
    edge,
    evidence,
    failed,
    note,
    shown,
    solved,
    texts,
    use,
)

DAY = 86_400.0
ELSEWHERE = Namespace(project="other")


def opened(directory: Path, clock: Clock | None = None) -> Memory:
    return Memory.open(directory, EMBEDDER, clock=clock or Clock())


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with opened(tmp_path / "memory") as found:
        yield found


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Memory]:
    with opened(tmp_path / "other") as found:
        yield found


def standings(memory: Memory) -> dict[str, Standing]:
    with memory.reading() as connection:
        sql = "SELECT id, standing FROM entries JOIN standings ON entry = seq"
        return {id: Standing.model_validate_json(text) for id, text in connection.execute(sql)}


def lines_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / LINES).read_text(encoding="utf-8").splitlines()]


def fill(memory: Memory, clock: Clock | None = None) -> None:
    """Something of everything that can be said of an experience."""
    memory.remember(*failed(APPLES, "9"))
    (problem, solution), edges = solved(APPLES, "5", source="ann, ben")
    memory.remember([problem, solution], edges)
    if clock:
        clock.now += 20 * DAY
    repeat = note(Kind.SOLUTION, f"Question: {APPLES}\nThe answer is 5", source="cy", episode="e2")
    pattern = note(Kind.PATTERN, "Subtract what is eaten", "passed", episode="e2")
    memory.remember([repeat, pattern], [edge(problem, Relation.LED_TO, pattern)])
    memory.verify(pattern.experience.id, evidence(verifier="person:dee"), source="dee", episode="e3")
    memory.merge(repeat.experience.id, solution.experience.id, "says the same")
    memory.used(use(solution.experience.id, success=True, episode="e4"))
    memory.used(Use(episode="e5", success=False, verifier="exact", withheld=(solution.experience.id,)))
    memory.retire(pattern.experience.id, "too vague")
    memory.restore(pattern.experience.id, "no, it helps")
    memory.record_artefact(Artefact(id="data", kind="dataset", made_from=("e1", "e2")))
    memory.remember([note(Kind.DECISION, "Poison", "passed", source="mallory")])
    memory.rollback(source="mallory")


def test_what_comes_back_is_believed_and_recalled_as_before(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path / "memory", clock) as memory, opened(tmp_path / "other", clock) as other:
        fill(memory, clock)
        exported = export_to(memory, tmp_path / "out")
        imported = import_from(other, tmp_path / "out", clock=clock)
        assert imported.refused == ()
        assert exported.num_lines == 1 + sum(imported[:7]) - imported.num_experiences  # each comes with a report
        before = standings(memory)
        gone = [id for id, standing in before.items() if standing.reason.startswith("withdrawn")]
        assert standings(other) == {id: standing for id, standing in before.items() if id not in gone}
        assert len(gone) == 1
        for text in (APPLES, PEARS, "Subtract"):
            assert other.recall(cue(text, limit=9)) == memory.recall(cue(text, limit=9))
        assert other.check() == other.stats().num_events


def test_importing_twice_changes_nothing(memory: Memory, other: Memory, tmp_path: Path) -> None:
    fill(memory)
    export_to(memory, tmp_path / "out")
    first = import_from(other, tmp_path / "out")
    head = other.head
    again = import_from(other, tmp_path / "out")
    assert (sum(again[:7]), again.num_known, other.head) == (0, sum(first[1:7]), head)
    assert import_from(memory, tmp_path / "out") == again


def test_two_exports_of_one_history_are_the_same_bytes(memory: Memory, tmp_path: Path) -> None:
    fill(memory)
    export_to(memory, tmp_path / "one")
    export_to(memory, tmp_path / "two")
    for name in (LINES, EXPERIENCES):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted([LINES, EXPERIENCES])


def test_what_was_rolled_back_or_erased_does_not_travel(memory: Memory, tmp_path: Path) -> None:
    fill(memory)
    (secret,) = memory.remember([note(Kind.PROBLEM, "the secret")])
    memory.erase(secret)
    export_to(memory, tmp_path / "out")
    written = (tmp_path / "out" / LINES).read_text(encoding="utf-8")
    assert "Poison" not in written
    assert secret not in written


def test_an_experience_that_stands_through_a_repeat_alone_travels(
    memory: Memory, other: Memory, tmp_path: Path
) -> None:
    first, repeat = note(Kind.SOLUTION, "5", source="ann"), note(Kind.SOLUTION, "five", source="ben", episode="e2")
    memory.remember([first])
    memory.remember([repeat])
    memory.merge(repeat.experience.id, first.experience.id, "says the same")
    memory.rollback(source="ann")
    export_to(memory, tmp_path / "out")
    assert import_from(other, tmp_path / "out").refused == ()
    assert standings(other) == standings(memory)


def test_the_age_of_what_was_confirmed_long_ago_is_kept_and_no_line_is_from_the_future(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path / "memory", clock) as memory:
        memory.remember(*solved(APPLES, "5"))
        export_to(memory, tmp_path / "out")
    text = (tmp_path / "out" / LINES).read_text()
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / LINES).write_text(text.replace(f'"at":{clock.now}', '"at":9e15'))
    clock.now += 60 * DAY
    for name, expected in (("out", clock.now - 60 * DAY), ("late", clock.now)):
        with opened(tmp_path / f"to {name}", clock) as other:
            import_from(other, tmp_path / name, clock=clock)
            with other.reading() as connection:
                assert connection.execute("SELECT max(confirmed_at) FROM standings").get == expected


def test_one_namespace_goes_out_alone_and_its_artefacts_with_it(memory: Memory, tmp_path: Path) -> None:
    memory.remember(*solved(APPLES, "5", episode="e1"))
    memory.remember(*solved(PEARS, "6", episode="e2", namespace=ELSEWHERE))
    memory.record_artefact(Artefact(id="data", kind="dataset", made_from=("e1",)))
    memory.record_artefact(Artefact(id="adapter", kind="adapter", made_from=("data",)))
    memory.record_artefact(Artefact(id="more", kind="dataset", made_from=("e2",)))
    export_to(memory, tmp_path / "out", [str(Namespace())])
    found = lines_of(tmp_path / "out")
    assert [line["artefact"]["id"] for line in found if line["record"] == "artefact"] == ["data", "adapter"]
    assert {line["experience"]["namespace"]["project"] for line in found if line["record"] == "experience"} == {
        "default"
    }
    with pytest.raises(ValueError, match="name the team"):
        export_to(memory, tmp_path / "out", ["*/a/b"])


def test_a_new_home_changes_ids_and_all_that_hangs_on_them_follows(
    memory: Memory, other: Memory, tmp_path: Path
) -> None:
    fill(memory)
    export_to(memory, tmp_path / "out")
    other.remember(*solved(APPLES, "6"))
    assert import_from(other, tmp_path / "out", into=ELSEWHERE).refused == ()
    there = shown(other, APPLES, [str(ELSEWHERE)], limit=9)
    assert texts(there) == texts(shown(memory, APPLES, limit=9))
    assert [one.trust for one in there] == [one.trust for one in shown(memory, APPLES, limit=9)]
    assert {one.experience_id for one in there}.isdisjoint(standings(memory))
    assert "Answer: 6" in shown(other, APPLES, HERE)[0].text
    again = import_from(other, tmp_path / "out", into=ELSEWHERE)
    assert sum(again[:7]) == 0


def test_two_namespaces_that_become_one_leave_no_edge_from_a_thing_to_itself(
    memory: Memory, other: Memory, tmp_path: Path
) -> None:
    here, there = note(Kind.SOLUTION, "5"), note(Kind.SOLUTION, "5", namespace=ELSEWHERE)
    memory.remember([here, there], [edge(there, Relation.SUPERSEDES, here)])
    memory.merge(here.experience.id, there.experience.id, "the same")
    export_to(memory, tmp_path / "out")
    imported = import_from(other, tmp_path / "out", into=Namespace(run="new"))
    assert imported.num_experiences == 1
    assert [refusal.reason.split(",")[0] for refusal in imported.refused] == [
        "expected an edge between two experiences",
        "expected a merge into another experience",
    ]
    assert [standing.level for standing in standings(other).values()] == [Level.OBSERVED]


def test_bad_lines_are_told_by_number_and_the_rest_goes_on(memory: Memory, other: Memory, tmp_path: Path) -> None:
    memory.remember(*solved(APPLES, "5"))
    export_to(memory, tmp_path / "out")
    header, problem, solution, check, drawn = (tmp_path / "out" / LINES).read_bytes().splitlines()
    newer = header.replace(b'"format":1', b'"format":9')
    unknown = b'{"record":"check","id":"abc","evidence":{"verifier":"v","verdict":"passed","digest":"d"}}'
    wrong = problem.replace(b"apples", b"nuts")
    bad = [
        newer, b"not json", b"\x00\xff\xfe\x80", b'{"record":"dream"}', b"[" * 5_000, wrong, unknown,
        b'{"record":"use","use":{"episode":"e","success":true,"verifier":"v","shown":["abc"]}}',
        b'{"record":"mark","kind":"merged","id":"abc","into":"abc"}', b"null",
    ]  # fmt: skip
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join([*bad, problem, b"", solution, check, drawn]))
    imported = import_from(other, path)
    assert [refusal.line for refusal in imported.refused] == list(range(1, 11))
    reasons = [refusal.reason for refusal in imported.refused]
    for reason, word in zip(
        reasons, ["newer evomesh", "JSON", "JSON", "dream", "JSON", "hash", "abc", "none", "abc", "obj"], strict=True
    ):
        assert word in reason
    assert standings(other) == standings(memory)


def test_texts_that_memory_refuses_are_refused_here_too(other: Memory, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    blank = note(Kind.PROBLEM, " \n").experience
    good = note(Kind.PROBLEM, "good").experience
    lines = [
        {"record": "experience", "id": blank.id, "experience": blank.model_dump(mode="json")},
        {"record": "experience", "id": good.id, "experience": good.model_dump(mode="json")},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"record":"artefact","artefact":{"id":"\\ud800')
    imported = import_from(other, path)
    assert [refusal.line for refusal in imported.refused] == [1, 3]
    assert list(standings(other)) == [good.id]


def test_a_line_without_end_is_passed_over_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes(b"a" * (MAX_LINE_BYTES + 3_000_000) + b"\nb\n" + b"c" * MAX_LINE_BYTES)
    with path.open("rb") as file:
        assert [line and line[:1] for line in _raw_lines(file)] == [None, b"b", None]


def test_what_was_erased_is_not_brought_back(memory: Memory, tmp_path: Path) -> None:
    (id,) = memory.remember([note(Kind.PROBLEM, "the secret")])
    memory.remember([note(Kind.PROBLEM, "the rest")])
    export_to(memory, tmp_path / "out")
    memory.erase(id)
    for into in (None, ELSEWHERE):
        imported = import_from(memory, tmp_path / "out", into)
        assert [(refusal.line, "erased" in refusal.reason) for refusal in imported.refused] == [(2, True)]
    assert "the secret" not in texts(memory.search("secret"))


def test_a_mark_taken_back_by_hand_is_not_made_again(memory: Memory, other: Memory, tmp_path: Path) -> None:
    (id,) = memory.remember([note(Kind.PATTERN, "p")])
    memory.retire(id, "wrong")
    export_to(memory, tmp_path / "out")
    import_from(other, tmp_path / "out")
    other.restore(id, "right after all")
    import_from(other, tmp_path / "out")
    standing = other.standing(id)
    assert standing is not None
    assert standing.level is Level.OBSERVED


def test_a_file_that_is_no_memory_and_a_reader_that_may_not_write_are_errors(memory: Memory, tmp_path: Path) -> None:
    memory.remember([note(Kind.PROBLEM, "p")])
    path = tmp_path / "photo.jpg"
    path.write_bytes(bytes(range(256)) * 9)
    with pytest.raises(ValueError, match="nothing readable"):
        import_from(memory, path)
    with pytest.raises(FileNotFoundError):
        import_from(memory, tmp_path / "none")
    memory.close()
    with Memory.open(tmp_path / "memory", EMBEDDER, readonly=True) as reader:
        export_to(reader, tmp_path / "out")
        with pytest.raises(StoreError, match="read-only"):
            import_from(reader, tmp_path / "out")


def test_an_export_that_fails_leaves_what_was_there(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(memory)
    export_to(memory, tmp_path / "out")
    before = (tmp_path / "out" / LINES).read_bytes()
    memory.remember([note(Kind.PROBLEM, "another")])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memory.exchange.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        export_to(memory, tmp_path / "out")
    assert (tmp_path / "out" / LINES).read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([LINES, EXPERIENCES])


def test_the_table_has_one_row_an_experience_with_its_standing(memory: Memory, tmp_path: Path) -> None:
    fill(memory)
    assert export_to(memory, tmp_path / "out").num_experiences == 6
    table = pq.read_table(tmp_path / "out" / EXPERIENCES).to_pylist()
    assert len(table) == 6
    (row,) = [row for row in table if row["text"].endswith("Answer: 5")]
    standing = memory.standing(row["id"])
    assert standing is not None
    assert (row["level"], row["num_uses"], row["sources"]) == ("verified", 1, ["ann", "ben"])
    assert row["trust"] == pytest.approx(standing.trust)
    assert row["team"] == "default"


def test_an_empty_memory_goes_out_and_comes_back(memory: Memory, other: Memory, tmp_path: Path) -> None:
    exported = export_to(memory, tmp_path / "out")
    assert (exported.num_lines, exported.num_experiences) == (1, 0)
    assert import_from(other, tmp_path / "out") == (0, 0, 0, 0, 0, 0, 0, 0, ())


def test_refusals_say_line_and_reason() -> None:
    assert Refusal(3, "why")._asdict() == {"line": 3, "reason": "why"}


SOURCES, EPISODES = st.sampled_from(["ann", "ben", "cy"]), st.sampled_from(["e1", "e2", "e3"])
NUMBERS = st.integers(0, 5)
ACTIONS = st.one_of(
    st.tuples(st.just("say"), NUMBERS, SOURCES, EPISODES, st.sampled_from(["passed", "failed", None])),
    st.tuples(st.just("check"), NUMBERS, SOURCES, EPISODES, st.sampled_from(["passed", "failed"])),
    st.tuples(st.just("use"), NUMBERS, NUMBERS, st.sampled_from(["u1", "u2", "u3", "u4"]), st.booleans()),
    st.tuples(st.just("merge"), NUMBERS, NUMBERS),
    st.tuples(st.sampled_from(["unmerge", "retire", "restore"]), NUMBERS),
    st.tuples(st.just("link"), NUMBERS, NUMBERS, st.sampled_from(list(Relation))),
    st.tuples(st.just("wait"), st.floats(0.0, 40.0)),
)
KINDS = (Kind.PROBLEM, Kind.SOLUTION, Kind.PATTERN, Kind.ERROR, Kind.SOLUTION, Kind.ATTEMPT)


def act(memory: Memory, clock: Clock, action: tuple[Any, ...]) -> None:
    seen = [note(kind, f"{kind} number {place} of apples") for place, kind in enumerate(KINDS)]
    ids = [one.experience.id for one in seen]
    name, number, *rest = action
    if name == "wait":
        clock.now += number * DAY
        return
    one = seen[number]
    if name == "say":
        source, episode, verdict = rest
        checked = evidence(verdict) if verdict else None
        memory.remember([one.model_copy(update={"source": source, "episode": episode, "evidence": checked})])
    elif memory.get(one.experience.id) is None:
        memory.remember([one])
    elif name == "check":
        source, episode, verdict = rest
        memory.verify(ids[number], evidence(verdict, verifier=f"person:{source}"), source=source, episode=episode)
    elif name == "use":
        other, episode, success = rest
        withheld = (ids[other],) if other != number else ()
        memory.used(use(ids[number], success=success, episode=episode, withheld=withheld))
    elif name in ("merge", "link"):
        other = rest[0]
        if other == number or memory.get(ids[other]) is None:
            return
        if name == "link":
            memory.remember([one], [Edge(source=ids[number], relation=rest[1], target=ids[other])])
        else:
            merge(memory, ids[number], ids[other])
    else:
        getattr(memory, name)(ids[number], "because")


def merge(memory: Memory, one: str, into: str) -> None:
    try:
        memory.merge(one, into, "the same")
    except ValueError:
        return  # it would be a circle


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, min_size=3, max_size=25))
def test_whatever_happened_comes_back_the_same(tmp_path: Path, actions: list[tuple[Any, ...]]) -> None:
    clock = Clock()
    for name in ("a", "b", "out"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    with opened(tmp_path / "a", clock) as memory, opened(tmp_path / "b", clock) as other:
        for action in actions:
            act(memory, clock, action)
        export_to(memory, tmp_path / "out")
        imported = import_from(other, tmp_path / "out", clock=clock)
        assert imported.refused == ()
        assert standings(other) == standings(memory)
        for text in ("number 0 of apples", "solution number 4 of apples"):
            assert other.recall(cue(text, limit=9)) == memory.recall(cue(text, limit=9))
        head = other.head
        assert sum(import_from(other, tmp_path / "out", clock=clock)[:7]) == 0
        assert other.head == head
