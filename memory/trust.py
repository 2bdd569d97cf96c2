"""How far an experience may be trusted: the rules that turn what happened to it into its standing; pure.

Remembering everything and trusting it is how memories fail: in an audit of one, 97.8% of what it held was junk. So
nothing is trusted for being written, however often and however well, and every rule here reads events that are still
live. A rollback takes events away, and the standing comes out as if they had never been.

Not promised: that a verifier did what it says. Names are taken at their word, so only the code that runs the checks
may write to the store; a source that could sign with a trusted name would be believed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from memory.beta import beta_quantile
from memory.types import Kind, Level, Record, Standing
from memory.utility import Tally, harms, utility

GENERAL_KINDS = frozenset({Kind.PATTERN, Kind.DECISION})
"""Kinds that speak of problems not yet met. What the others hold is true of one problem, and of no similar one."""

_SOMEBODY = ("person:", "judge:")
"""Verifiers that are somebody and may also propose, so that 'person:anna' does not check what 'anna' wrote."""


class TrustRules(Record):
    """When an experience counts as verified, and when it is no longer shown."""

    trusted_verifiers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=("exact", "numeric", "reasoning_gym:*", "judge:*", "test:*", "person:*", "outcome:*"),
        description="names of verifiers whose word counts; '*' stands for any text",
    )
    min_candidate_episodes: int = Field(
        default=2, ge=1, description="distinct episodes in which an unchecked experience was seen, to be a candidate"
    )
    min_pattern_episodes: int = Field(
        default=2, ge=1, description="distinct episodes in which a pattern or decision was checked, to be verified"
    )
    max_trials_per_source: int = Field(
        default=3, ge=1, description="most passed, and most failed, trials of one verifier and source that trust counts"
    )
    trust_quantile: float = Field(
        default=0.1, gt=0.0, lt=1.0, description="lower quantile of the Beta posterior that ranks; lower doubts more"
    )
    retire_after_uses: int = Field(
        default=3, ge=1, description="uses after which an experience that does not help is retired"
    )
    retire_below_success: float = Field(
        default=0.5, ge=0.0, le=1.0, description="share of successful uses below which it is retired; 0 never retires"
    )


class Seen(NamedTuple):
    """Somebody reported the experience. Names of several sources are separated by commas; "": not known."""

    source: str
    episode: str
    event: int


class Check(NamedTuple):
    """A check was executed; `source` is who reported it, `digest` what stands for its evidence ("": there is none)."""

    verifier: str
    verdict: Literal["passed", "failed", "unknown"]
    digest: str
    source: str
    episode: str
    event: int


class Reuse(NamedTuple):
    """An episode in which it was recalled has ended; `shown` False: it was withheld. See `memory.types.Use`."""

    episode: str
    shown: bool
    same: bool
    followed: bool
    success: bool
    verifier: str
    event: int


class Mark(NamedTuple):
    """Somebody set it aside or brought it back; `detail` is the reason, or the id that it was merged into."""

    kind: Literal["merged", "unmerged", "retired", "restored"]
    detail: str
    event: int


class History(NamedTuple):
    """All live events about one experience. `event` orders them; within a tuple they may stand in any order."""

    kind: Kind
    observations: tuple[Seen, ...] = ()
    checks: tuple[Check, ...] = ()
    uses: tuple[Reuse, ...] = ()
    marks: tuple[Mark, ...] = ()
    is_superseded: bool = False


class _Trial(NamedTuple):
    """One time that the content was put to an independent test."""

    verifier: str
    source: str
    episode: str
    event: int


class _Trials(NamedTuple):
    """What independent tests said of the content; each list holds a (verifier, digest, episode) once."""

    passed: list[_Trial]
    failed: list[_Trial]
    reuses_passed: list[_Trial]
    reuses_failed: list[_Trial]


def standing_of(history: History, rules: TrustRules) -> Standing:
    """What the events come to.

    - verified: independent checks passed, as many as `_is_settled` asks; a pattern or decision needs them from
      `min_pattern_episodes` (MemOS: no pattern from one episode). With `warns` it is the failing that is settled.
      An error says itself that something fails, so failed checks confirm it and it is never verified as working.
    - candidate: something speaks for it, but not enough: a check that is not independent, several episodes, or
      checks that contradict each other.
    - observed: nothing but that somebody wrote it.
    - retired: withdrawn, merged, superseded, set aside, or of no use (`_uselessness`).

    A check is independent when its verifier is trusted, is none of those who proposed the experience, and left a
    digest of its evidence; no other check moves anything above candidate or lowers anything. `trust` is the lower
    quantile of Beta(1 + passed, 1 + failed), for a warning or an error of its failing; checks and followed reuses
    count, those of one verifier and source at most `max_trials_per_source` times on either side, so that nobody makes
    himself believed by repetition. Uses count only where a trusted verifier judged the outcome.
    """
    independent = _independent_verifiers(history, rules)
    uses = _judged_uses(history, independent)
    trials = _trials(history, uses, independent)
    episodes = {seen.episode for seen in history.observations if seen.episode}
    level, warns, reason = _level(history, trials, len(episodes), rules)
    retired, merged_into = _retirement(history, uses, rules)
    if retired:
        level, reason = Level.RETIRED, retired
    passed = _capped((*trials.passed, *trials.reuses_passed), rules.max_trials_per_source)
    failed = _capped((*trials.failed, *trials.reuses_failed), rules.max_trials_per_source)
    if warns or history.kind is Kind.ERROR:
        passed, failed = failed, passed
    return Standing(
        level=level,
        warns=warns,
        num_passed=len(trials.passed),
        num_failed=len(trials.failed) + len(trials.reuses_failed),
        num_episodes=len(episodes),
        trust=_lower_quantile(passed, failed, rules.trust_quantile),
        gain=utility(*_tallies(uses)).mean if uses else 0.0,
        num_uses=sum(use.shown for use in uses),
        reason=reason,
        merged_into=merged_into,
    )


def _level(history: History, trials: _Trials, num_episodes: int, rules: TrustRules) -> tuple[Level, bool, str]:
    """(level, warns, why it was demoted) before retirement is looked at."""
    passed, failed = trials.passed, trials.failed
    borne_out, refuted = [*passed, *trials.reuses_passed], [*failed, *trials.reuses_failed]
    needed = rules.min_pattern_episodes if history.kind in GENERAL_KINDS else 1
    if history.kind is not Kind.ERROR and _is_settled(passed, refuted) and _spans(passed, needed):
        return Level.VERIFIED, False, ""
    if _is_settled(failed, borne_out) and _spans(failed, needed):
        return Level.VERIFIED, True, ""
    reason = ""
    if (passed and refuted and _spans(passed, needed)) or (failed and borne_out and _spans(failed, needed)):
        last = max(*borne_out, *refuted, key=lambda trial: trial.event)
        where = f"{last.verifier} in {last.episode}" if last.episode else last.verifier
        reason = f"demoted: it passed {len(borne_out)} and failed {len(refuted)} times, last judged by {where}"
    is_candidate = (
        num_episodes >= rules.min_candidate_episodes
        or bool(passed or failed)
        or any(check.verdict == "passed" for check in history.checks)
    )
    return Level.CANDIDATE if is_candidate else Level.OBSERVED, False, reason


def _is_settled(pro: Collection[_Trial], contra: Collection[_Trial]) -> bool:
    """Whether one side has the last word: more trials since the other side's last one than that side has in all.

    So one trial settles what nothing contradicts, the first contradiction unsettles it, and it must be outdone, not
    just repeated, before it is believed again.
    """
    since = max((trial.event for trial in contra), default=-1)
    return sum(trial.event > since for trial in pro) > len(contra)


def _spans(trials: Iterable[_Trial], num_episodes: int) -> bool:
    """Whether they come from as many distinct episodes; a trial without a known one does not count for two or more."""
    return num_episodes <= 1 or len({trial.episode for trial in trials if trial.episode}) >= num_episodes


def _retirement(history: History, uses: Collection[Reuse], rules: TrustRules) -> tuple[str, str]:
    """(why it is not to be shown, id of the entry it was merged into); empty: it is to be shown.

    Restoring it undoes retirement, by a person or by a rule; what happens afterwards may retire it again.
    """
    marks = sorted(history.marks, key=lambda mark: mark.event) if history.marks else ()
    merges = [mark for mark in marks if mark.kind in ("merged", "unmerged")]
    retirals = [mark for mark in marks if mark.kind in ("retired", "restored")]
    if merges and merges[-1].kind == "merged":
        return f"merged into {merges[-1].detail}", merges[-1].detail
    if not history.observations:
        return "withdrawn: no report of it is left", ""
    if history.is_superseded:
        return "superseded", ""
    if retirals and retirals[-1].kind == "retired":
        return f"retired: {retirals[-1].detail}" if retirals[-1].detail else "retired", ""
    since = retirals[-1].event if retirals else -1
    return _uselessness([use for use in uses if use.event > since], history.kind, rules), ""


def _uselessness(uses: Collection[Reuse], kind: Kind, rules: TrustRules) -> str:
    """Why its uses speak for retiring it; empty: they do not.

    ReMe's rule, few successes in several uses, read with two reservations: only uses that it was fit for count, and
    not where the problems fail as often without it. And it is retired where episodes do surely worse with it.
    """
    fit = [use for use in uses if _is_fit(use, kind)]
    if not fit:
        return ""
    with_, without = _tallies(fit)
    difference = utility(with_, without)
    if harms(difference):
        return f"harmful: success changes by {difference.mean:+.2f} where it is shown ({with_.num} uses)"
    share = with_.num_success / with_.num if with_.num else 1.0
    if with_.num >= rules.retire_after_uses and share < rules.retire_below_success and difference.mean <= 0.0:
        return f"useless: {with_.num_success} of {with_.num} uses succeeded"
    return ""


def _is_fit(use: Reuse, kind: Kind) -> bool:
    """Whether the outcome says anything of it: an answer proves nothing where it was copied to another problem."""
    return use.same or kind in GENERAL_KINDS


def _tallies(uses: Iterable[Reuse]) -> tuple[Tally, Tally]:
    """(with it, without it)."""
    shown = [use.success for use in uses if use.shown]
    withheld = [use.success for use in uses if not use.shown]
    return Tally(len(shown), sum(shown)), Tally(len(withheld), sum(withheld))


def _independent_verifiers(history: History, rules: TrustRules) -> set[str]:
    """Those of its verifiers that are trusted and that did not propose it."""
    proposers = {name for seen in history.observations for name in _names(seen.source)}
    verifiers = {check.verifier for check in history.checks} | {use.verifier for use in history.uses}
    return {
        name for name in verifiers if _is_trusted(name, rules.trusted_verifiers) and proposers.isdisjoint(_names(name))
    }


def _judged_uses(history: History, independent: Collection[str]) -> Collection[Reuse]:
    """Uses whose outcome an independent verifier judged, one for each episode: the last that was reported."""
    last: dict[str, Reuse] = {}
    for use in history.uses:
        if use.verifier in independent:
            known = last.get(use.episode)
            if known is None or use.event >= known.event:
                last[use.episode] = use
    return last.values()


def _trials(history: History, uses: Iterable[Reuse], independent: Collection[str]) -> _Trials:
    first: dict[tuple[str, str, str, str], Check] = {}
    for check in history.checks:
        if check.verdict != "unknown" and check.digest and check.verifier in independent:
            # The same check again, of the same evidence in the same episode, is no second test.
            key = (check.verifier, check.digest, check.episode, check.verdict)
            if key not in first or check.event < first[key].event:
                first[key] = check
    found = _Trials([], [], [], [])
    for check in first.values():
        side = found.passed if check.verdict == "passed" else found.failed
        side.append(_Trial(check.verifier, check.source, check.episode, check.event))
    for use in uses:
        if use.shown and use.followed and _is_fit(use, history.kind):
            side = found.reuses_passed if use.success else found.reuses_failed
            side.append(_Trial(use.verifier, "", use.episode, use.event))
    return found


def _capped(trials: Collection[_Trial], most: int) -> int:
    """How many trials count, at most `most` for each verifier and source."""
    if len(trials) <= 1:
        return len(trials)
    counts: dict[tuple[str, str], int] = {}
    for trial in trials:
        key = (trial.verifier, trial.source)
        counts[key] = counts.get(key, 0) + 1
    return sum(min(count, most) for count in counts.values())


@lru_cache(maxsize=4096)
def _lower_quantile(num_for: int, num_against: int, share: float) -> float:
    return beta_quantile(share, 1.0 + num_for, 1.0 + num_against)


@lru_cache(maxsize=4096)
def _names(source: str) -> frozenset[str]:
    """The names in a list of sources, without case and without the word that says what kind of somebody it is."""
    names = (name.strip().casefold() for name in source.split(","))
    return frozenset(_bare(name) for name in names if name)


def _bare(name: str) -> str:
    for word in _SOMEBODY:
        name = name.removeprefix(word)
    return name


@lru_cache(maxsize=4096)
def _is_trusted(verifier: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(translate(pattern), verifier) for pattern in patterns)
