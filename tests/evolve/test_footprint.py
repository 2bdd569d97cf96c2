"""The peak over a process and its children is seen."""

import subprocess
import sys
import time

from evolve.training.footprint import Footprint

HOLD = """
import time
block = bytearray(200 * 2**20)
block[::4096] = b"x" * len(block[::4096])
print("held", flush=True)
time.sleep(30)
"""


def test_memory_of_a_child_counts_and_is_kept_after_it_ended() -> None:
    with Footprint(period_s=0.05) as before:
        time.sleep(0.2)
    with Footprint(period_s=0.05) as footprint:
        child = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.3)
        child.kill()
        child.wait()
        child.stdout.close()
        time.sleep(0.2)
    assert footprint.peak_bytes - before.peak_bytes > 150 * 2**20
