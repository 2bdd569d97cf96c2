"""What of a message may leave the house: the words that stand in this program's own source, and nothing else."""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("memory", "mesh", "serving", "evolve")
GAP = "[...]"

_SHORTEST = 10
"""Characters of a phrase that is known again; shorter ones are words of anybody's."""
_GLUE = (", got ", "expected ", "expects ")
_ELSEWHERE = (
    "RayError", "RayTaskError", "RayActorError", "ActorDiedError", "ActorUnavailableError", "ActorUnschedulableError",
    "WorkerCrashedError", "NodeDiedError", "GetTimeoutError", "ObjectLostError", "OutOfMemoryError",
    "ObjectStoreFullError", "EngineDeadError", "EngineGenerateError", "AcceleratorError", "ValidationError",
    "SafetensorError", "HFValidationError", "NoSuchProcess",
)  # fmt: skip
"""Errors of libraries that are not imported to learn their names."""


_AMOUNT = r"[\d.,]+ ?(?:[KMGT]i?B|tokens(?:/s)?|seconds|s|%|reqs|x)"
_KNOWN = (
    rf"CUDA out of memory\. Tried to allocate {_AMOUNT}",
    rf"GPU \d+ has a total capacity of {_AMOUNT} of which {_AMOUNT} is free",
    r"CUDA error: (?:out of memory|an illegal memory access was encountered|device-side assert triggered|"
    r"unspecified launch failure|uncorrectable ECC error encountered|no kernel image is available)",
    r"No available memory for the cache blocks",
    rf"(?:GPU|CPU) KV cache size: {_AMOUNT}",
    r"# (?:GPU|CPU) blocks: \d+, # CPU blocks: \d+",
    rf"Model loading took {_AMOUNT}(?: memory)?(?: and {_AMOUNT})?",
    rf"Loading weights took {_AMOUNT}",
    rf"Avg prompt throughput: {_AMOUNT}, Avg generation throughput: {_AMOUNT}",
    rf"Running: {_AMOUNT}, Waiting: {_AMOUNT}",
    r"GPU KV cache usage: [\d.]+%(?:, Prefix cache hit rate: [\d.]+%)?",
    r"EngineCore (?:failed to start|encountered a fatal error)",
    r"Engine core proc(?:ess)? EngineCore[_DP\d]{0,9} died unexpectedly",
    r"Engine core initialization failed",
    r"NCCL error",
    r"unhandled (?:cuda|system) error",
    r"SIG(?:KILL|TERM|SEGV|ABRT|BUS|INT)\b",
    r"Killed by|killed due to|Segmentation fault|Bus error",
    r"Out of memory|No space left on device|Too many open files",
    r"node running low on memory|memory usage above the threshold",
    r"Worker unexpectedly exits with a connection error code \d+",
    r"The actor is dead|The node has been marked dead|Failed to connect to GCS|Connection refused",
    r"actor_name:EngineActor|actor_name:MemoryActor",
)
"""What engines, Ray and the system say when something is wrong, with amounts and nothing else of the moment."""


class OwnWords:
    """Phrases that may stay in a message; everything between them becomes `[...]`, numbers and names included.

    So whatever a message quotes of a question, an answer or a file is gone, whatever it looks like.
    """

    def __init__(self, phrases: Sequence[str]) -> None:
        self._by_start: dict[str, list[str]] = {}
        for phrase in sorted(set(phrases), key=len, reverse=True):
            self._by_start.setdefault(phrase[:_KEY], []).append(phrase)

    def of(self, message: str) -> str:
        """`message` without what is not known; "" where nothing is."""
        kept = list(self._pieces(message))
        return "" if kept == [GAP] else "".join(kept).strip()

    def _pieces(self, message: str) -> Iterator[str]:
        at, hidden = 0, False
        while at < len(message):
            phrase = next(
                (one for one in self._by_start.get(message[at : at + _KEY], ()) if message.startswith(one, at)), ""
            )
            if phrase:
                yield phrase
                at, hidden = at + len(phrase), False
            else:
                if not hidden:
                    yield GAP
                at, hidden = at + 1, True


_KEY = min(len(phrase) for phrase in _GLUE)
_ANY_KNOWN = re.compile("|".join(_KNOWN))


@cache
def own_words() -> OwnWords:
    """The phrases of this program's messages, read from its compiled source."""
    return OwnWords([*_GLUE, *(text for text in _texts() if len(text) >= _SHORTEST and " " in text.strip())])


def told(text: str) -> str:
    """What of a text may be told: phrases of engines, with their amounts, and this program's own; "" for nothing."""
    pieces: list[str] = []
    at = 0
    for match in _ANY_KNOWN.finditer(text):
        pieces += [own_words().of(text[at : match.start()]), match.group()]
        at = match.end()
    pieces.append(own_words().of(text[at:]))
    return f" {GAP} ".join(piece for piece in pieces if piece)


@cache
def known_errors() -> frozenset[str]:
    """Names of exception classes that may be told: Python's, this program's, and some of the libraries'."""
    of_python = (
        name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
    )
    ours = (
        name for name in _names() if name.endswith(("Error", "Busy", "Died", "Lost", "Missing", "Corrupt", "Locked"))
    )
    return frozenset((*of_python, *ours, *_ELSEWHERE))


def is_source(path: str) -> bool:
    """Whether a path is a file of Python's, of an installed package or of this program: no text can make one up."""
    known = (str(ROOT), sys.prefix, sys.base_prefix)
    return path.endswith(".py") and path.startswith(known) and ".." not in path and Path(path).is_file()


def _texts() -> Iterator[str]:
    for code in _codes():
        for value in code.co_consts:
            if isinstance(value, str):
                yield value
            elif isinstance(value, tuple | frozenset):
                yield from (item for item in value if isinstance(item, str))


def _names() -> Iterator[str]:
    for code in _codes():
        yield code.co_name


def _codes() -> Iterator[CodeType]:
    """Every block of code of the four packages; from the caches that importing left, where they are there."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield from _below(SourceFileLoader(module, str(path)).get_code(module))


def _below(code: CodeType | None) -> Iterator[CodeType]:
    if code is None:
        return
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _below(value)
