"""Which formulas are one answer: math-verify's opinion, asked for in a child process that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, combinations
from pathlib import Path

from mesh.equivalence import Groups, by_frequency, canonical, is_number, merge_groups

MAX_FORMULA_CHARS = 200
"""A longer formula is compared by spelling: reading one takes time that grows fast with its length and depth."""
MAX_DEPTH = 12
"""The same for brackets within brackets."""
MAX_FORMULAS = 16
"""So many distinct formulas are compared, the most frequent first: at most 120 pairs of some 10 to 300 ms each."""
HARMLESS = "1"
"""Every formula is held against this first: one that hangs even here is out before it can take others along."""
MAX_HANGS = 2
"""A formula whose comparisons were cut short so often is not compared again: n formulas end at most 2n children."""
START_TIMEOUT_S = 120.0  # importing sympy takes 1 s on a quiet machine, and many times that on a busy one
WALL_FACTOR = 5.0
"""The limit is processor time, so that a busy machine changes no answer; a child that sleeps gets so much longer."""

# Without the working directory and the caller's PYTHONPATH on its path; the hash seed makes sympy repeatable.
CHILD = (sys.executable, "-P", "-s", "-B", "-W", "ignore", str(Path(__file__).with_name("symbolic_child.py")))
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH")

_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]+\*?\}|\\[A-Za-z]+|sqrt(?=[({])")
_UNREADABLE = re.compile(r"[^\W\d_]{3}|[0-9] [0-9]|[0-9][eE][-+]?[0-9]")


class SymbolicError(RuntimeError):
    """The comparing process does not come up, so no formula can be compared."""


async def symbolic_groups(answers: Sequence[str], *, timeout_s: float = 2.0) -> Groups:
    """`SymbolicJudge.groups` with a child of its own, which costs a second to start."""
    judge = SymbolicJudge(timeout_s=timeout_s)
    try:
        return await judge.groups(answers)
    finally:
        await judge.close()


class SymbolicJudge:
    """Compares formulas in one child process, started at the first comparison and replaced when it hangs or dies.

    Calls on one object take turns; all of them are made in one event loop. `timeout_s` is processor time for one pair.
    """

    def __init__(self, *, timeout_s: float = 2.0, command: Sequence[str] = CHILD) -> None:
        self._timeout_s = timeout_s
        self._command = tuple(command)
        self._child: Process | None = None
        self._turn = asyncio.Lock()

    async def groups(self, answers: Sequence[str]) -> Groups:
        """Groups of canonical spellings of kind "math" that math-verify finds equal.

        `answers` are the formulas, each as often as it was given; their order does not matter. Two are put into one
        group when each is accepted for the other and no group would hold two different numbers by it; a comparison
        that hangs, dies or cannot be made (`comparable`) counts as different.

        Raises:
            SymbolicError: the child cannot be started.
        """
        spellings = by_frequency(canonical(answer, "math") for answer in answers)
        short = [spelling for spelling in spellings if 0 < len(spelling) <= MAX_FORMULA_CHARS][:MAX_FORMULAS]
        pairs = [pair for pair in combinations(short, 2) if comparable(*pair)]
        async with self._turn:
            asked_about = dict.fromkeys(formula for pair in pairs for formula in pair)
            harmful = {formula for formula in asked_about if await self._ask(formula, HARMLESS) is None}
            return await self._joined([pair for pair in pairs if not harmful.intersection(pair)])

    async def close(self) -> None:
        """Kill the child and its group, if there is one; a later call starts a new one."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                os.killpg(child.pid, signal.SIGKILL)
        await child.wait()

    async def _joined(self, pairs: Sequence[tuple[str, str]]) -> Groups:
        found: Groups = ()
        hangs: Counter[str] = Counter()
        for first, second in pairs:
            joined = merge_groups(found, ((first, second),))
            if joined == found or _contradicts(joined) or max(hangs[first], hangs[second]) >= MAX_HANGS:
                continue
            equal = await self._ask(first, second)
            if equal is None:
                hangs.update((first, second))
            elif equal:
                found = joined
        return found

    async def _ask(self, first: str, second: str) -> bool | None:
        """Whether the child finds the two equal; None: it did not say, and is gone."""
        request = {
            "first": first,
            "second": second,
            "cpu_s": self._timeout_s,
            "wall_s": self._timeout_s * WALL_FACTOR + 1.0,
        }
        if self._child is None or self._child.returncode is not None:
            self._child = await self._start()
        child = self._child
        reply = b""
        try:
            async with asyncio.timeout(self._timeout_s * WALL_FACTOR):
                reply = await _exchange(child, json.dumps(request))
        except TimeoutError:
            pass
        finally:
            if not reply:  # cancelled as well: an answer that nobody waits for would be taken for the next one
                await self.close()
        return bool(json.loads(reply)["equal"]) if reply else None

    async def _start(self) -> Process:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
            env={**environment, "PYTHONHASHSEED": "0"},
        )
        self._child = child
        ready = b""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                ready = await _exchange(child, "")
        except TimeoutError:
            pass
        finally:
            if not ready:
                await self.close()
        if not ready:
            raise SymbolicError(
                f"expected the comparing process to start within {START_TIMEOUT_S:g} s, got exit status "
                f"{child.returncode}; run it by hand to see why: {' '.join(self._command)}"
            )
        return child


def comparable(first: str, second: str) -> bool:
    """Whether math-verify can be trusted with two canonical formulas; what it would misread is compared by spelling.

    It reads words as products of letters (so that "listen" is "silent"), "2 1/2" and "1e5" as something else, takes
    both 0.5 and 50 for 50%, and an ordered pair for a set. Hence no words, no digits apart, no powers of ten in "e";
    per cent and brackets around lists in both or in neither. Two numbers are different where their spellings are.
    """
    if is_number(first) and is_number(second):
        return False
    if not (_is_readable(first) and _is_readable(second)):
        return False
    if ("%" in first) != ("%" in second):
        return False
    return not ("," in first and "," in second) or _brackets(first) == _brackets(second)


def _is_readable(formula: str) -> bool:
    depths = accumulate((sign in "([{") - (sign in ")]}") for sign in formula)
    return max(depths, default=0) <= MAX_DEPTH and not _UNREADABLE.search(_COMMAND.sub("|", formula))


def _brackets(formula: str) -> list[str]:
    return re.findall(r"[()\[\]]", formula)


def _contradicts(groups: Groups) -> bool:
    """Whether a group holds two different numbers: formulas in between have led from one to the other."""
    return any(sum(is_number(spelling) for spelling in group) > 1 for group in groups)


async def _exchange(child: Process, line: str) -> bytes:
    """The child's next line, after `line` was sent to it; nothing where it is gone."""
    if child.stdin is None or child.stdout is None:
        return b""
    try:
        child.stdin.write(f"{line}\n".encode() if line else b"")
        await child.stdin.drain()
        return await child.stdout.readline()
    except ConnectionError:
        return b""
