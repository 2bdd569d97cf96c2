from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest

from evolve.problems.adding import add_problems
from evolve.problems.config import FileProblems, NearDuplicatesConfig, NumericVerifier
from evolve.problems.deal_file import deal_path, read_deal
from evolve.problems.draw import draw_problems
from evolve.problems.near_duplicates import Item, Place, cluster, deal, overlap, shingles
from evolve.problems.sealed import SplitProblems
from evolve.problems.splits import Split, SplitShares
from evolve.problems.types import ProblemsError, clusters_sentence
from memory.ledger import AlreadyLocked, exclusive_lock
from tests.evolve.test_evolution import config_of, evolved

NEAR = NearDuplicatesConfig()
TRAINS = "A train leaves the station at noon and travels north along the coast. Where does it arrive first?"
TRAINS_TOO = "A train leaves the station at noon and travels south along the coast. Where does it arrive first?"
SHIP = "Which of the harbour's three lighthouses is the oldest one that still stands today?"


def words(seed: int, count: int = 14) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(count))


def write(path: Path, questions: list[str], **extra: Any) -> Path:
    path.write_text("".join(json.dumps({"question": q, "answer": "x"} | extra) + "\n" for q in questions))
    return path


def splits_of(drawn: SplitProblems) -> dict[str, Split]:
    return {problem.task.question: split for split in Split for problem in drawn.of(split)}


def test_one_changed_word_is_near_and_another_question_is_not() -> None:
    assert overlap(TRAINS, TRAINS_TOO) > 0.7
    assert overlap(TRAINS, SHIP) < 0.2
    assert cluster([TRAINS, SHIP, TRAINS_TOO], NEAR) == [0, 1, 0]
    assert overlap("", "") == 1.0
    assert len(shingles("ab")) == 1


def test_case_spacing_and_punctuation_do_not_count() -> None:
    assert overlap("What,  is the CAPITAL of France?", "what is the capital of france") == 1.0


def test_two_fillings_of_one_template_are_different_unless_numbers_do_not_count() -> None:
    first, second = TRAINS + " It is 12 years old.", TRAINS + " It is 13 years old."
    assert cluster([first, second], NEAR) == [0, 1]
    assert cluster([first, second], NearDuplicatesConfig(numbers_apart=False)) == [0, 0]


def test_near_duplicates_chain_into_one_cluster_named_by_its_first() -> None:
    text = words(1, 30).split()
    chain = [" ".join([*(words(100 + i, k) for k in ([i] if i else [])), *text[i:]]) for i in range(4)]
    assert overlap(chain[0], chain[3]) < overlap(chain[0], chain[1])
    assert cluster(chain, NearDuplicatesConfig(threshold=0.8)) == [0, 0, 0, 0]


def test_every_near_pair_of_many_texts_is_found() -> None:
    texts = [words(seed) for seed in range(150)]
    twins = [text.replace(text[:6], "zzzzzz") for text in texts]
    found = cluster([*texts, *twins], NEAR)
    assert found == [*range(150), *range(150)]


def test_a_cluster_is_in_one_split_and_single_items_stay_where_they_were(tmp_path: Path) -> None:
    questions = [words(seed) for seed in range(60)]
    twins = [question + " again" for question in questions[:30]]
    path = write(tmp_path / "t.jsonl", [*questions, *twins])
    plain, clustered = (
        draw_problems(FileProblems(path=path, near_duplicates=None), 0),
        draw_problems(FileProblems(path=path), 0),
    )
    splits = splits_of(clustered)
    assert all(splits[question] is splits[question + " again"] for question in questions[:30])
    assert any(splits_of(plain)[q] is not splits_of(plain)[q + " again"] for q in questions[:30])
    assert {q: splits[q] for q in questions} == {q: splits_of(plain)[q] for q in questions}
    assert (len(clustered.clusters), len(plain.clusters)) == (60, 0)
    everything = [problem for split in Split for problem in clustered.of(split)]
    pairs = [clustered.cluster_of(one) for one in everything if one.task.question.startswith(twins[0][:20])]
    assert len(pairs) == 2
    assert len(set(pairs)) == 1


def test_a_new_item_goes_where_its_pinned_near_duplicate_is() -> None:
    items = [Item(key="a", text=TRAINS), Item(key="b", text=TRAINS_TOO)]
    for split in Split:
        pinned = {"a": Place(key="a", cluster="a", split=split)}
        places = deal(items, pinned, seed=0, shares=SplitShares(), config=NEAR)
        assert places[1] == Place(key="b", cluster="a", split=split)
        reverse = deal(items[::-1], pinned, seed=0, shares=SplitShares(), config=NEAR)
        assert reverse[0] == Place(key="b", cluster="a", split=split)


def test_a_new_item_between_two_splits_goes_nowhere() -> None:
    pinned = {
        "a": Place(key="a", cluster="a", split=Split.TRAIN),
        "b": Place(key="b", cluster="b", split=Split.GATE),
    }
    items = [Item(key="a", text=TRAINS), Item(key="b", text=TRAINS_TOO), Item(key="c", text=TRAINS + " Tell.")]
    places = deal(items, pinned, seed=0, shares=SplitShares(), config=NEAR)
    assert places[:2] == (pinned["a"], pinned["b"])
    assert (places[2].split, places[2].reason) == (None, "a near duplicate of items of gate and train")


def config_for(tmp_path: Path, count: int = 40, **fields: Any) -> FileProblems:
    path = write(tmp_path / "tasks.jsonl", [words(seed) for seed in range(count)])
    return FileProblems.model_validate({"path": path, "near_duplicates": NEAR} | fields)


def test_adding_moves_no_old_item_and_puts_a_near_duplicate_beside_its_like(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    before = splits_of(draw_problems(config, 0))
    new = write(tmp_path / "new.jsonl", [words(3) + " again", words(900), words(901)])
    added = add_problems(config, new)
    after = splits_of(draw_problems(config, 0))
    assert {question: after[question] for question in before} == before
    assert after[words(3) + " again"] is before[words(3)]
    assert (added.version, added.num_added, len(added.near_duplicates)) == (1, 3, 1)
    assert sum(added.total.of(split) for split in Split) == 43
    assert read_deal(config).version == 1
    assert len(read_deal(config).places) == 43


def bridged(tmp_path: Path) -> tuple[FileProblems, Path]:
    """22 old tasks, two by two too far apart to be near duplicates; and 11 new ones, each near both of a pair."""
    texts = [words(seed, 30).split() for seed in range(11)]
    old = [" ".join(part) for text in texts for part in (text[:24], text[6:])]
    config = config_for(tmp_path)
    write(config.path, old)
    new = write(tmp_path / "new.jsonl", [" ".join(text[3:27]) for text in texts])
    return config, new


def test_new_tasks_between_two_old_ones_move_neither(tmp_path: Path) -> None:
    config, new = bridged(tmp_path)
    before = splits_of(draw_problems(config, 0))
    assert draw_problems(config, 0).clusters == {}
    added = add_problems(config, new)
    after = splits_of(draw_problems(config, 0))
    assert {question: after[question] for question in before} == before
    apart = [skipped for skipped in added.left_out if skipped.reason.startswith("a near duplicate of items of ")]
    assert 0 < len(apart) < 11
    assert added.num_added == 11 - len(apart)


@pytest.mark.parametrize("died_before", ["pin", "publish_bytes"])
def test_adding_again_after_a_crash_comes_to_the_same_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died_before: str
) -> None:
    undisturbed, _ = bridged(tmp_path)
    there = tmp_path / "crash"
    there.mkdir()
    crashed, new = bridged(there)
    add_problems(undisturbed, new)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"evolve.problems.adding.{died_before}", dies)
        with pytest.raises(KeyboardInterrupt):
            add_problems(crashed, new)
    add_problems(crashed, new)
    assert crashed.path.read_bytes() == undisturbed.path.read_bytes()
    assert read_deal(crashed).places == read_deal(undisturbed).places


def test_tasks_that_got_into_the_file_unpinned_are_pinned_by_the_next_call(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    new = write(tmp_path / "new.jsonl", [words(900)])
    add_problems(config, new)
    with config.path.open("a") as file:
        file.write(json.dumps({"question": words(901), "answer": "x"}) + "\n")
    assert add_problems(config, new, dry_run=True).version == 1
    assert (add_problems(config, new).version, len(read_deal(config).places)) == (2, 42)


def test_a_file_that_was_dealt_item_by_item_stays_so_and_is_added_to_so(tmp_path: Path) -> None:
    alone = config_for(tmp_path, near_duplicates=None)
    add_problems(alone, write(tmp_path / "new.jsonl", [words(900)]))
    before = splits_of(draw_problems(alone, 0))
    config = FileProblems(path=alone.path)
    assert splits_of(draw_problems(config, 0)) == before
    twins = [words(seed) + " again" for seed in range(20)]
    added = add_problems(config, write(tmp_path / "twins.jsonl", twins))
    assert (added.version, added.num_added, added.near_duplicates) == (2, 20, ())
    assert added.clusters == "Each of 61 tasks stands alone: near duplicates are not looked for."
    drawn = draw_problems(config, 0)
    assert drawn.clusters == {}
    assert any(splits_of(drawn)[twin] is not splits_of(drawn)[twin.removesuffix(" again")] for twin in twins)


def test_one_that_was_dealt_by_clusters_is_not_read_item_by_item(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    add_problems(config, write(tmp_path / "new.jsonl", [words(900)]))
    with pytest.raises(ProblemsError, match=r'the configuration says .*"near_duplicates":null'):
        draw_problems(config.model_copy(update={"near_duplicates": None}), 0)


def test_a_cluster_that_holds_much_of_a_file_is_warned_of(tmp_path: Path) -> None:
    template = [f"Which word is the opposite of the word '{word}'?" for word in words(1).split()]
    path = write(tmp_path / "t.jsonl", [*template, *(words(seed) for seed in range(20))])
    warnings = draw_problems(FileProblems(path=path), 0).report.warnings
    assert (
        len([line for line in warnings if "raise near_duplicates.threshold or set near_duplicates: null" in line]) == 1
    )
    plain = draw_problems(FileProblems(path=path, near_duplicates=None), 0).report.warnings
    assert not any("near_duplicates" in line for line in plain)


@pytest.mark.parametrize(
    ("clusters", "config", "sentence"),
    [
        ({}, NEAR, "No two of 9 tasks are near duplicates."),
        ({}, None, "Each of 9 tasks stands alone: near duplicates are not looked for."),
        (
            {"a": "x", "b": "x", "c": "y", "d": "y"},
            NEAR,
            "4 of 9 tasks are near duplicates of others, in 2 clusters; a cluster is in one split, and its errors "
            "count as one draw.",
        ),
    ],
)
def test_people_are_told_how_many_clusters_there_are(
    clusters: dict[str, str], config: NearDuplicatesConfig | None, sentence: str
) -> None:
    assert clusters_sentence(clusters, 9, config) == sentence


def test_adding_the_same_file_again_adds_nothing(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    new = write(tmp_path / "new.jsonl", [words(900), words(901)])
    add_problems(config, new)
    bytes_before = config.path.read_bytes()
    again = add_problems(config, new)
    assert (again.version, again.num_added) == (1, 0)
    assert [skipped.reason for skipped in again.left_out] == ["the file has this question"] * 2
    assert config.path.read_bytes() == bytes_before


def test_a_dry_run_changes_nothing_and_says_the_same(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    new = write(tmp_path / "new.jsonl", [words(900)])
    before = config.path.read_bytes()
    tried = add_problems(config, new, dry_run=True)
    assert (config.path.read_bytes(), deal_path(config).exists()) == (before, False)
    assert add_problems(config, new).added == tried.added


def test_an_added_row_that_joins_two_splits_is_left_out_with_the_reason(tmp_path: Path) -> None:
    config = config_for(tmp_path, count=2)
    pair = {SHIP: Split.TRAIN, SHIP.replace("oldest", "newest"): Split.GATE}
    path = write(config.path, list(pair))
    loose = FileProblems(path=path)
    keys = {p.task.question: p.key for s in Split for p in draw_problems(loose, 0).of(s)}
    from evolve.problems.deal_file import pin

    pin(config, "hand", [Place(key=keys[q], cluster=keys[q], split=s) for q, s in pair.items()])
    added = add_problems(config, write(tmp_path / "new.jsonl", [SHIP + " Say it."]))
    assert added.num_added == 0
    assert [skipped.reason for skipped in added.left_out] == ["a near duplicate of items of gate and train"]


def test_a_file_that_was_dealt_one_way_is_not_read_another_way(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    add_problems(config, write(tmp_path / "new.jsonl", [words(900)]))
    with pytest.raises(ProblemsError, match=r'were dealt with .*"split_seed":0.* the configuration says'):
        draw_problems(config.model_copy(update={"split_seed": 1}), 0)


def test_a_damaged_ledger_of_splits_is_an_error(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    add_problems(config, write(tmp_path / "new.jsonl", [words(900)]))
    path = deal_path(config)
    path.write_text(path.read_text().replace('"train"', '"audit"'))
    with pytest.raises(ProblemsError, match="expected a ledger of splits"):
        draw_problems(config, 0)


def test_bad_lines_and_used_ids_are_left_out_and_the_rest_is_added(tmp_path: Path) -> None:
    config = config_for(tmp_path).model_copy(update={"verifier": NumericVerifier()})
    write(config.path, ["What is left?"], answer=1, id="a")
    new = tmp_path / "new.jsonl"
    rows = [{"question": "q two?", "answer": 2, "id": "a"}, {"question": "q three?", "answer": "many"}]
    new.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"question": "q four?", "answer": 4, "note": "n"}])
    )
    added = add_problems(config, new)
    assert added.num_added == 1
    assert [s.reason for s in added.left_out] == [
        "the verifier is numeric, but the answer 'many' is no number",
        "the file has another item with id 'a'",
    ]
    assert json.loads(config.path.read_text().splitlines()[-1]) == {"question": "q four?", "answer": 4, "note": "n"}


def parquet_config(directory: Path, answer: type = str, count: int = 40) -> FileProblems:
    path = directory / "tasks.parquet"
    rows = [{"question": words(seed), "answer": answer(seed), "source": "old"} for seed in range(count)]
    pq.write_table(pyarrow.Table.from_pylist(rows), path)
    return FileProblems.model_validate({"path": path, "near_duplicates": NEAR, "verifier": {"kind": "numeric"}})


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_parquet_file_is_added_to_and_keeps_its_columns(tmp_path: Path, suffix: str) -> None:
    config, new = parquet_config(tmp_path), tmp_path / f"new.{suffix}"
    rows: list[dict[str, Any]] = [
        {"question": words(3) + " again", "answer": 3, "note": {"by": "kim"}},
        {"question": words(900), "answer": 900, "type": "late"},
    ]
    if suffix == "jsonl":
        new.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pyarrow.Table.from_pylist(rows), new)
    before, old = splits_of(draw_problems(config, 0)), pq.read_table(config.path)
    assert add_problems(config, new).num_added == 2
    held, after = pq.read_table(config.path), splits_of(draw_problems(config, 0))
    assert held.slice(0, 40).select(old.column_names) == old
    assert held.column_names[:3] == old.column_names
    assert held.slice(40).to_pylist()[0] | {"type": None} == {
        "question": words(3) + " again", "answer": "3", "source": None, "note": {"by": "kim"}, "type": None,
    }  # fmt: skip
    assert {question: after[question] for question in before} == before
    assert after[words(3) + " again"] is before[words(3)]
    assert add_problems(config, new).num_added == 0


def test_what_does_not_fit_a_column_of_a_parquet_file_is_told_before_anything_is_written(tmp_path: Path) -> None:
    config = parquet_config(tmp_path, int)
    before, new = config.path.read_bytes(), write(tmp_path / "new.jsonl", [words(900)], answer="2.5")
    with pytest.raises(
        ProblemsError, match=r"'answer': expected values that fit the column in 'tasks\.parquet' \(int64"
    ):
        add_problems(config, new, dry_run=True)
    with pytest.raises(ProblemsError, match="convert the file to JSONL once"):
        add_problems(config, new)
    assert config.path.read_bytes() == before
    assert not deal_path(config).exists()


def test_two_cannot_add_at_once(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    new = write(tmp_path / "new.jsonl", [words(900)])
    with exclusive_lock(tmp_path / ".tasks.jsonl.lock"), pytest.raises(AlreadyLocked):
        add_problems(config, new)


def test_a_run_on_a_file_infers_by_clusters_without_being_told_to(tmp_path: Path) -> None:
    path = tmp_path / "shop.jsonl"
    wording = "A shop sold {a} red apples before noon and {b} more {when}. How many is that? {a} + {b} ="
    rows = [
        {"question": wording.format(a=a, b=b, when=when), "answer": str(a + b), "type": "sum"}
        for a in range(11, 27)
        for b in range(30, 34)
        for when in ("afterwards", "at midnight")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_of(
        tmp_path,
        num_generations=1,
        problems={"kind": "file", "path": str(path), "verifier": {"kind": "numeric"}, "answer_kind": "number"},
    )
    record = evolved(config).rounds[0].selection.conjunction
    assert record is not None
    tests = [versus.test for result in record.results for versus in result.versus]
    assert tests
    assert all(test.n >= 2 * test.num_clusters > 2 for test in tests)
