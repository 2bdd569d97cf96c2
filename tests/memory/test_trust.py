"""Trust: what events make of an experience, and what nobody can make of it alone."""

from __future__ import annotations

import random
from itertools import count
from typing import Any, cast

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memory.trust import Check, History, Mark, Reuse, Seen, TrustRules, standing_of
from memory.types import Kind, Level, Standing

RULES = TrustRules()
FEW = settings(max_examples=50)
KINDS = st.sampled_from(list(Kind))
SPECIFIC = st.sampled_from([Kind.SOLUTION, Kind.ATTEMPT, Kind.PROBLEM, Kind.OUTCOME])


Events = list[tuple[str, dict[str, Any]]]
"""Names of methods of `Story` with their arguments."""


class Story:
    """A history that is told event by event; each call is one event."""

    def __init__(self, kind: Kind = Kind.SOLUTION) -> None:
        self.history = History(kind)
        self._events = count(1)

    def seen(self, source: str = "ann", episode: str = "e1") -> Story:
        return self._add(observations=Seen(source, episode, next(self._events)))

    def checked(
        self, verdict: str, episode: str = "e1", *, verifier: str = "exact", source: str = "ann", digest: str = "d"
    ) -> Story:
        return self._add(checks=Check(verifier, cast(Any, verdict), digest, source, episode, next(self._events)))

    def passed(self, episode: str = "e1", **changes: str) -> Story:
        return self.checked("passed", episode, **changes)

    def failed(self, episode: str = "e1", **changes: str) -> Story:
        return self.checked("failed", episode, **changes)

    def used(
        self,
        success: bool,
        episode: str = "",
        *,
        shown: bool = True,
        same: bool = True,
        followed: bool = False,
        verifier: str = "exact",
    ) -> Story:
        event = next(self._events)
        episode = episode or f"use {len(self.history.uses)}"
        return self._add(uses=Reuse(episode, shown, same, followed, success, verifier, event))

    def marked(self, kind: str, detail: str = "") -> Story:
        return self._add(marks=Mark(cast(Any, kind), detail, next(self._events)))

    def superseded(self) -> Story:
        self.history = self.history._replace(is_superseded=True)
        return self

    def _add(self, **event: Any) -> Story:
        changed: Any = {field: (*getattr(self.history, field), value) for field, value in event.items()}
        self.history = self.history._replace(**changed)
        return self

    @property
    def standing(self) -> Standing:
        return standing_of(self.history, RULES)


def verified() -> Story:
    return Story().seen().passed()


# What is believed, and why


def test_what_somebody_wrote_is_observed_and_no_more() -> None:
    standing = Story().seen().standing
    assert (standing.level, standing.num_episodes, standing.reason) == (Level.OBSERVED, 1, "")
    assert standing.trust == pytest.approx(0.1)


def test_what_was_seen_in_two_episodes_is_a_candidate() -> None:
    assert Story().seen(episode="e1").seen(episode="e1").standing.level is Level.OBSERVED
    assert Story().seen(episode="e1").seen(episode="e2").standing.level is Level.CANDIDATE
    assert Story().seen(episode="").seen(episode="").standing.level is Level.OBSERVED


def test_one_independent_check_verifies_a_solution() -> None:
    standing = verified().standing
    assert (standing.level, standing.warns, standing.num_passed) == (Level.VERIFIED, False, 1)
    assert standing.trust == pytest.approx(0.1**0.5)


@pytest.mark.parametrize(
    "story",
    [
        Story().seen("exact").passed(),
        Story().seen("ann, exact").passed(),
        Story().seen("ann").passed(verifier="person:Ann"),
        Story().seen("person:ann").passed(verifier="judge:ann"),
        Story().seen().passed(verifier="my own word"),
        Story().seen().passed(verifier="inexact"),
        Story().seen().passed(digest=""),
    ],
    ids=["proposer", "one of the proposers", "herself", "other hat", "unknown", "like a known one", "no evidence"],
)
def test_a_check_that_is_not_independent_makes_a_candidate(story: Story) -> None:
    assert (story.standing.level, story.standing.num_passed) == (Level.CANDIDATE, 0)


@pytest.mark.parametrize(
    "verifier", ["exact", "numeric", "reasoning_gym:chain_sum", "judge:bo", "test:unit", "person:bo", "outcome:ci"]
)
def test_checks_that_are_executed_here_are_trusted_by_their_names(verifier: str) -> None:
    assert Story().seen("chain_sum").passed(verifier=verifier).standing.level is Level.VERIFIED


def test_a_check_that_came_to_no_end_says_nothing() -> None:
    assert Story().seen().checked("unknown").standing == Story().seen().standing


@pytest.mark.parametrize("kind", [Kind.PATTERN, Kind.DECISION])
def test_no_pattern_is_verified_from_a_single_episode(kind: Kind) -> None:
    story = Story(kind).seen().passed("e1").passed("e1", verifier="numeric", digest="other").passed("", digest="third")
    assert (story.standing.level, story.standing.reason) == (Level.CANDIDATE, "")
    assert story.passed("e2").standing.level is Level.VERIFIED


def test_a_pattern_is_no_warning_from_a_single_episode_either() -> None:
    story = Story(Kind.PATTERN).seen().failed("e1").failed("e1", digest="other")
    assert (story.standing.level, story.standing.warns) == (Level.CANDIDATE, False)
    assert (story.failed("e2").standing.level, story.standing.warns) == (Level.VERIFIED, True)


# What fails


def test_a_checked_failure_is_a_verified_warning() -> None:
    standing = Story().seen().failed().failed("e2").standing
    assert (standing.level, standing.warns, standing.num_failed) == (Level.VERIFIED, True, 2)
    assert standing.trust == pytest.approx(0.1 ** (1 / 3))


def test_failed_checks_confirm_an_error_and_passed_ones_never_verify_it() -> None:
    assert Story(Kind.ERROR).seen().failed().standing.warns
    standing = Story(Kind.ERROR).seen().passed().passed("e2").standing
    assert (standing.level, standing.warns) == (Level.CANDIDATE, False)
    assert standing.trust < 0.1


def test_the_first_failed_reuse_demotes_and_only_outdoing_all_failures_brings_back() -> None:
    story = verified().used(False, "e2", followed=True)
    assert (story.standing.level, story.standing.warns) == (Level.CANDIDATE, False)
    assert story.standing.reason == "demoted: it passed 1 and failed 1 times, last judged by exact in e2"
    assert story.passed("e3").standing.level is Level.CANDIDATE
    assert story.passed("e4").standing.level is Level.VERIFIED
    assert story.failed("e5").standing.level is Level.CANDIDATE
    assert story.passed("e6").passed("e7").standing.level is Level.CANDIDATE
    assert story.passed("e8").standing.level is Level.VERIFIED


def test_the_same_evidence_again_in_the_same_episode_does_not_bring_back() -> None:
    story = verified().failed("e2")
    for _ in range(5):
        story.passed("e1")
    assert (story.standing.level, story.standing.num_passed) == (Level.CANDIDATE, 1)


def test_a_failure_after_a_pass_demotes_first_and_warns_when_it_is_repeated() -> None:
    story = verified().failed("e2")
    assert (story.standing.level, story.standing.warns) == (Level.CANDIDATE, False)
    assert story.failed("e3").standing.warns


def test_a_warning_whose_answer_proves_right_is_demoted_too() -> None:
    story = Story().seen().failed().used(True, "e2", followed=True)
    assert (story.standing.level, story.standing.warns) == (Level.CANDIDATE, False)
    assert story.standing.reason.startswith("demoted: it passed 1 and failed 1 times")


def test_an_answer_that_was_copied_to_another_problem_is_not_refuted_by_it() -> None:
    copied = verified().used(False, same=False, followed=True).used(False, same=False, followed=True)
    assert (copied.standing.level, copied.standing.num_failed) == (Level.VERIFIED, 0)
    pattern = Story(Kind.PATTERN).seen().passed("e1").passed("e2").used(False, same=False, followed=True)
    assert pattern.standing.level is Level.CANDIDATE


@pytest.mark.parametrize("verifier", ["ann", "somebody"])
def test_an_outcome_that_nobody_independent_judged_counts_for_nothing(verifier: str) -> None:
    story = verified()
    before = story.standing
    for _ in range(5):
        story.used(False, followed=True, verifier=verifier)
    assert story.standing == before


def test_a_reuse_counts_for_trust_but_verifies_nothing() -> None:
    standing = Story().seen().used(True, followed=True).standing
    assert (standing.level, standing.num_passed) == (Level.OBSERVED, 0)
    assert standing.trust == pytest.approx(0.1**0.5)


def test_an_outcome_that_is_reported_twice_counts_once_and_the_correction_wins() -> None:
    story = verified().used(False, "e2", followed=True).used(True, "e2", followed=True)
    assert (story.standing.level, story.standing.num_uses) == (Level.VERIFIED, 1)


# What is set aside


@pytest.mark.parametrize(
    ("story", "reason"),
    [
        (Story().passed(), "withdrawn: no report of it is left"),
        (verified().superseded(), "superseded"),
        (verified().marked("retired", "obsolete"), "retired: obsolete"),
        (verified().marked("restored").marked("retired"), "retired"),
        (verified().marked("merged", "twin"), "merged into twin"),
        (verified().marked("merged", "twin").marked("restored"), "merged into twin"),
        (verified().used(True).used(False).used(False), "useless: 1 of 3 uses succeeded"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_retired_says_why(story: Story, reason: str) -> None:
    assert (story.standing.level, story.standing.reason) == (Level.RETIRED, reason)
    assert story.standing.merged_into == ("twin" if "merged" in reason else "")


def test_marks_can_be_taken_back() -> None:
    before = verified().standing
    assert verified().marked("retired", "obsolete").marked("restored").standing == before
    assert verified().marked("merged", "twin").marked("unmerged").standing == before


def test_what_a_rule_retired_can_be_restored_and_is_judged_by_what_follows() -> None:
    story = verified().used(False).used(False).used(False).marked("restored")
    assert story.standing.level is Level.VERIFIED
    assert story.used(False).used(False).standing.level is Level.VERIFIED
    assert story.used(False).standing.level is Level.RETIRED


def test_few_successes_are_no_fault_where_there_are_fewer_without_it() -> None:
    story = verified().used(True).used(False).used(False).used(False, shown=False).used(False, shown=False)
    assert (story.standing.level, story.standing.num_uses) == (Level.VERIFIED, 3)
    assert story.standing.gain > 0.0


def test_similar_problems_that_went_wrong_do_not_retire_a_solution_of_another() -> None:
    story = verified()
    for _ in range(20):
        story.used(False, same=False)
    assert story.standing.level is Level.VERIFIED


def test_what_does_harm_is_retired_though_it_often_succeeds() -> None:
    story = Story(Kind.PATTERN).seen().passed("e1").passed("e2")
    for number in range(60):
        story.used(number % 5 < 3).used(True, shown=False)
    assert story.standing.level is Level.RETIRED
    assert story.standing.reason.startswith("harmful: success changes by -0.3")
    assert story.standing.gain < -0.3


# What always holds

names = st.sampled_from(["ann", "bo", "cy", ""])
episodes = st.sampled_from(["e1", "e2", "e3", ""])
verifiers = st.sampled_from(["exact", "judge:bo", "person:dee", "hearsay"])
verdicts = st.sampled_from(["passed", "passed", "failed", "unknown"])
events = st.one_of(
    st.tuples(st.just("seen"), st.builds(lambda s, e: {"source": s, "episode": e}, names, episodes)),
    st.tuples(
        st.just("checked"),
        st.fixed_dictionaries(
            {
                "verdict": verdicts,
                "episode": episodes,
                "verifier": verifiers,
                "source": names,
                "digest": st.sampled_from(["d", "other", ""]),
            }
        ),
    ),
    st.tuples(
        st.just("used"),
        st.fixed_dictionaries(
            {
                "success": st.booleans(),
                "shown": st.booleans(),
                "same": st.booleans(),
                "followed": st.booleans(),
                "verifier": verifiers,
            }
        ),
    ),
    st.tuples(
        st.just("marked"), st.builds(lambda k: {"kind": k}, st.sampled_from(["retired", "restored", "unmerged"]))
    ),
)
stories = st.lists(events, max_size=14)


def told(kind: Kind, story: Events) -> Story:
    found = Story(kind).seen()
    for verb, values in story:
        getattr(found, verb)(**values)
    return found


def shuffled(history: History, draw: random.Random) -> History:
    def mixed(rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(draw.sample(rows, len(rows)))

    return history._replace(
        observations=mixed(history.observations),
        checks=mixed(history.checks),
        uses=mixed(history.uses),
        marks=mixed(history.marks),
    )


@FEW
@given(KINDS, stories, st.integers(0, 99))
def test_the_order_in_which_events_are_read_does_not_matter(kind: Kind, story: Events, seed: int) -> None:
    history = told(kind, story).history
    assert standing_of(shuffled(history, random.Random(seed)), RULES) == standing_of(history, RULES)


@FEW
@given(KINDS, st.lists(events.filter(lambda event: event[0] == "checked"), max_size=10), st.integers(0, 99))
def test_how_often_it_passed_and_failed_does_not_depend_on_when(kind: Kind, checks: Events, seed: int) -> None:
    first = told(kind, checks).standing
    later = told(kind, random.Random(seed).sample(checks, len(checks))).standing
    assert (first.num_passed, first.num_failed) == (later.num_passed, later.num_failed)
    if first.warns == later.warns:
        assert first.trust == later.trust


@FEW
@given(KINDS, stories)
def test_numbers_stay_in_their_ranges_and_a_warning_is_a_checked_failure(kind: Kind, story: Events) -> None:
    standing = told(kind, story).standing
    assert 0.0 < standing.trust < 1.0
    assert -1.0 < standing.gain < 1.0
    assert not standing.warns or standing.num_failed > 0
    if standing.level is Level.VERIFIED:
        assert standing.num_failed if standing.warns else standing.num_passed
        assert standing.reason == ""
    assert (standing.level is Level.RETIRED) <= (standing.reason != "")


@FEW
@given(SPECIFIC, stories, st.sampled_from(["exact", "judge:dee", "test:new"]), names)
def test_one_more_independent_pass_never_lowers_trust_or_level(
    kind: Kind, story: Events, verifier: str, source: str
) -> None:
    before = told(kind, story)
    assume(not before.standing.warns)
    # An episode of its own: the same evidence in the same episode is no second check.
    after = told(kind, story).passed("a new episode", verifier=verifier, source=source)
    assert after.standing.trust >= before.standing.trust
    order = [Level.OBSERVED, Level.CANDIDATE, Level.VERIFIED]
    if Level.RETIRED not in (before.standing.level, after.standing.level):
        assert order.index(after.standing.level) >= order.index(before.standing.level)


@FEW
@given(KINDS, stories)
def test_one_more_independent_failure_never_makes_anything_pass_for_right(kind: Kind, story: Events) -> None:
    def works(standing: Standing) -> bool:
        return standing.level is Level.VERIFIED and not standing.warns

    assert works(told(kind, story).standing) >= works(told(kind, story).failed("a new episode").standing)


@settings(max_examples=100)
@given(KINDS, stories, names.filter(bool), st.sampled_from(["{}", "person:{}", "judge:{}", "{}'s test", "EXACT", ""]))
def test_nothing_that_one_source_writes_is_verified_by_its_own_word(
    kind: Kind, story: Events, source: str, verifier: str
) -> None:
    found = Story(kind).seen(source)
    for verb, values in story:
        getattr(found, verb)(**_by(values, source, verifier.format(source)))
    assert found.standing.level in (Level.OBSERVED, Level.CANDIDATE, Level.RETIRED)
    assert not found.standing.warns
    assert found.standing.trust <= standing_of(History(kind, found.history.observations), RULES).trust


@FEW
@given(KINDS, stories, names.filter(bool))
def test_what_a_source_did_leaves_no_trace_once_it_is_rolled_back(kind: Kind, story: Events, source: str) -> None:
    honest = [event for event in story if event[1].get("source") != source]
    history = told(kind, story).history
    left = history._replace(
        observations=tuple(seen for seen in history.observations if seen.source != source or seen.event == 1),
        checks=tuple(check for check in history.checks if check.source != source),
    )
    never = told(kind, honest).history
    assert standing_of(left, RULES) == standing_of(never, RULES)


@FEW
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from(["passed", "failed"]))
def test_repetition_by_one_verifier_and_source_is_capped(num: int, most: int, verdict: str) -> None:
    rules = TrustRules(max_trials_per_source=most)
    story = Story().seen()
    for number in range(num):
        story.checked(verdict, f"episode {number}")
    standing = standing_of(story.history, rules)
    assert standing.trust == pytest.approx(0.1 ** (1 / (1 + min(num, most))))
    assert standing_of(story.checked(verdict, "x", source="bo").history, rules).trust > standing.trust


def test_a_thousand_passes_of_one_source_weigh_less_than_two_of_each_of_two() -> None:
    flood, few = Story().seen(), Story().seen()
    for number in range(1000):
        flood.passed(f"e{number}")
    for number in range(4):
        few.passed(f"e{number}", source="bo" if number % 2 else "cy")
    assert flood.standing.trust < few.standing.trust


def _by(values: dict[str, Any], source: str, verifier: str) -> dict[str, Any]:
    """The same event, done by `source` under the name of `verifier`."""
    return {key: {"source": source, "verifier": verifier}.get(key, value) for key, value in values.items()}
