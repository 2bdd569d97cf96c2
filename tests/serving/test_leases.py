"""Leases: what others need is known, and what a killed process needed is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memory.ledger import AlreadyLocked
from serving.leases import Lease

KEY, OTHER = ("ada", "a" * 64), ("ben", "b" * 64)
ROOT = Path(__file__).resolve().parents[2]


def test_each_knows_what_the_others_need_and_not_its_own(tmp_path: Path) -> None:
    one, two = Lease(tmp_path), Lease(tmp_path)
    one.hold([KEY])
    two.hold([KEY, OTHER])
    assert one.others() == {KEY, OTHER}
    assert two.others() == {KEY}
    two.hold([])
    assert one.others() == frozenset()
    two.close()
    two.close()
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_the_lease_of_a_killed_process_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from serving.leases import Lease\n"
        f"lease = Lease(Path(sys.argv[1])); lease.hold([{KEY!r}]); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    ours = Lease(tmp_path)
    assert ours.others() == {KEY}
    child.kill()
    child.communicate()
    assert ours.others() == frozenset()
    assert [path.name.split("-")[0] for path in tmp_path.glob("*.json")] == [str(os.getpid())]


def test_a_lease_that_was_just_made_and_says_nothing_yet_needs_nothing(tmp_path: Path) -> None:
    ours, fresh = Lease(tmp_path), Lease(tmp_path)
    assert ours.others() == frozenset()
    fresh.close()


def test_nobody_unloads_while_another_takes(tmp_path: Path) -> None:
    one, two = Lease(tmp_path), Lease(tmp_path)
    with one.guard(), pytest.raises(AlreadyLocked), two.guard():
        pass
    with two.guard():
        pass
