"""Where a program that a model wrote is run: isolated, within limits, and not at all where isolation is missing.

What is covered: no network, nothing of this machine but what the runner shows read-only, limits on time by the clock,
processor time, memory, output and processes; before the first run a probe looks out from inside, and whatever it can
see or reach that it should not is an IsolationError. What is not covered: a hole in the kernel that a sandbox shares
with its machine. The program is data here: it is written to a file and never read as code by this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import Field

from evolve.problems.config import BubblewrapRunner, ContainerRunner, RunLimits
from memory.types import Record

SUPERVISOR = Path(__file__).with_name("run_limited.py")
GRACE_S = 5.0
"""The supervisor inside ends a run on time; one that does not answer is killed from outside so much later."""
WORK = "/work"
SCRATCH = "/tmp"  # noqa: S108 (inside of the sandbox)
PROBE_LIMITS = RunLimits(wall_s=60.0, cpu_s=10)
_SYSTEM = ("/lib", "/lib64", "/lib32", "/bin", "/sbin")


class IsolationError(RuntimeError):
    """Programs cannot be run in isolation here, so none is run. The message says what is missing."""


class Ran(Record):
    """What came of one run."""

    exit_code: int | None = Field(description="None: it was killed, for `stopped`")
    stdout: str
    stderr: str
    stopped: str = Field(
        default="", description="'time' or 'output', where a limit ended it; empty: it ended by itself"
    )


class Runner(Protocol):
    """Runs programs somewhere they can do no harm."""

    def check(self) -> None:
        """Try the isolation out. Raises IsolationError: it is missing, or not what it should be."""
        ...

    def run(self, files: Mapping[str, str], arguments: Sequence[str], stdin: str, limits: RunLimits) -> Ran:
        """Run Python with `arguments` in a directory that holds `files`, which it cannot change.

        Raises:
            IsolationError: the sandbox does not come up.
        """
        ...


Run = Callable[[Mapping[str, str], Sequence[str], str, RunLimits, Mapping[str, str]], Ran]
"""`Runner.run` with variables that are added to the environment of the command, not of the program in it."""


def open_runner(config: BubblewrapRunner | ContainerRunner) -> Runner:
    """The runner of a configuration, its isolation tried out. Raises IsolationError."""
    runner: Runner = Bubblewrap(config) if isinstance(config, BubblewrapRunner) else Container(config)
    runner.check()
    return runner


class Bubblewrap:
    """Runs programs under bubblewrap with the Python of this process, its standard library alone."""

    def __init__(self, config: BubblewrapRunner) -> None:
        self._config = config

    def check(self) -> None:
        """See `Runner.check`."""
        if shutil.which(self._config.command) is None:
            raise IsolationError(
                f"expected bubblewrap to run programs in, found no '{self._config.command}'; install it (Debian: "
                "apt-get install bubblewrap), or set verifier.runner to kind: container"
            )
        probe_isolation(self._run, "bubblewrap")

    def run(self, files: Mapping[str, str], arguments: Sequence[str], stdin: str, limits: RunLimits) -> Ran:
        """See `Runner.run`."""
        return self._run(files, arguments, stdin, limits, {})

    def _run(
        self,
        files: Mapping[str, str],
        arguments: Sequence[str],
        stdin: str,
        limits: RunLimits,
        environment: Mapping[str, str],
    ) -> Ran:
        with _written(files) as directory:
            command = _bwrap(self._config, directory, limits)
            return _ran(command, _python(), arguments, stdin, limits, environment)


class Container:
    """Runs programs by the user's own command."""

    def __init__(self, config: ContainerRunner) -> None:
        self._config = config

    def check(self) -> None:
        """See `Runner.check`."""
        if shutil.which(self._config.command[0]) is None:
            raise IsolationError(
                f"expected a command that isolates programs, found no '{self._config.command[0]}'; install it or "
                "correct verifier.runner.command"
            )
        probe_isolation(self._run, "the container command")

    def run(self, files: Mapping[str, str], arguments: Sequence[str], stdin: str, limits: RunLimits) -> Ran:
        """See `Runner.run`."""
        return self._run(files, arguments, stdin, limits, {})

    def _run(
        self,
        files: Mapping[str, str],
        arguments: Sequence[str],
        stdin: str,
        limits: RunLimits,
        environment: Mapping[str, str],
    ) -> Ran:
        with _written(files) as directory:
            command = [word.replace("{dir}", str(directory)) for word in self._config.command]
            return _ran(command, self._config.python, arguments, stdin, limits, environment)


def probe_isolation(run: Run, name: str) -> None:
    """Look out from inside of a runner.

    Raises:
        IsolationError: naming everything the probe could see or reach that it should not.
    """
    word = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="evomesh-canary-") as directory:
        canary = Path(directory) / "canary"
        canary.write_text(word, encoding="ascii")
        with _process(word), _listener() as port:
            arguments = ["probe.py", str(canary), word, str(port)]
            ran = run({"probe.py": PROBE}, arguments, "", PROBE_LIMITS, {"EVOMESH_CANARY": word})
        touched = sorted(path.name for path in Path(directory).iterdir() if path.name != "canary")
    try:
        found = json.loads(ran.stdout)
    except ValueError:
        found = None
    if not isinstance(found, list):
        said = (ran.stderr.strip().splitlines() or [f"exit status {ran.exit_code}"])[-1]
        raise IsolationError(f"expected {name} to run a program that prints what it sees, got: {said[:300]}; {_HINT}")
    if found or touched:
        raise IsolationError(
            f"{name} does not isolate: a program in it {', '.join([*map(str, found), *touched])}; no model's program "
            "is run like this. Take the network away and show nothing of this machine"
        )


def _bwrap(config: BubblewrapRunner, directory: Path, limits: RunLimits) -> list[str]:
    shown: list[str] = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            shown += ["--symlink", os.readlink(path), name]
        elif path.is_dir():
            shown += ["--ro-bind", name, name]
    for extra in (Path(sys.base_prefix), *config.read_only):
        if not extra.is_relative_to("/usr"):
            shown += ["--ro-bind", str(extra), str(extra)]
    return [
        config.command,
        *("--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
        *(
            "--setenv",
            "PATH",
            "/usr/local/bin:/usr/bin:/bin",
            "--setenv",
            "HOME",
            SCRATCH,
            "--setenv",
            "LANG",
            "C.UTF-8",
        ),
        *shown,
        *("--proc", "/proc", "--dev", "/dev"),
        *("--size", str(limits.memory_mb * 1024**2), "--tmpfs", SCRATCH),
        *("--ro-bind", str(directory), WORK, "--chdir", WORK, "--"),
    ]


def _python() -> str:
    """The interpreter under the virtual environment: a program gets the standard library and nothing else."""
    found = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(found) if found.exists() else os.path.realpath(sys.executable)


@contextlib.contextmanager
def _written(files: Mapping[str, str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="evomesh-run-") as name:
        directory = Path(name)
        for file, text in files.items():
            (directory / file).write_text(text, encoding="utf-8", errors="replace")
        shutil.copyfile(SUPERVISOR, directory / SUPERVISOR.name)
        directory.chmod(0o755)  # another user inside of the sandbox must be able to read it
        yield directory


def _ran(
    command: Sequence[str],
    python: str,
    arguments: Sequence[str],
    stdin: str,
    limits: RunLimits,
    environment: Mapping[str, str],
) -> Ran:
    started = f"{secrets.token_hex(8)}\n"
    supervisor = [python, "-I", "-S", f"{WORK}/{SUPERVISOR.name}", limits.model_dump_json(), started]
    supervised = [*command, *supervisor, python, "-I", "-B"]
    program, *rest = arguments
    child = subprocess.Popen(
        [*supervised, f"{WORK}/{program}", *rest],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    try:
        out, err, stopped = _exchange(child, stdin.encode("utf-8", "replace"), limits)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        child.wait()
    texts = (out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
    if started not in texts[1] and stopped != "output":  # what floods one pipe is stopped before the other is read
        said = (texts[1].strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise IsolationError(f"expected '{command[0]}' to come up and run a program, got: {said[:300]}; {_HINT}")
    texts = (texts[0], texts[1].replace(started, "", 1))
    code = None if stopped else child.returncode
    if code == TIMED_OUT:
        code, stopped = None, "time"
    return Ran(exit_code=code, stdout=texts[0], stderr=texts[1], stopped=stopped)


def _exchange(child: subprocess.Popen[bytes], data: bytes, limits: RunLimits) -> tuple[bytes, bytes, str]:
    """(output, errors, which limit ended it): everything is read at once, so that no pipe ever fills up."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    room, deadline = limits.output_kb * 1024, time.monotonic() + limits.wall_s + GRACE_S
    texts = {child.stdout: bytearray(), child.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        os.set_blocking(child.stdin.fileno(), False)
        selector.register(child.stdin, selectors.EVENT_WRITE)
        for pipe in texts:
            selector.register(pipe, selectors.EVENT_READ)
        while any(pipe in selector.get_map() for pipe in texts):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return bytes(texts[child.stdout]), bytes(texts[child.stderr]), "time"
            for key, _ in ready:
                if key.fileobj is child.stdin:
                    data = _fed(child.stdin.fileno(), data)
                    if not data:
                        selector.unregister(child.stdin)
                        child.stdin.close()
                    continue
                pipe = child.stdout if key.fileobj is child.stdout else child.stderr
                chunk = os.read(pipe.fileno(), 65536)
                if not chunk:
                    selector.unregister(pipe)
                texts[pipe] += chunk
                if sum(map(len, texts.values())) > room:
                    return bytes(texts[child.stdout][:room]), bytes(texts[child.stderr][:room]), "output"
    try:
        child.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return bytes(texts[child.stdout]), bytes(texts[child.stderr]), "time"
    return bytes(texts[child.stdout]), bytes(texts[child.stderr]), ""


def _fed(descriptor: int, data: bytes) -> bytes:
    """What is left of `data`; nothing where nobody reads it."""
    if not data:
        return b""
    try:
        return data[os.write(descriptor, data) :]
    except BrokenPipeError:
        return b""


@contextlib.contextmanager
def _listener() -> Iterator[int]:
    """Port of a server on this machine."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield int(server.getsockname()[1])


@contextlib.contextmanager
def _process(word: str) -> Iterator[None]:
    """A process of this machine that has `word` in its environment, to be looked for from inside."""
    environment = {**os.environ, "EVOMESH_CANARY_PROCESS": word}
    waiting = subprocess.Popen([sys.executable, "-I", "-c", "input()"], stdin=subprocess.PIPE, env=environment)
    try:
        yield
    finally:
        waiting.kill()
        waiting.communicate()


TIMED_OUT = 124
_HINT = "where user namespaces are forbidden, allow them or set verifier.runner to kind: container"

PROBE = """
import json, os, socket, sys
canary, word, port = sys.argv[1:]
found = []
try:
    if open(canary).read() == word:
        found.append("reads files of this machine")
except OSError:
    pass
try:
    open(os.path.join(os.path.dirname(canary), "written by a program"), "w").close()
    found.append("writes files of this machine")
except OSError:
    pass
for place in ("/work/x", "/usr/x", "/etc/x"):
    try:
        open(place, "w").close()
        os.remove(place)
        found.append("writes to " + os.path.dirname(place))
    except OSError:
        pass
if os.environ.get("EVOMESH_CANARY") == word:
    found.append("sees this process's environment")
for process in os.listdir("/proc"):
    try:
        with open("/proc/%s/environ" % process, "rb") as environ:
            if b"EVOMESH_CANARY_PROCESS=" + word.encode() in environ.read():
                found.append("sees this machine's processes")
                break
    except OSError:
        pass
for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as outside:
            outside.connect((address, 9))  # sends nothing: says whether there is a route
        found.append("has a route to the network")
        break
    except OSError:
        pass
try:
    with socket.create_connection(("127.0.0.1", int(port)), timeout=2):
        found.append("reaches servers of this machine")
except OSError:
    pass
print(json.dumps(found))
"""
