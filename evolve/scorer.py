"""The parent's side of scoring: one long-lived child that is killed and started again when it hangs or dies."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from memory.types import Record

CHILD = (sys.executable, "-I", "-W", "ignore", str(Path(__file__).with_name("gym_scorer.py")))
START_TIMEOUT_S = 300.0  # importing reasoning-gym takes 5 s on a quiet machine, and nine times that on a busy one
WALL_FACTOR = 5.0
"""The limit is processor time, so that a busy machine changes no verdict; a scorer that sleeps gets so much longer."""


class ScorerError(RuntimeError):
    """The scoring process does not come up, so nothing can be judged."""


class Score(Record):
    """What a scorer said. `score` None: it said nothing, for `reason`."""

    score: float | None
    reason: str = ""


class GymScorer:
    """Scores answers in a child process. Not thread-safe. The child is started at the first use."""

    def __init__(self, *, timeout_s: float = 2.0, command: Sequence[str] = CHILD) -> None:
        self._timeout_s = timeout_s
        self._command = tuple(command)
        self._child: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> GymScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def score(self, *, family: str, settings: str, entry: str, answer: str) -> Score:
        """The family's score of `answer`; a child that hangs or dies is replaced at the next call.

        Raises:
            ScorerError: the child cannot be started.
        """
        child = self._child or self._start()
        request = {
            "family": family,
            "settings": settings,
            "entry": entry,
            "answer": answer,
            "cpu_s": self._timeout_s,
            "wall_s": self._timeout_s * WALL_FACTOR + 1.0,
        }
        try:
            self._send(child, request)
            reply = self._receive(child, self._timeout_s * WALL_FACTOR)
        except (EOFError, BrokenPipeError):
            return Score(score=None, reason=f"the scorer died ({self._describe_end()})")
        except TimeoutError:
            self.close()
            return Score(
                score=None,
                reason=f"the scorer did not answer within {self._timeout_s * WALL_FACTOR:g} s and was killed",
            )
        if "score" in reply:
            return Score(score=reply["score"])
        return Score(score=None, reason=f"the scorer raised {reply['error']}")

    def close(self) -> None:
        """Kill the child, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
        self._child, self._unread = None, b""

    def _start(self) -> subprocess.Popen[bytes]:
        # bufsize=0: what a buffered writer still held when the child died would be flushed, and fail, at close
        self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        try:
            self._receive(self._child, START_TIMEOUT_S)
        except (EOFError, TimeoutError) as error:
            end = self._describe_end()
            raise ScorerError(
                f"expected the scoring process to start within {START_TIMEOUT_S:g} s, got {end}; "
                f"run it by hand to see why: {' '.join(self._command)}"
            ) from error
        return self._child

    def _describe_end(self) -> str:
        """How the child ended; it is no longer kept."""
        child = self._child
        self._await_end()
        self.close()
        if child is None:
            return "no process"
        if child.returncode == -signal.SIGPROF:
            return f"over {self._timeout_s:g} s of processor time"
        return f"exit status {child.returncode}"

    def _await_end(self) -> None:
        """A closed pipe is seen a moment before the exit status: without waiting, `close` would put its own there."""
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=1.0)

    def _send(self, child: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
        data = memoryview(json.dumps(request).encode() + b"\n")  # ASCII, lone surrogates included
        if child.stdin is None:
            raise EOFError
        while data:
            data = data[child.stdin.write(data) :]

    def _receive(self, child: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any]:
        if child.stdout is None:
            raise EOFError
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(child.stdout.fileno(), 65536)
                if not chunk:
                    raise EOFError
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply
