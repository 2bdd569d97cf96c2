"""Recall over a whole memory: who may be recalled, what comes back, what never does, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memory.config import MemoryConfig
from memory.store import Memory
from memory.types import Cue, Kind, Level, Namespace, Relation
from tests.memory.doubles import (
    APPLES,
    EMBEDDER,
    HERE,
    PEARS,
    Asleep,
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

ELSEWHERE = Namespace(team="acme", project="tax", run="r1")


@pytest.fixture
def memory(tmp_path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "memory", EMBEDDER) as opened:
        yield opened


# What comes back


def test_a_solved_problem_comes_back_for_a_similar_one_with_its_reason(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    (found,) = shown(memory, PEARS)
    assert found.text == f"Question: {APPLES}\nAnswer: 5"
    assert (found.kind, found.warning, found.same, found.level) == (Kind.SOLUTION, False, False, Level.VERIFIED)
    assert "verified by 1 check" in found.why
    assert "came of a similar problem" in found.why


def test_failures_come_back_as_warnings_after_solutions_and_once_each(memory) -> None:
    memory.remember(*failed(APPLES, "9"))
    memory.remember(*solved(APPLES, "5"))
    for question in (APPLES, PEARS):
        found = shown(memory, question, limit=5)
        assert [(one.kind, one.warning) for one in found] == [(Kind.SOLUTION, False), (Kind.ERROR, True)]
        assert "failed 1 check" in found[1].why


def test_a_failed_attempt_without_an_error_warns_by_itself(memory) -> None:
    memory.remember([note(Kind.ATTEMPT, f"{APPLES} Tried: 9", "failed")])
    (found,) = shown(memory, APPLES)
    assert (found.kind, found.warning) == (Kind.ATTEMPT, True)


@pytest.mark.parametrize("verdict", [None, "unknown"])
def test_what_nobody_verified_is_never_recalled(memory, verdict) -> None:
    memory.remember([note(kind, f"{APPLES} {kind}", verdict) for kind in Kind])
    assert shown(memory, APPLES, limit=16) == []


def test_an_unsafe_configuration_may_show_what_nobody_verified(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER, config=MemoryConfig(shown_from=Level.OBSERVED)) as memory:
        memory.remember([note(Kind.SOLUTION, f"{APPLES} 5")])
        (found,) = shown(memory, APPLES)
        assert (found.level, found.warning) == (Level.OBSERVED, False)
        assert found.why.startswith("unverified solution (observed)")


def test_outcomes_and_decisions_are_for_search_not_for_prompts(memory) -> None:
    memory.remember([note(Kind.OUTCOME, APPLES, "passed"), note(Kind.DECISION, f"{APPLES} decided", "passed")])
    assert shown(memory, APPLES) == []
    assert len(memory.search(APPLES)) == 2


def test_the_solution_is_reached_through_the_graph_when_its_text_says_nothing(memory) -> None:
    problem, solution = note(Kind.PROBLEM, APPLES), note(Kind.SOLUTION, "5", "passed")
    memory.remember([problem, solution], [edge(problem, Relation.RESOLVED_BY, solution)])
    (found,) = shown(memory, PEARS)
    assert (found.text, found.lane) == ("5", "graph")


def test_the_resolution_of_a_shared_error_does_not_cross_to_another_problem(memory) -> None:
    error, fix = note(Kind.ERROR, "timeout after 30 s", "failed"), note(Kind.SOLUTION, "use the index", "passed")
    slow, other = note(Kind.PROBLEM, "The query over the sales table is slow"), note(Kind.PROBLEM, PEARS)
    memory.remember(
        [error, fix, slow, other],
        [
            edge(slow, Relation.FAILED_WITH, error),
            edge(other, Relation.FAILED_WITH, error),
            edge(error, Relation.RESOLVED_BY, fix),
        ],
    )
    assert texts(shown(memory, PEARS, limit=9)) == ["timeout after 30 s"]


def test_an_error_leads_to_what_resolved_it_whatever_its_numbers(memory) -> None:
    error = note(Kind.ERROR, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB", "failed")
    fix = note(Kind.SOLUTION, "halve the batch", "passed")
    memory.remember([error, fix], [edge(error, Relation.RESOLVED_BY, fix)])
    again = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB"
    found = shown(memory, "the training run stopped", error=again)
    assert [(one.text, one.lane, one.same) for one in found] == [
        ("halve the batch", "fingerprint", True),
        (error.experience.text, "fingerprint", True),
    ]
    assert texts(shown(memory, again)) == texts(found)


def test_never_more_than_the_limit(memory) -> None:
    for number in range(9):
        memory.remember([note(Kind.SOLUTION, f"{APPLES} {number}", "passed", source=f"s{number}")])
    assert [len(shown(memory, APPLES, limit=limit)) for limit in (0, 1, 3, 16)] == [0, 1, 3, 9]
    assert len(memory.search(APPLES, limit=4)) == 4
    assert memory.search(APPLES, limit=0) == []
    with pytest.raises(ValueError, match="limit"):
        memory.search(APPLES, limit=-1)


def test_a_source_fills_only_its_places(memory) -> None:
    for number in range(5):
        memory.remember([note(Kind.SOLUTION, f"{APPLES} {number}", "passed", source="loud")])
    memory.remember([note(Kind.SOLUTION, f"{APPLES} quiet of them all", "passed", source="quiet")])
    found = shown(memory, APPLES, limit=9)
    assert len(found) == 3
    assert f"{APPLES} quiet of them all" in texts(found)


def test_unrelated_questions_recall_nothing(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember(*failed(PEARS, "5"))
    assert shown(memory, "Which country has Vienna as its capital?") == []
    assert shown(memory, "The tensor parallel workers ran out of memory.") == []


# The very same, and the merely similar


def test_the_very_same_problem_is_answered_without_embedding(tmp_path) -> None:
    embedder = Asleep()
    with Memory.open(tmp_path, embedder) as memory:
        memory.remember(*solved(APPLES, "5"))
        memory.remember(*failed(APPLES, "9"))
        memory.publish_index()
        embedder.is_awake = False
        found = shown(memory, "how many  apples are left, when two of seven apples are eaten")
        assert [(one.lane, one.same, one.warning) for one in found] == [
            ("fingerprint", True, False),
            ("fingerprint", True, True),
        ]
        with pytest.raises(AssertionError, match="embedded"):
            shown(memory, PEARS)
        embedder.is_awake = True


def test_a_problem_that_was_met_but_not_solved_is_looked_for_by_meaning_too(memory) -> None:
    memory.remember([note(Kind.PROBLEM, APPLES)])
    memory.remember(*solved(PEARS, "6"))
    (found,) = shown(memory, APPLES)
    assert (found.text, found.same) == (f"Question: {PEARS}\nAnswer: 6", False)


def test_the_same_problem_in_other_words_is_the_same_and_other_numbers_make_it_similar(memory) -> None:
    question = "A box holds 12 red pens and 7 blue pens. How many pens does the box hold?"
    memory.remember(*solved(question, "19"))
    (reworded,) = shown(memory, f"Please: {question}")
    (numbers,) = shown(memory, question.replace("12", "13"))
    (name,) = shown(memory, question.replace("red pens", "Parker pens"))
    assert [one.same for one in (reworded, numbers, name)] == [True, False, False]
    assert "same problem in other words" in reworded.why


def test_an_exact_recurrence_comes_first_among_look_alikes(memory) -> None:
    for number in range(40):
        memory.remember(*solved(f"What is {number} + {number + 1}?", str(2 * number + 1), source=f"s{number}"))
    assert shown(memory, "What is 17 + 18?")[0].text == "Question: What is 17 + 18?\nAnswer: 35"


def test_similar_solutions_are_left_out_where_they_were_measured_to_harm(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    solution = solved(APPLES, "5")[0][1].experience.id
    for number in range(40):
        memory.used(
            use(solution, success=False, episode=f"with {number}", same=(), followed=()),
        )
        memory.used(
            use(
                solution,
                success=True,
                episode=f"without {number}",
                shown=(),
                followed=(),
                same=(),
                withheld=(solution,),
            )
        )
    memory.remember(*solved("How many figs are left when one of six figs is eaten?", "5"))
    assert shown(memory, "How many plums are left when two of six plums are eaten?") == []
    assert len(shown(memory, "How many figs are left when one of six figs is eaten?")) == 1


# Where recall may look


def test_nothing_crosses_namespaces_unless_it_is_asked_for(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember(*solved(APPLES, "6", namespace=ELSEWHERE))
    assert texts(shown(memory, APPLES)) == [f"Question: {APPLES}\nAnswer: 5"]
    assert texts(shown(memory, APPLES, [str(ELSEWHERE)])) == [f"Question: {APPLES}\nAnswer: 6"]
    assert len(shown(memory, APPLES, [*HERE, str(ELSEWHERE)])) == 2
    assert shown(memory, APPLES, []) == []
    assert shown(memory, APPLES, ["nobody/tax/r1"]) == []


@pytest.mark.parametrize("question", [APPLES, PEARS])
def test_no_edge_and_no_neighbour_leads_out_of_the_namespace(memory, question) -> None:
    problem = note(Kind.PROBLEM, APPLES)
    foreign = note(Kind.SOLUTION, f"{APPLES} 5", "passed", namespace=ELSEWHERE)
    memory.remember([problem, foreign], [edge(problem, Relation.RESOLVED_BY, foreign)])
    assert shown(memory, question, limit=16) == []


def test_what_was_merged_into_a_foreign_entry_does_not_bring_it_in(memory) -> None:
    mine, foreign = solved(APPLES, "5"), solved(APPLES, "5", namespace=ELSEWHERE)
    memory.remember(*mine)
    memory.remember(*foreign)
    for one, other in zip(mine[0], foreign[0], strict=True):
        memory.merge(one.experience.id, other.experience.id, "the same")
    assert shown(memory, APPLES, limit=16) == []
    assert len(shown(memory, APPLES, [str(ELSEWHERE)])) == 1


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("acme/tax/r1", 1), ("acme/tax/*", 2), ("acme/*/r1", 2), ("acme/*/*", 3), ("other/*/*", 1), ("default/*/*", 0)],
)
def test_a_star_stands_for_any_project_or_run(memory, pattern, count) -> None:
    for place in ("acme/tax/r1", "acme/tax/r2", "acme/law/r1", "other/tax/r1"):
        memory.remember(*solved(APPLES, place, namespace=Namespace.parse(place), source=place))
    assert len(shown(memory, APPLES, [pattern], limit=16)) == count
    assert len(memory.search(APPLES, [pattern])) == 2 * count


@pytest.mark.parametrize("pattern", ["*/tax/r1", "*/*/*", "acme/tax", "acme//r1", "", "a/b/c/d"])
def test_there_is_no_star_for_teams_and_no_shorter_form(memory, pattern) -> None:
    for ask in (lambda: memory.recall(cue(APPLES, [pattern])), lambda: memory.search(APPLES, [pattern])):
        with pytest.raises(ValueError, match="expected team/project/run"):
            ask()


def test_search_reads_everywhere_by_default_and_refuses_a_plain_string(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember(*solved(APPLES, "6", namespace=ELSEWHERE))
    assert len(memory.search(APPLES)) == 4
    with pytest.raises(TypeError, match=r"write \['acme/tax/r1'\]"):
        memory.search(APPLES, "acme/tax/r1")


def test_recall_stays_in_the_splits_it_is_given_also_through_the_graph(memory) -> None:
    memory.remember(*solved(APPLES, "5", split="gate"))
    problem = note(Kind.PROBLEM, PEARS)
    hidden = note(Kind.SOLUTION, "6", "passed", split="gate", source="bob")
    memory.remember([problem, hidden], [edge(problem, Relation.RESOLVED_BY, hidden)])
    for question in (APPLES, PEARS):
        assert shown(memory, question, splits=("train",)) == []
        assert shown(memory, question, splits=("train", "dev")) == []
        assert shown(memory, question, splits=()) == []
    assert len(shown(memory, APPLES, splits=("gate",))) == 1
    assert len(shown(memory, "How many figs are left when two of seven figs are eaten?")) == 2


def test_recall_stays_in_the_task_type(memory) -> None:
    memory.remember(*solved(APPLES, "5", task_type="sum"))
    memory.remember(*solved(APPLES, "4", task_type="riddle"))
    assert [one.task_type for one in shown(memory, APPLES, task_type="riddle")] == ["riddle"]
    assert [one.task_type for one in shown(memory, PEARS, task_type="riddle")] == ["riddle"]
    assert shown(memory, APPLES, task_type="other") == []


def test_another_error_code_or_environment_shuts_the_gate_on_every_lane(memory) -> None:
    error = note(Kind.ERROR, "engine stopped", "failed", error_code="OOM", environment=(("vllm", "0.32"),))
    fix = note(Kind.SOLUTION, "halve the batch", "passed", environment=(("vllm", "0.32"),))
    memory.remember([error, fix], [edge(error, Relation.RESOLVED_BY, fix)])

    def found(**changes) -> list[str]:
        return texts(shown(memory, "what now?", error="engine stopped", **changes))

    assert found() == found(error_code="OOM", environment=(("vllm", "0.32"),)) == ["halve the batch", "engine stopped"]
    assert found(error_code="EPIPE") == ["halve the batch"]
    assert found(environment=(("vllm", "0.31"),)) == []


def test_many_entries_of_another_split_do_not_crowd_out_the_right_one(memory) -> None:
    memory.remember([note(Kind.SOLUTION, f"{APPLES} {number}", "passed", split="gate") for number in range(300)])
    memory.remember([note(Kind.SOLUTION, f"{APPLES} six", "passed")])
    found = shown(memory, APPLES, splits=("train",))
    assert [(one.text, one.lane) for one in found] == [(f"{APPLES} six", "both")]


# Who is held out, aside, or superseded


def test_what_is_held_out_is_not_shown_and_nothing_takes_its_place(memory) -> None:
    for number in range(6):
        memory.remember([note(Kind.SOLUTION, f"{APPLES} {number}", "passed", source=f"s{number}")])
    best = shown(memory, APPLES)
    given = [memory.recall(cue(APPLES, episode=f"e{number}")) for number in range(80)]
    for one in given:
        assert [*sorted(one.shown + one.withheld, key=best.index)] == best
    num_withheld = sum(len(one.withheld) for one in given)
    assert 8 <= num_withheld <= 44  # a tenth of 240, within four standard deviations
    assert given == [memory.recall(cue(APPLES, episode=f"e{number}")) for number in range(80)]


def test_a_superseded_solution_is_kept_but_not_recalled(memory) -> None:
    old, new = note(Kind.SOLUTION, f"{APPLES} 4", "passed"), note(Kind.SOLUTION, f"{APPLES} 5", "passed")
    memory.remember([old, new], [edge(new, Relation.SUPERSEDES, old)])
    assert texts(shown(memory, APPLES)) == [new.experience.text]
    assert memory.get(old.experience.id) == old.experience
    assert len(memory.search(APPLES)) == 2


def test_a_solution_leaves_recall_at_the_first_failure_of_those_who_followed_it(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    (found,) = shown(memory, APPLES)
    memory.used(use(found.experience_id, success=False, episode="e2", followed=()))
    assert len(shown(memory, APPLES)) == 1  # shown, and answered otherwise: that says nothing against it
    memory.used(use(found.experience_id, success=False, episode="e3"))
    assert shown(memory, APPLES) == []
    standing = memory.standing(found.experience_id)
    assert standing is not None
    assert (standing.level, standing.reason) == (
        Level.CANDIDATE,
        "demoted: it passed 1 and failed 1 times, last judged by exact in e3",
    )


def test_a_failure_on_another_problem_refutes_nothing(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    (found,) = shown(memory, PEARS)
    memory.used(use(found.experience_id, success=False, episode="e2", same=()))
    assert len(shown(memory, APPLES)) == 1


def test_retired_entries_are_found_by_search_and_never_recalled(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    problem, solution = (one.experience.id for one in solved(APPLES, "5")[0])
    memory.retire(solution, "wrong unit")
    assert shown(memory, APPLES) == []
    assert {one.why.split(";")[0] for one in memory.search(APPLES) if one.experience_id == solution} == {
        "retired solution: retired: wrong unit"
    }
    memory.restore(solution)
    memory.retire(problem, "no problem")
    assert texts(shown(memory, APPLES)) == [f"Question: {APPLES}\nAnswer: 5"]  # by its own words
    assert not shown(memory, APPLES)[0].same


# Odd questions


@pytest.mark.parametrize(
    "query", ["", "  \n", "\0", '"', "AND OR NOT NEAR(", "*", "a\ud800b", "数学", "x" * 100_000, "_", "{text}: a^2"]
)
def test_odd_questions_are_answered(memory, query) -> None:
    memory.remember(*solved(APPLES, "5"))
    assert shown(memory, query) == []
    assert isinstance(memory.search(query), list)
    assert memory.recall(Cue(text="", error=query, namespaces=HERE)).shown == ()


def test_an_enormous_question_that_holds_the_problem_still_finds_it(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    assert len(shown(memory, APPLES + " really?" * 50_000)) == 1


def test_an_empty_memory_recalls_nothing(memory) -> None:
    assert shown(memory, APPLES) == memory.search(APPLES) == []
    assert memory.get("no such id") is None
    assert memory.standing("no such id") is None
    assert memory.edges_of("no such id") == memory.neighbours("no such id") == []
    assert memory.observations_of("no such id") == memory.checks_of("no such id") == memory.find("0") == []


def test_a_check_of_the_content_changes_recall_at_once(memory) -> None:
    memory.remember([note(Kind.SOLUTION, f"{APPLES} 5")])
    id = note(Kind.SOLUTION, f"{APPLES} 5").experience.id
    assert shown(memory, APPLES) == []
    memory.verify(id, evidence("passed"))
    assert len(shown(memory, APPLES)) == 1
    memory.verify(id, evidence("failed", digest="another"), episode="e2")
    assert shown(memory, APPLES) == []
