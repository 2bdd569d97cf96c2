"""Which answers in prose are one answer: what members of two different families both call the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from mesh.equivalence import Groups, by_frequency, canonical, merge_groups
from mesh.fence import fence_mark, fenced
from mesh.propose import question
from mesh.seeds import derive_seed
from mesh.types import Member, Message, Part, Task

MAX_QUESTIONS = 32
"""So many pairs are asked about at most; what is left over is compared by spelling."""
MAX_COMPARED_CHARS = 4_000
"""A longer answer is compared by spelling: two of these, about two thousand tokens, still fit into most windows."""


async def free_text_groups(answers: Sequence[str], ask: Callable[[str, str], Awaitable[bool]]) -> Groups:
    """Groups of canonical spellings that `ask` calls the same.

    Args:
        answers: in the members' own spelling, each as often as it was given. Their order does not matter.
        ask: whether two families agree that two texts say the same. It sees one spelling of each answer, in
            alphabetical order, is asked about no pair twice and about `MAX_QUESTIONS` at most. What it raises is raised
            here.

    The most frequent answer founds the first group; each further answer joins the first group whose founder it is
    the same as, or founds its own. So whoever is in a group was held against its founder, and no chain of small steps
    leads from one answer to its opposite.
    """
    groups: dict[str, list[str]] = {}
    shown, num_questions = _as_shown(answers), 0
    for spelling, text in shown.items():
        home = spelling
        for founder in _comparable(groups, shown, text):
            if num_questions == MAX_QUESTIONS:
                break
            num_questions += 1
            if await ask(*sorted((shown[founder], text))):
                home = founder
                break
        groups.setdefault(home, []).append(spelling)
    return merge_groups(groups.values(), ())


def two_families(members: Sequence[Member]) -> tuple[Member, Member] | None:
    """Two judges of different families, the earliest in seat order; None where all are of one family."""
    for member in members[1:]:
        if member.family != members[0].family:
            return members[0], member
    return None


def same_messages(task: Task, first: str, second: str, seed: int, *, yes_first: bool = True) -> tuple[Message, ...]:
    """The prompt of the closed choice between "A" and "B": do the two answers say the same?

    "A" is yes and "B" is no, and the other way round where `yes_first` is False: small models like one letter better
    than the other, so a judge that is asked both ways is judged by `says_same`.
    """
    mark = fence_mark(derive_seed(seed, task.id, "same", 0), [task.question, first, second])
    parts = (
        Part(text=FIRST),
        *fenced(first, mark),
        Part(text=SECOND),
        *fenced(second, mark),
        Part(text=QUESTION),
        question(task),
        Part(text=REQUEST + (YES_FIRST if yes_first else NO_FIRST)),
    )
    return (Message(role="user", parts=parts),)


def says_same(yes_first: Sequence[float], no_first: Sequence[float]) -> bool:
    """Whether one judge calls two answers the same: its mean probability of "yes" over both ways is above one half.

    The arguments are its probabilities of ("A", "B") for each way of `same_messages`. A judge that always likes "A"
    better comes out even, which is a no.
    """
    return yes_first[0] + no_first[1] > yes_first[1] + no_first[0]


def _as_shown(answers: Iterable[str]) -> dict[str, str]:
    """Canonical spellings, the most frequent first, each with the shortest way it was written."""
    written: dict[str, list[str]] = {}
    for answer in answers:
        written.setdefault(canonical(answer, "free"), []).append(answer)
    order = by_frequency(spelling for spelling, texts in written.items() for _ in texts)
    return {spelling: min(written[spelling], key=lambda text: (len(text), text)) for spelling in order}


def _comparable(founders: Iterable[str], shown: Mapping[str, str], text: str) -> list[str]:
    if len(text) > MAX_COMPARED_CHARS:
        return []
    return [founder for founder in founders if len(shown[founder]) <= MAX_COMPARED_CHARS]


FIRST = "One answer:\n"
SECOND = "Another answer:\n"
QUESTION = "The question that both answer:\n"
REQUEST = "\nDo the two answers say the same in substance, in whatever words? Reply with the letter alone.\n"
YES_FIRST = "A. yes\nB. no"
NO_FIRST = "A. no\nB. yes"
