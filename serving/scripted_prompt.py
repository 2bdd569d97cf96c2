"""How the scripted engine reads a prompt of the mesh: what is asked, by whom it was answered, what may be chosen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mesh.parse import parse_answer
from mesh.types import Message
from serving.scripted_solver import solve

_FENCED = re.compile(r"^\[([0-9a-f]{6})\]\n(.*?)\n\[/\1\]$", re.DOTALL | re.MULTILINE)
_OPTION = re.compile(r"^([A-Z])[.:)] ?(.+)$", re.MULTILINE)
_PEERS = re.compile(r"^(?:Answer [A-Z], given by \d+:|Candidate \d+:)$", re.MULTILINE)
_CANDIDATE = re.compile(r"^Answer ([A-Z]):\n\[([0-9a-f]{6})\]\n(.*?)\n\[/\2\]$", re.DOTALL | re.MULTILINE)
_JUDGED = ("It is wrong.", "Do the two answers say the same", "Which of the steps was wrong?")
"""What a closed choice says that is about answers, and not among them."""


@dataclass(frozen=True)
class Prompt:
    """What is asked in the last user turn."""

    question: str
    wants: Literal["answer", "critique", "revision"]
    shown: tuple[str, ...]
    """Answers that can be read in the fenced texts of peers and of its own, in their order."""
    options: tuple[tuple[str, str], ...]
    """(label, answer) of a closed choice."""


def read_prompt(messages: Sequence[Message]) -> Prompt:
    """Reads the last user turn, with its parts told apart or flattened to one text (as a remote server gets it)."""
    last = next((message for message in reversed(messages) if message.role == "user"), None)
    if last is None:
        return Prompt("", "answer", (), ())
    untrusted = [part.text for part in last.parts if not part.trusted]
    asked = "".join(part.text for part in last.parts if part.trusted)
    fenced = [found.group(2) for found in _FENCED.finditer(last.text)]
    wants: Literal["answer", "critique", "revision"] = "answer"
    if fenced and "first mistake" in asked:
        wants = "critique"
    elif fenced and _PEERS.search(asked):
        wants = "revision"
    asks_for = untrusted[-1] if untrusted else _question_in(last.text)
    if "final answer in that text" in asked:
        asks_for = next((part.text for part in last.parts if not part.trusted), asks_for)
    answers = (parse_answer(text, "number") for text in fenced)
    shown = tuple(answer for answer in answers if answer is not None)
    return Prompt(asks_for, wants, shown, _options(last.text, asked, asks_for, shown))


def _options(text: str, asked: str, asks_for: str, shown: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(label, answer) of what may be chosen; where answers are judged, the sound judgement carries the right answer."""
    listed = tuple((label, answer.strip()) for label, answer in _OPTION.findall(text))
    if "Which of the answers is right?" in asked:
        return tuple((label, parse_answer(said, "number") or "") for label, _, said in _CANDIDATE.findall(text))
    if not any(mark in asked for mark in _JUDGED):
        return listed
    right = solve(asks_for)[1]
    if "It is wrong." in asked:
        sound = "It is right." if shown[:1] == (right,) else "It is wrong."
    elif "Do the two answers say the same" in asked:
        sound = "yes" if len(shown) == 2 and len(set(shown)) == 1 else "no"
    else:
        steps = [said for _, said in listed if not said.startswith("(none")]
        sound = steps[-1] if shown[-1:] == (right,) and steps else "(none of the others is wrong)"
    return tuple((label, right if said == sound else f"not {right}") for label, said in listed)


def _question_in(text: str) -> str:
    """The question in a flattened prompt: its last line that can be solved, else what follows the last lead-in line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if solve(line)[0] != "other":
            return line
    after = [line for lead, line in pairwise(lines) if lead.endswith(":")]
    return after[-1] if after else (lines[-1] if lines else "")
