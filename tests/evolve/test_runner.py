from __future__ import annotations

import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from evolve.judging.runner import Bubblewrap, Container, IsolationError, open_runner
from evolve.judging.unit_tests import passes
from evolve.problems.config import BubblewrapRunner, ContainerRunner, FileProblems, RunLimits, UnitTestsVerifier
from evolve.problems.draw import check_problems
from evolve.problems.types import Case, UnitTestsRule

LIMITS = RunLimits(wall_s=30.0, cpu_s=10, memory_mb=256, output_kb=8)


def sandbox_works() -> bool:
    found = shutil.which("bwrap")
    if found is None:
        return False
    tried = [found, "--unshare-all", "--ro-bind", "/", "/", "true"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


needs_bwrap = pytest.mark.skipif(not sandbox_works(), reason="needs bubblewrap and user namespaces")

NOT_ISOLATED = f"""#!{sys.executable}
import os, sys
directory, rest = sys.argv[1], sys.argv[2:]
name = lambda word: os.path.basename(word) if os.path.dirname(word) == "/work" else None
os.execv(rest[0], [os.path.join(directory, name(word)) if name(word) else word for word in rest])
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


@pytest.fixture
def open_door(tmp_path: Path) -> ContainerRunner:
    """A command that isolates nothing."""
    return ContainerRunner(command=(str(script(tmp_path / "door", NOT_ISOLATED)), "{dir}"), python=sys.executable)


def test_without_bubblewrap_nothing_is_run() -> None:
    with pytest.raises(IsolationError, match="expected bubblewrap to run programs in, found no 'no-such-bwrap'"):
        open_runner(BubblewrapRunner(command="no-such-bwrap"))


def test_a_bubblewrap_that_cannot_start_is_refused_with_what_it_said(tmp_path: Path) -> None:
    broken = script(tmp_path / "bwrap", "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    with pytest.raises(IsolationError, match="No permissions to create new namespace; where user namespaces"):
        open_runner(BubblewrapRunner(command=str(broken)))


def test_a_command_that_isolates_nothing_is_refused_and_every_hole_is_named(open_door: ContainerRunner) -> None:
    with pytest.raises(IsolationError) as refused:
        open_runner(open_door)
    message = str(refused.value)
    for hole in ("reads files of this machine", "writes files of this machine", "sees this process's environment"):
        assert hole in message
    assert "reaches servers of this machine" in message
    assert "sees this machine's processes" in message


def test_a_container_command_must_show_the_directory() -> None:
    with pytest.raises(ValidationError, match=r"names no \{dir\}"):
        ContainerRunner(command=("docker", "run", "python"))


def test_a_missing_container_command_is_refused() -> None:
    with pytest.raises(IsolationError, match="found no 'no-such-docker'"):
        Container(ContainerRunner(command=("no-such-docker", "{dir}"))).check()


def test_a_run_without_isolation_is_stopped_before_it_starts(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"question": "q", "check": [{"output": "1"}]}\n')
    verifier = UnitTestsVerifier(runner=BubblewrapRunner(command="no-such-bwrap"))
    with pytest.raises(IsolationError):
        check_problems(FileProblems(path=path, verifier=verifier))


def test_output_and_time_have_limits_whatever_runs_the_program(open_door: ContainerRunner) -> None:
    runner = Container(open_door)  # these programs are this test's own
    flood = runner.run({"s.py": "while True: print('x' * 1000)"}, ["s.py"], "", LIMITS)
    assert (flood.stopped, flood.exit_code, len(flood.stdout)) == ("output", None, 8 * 1024)
    started = time.monotonic()
    asleep = runner.run(
        {"s.py": "import time; time.sleep(600)"}, ["s.py"], "", LIMITS.model_copy(update={"wall_s": 1.0})
    )
    assert (asleep.stopped, asleep.exit_code) == ("time", None)
    assert time.monotonic() - started < 60


def test_input_that_nobody_reads_and_memory_that_is_not_there_end_in_a_status(open_door: ContainerRunner) -> None:
    runner = Container(open_door)
    assert runner.run({"s.py": "print(1)"}, ["s.py"], "x" * 1_000_000, LIMITS).stdout == "1\n"
    greedy = runner.run({"s.py": "x = 'a' * 10**9"}, ["s.py"], "", LIMITS)
    assert greedy.exit_code == 1
    assert "MemoryError" in greedy.stderr


def test_a_sandbox_that_does_not_come_up_says_nothing_of_the_program(tmp_path: Path) -> None:
    broken = script(tmp_path / "door", "#!/bin/sh\necho 'no room for another container' >&2\nexit 1\n")
    runner = Container(ContainerRunner(command=(str(broken), "{dir}"), python=sys.executable))
    rule = UnitTestsRule(cases=(Case(input="", output="1"),), verifier=UnitTestsVerifier(limits=LIMITS))
    right, reason = passes(rule, "print(1)", runner)
    assert right is None
    assert "no room for another container" in reason
    with pytest.raises(IsolationError):
        runner.run({"s.py": "print(1)"}, ["s.py"], "", LIMITS)


def test_a_program_that_fails_says_nothing_of_the_sandbox(open_door: ContainerRunner) -> None:
    runner = Container(open_door)
    failed = runner.run({"s.py": "import sys; print('mine', file=sys.stderr); sys.exit(3)"}, ["s.py"], "", LIMITS)
    assert (failed.exit_code, failed.stderr) == (3, "mine\n")
    one_second = LIMITS.model_copy(update={"cpu_s": 1})
    busy = runner.run({"s.py": "while True: pass"}, ["s.py"], "", one_second)
    assert busy.stopped == ""
    assert busy.exit_code in (128 + signal.SIGXCPU, 128 + signal.SIGKILL)


@needs_bwrap
def test_bubblewrap_isolates_and_programs_are_judged_in_it() -> None:
    runner = open_runner(BubblewrapRunner())
    assert isinstance(runner, Bubblewrap)
    cases = (Case(input="1 2\n", output="3"), Case(input="4 5\n", output="9"))
    rule = UnitTestsRule(cases=cases, verifier=UnitTestsVerifier(limits=LIMITS))
    assert passes(rule, "print(sum(map(int, input().split())))", runner) == (True, "")
    assert passes(rule, "print(3)", runner) == (False, "case 2: it printed something else")
    tested = UnitTestsRule(
        test="from solution import f\n\ndef test_f():\n    assert f(2) == 4\n", verifier=rule.verifier
    )
    assert passes(tested, "def f(x):\n    return x * x\n", runner) == (True, "")
    assert passes(tested, "def f(x):\n    return x\n", runner)[0] is False
    assert passes(tested, "import os\nos._exit(0)\n", runner) == (False, "it ended with status 0")
    assert passes(tested, "raise SystemExit(0)\n", runner)[0] is False
