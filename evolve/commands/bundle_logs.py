"""What of an engine's log goes into a support archive: when, how bad, where in which source, and known phrases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from evolve.commands.bundle_words import GAP, is_source, known_errors, told

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

REMOVED = "removed]"


def log_lines(lines: Iterable[str], *, of_ray: bool = False) -> Iterator[str]:
    """Each line without what could be anybody's text; lines of which nothing is left are counted.

    `of_ray`: written by a process of Ray's own, which engines do not write to; there the place in Ray's source stays,
    and of the lines those from a warning up.
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


def _kept(line: str, *, of_ray: bool) -> str:
    line = _PREFIX.sub("", line)
    head = _RAY.match(line) or _VLLM.match(line)
    if head is not None:
        rest = head["rest"]
        if of_ray and head["level"] in "ID":
            return ""
        place = re.match(r"(?P<place>[a-z_]+\.(?:cc|py|h):\d+)(?: --)?[: ]", rest) if of_ray else None
        where = f" {place['place']}:" if place else ""
        return f"[{head['at']} {head['level']}]{where} {told(rest) or GAP}"
    if line.endswith(_TRACEBACK):
        return _TRACEBACK
    frame = _FRAME.match(line)
    if frame is not None:
        return f'  File "{frame["file"]}", line {frame["line"]}' if is_source(frame["file"]) else ""
    raised = _RAISED.match(line)
    if raised is not None and raised["name"] in known_errors():
        said = told(raised["rest"] or "")
        return raised["name"] + (f": {said}" if said else "")
    return told(line)


def _hidden(number: int) -> str:
    return f"[{number} {'line' if number == 1 else 'lines'} {REMOVED}"
