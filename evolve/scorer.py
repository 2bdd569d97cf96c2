"""The parent's side of scoring: one long-lived child that is killed and started again when it hangs or dies."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from memory.types import Record

CHILD = (sys.executable, "-I", "-W", "ignore", str(Path(__file__).with_name("gym_scorer.py")))
START_TIMEOUT_S = 120.0  # importing reasoning-gym takes 5 s on a quiet machine


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
            "timeout_s": self._timeout_s,
        }
        try:
            self._send(child, request)
            reply = self._receive(child, self._timeout_s)
        except (EOFError, BrokenPipeError):
            return Score(score=None, reason=f"the scorer died ({self._describe_end()})")
        except TimeoutError:
            self.close()
            return Score(score=None, reason=f"the scorer did not answer within {self._timeout_s:g} s and was killed")
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
        child = self._child
        self.close()
        return "no process" if child is None else f"exit status {child.returncode}"

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
