"""First proposals: a member answers on its own, before it has seen anybody else."""

from __future__ import annotations

from collections.abc import Sequence

from memory.types import Kind, Level, Recollection
from mesh.calls import Caller
from mesh.fence import fence_mark, fenced
from mesh.lessons import told_answer
from mesh.parse import parse_answer
from mesh.seeds import derive_seed
from mesh.types import Completion, Member, Message, Part, Proposal, Sampling, Task


async def propose(
    caller: Caller, member: Member, sampling: Sampling, recalled: Sequence[Recollection] = ()
) -> tuple[Proposal, ...]:
    """`sampling.num_samples` independent proposals of one member, in one call."""
    # One seed for all members: the prompt is the same text, so that members of one engine share its prefix.
    messages = proposal_messages(caller.task, recalled, seed=caller.seed)
    completions = await caller.complete(member, "propose", 0, messages, sampling)
    return tuple(to_proposal(caller.task, member, said, 0, sample) for sample, said in enumerate(completions))


def proposal_messages(task: Task, recalled: Sequence[Recollection] = (), *, seed: int = 0) -> tuple[Message, ...]:
    """The prompt of a first proposal: demonstrations as earlier turns, then recalled notes and the question.

    No system turn. The operator's instruction opens the first user turn and is said once. Verified solutions are
    earlier turns too, the best one nearest to the question; the other notes are told before them. The question is the
    last untrusted part of the last user turn, in this phase and in every other. `seed` only draws the fence of the
    notes.
    """
    texts = [*(note.text for note in recalled), *task.context]
    mark = fence_mark(derive_seed(seed, task.id, "propose", 0), texts) if texts else ""
    solved = [(note, found) for note in recalled if (found := worked_example(note)) is not None]
    lead = [*opening(task), *_told(recalled, mark)]
    turns = [*earlier_turns(task)]
    for note, (asked, answer) in reversed(solved):
        parts = (*lead, Part(text=label_of(note)), *fenced(asked, mark))
        turns.append(Message(role="user", parts=parts))
        turns.append(Message(role="assistant", parts=(Part(text=answer, trusted=False),)))
        lead = []
    last = Part(text=TASK)
    parts = (*lead, *context(task, mark), *([last] if texts else []), question(task))
    return (*turns, Message(role="user", parts=parts))


def worked_example(note: Recollection) -> tuple[str, str] | None:
    """(question, answer) of a verified solution with an answer of one short line; None: it is shown as a note.

    Members of a few hundred million parameters repeat an answer from an earlier turn far more often than from a note.
    What nobody checked is never put into a member's own mouth.
    """
    if note.kind is not Kind.SOLUTION or note.warning or note.level is not Level.VERIFIED:
        return None
    answer = told_answer(note, "text") or ""
    asked = note.text.removesuffix(f"\nAnswer: {answer}")
    is_short = 0 < len(answer) <= MAX_EXAMPLE_CHARS and len(answer.splitlines()) == 1
    return (asked, answer) if is_short and asked != note.text else None


def earlier_turns(task: Task) -> tuple[Message, ...]:
    """The demonstrations as user and assistant turns; a member without a chat template sees the pattern to continue."""
    turns: list[Message] = []
    for index, shown in enumerate(task.demonstrations):
        lead = task.instruction + "\n" if task.instruction and index == 0 else ""
        turns.append(Message(role="user", parts=(Part(text=lead + shown.question),)))
        turns.append(Message(role="assistant", parts=(Part(text=shown.answer),)))
    return tuple(turns)


def opening(task: Task) -> tuple[Part, ...]:
    """The instruction, where no demonstration has carried it already."""
    if not task.instruction or task.demonstrations:
        return ()
    return (Part(text=task.instruction + "\n"),)


def question(task: Task) -> Part:
    """The question itself; a user wrote it, so it is never rendered as structure."""
    return Part(text=task.question, trusted=False)


def to_proposal(task: Task, member: Member, said: Completion, number: int, sample: int = 0) -> Proposal:
    """What a completion proposes; cut off by an error, it proposes nothing."""
    readable = said.finish_reason != "error"
    return Proposal(
        member=member.name,
        family=member.family,
        text=said.text,
        answer=parse_answer(said.text, task.answer_kind) if readable else None,
        round=number,
        sample=sample,
        adapter=said.adapter,
    )


def _told(recalled: Sequence[Recollection], mark: str) -> list[Part]:
    """The heading of what was recalled, and the notes that are no earlier turns, fenced."""
    parts = [Part(text=RECALLED)] if recalled else []
    for note in recalled:
        if worked_example(note) is None:
            parts += [Part(text=label_of(note)), *fenced(note.text, mark)]
    return parts


def label_of(note: Recollection) -> str:
    """The line above a recalled note: what it is to the question, and whether it was checked."""
    if note.warning:
        return FAILED if note.same else FAILED_ELSEWHERE
    if note.kind is Kind.PATTERN:
        return LEARNT
    if note.kind is not Kind.SOLUTION:
        return EARLIER
    if not note.same:
        return SIMILAR
    return SAME if note.level is Level.VERIFIED else SAME_UNCHECKED


def context(task: Task, mark: str) -> tuple[Part, ...]:
    """What earlier steps came to, as data; nothing where there were none."""
    if not task.context:
        return ()
    return (Part(text=CONTEXT), *(part for text in task.context for part in fenced(text, mark)))


MAX_EXAMPLE_CHARS = 200

# Short, and one thought each: members of a few hundred million parameters read them.
RECALLED = "Recalled from memory:\n"
SAME = "The same question was answered before, and checked:\n"
SAME_UNCHECKED = "The same question was answered before, and not checked:\n"
SIMILAR = "A similar, not the same, question:\n"
FAILED = "This was tried and failed:\n"
FAILED_ELSEWHERE = "On a similar, not the same, question this was tried and failed:\n"
LEARNT = "Learnt from earlier questions of this kind:\n"
EARLIER = "From an earlier question:\n"
CONTEXT = "Earlier steps came to this, which may be wrong:\n"
TASK = "The question now:\n"
