"""The first process in a sandbox: sets the limits of a program, runs it, and ends it and all it started on time.

Run as a script inside of the sandbox, by whatever Python 3.8 or later is there, so it imports nothing of this project.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys

TIMED_OUT = 124


def main() -> int:
    """Exit status of the program; 124 where its time by the clock was up."""
    limits, started = json.loads(sys.argv[1]), sys.argv[2].encode()

    def limit() -> None:
        room = limits["memory_mb"] * 1024**2
        _at_most(resource.RLIMIT_AS, room)
        _at_most(resource.RLIMIT_FSIZE, room)
        _at_most(resource.RLIMIT_CPU, limits["cpu_s"])
        _at_most(resource.RLIMIT_NPROC, limits["num_processes"])
        _at_most(resource.RLIMIT_CORE, 0)
        os.write(2, started)  # the last word before the program: whoever reads it knows that the sandbox came up

    program = subprocess.Popen(sys.argv[3:], preexec_fn=limit, start_new_session=True)
    try:
        code = program.wait(timeout=limits["wall_s"])
    except subprocess.TimeoutExpired:
        code = TIMED_OUT
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _at_most(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (least, least))


if __name__ == "__main__":
    sys.exit(main())
