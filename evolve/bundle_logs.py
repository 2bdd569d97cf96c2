"""What of an engine's log goes into a support archive: when, how bad, where in which source, and known phrases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from evolve.bundle_words import GAP, is_source, known_errors, own_words

_RAY = re.compile(
    r"^\[(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[A-Z]) \d+ \d+\](?: \([a-z_]+\))? (?P<rest>.*)$"
)
_VLLM = re.compile(
    r"^(?:\(\w+(?: pid=\d+)?\) )?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<at>\d\d-\d\d \d\d:\d\d:\d\d) "
    r"(?:\[[\w./:]+\] )?(?P<rest>.*)$"
)
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d{1,6})')
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?P<name>[A-Z]\w*)(?::\s(?P<rest>.*))?$")
_PREFIX = re.compile(r"^\(\w+ pid=\d+\)\s?")

_AMOUNT = r"[\d.,]+ ?(?:[KMGT]i?B|tokens(?:/s)?|seconds|s|%|reqs|x)"
_KNOWN = tuple(
    re.compile(pattern)
    for pattern in (
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
)


def log_lines(lines: Iterable[str], *, of_ray: bool = False) -> Iterator[str]:
    """Each line without what could be anybody's text; lines of which nothing is left are counted.

    `of_ray`: written by a process of Ray's own, which engines do not write to; there the place in Ray's source stays.
    """
    num_hidden = 0
    for line in lines:
        kept = _kept(line.rstrip(), of_ray=of_ray)
        if kept:
            if num_hidden:
                yield _hidden(num_hidden)
            num_hidden = 0
            yield kept
        else:
            num_hidden += 1
    if num_hidden:
        yield _hidden(num_hidden)


def phrases(text: str) -> str:
    """Known phrases of engines, with their amounts, and phrases of this program's own; "" where there are none."""
    found = [match.group() for pattern in _KNOWN for match in pattern.finditer(text)]
    return f" {GAP} ".join(found) if found else own_words().of(text)


def _kept(line: str, *, of_ray: bool) -> str:
    line = _PREFIX.sub("", line)
    head = _RAY.match(line) or _VLLM.match(line)
    if head is not None:
        rest = head["rest"]
        place = re.match(r"(?P<place>[a-z_]+\.(?:cc|py|h):\d+)(?: --)?[: ]", rest) if of_ray else None
        where = f" {place['place']}:" if place else ""
        return f"[{head['at']} {head['level']}]{where} {phrases(rest) or GAP}"
    if line.endswith(_TRACEBACK):
        return _TRACEBACK
    frame = _FRAME.match(line)
    if frame is not None:
        return f'  File "{frame["file"]}", line {frame["line"]}' if is_source(frame["file"]) else ""
    raised = _RAISED.match(line)
    if raised is not None and raised["name"] in known_errors():
        said = phrases(raised["rest"] or "")
        return raised["name"] + (f": {said}" if said else "")
    return phrases(line)


def _hidden(number: int) -> str:
    return f"[{number} {'line' if number == 1 else 'lines'} removed]"
