from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.types import Evidence
from mesh.config import CouncilConfig, ParallelConfig, ProtocolConfig, VoteConfig
from mesh.deliberate import deliberate
from mesh.patterns.step import Step
from mesh.types import (
    Deliberation,
    Demonstration,
    Member,
    Message,
    Outcome,
    Part,
    Proposal,
    Task,
    Verdict,
)
from serving.config import ScriptedSpec
from serving.export import Sampler, Turn, Wanted, alternating
from serving.export_formats import DATASET_INFO, FORMATS, Exported, ExportError, Format, export_traces
from serving.outcomes import LateOutcome, OutcomeLedger, judged_right
from serving.scripted_engine import ScriptedEngine

MEMBERS = tuple(
    Member(name=name, engine="alpha", family=family)
    for name, family in (("ada", "fox"), ("bob", "owl"), ("eve", "ant"))
)


def trace(**changes: Any) -> Deliberation:
    """Ada and Bob say 7, Eve says 8."""
    task = Task(id="t", question="What is 2 + 5?", type="sum", answer_kind="number")
    said = [("ada", "fox", "Two and five. Answer: 7", "7"), ("bob", "owl", "Answer: 7.0", "7.0"),
            ("eve", "ant", "I counted. Answer: 8", "8")]  # fmt: skip
    proposals = tuple(Proposal(member=m, family=f, text=text, answer=answer) for m, f, text, answer in said)
    verdict = Verdict(answer="7", method="plurality", confidence=0.66)
    fields = {"id": "d" * 32, "task": task, "protocol": "vote", "seed": 1, "members": MEMBERS, "proposals": proposals,
              "first_verdict": verdict, "verdict": verdict}  # fmt: skip
    return Deliberation(**{**fields, **changes})


def samples(*traces: Deliberation, right: dict[tuple[str, str], bool] | None = None, **wanted: Any) -> list[Any]:
    return list(Sampler(right or {}, Wanted(**wanted)).demonstrations(traces))


def left_out(held: Deliberation, right: dict[tuple[str, str], bool] | None = None, **wanted: Any) -> list[str]:
    sampler = Sampler(right or {}, Wanted(**wanted))
    assert list(sampler.demonstrations([held])) == []
    return list(sampler.left_out)


def real_traces(protocol: ProtocolConfig, count: int = 12) -> list[Deliberation]:
    engine = ScriptedEngine(ScriptedSpec(name="alpha", family="script"))

    async def work() -> list[Deliberation]:
        tasks = [Task(id=f"t{n}", question=f"What is {n} + 5?", type="sum", answer_kind="number") for n in range(count)]
        return [await deliberate(task, MEMBERS, engine, protocol, seed=3) for task in tasks]

    return asyncio.run(work())


def test_a_row_is_the_winners_own_text_to_the_bare_question() -> None:
    (found,) = samples(trace())
    assert (found.member, found.chosen, found.first, found.verified) == ("ada", "Two and five. Answer: 7", True, False)
    assert found.prompt == (Turn(role="user", content="What is 2 + 5?"),)


def test_what_dissented_is_rejected_once_for_each_answer() -> None:
    extra = Proposal(member="ann", family="ant", text="Answer: 8.00", answer="8.00")
    held = trace(proposals=(*trace().proposals, extra))
    (found,) = Sampler().preferences([held])
    assert (found.chosen, found.rejected, found.rejected_member) == (
        "Two and five. Answer: 7", "I counted. Answer: 8", "eve",
    )  # fmt: skip


def test_a_label_overrules_the_vote() -> None:
    right = {("t", "7"): False, ("t", "7.0"): False, ("t", "8"): True}
    (found,) = Sampler(right).preferences([trace()])
    assert (found.member, found.verified, found.rejected_member) == ("eve", True, "ada")
    assert left_out(trace(), {("t", "7"): False}) == ["its answer was judged wrong, and nobody gave a right one"]


def test_an_answer_that_was_judged_right_is_never_rejected() -> None:
    sampler = Sampler({("t", "7"): True, ("t", "8"): True})
    assert list(sampler.preferences([trace()])) == []
    assert sampler.left_out == {"nobody dissented": 1}


def test_one_may_want_only_what_was_judged_or_what_was_sure() -> None:
    assert left_out(trace(), only_verified=True) == ["nobody judged its answer"]
    assert left_out(trace(), min_confidence=0.7) == ["its confidence is too low"]
    assert samples(trace(), right={("t", "7"): True}, only_verified=True, min_confidence=0.7)[0].verified


def test_texts_with_control_markers_and_answers_of_nobody_are_left_out() -> None:
    marked = trace(proposals=(trace().proposals[0].model_copy(update={"text": "7<|im_end|>"}),))
    assert left_out(marked) == ["a text holds control markers of chat templates"]
    asked = trace(task=trace().task.model_copy(update={"question": "What is <|im_start|>system?"}))
    assert left_out(asked) == ["a text holds control markers of chat templates"]
    edited = trace(verdict=Verdict(answer="9", method="written by a person (Ann)", confidence=1.0))
    assert left_out(edited) == ["no member's own text holds its answer"]
    silent = trace(verdict=Verdict(answer=None, method="nobody"))
    assert left_out(silent) == ["it waits for a person or has no answer"]


def test_a_revision_stands_in_only_where_nobody_said_it_alone() -> None:
    first = trace().proposals[2]
    revision = Proposal(member="eve", family="ant", text="So it is 7.", answer="7", round=1)
    (found,) = samples(trace(proposals=(first, revision)))
    assert (found.member, found.first, found.chosen) == ("eve", False, "So it is 7.")


def test_a_conversation_and_its_examples_come_before_the_question() -> None:
    history = tuple(
        Message(role=role, parts=(Part(text=text, trusted=False),))
        for role, text in (("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "A sum:"))
    )
    task = trace().task.model_copy(
        update={"history": history, "demonstrations": (Demonstration(question="1 + 1?", answer="Answer: 2"),)}
    )
    (found,) = samples(trace(task=task))
    assert [turn.role for turn in found.prompt] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert found.prompt[3].content == "A sum:\n\n1 + 1?"
    backwards = trace().task.model_copy(update={"history": history[2:3]})
    assert left_out(trace(task=backwards)) == ["the conversation does not begin with the user"]


def test_the_parts_of_a_pattern_count_where_they_were_put_the_same_question() -> None:
    steps = (Step(name="one", protocol=VoteConfig()), Step(name="two", protocol=CouncilConfig()))
    traces = real_traces(ParallelConfig(branches=steps))
    found = samples(*traces)
    assert len(found) == len(traces)
    assert all(one.first for one in found)


def test_the_same_row_is_not_written_twice() -> None:
    sampler = Sampler()
    assert len(list(sampler.demonstrations([trace(), trace(id="e" * 32)]))) == 1
    assert sampler.left_out == {"it says what another row says": 1}


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=5)), min_size=1))
def test_turns_take_turns_and_lose_no_word(turns: list[tuple[Any, str]]) -> None:
    messages = [Message(role=role, parts=(Part(text=text),)) for role, text in turns]
    found = alternating(messages)
    roles = [turn.role for turn in found]
    assert all(one != other for one, other in pairwise(roles))
    assert "system" not in roles[1:]
    for role in ("system", "user", "assistant"):
        joined = "".join(text for one, text in turns if one == role)
        assert "".join(turn.content.replace("\n\n", "") for turn in found if turn.role == role) == joined.replace(
            "\n\n", ""
        )


def export(tmp_path: Path, kind: Format, name: str = "rows.jsonl") -> tuple[list[dict[str, Any]], Exported]:
    exported = export_traces(real_traces(CouncilConfig()), {("t3", "8"): True}, tmp_path / name, kind)
    return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()], exported


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_has_its_rows_their_origin_and_a_page_that_explains_them(kind: Format, tmp_path: Path) -> None:
    rows, exported = export(tmp_path, kind)
    assert exported.num_rows == len(rows) > 0
    assert all({"task_id", "member", "family", "adapter", "confidence", "verified"} <= set(row) for row in rows)
    assert all(list(row) == list(rows[0]) for row in rows)
    page = (tmp_path / "rows.README.md").read_text()
    assert "own text" in page
    assert ("dissented" in page) == kind.endswith("-preference")
    assert f"{len(rows)} rows from 12 traces" in page
    assert {path.name for path in exported.files} == {path.name for path in tmp_path.iterdir()}


def test_axolotl_rows_are_chat_template_conversations_whose_last_turn_alone_is_learned(tmp_path: Path) -> None:
    for row in export(tmp_path, "axolotl")[0]:
        assert all(set(turn) == {"role", "content", "train"} for turn in row["messages"])
        assert [turn["train"] for turn in row["messages"]] == [False] * (len(row["messages"]) - 1) + [True]
        assert row["messages"][-1]["role"] == "assistant"


@pytest.mark.parametrize("kind", ["llamafactory", "llamafactory-preference"])
def test_llama_factory_rows_follow_what_its_converter_demands(kind: Format, tmp_path: Path) -> None:
    rows, _ = export(tmp_path, kind)
    entry = json.loads((tmp_path / DATASET_INFO).read_text())["rows"]
    assert (entry["file_name"], entry["formatting"], entry["columns"]["messages"]) == (
        "rows.jsonl", "sharegpt", "conversations",
    )  # fmt: skip
    ranking = kind.endswith("-preference")
    assert entry.get("ranking", False) == ranking
    for row in rows:
        tags = [turn["from"] for turn in row["conversations"]]
        assert all(tag == ("human", "gpt")[place % 2] for place, tag in enumerate(tags))
        assert len(tags) % 2 == int(ranking)  # else the converter skips the example
        assert not ranking or (row["chosen"]["from"], row["rejected"]["from"]) == ("gpt", "gpt")
        assert row["system"] == ""


def test_a_list_of_data_sets_that_is_there_keeps_its_entries(tmp_path: Path) -> None:
    (tmp_path / DATASET_INFO).write_text('{"theirs": {"file_name": "theirs.json"}}')
    export(tmp_path, "llamafactory", "ours.jsonl")
    export(tmp_path, "llamafactory-preference", "pairs.jsonl")
    assert list(json.loads((tmp_path / DATASET_INFO).read_text())) == ["theirs", "ours", "pairs"]


@pytest.mark.parametrize("found", ["[]", "{torn"])
def test_what_is_no_list_of_data_sets_is_not_overwritten(found: str, tmp_path: Path) -> None:
    (tmp_path / DATASET_INFO).write_text(found)
    with pytest.raises(ExportError, match="dataset_info"):
        export(tmp_path, "llamafactory")
    assert (tmp_path / DATASET_INFO).read_text() == found
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ending in \.jsonl"):
        export_traces([], {}, tmp_path / "rows.csv", "trl")


def test_traces_without_anything_to_learn_give_an_empty_file_and_say_why(tmp_path: Path) -> None:
    silent = trace(verdict=Verdict(answer=None, method="nobody"))
    exported = export_traces([silent], {}, tmp_path / "rows.jsonl", "trl")
    assert (exported.num_rows, exported.left_out) == (0, (("it waits for a person or has no answer", 1),))
    assert "- 1: it waits for a person" in (tmp_path / "rows.README.md").read_text()


def late(answer: str | None, correct: bool, by: str = "label") -> LateOutcome:
    evidence = Evidence(verifier=by, verdict="passed" if correct else "failed", digest="d")
    outcome = Outcome(task_id="t", task_type="sum", answer=answer, correct=correct, evidence=evidence)
    return LateOutcome(deliberation="d" * 32, outcome=outcome)


def test_the_ledger_of_outcomes_takes_each_word_once_and_the_last_one_stands(tmp_path: Path) -> None:
    ledger = OutcomeLedger(tmp_path)
    assert (ledger.all(), ledger.add([])) == ([], 0)
    assert list(tmp_path.iterdir()) == []
    assert ledger.add([late("7", True), late("8", False), late(None, False)]) == 3
    assert ledger.add([late("7", True), late("8", False)]) == 0
    assert ledger.add([late("8", True), late("8", True)]) == 1
    assert judged_right(ledger.all()) == {("t", "7"): True, ("t", "8"): True}
    assert len(ledger.all()) == 3
