"""An `evomesh serve` process that somebody else watches: started, asked whether it is well, drained and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

_DIRECT = build_opener(ProxyHandler({}))
"""A proxy from the environment would be asked for our own loopback."""


class DoorEnded(RuntimeError):
    """The door's process is gone, or does not answer; whoever watches it should start another."""


class Doorkeeper:
    """Owns one door. `url` is where it answers, from this machine."""

    def __init__(
        self,
        arguments: Sequence[str],
        url: str,
        *,
        environment: Mapping[str, str] | None = None,
        drain_s: float = 120.0,
    ) -> None:
        """Starts `evomesh serve ARGUMENTS` in this directory; `environment` is added to this process's own."""
        self._url = url.rstrip("/")
        self._drain_s = drain_s
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evolve.cli", "serve", *arguments], env={**os.environ, **(environment or {})}
        )

    @property
    def pid(self) -> int:
        """Of the door."""
        return self._process.pid

    def wait_up(self, timeout_s: float, *, pause_s: float = 1.0) -> None:
        """Returns once the door answers. Raises DoorEnded if it ends first, or does not answer in time."""
        end = time.monotonic() + timeout_s
        while True:
            self._check_process()
            if self._answers():
                return
            if time.monotonic() > end:
                raise DoorEnded(f"{self._url}: expected the door to answer within {timeout_s:g} s; see its messages")
            time.sleep(pause_s)

    def check(self) -> None:
        """Raises DoorEnded unless the process lives and answers `/healthz`."""
        self._check_process()
        if not self._answers():
            raise DoorEnded(f"{self._url}/healthz: expected an answer from process {self.pid}, got none")

    def end(self) -> int:
        """Lets the door drain (SIGTERM), kills it if that takes longer than it may; returns its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(self._drain_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _check_process(self) -> None:
        code = self._process.poll()
        if code is not None:
            raise DoorEnded(f"the door ended with exit code {code}; its last line says why, and with which code")

    def _answers(self) -> bool:
        try:
            with _DIRECT.open(f"{self._url}/healthz", timeout=5.0) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False
