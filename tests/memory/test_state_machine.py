"""A memory under any sequence of verbs, crashes and reopenings, beside a simple model of what must be true of it.

EVOMESH_STATE_MACHINE_EXAMPLES=100 runs so many stories of 60 steps, other ones every time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from memory.database import FILE_NAME
from memory.store import Memory
from memory.types import (
    Cue,
    Edge,
    Evidence,
    Experience,
    Kind,
    Level,
    Namespace,
    Observation,
    Recollection,
    Relation,
    Use,
)
from tests.memory.doubles import EMBEDDER, HOME, derived_tables, raw

EXAMPLES = int(os.environ.get("EVOMESH_STATE_MACHINE_EXAMPLES", "0"))

RAM = Path("/dev/shm")  # a disk is no more than slower here
AWAY = Namespace(team="acme")
QUESTIONS = tuple(f"How many {fruit} are left when two of seven {fruit} are eaten?" for fruit in ("apples", "pears"))
CONTENTS = tuple(
    Experience(kind=kind, text=text, namespace=namespace, task_type="sum")
    for namespace in (HOME, AWAY)
    for question in QUESTIONS
    for kind, text in (
        (Kind.PROBLEM, question),
        (Kind.SOLUTION, f"{question} Answer: 5"),
        (Kind.SOLUTION, f"{question} Answer: 6"),
        (Kind.ERROR, f"{question} Wrong: 9"),
        (Kind.PATTERN, f"{question} Subtract."),
    )
)
CUES = tuple(
    Cue(text=text, namespaces=(str(namespace),), limit=16)
    for namespace in (HOME, AWAY)
    for text in (QUESTIONS[0], QUESTIONS[1].replace("two of", "2 out of"))
)
SOURCES = ("ann", "bob", "mallory")
VERIFIERS = ("exact", "judge:ann", "gut feeling")
EPISODES = ("e1", "e2", "e3")

contents = st.sampled_from(CONTENTS)
sources = st.sampled_from(SOURCES)
episodes = st.sampled_from(EPISODES)
evidences = st.builds(
    Evidence,
    verifier=st.sampled_from(VERIFIERS),
    verdict=st.sampled_from(["passed", "passed", "failed", "unknown"]),
    digest=st.sampled_from(["a", "b", "c", ""]),
)


class Said(NamedTuple):
    """One thing that was said, at one event; `what` is 'seen', 'check' or a kind of mark."""

    what: str
    id: str
    names: frozenset[str]
    event: int
    other: str = ""
    evidence: Evidence | None = None


class Model:
    """What was acknowledged, and what was said of it that nobody took back."""

    def __init__(self) -> None:
        self.present: dict[str, Experience] = {}
        self.said: list[Said] = []

    def about(self, id: str, *whats: str) -> list[Said]:
        return [said for said in self.said if said.id == id and said.what in whats]

    def merged_into(self, id: str) -> str:
        marks = self.about(id, "merged", "unmerged")
        return marks[-1].other if marks and marks[-1].what == "merged" else ""

    def is_retired(self, id: str) -> bool:
        marks = self.about(id, "retired", "restored")
        return bool(marks) and marks[-1].what == "retired"

    def with_repeats(self, id: str) -> set[str]:
        """The entry and all that stand behind it."""
        found = {id}
        while more := {one for one in self.present if self.merged_into(one) in found} - found:
            found |= more
        return found

    def has_independent_pass(self, id: str) -> bool:
        """Whether a trusted verifier that did not propose it says that it works, with evidence."""
        group = self.with_repeats(id)
        proposers = {name for one in group for said in self.about(one, "seen") for name in said.names}
        return any(
            said.evidence is not None
            and said.evidence.verdict == "passed"
            and said.evidence.digest != ""
            and said.evidence.verifier in ("exact", "judge:ann")
            and said.evidence.verifier.removeprefix("judge:") not in proposers
            for one in group
            for said in self.about(one, "check")
        )

    def erase(self, id: str) -> None:
        del self.present[id]
        self.said = [said for said in self.said if id not in (said.id, said.other)]

    def roll_back(self, *, source: str | None = None, since: int | None = None) -> None:
        def stays(said: Said) -> bool:
            return source not in said.names if since is None else said.event < since

        self.said = [said for said in self.said if stays(said)]


class Life(RuleBasedStateMachine):
    """Every rule is one call that returned; a crash may come after any of them."""

    ids = Bundle("ids")

    @initialize(target=ids, num_first=st.integers(0, 3))
    def open(self, num_first: int):
        self.root = Path(tempfile.mkdtemp(prefix="evomesh-life-", dir=RAM if RAM.is_dir() else None))
        self.model = Model()
        self.num_opened = self.num_steps = 0
        self._open(self.root / "0")
        for begin in (self._ann_judges_herself, self._two_are_the_same, self._one_takes_the_place_of_another)[
            :num_first
        ]:
            begin()
        return multiple(*self.model.present)

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.check()
            self._rebuilding_changes_nothing()
            self.memory.close()
            shutil.rmtree(self.root)

    # What happens

    @rule(target=ids, content=contents, source=sources, episode=episodes, evidence=st.none() | evidences)
    def remember(self, content: Experience, source: str, episode: str, evidence: Evidence | None) -> str:
        (id,) = self.memory.remember(
            [Observation(experience=content, source=source, episode=episode, evidence=evidence)]
        )
        assert id == content.id
        self._seen(content, source)
        if evidence is not None:
            self._checked(id, source, evidence)
        return id

    @rule(target=ids, place=st.integers(0, len(CONTENTS) - 1), source=sources, answer=st.integers(1, 2))
    def remember_a_solved_problem(self, place: int, source: str, answer: int):
        return multiple(*self._solve(place - place % 5, answer, source))

    def _ann_judges_herself(self) -> None:
        self.remember(CONTENTS[2], "ann", "e1", Evidence(verifier="judge:ann", verdict="passed", digest="a"))

    def _two_are_the_same(self) -> None:
        one, other = self._solve(0, 1, "bob")[1], self._solve(5, 1, "mallory")[1]
        self.merge(other, one)

    def _one_takes_the_place_of_another(self) -> None:
        old, new = self._solve(5, 2, "bob")[1], self._solve(10, 1, "ann")[1]
        self.supersede(new, old, "ann")

    def _solve(self, start: int, answer: int, source: str) -> tuple[str, str]:
        problem, solution = CONTENTS[start], CONTENTS[start + answer]
        passed = Evidence(verifier="exact", verdict="passed", digest="a")
        self.memory.remember(
            [
                Observation(experience=problem, source=source, episode="e1"),
                Observation(experience=solution, source=source, episode="e1", evidence=passed),
            ],
            [Edge(source=problem.id, relation=Relation.RESOLVED_BY, target=solution.id)],
        )
        self._seen(problem, source)
        self._seen(solution, source)
        self._checked(solution.id, source, passed)
        return problem.id, solution.id

    @rule(new=ids, old=ids, source=sources)
    def supersede(self, new: str, old: str, source: str) -> None:
        if {new, old} <= set(self.model.present):
            content = self.model.present[new]
            edge = Edge(source=new, relation=Relation.SUPERSEDES, target=old)
            self.memory.remember([Observation(experience=content, source=source, episode="e1")], [edge])
            self._seen(content, source)

    @rule(id=ids, evidence=evidences, source=sources, episode=episodes)
    def verify(self, id: str, evidence: Evidence, source: str, episode: str) -> None:
        if id in self.model.present:
            standing = self.memory.verify(id, evidence, source=source, episode=episode)
            self._checked(id, source, evidence)
            assert standing == self.memory.standing(id)

    @rule(id=ids, episode=episodes, success=st.booleans(), is_shown=st.booleans(), verifier=st.sampled_from(VERIFIERS))
    def use(self, id: str, episode: str, success: bool, is_shown: bool, verifier: str) -> None:
        shown, withheld = ((id,), ()) if is_shown else ((), (id,))
        said = Use(
            episode=f"use {episode}",
            success=success,
            verifier=verifier,
            shown=shown,
            withheld=withheld,
            followed=shown,
            same=(id,),
        )
        self.memory.used(said)

    @rule(duplicate=ids, into=ids)
    def merge(self, duplicate: str, into: str) -> None:
        if {duplicate, into} <= set(self.model.present) and into not in self.model.with_repeats(duplicate):
            self.memory.merge(duplicate, into, "the same")
            self._marked("merged", duplicate, into)

    @rule(id=ids)
    def unmerge(self, id: str) -> None:
        if id in self.model.present:
            self.memory.unmerge(id)
            self._marked("unmerged", id)

    @rule(id=ids, is_back=st.booleans())
    def retire_or_restore(self, id: str, is_back: bool) -> None:
        if id in self.model.present:
            (self.memory.restore if is_back else self.memory.retire)(id, "because")
            self._marked("restored" if is_back else "retired", id)

    @precondition(lambda self: len(self.model.said) > 4)
    @rule(source=st.none() | st.sampled_from([*SOURCES, *VERIFIERS]), back=st.integers(0, 4))
    def roll_back(self, source: str | None, back: int) -> None:
        if source is not None:
            self.memory.rollback(source=source)
            self.model.roll_back(source=source)
            return
        since = max(1, self._num_events() + 1 - back)
        self.memory.rollback(since=since)
        self.model.roll_back(since=since)

    @precondition(lambda self: len(self.model.present) > 2)
    @rule(id=consumes(ids))
    def erase(self, id: str) -> None:
        if id in self.model.present:
            text = self.model.present[id].text
            assert self.memory.erase(id).is_scrubbed
            self.model.erase(id)
            # No other content may hold the same words, or finding them says nothing.
            if not any(text in other.text for other in self.model.present.values()):
                files = [path.read_bytes() for path in self.memory.directory.rglob("*") if path.is_file()]
                assert not any(text.encode() in data for data in files)

    # What comes between

    @rule(is_clean=st.booleans())
    def reopen(self, is_clean: bool) -> None:
        """After a close, or as a crash leaves it: the directory as it lies, without the close of the one who wrote."""
        before = self.memory
        if is_clean:
            before.close()
            self._open(before.directory)
            return
        self.num_opened += 1
        copy = self.root / str(self.num_opened)
        shutil.copytree(before.directory, copy, ignore=shutil.ignore_patterns("*-shm"))
        assert before._holding is not None
        before._holding.close()
        before._holding = None
        shutil.rmtree(before.directory)
        self._open(copy)

    @rule(is_index_alone=st.booleans())
    def rebuild(self, is_index_alone: bool) -> None:
        if is_index_alone:
            self.memory.publish_index(force=True)
        else:
            self._rebuilding_changes_nothing()

    # What must be true

    @invariant()
    def what_was_acknowledged_is_there_and_nothing_else(self) -> None:
        if hasattr(self, "memory"):
            with self.memory.reading() as connection:
                stored = {id for (id,) in connection.execute("SELECT id FROM entries")}
            assert stored == set(self.model.present)

    @invariant()
    def the_model_agrees_about_merges_and_retirements(self) -> None:
        for id in self.model.present if hasattr(self, "memory") else ():
            standing = self.memory.standing(id)
            assert standing is not None
            assert standing.merged_into == self.model.merged_into(id)
            assert standing.level is Level.RETIRED or not self.model.is_retired(id)

    @invariant()
    def recall_keeps_to_what_the_model_allows(self) -> None:
        if hasattr(self, "memory"):
            self.num_steps += 1
            self.memory.embed_pending()
            for cue in CUES:
                self._allowed(self.memory.recall(cue).shown, cue.namespaces)

    @invariant()
    def now_and_then_all_derived_anew_is_the_same_and_a_reader_beside_sees_it(self) -> None:
        if hasattr(self, "memory") and self.num_steps % 6 == 0:
            self.memory.check()
            self.memory.embed_pending()
            with Memory.open(self.memory.directory, EMBEDDER, readonly=True) as reader:
                assert reader.head == self.memory.head
                assert [reader.recall(cue) for cue in CUES] == [self.memory.recall(cue) for cue in CUES]

    def _allowed(self, shown: tuple[Recollection, ...], namespaces: tuple[str, ...]) -> None:
        for one in shown:
            content = self.model.present[one.experience_id]
            assert (one.kind, one.text) == (content.kind, content.text)
            assert str(content.namespace) in namespaces
            assert not self.model.is_retired(content.id)
            assert not self.model.merged_into(content.id)
            assert one.level is Level.VERIFIED
            assert one.warning or self.model.has_independent_pass(content.id), one.why

    # How the model hears of it

    def _open(self, directory: Path) -> None:
        self.memory = Memory.open(directory, EMBEDDER)
        self.memory._connection.pragma("synchronous", "OFF")  # nobody pulls the plug, and it is ten times as fast

    def _num_events(self) -> int:
        with self.memory.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM events").get)

    def _seen(self, content: Experience, source: str) -> None:
        self.model.present[content.id] = content
        self._say(Said("seen", content.id, frozenset([source]), self._num_events()))

    def _checked(self, id: str, source: str, evidence: Evidence) -> None:
        names = frozenset([source, evidence.verifier])
        self._say(Said("check", id, names, self._num_events(), evidence=evidence))

    def _marked(self, what: str, id: str, other: str = "") -> None:
        before = {"merged": self.model.merged_into(id) == other, "unmerged": not self.model.merged_into(id)}
        if not before.get(what, False):
            self._say(Said(what, id, frozenset(), self._num_events(), other=other))

    def _say(self, said: Said) -> None:
        """What was said already stays where it was in time."""
        is_known = said.what in ("seen", "check") and any(
            one._replace(event=said.event) == said for one in self.model.about(said.id, said.what)
        )
        if not is_known:
            self.model.said.append(said)

    def _rebuilding_changes_nothing(self) -> None:
        before = derived_tables(self.memory)
        self.memory.rebuild()
        assert derived_tables(self.memory) == before


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=EXAMPLES or 16,
    stateful_step_count=60 if EXAMPLES else 30,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_the_model_knows_who_is_independent() -> None:
    model, content = Model(), CONTENTS[1]
    model.present[content.id] = content
    passed = Evidence(verifier="judge:ann", verdict="passed", digest="a")
    model.said = [Said("check", content.id, frozenset(["bob"]), 1, evidence=passed)]
    assert model.has_independent_pass(content.id)
    model.said.append(Said("seen", content.id, frozenset(["ann"]), 2))
    assert not model.has_independent_pass(content.id)


def test_a_directory_copied_as_it_lies_holds_what_was_acknowledged(tmp_path) -> None:
    memory = Memory.open(tmp_path / "a", EMBEDDER)
    memory.remember([Observation(experience=CONTENTS[0])])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / f"{FILE_NAME}-wal").stat().st_size > 0
    memory.close()
    (tmp_path / "b" / f"{FILE_NAME}-wal").unlink()
    connection = raw(tmp_path / "b" / FILE_NAME)  # and what the log held is really what the copy lived on
    assert connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
    connection.close()
