"""One long-lived child process that is asked JSON questions line by line, killed when it hangs, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

START_TIMEOUT_S = 300.0  # importing reasoning-gym takes 5 s on a quiet machine, and nine times that on a busy one
WALL_FACTOR = 5.0
"""The limit is processor time, so that a busy machine changes no verdict; a child that sleeps gets so much longer."""


class ScorerError(RuntimeError):
    """The scoring process does not come up, so nothing can be judged."""


class Child:
    """A child that answers one JSON object with another. Not thread-safe. It is started at the first question.

    The child's first line says that it is ready. It is told `cpu_s` and `wall_s` with every question, and asks the
    kernel to end it then.
    """

    def __init__(
        self, command: Sequence[str], *, timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> None:
        """`timeout_s` is processor time for one question; `environment` None: this process's own."""
        self._timeout_s = timeout_s
        self._command = tuple(command)
        self._environment = None if environment is None else dict(environment)
        self._child: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any] | str:
        """The child's answer, or in words why there is none; a child that hung or died is replaced at the next call.

        Raises:
            ScorerError: the child cannot be started.
        """
        child = self._child or self._start()
        limits = {"cpu_s": self._timeout_s, "wall_s": self._timeout_s * WALL_FACTOR + 1.0}
        try:
            self._send(child, {**question, **limits})
            return self._receive(child, self._timeout_s * WALL_FACTOR)
        except (EOFError, BrokenPipeError):
            return f"the scorer died ({self._describe_end()})"
        except TimeoutError:
            self.close()
            return f"the scorer did not answer within {self._timeout_s * WALL_FACTOR:g} s and was killed"

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
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=self._environment
        )
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

    def _send(self, child: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
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
