"""Extraction: a short second pass that reads the answer out of a text in which none could be read."""

from __future__ import annotations

from mesh.calls import Caller
from mesh.fence import fence_mark, fenced
from mesh.parse import parse_answer
from mesh.propose import question
from mesh.types import Member, Message, Part, Proposal, Sampling, Task


async def extract(caller: Caller, reader: Member, proposal: Proposal, max_tokens: int) -> Proposal:
    """`proposal` with the answer that `reader` finds in its text; unchanged if it finds none that stands in it.

    An answer that does not occur in the text would be the reader's own, so it does not count.
    """
    seed = caller.seed_for(reader.name, "extract", proposal.round)
    messages = extract_messages(caller.task, proposal.text, seed)
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens, stop=("\n",))
    (said,) = (await caller.complete(reader, "extract", proposal.round, messages, sampling))[:1]
    answer = None if said.finish_reason == "error" else parse_answer(said.text, caller.task.answer_kind)
    if answer is None or answer.casefold() not in proposal.text.casefold():
        return proposal
    return proposal.model_copy(update={"answer": answer})


def extract_messages(task: Task, text: str, seed: int) -> tuple[Message, ...]:
    """The prompt: the text as data, and the request for its answer alone."""
    mark = fence_mark(seed, [text])
    parts = (Part(text=QUESTION), question(task), Part(text=TEXT), *fenced(text, mark), Part(text=REQUEST))
    return (Message(role="user", parts=parts),)


QUESTION = "A question:\n"
TEXT = "\nWhat somebody wrote about it:\n"
REQUEST = "What is the final answer in that text? Copy it, and write nothing else."
