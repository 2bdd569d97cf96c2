"""The durable files everything else stands on: publish, ledger, lock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.ledger import (
    GENESIS,
    AlreadyLocked,
    Ledger,
    LedgerError,
    exclusive_lock,
    publish_bytes,
    publish_json,
    read_json,
    read_record,
)
from memory.types import Evidence

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
payloads = st.dictionaries(st.text(max_size=5), json_values, max_size=4)


def filled(path: Path, count: int = 5) -> Ledger:
    ledger = Ledger(path)
    ledger.append_many([("step", {"number": number}) for number in range(count)])
    return ledger


@settings(max_examples=20, deadline=None)
@given(batches=st.lists(st.lists(st.tuples(st.text(max_size=6), payloads), max_size=3), max_size=4))
def test_what_was_appended_is_read_back_the_same(tmp_path_factory, batches) -> None:
    path = tmp_path_factory.mktemp("ledger") / "events.jsonl"
    ledger = Ledger(path)
    acknowledged = [entry for batch in batches for entry in ledger.append_many(batch)]
    again = Ledger(path)
    assert ledger.entries() == again.entries() == acknowledged
    assert (again.head, len(again)) == (ledger.head, len(acknowledged))
    assert again.num_torn_bytes == 0


def test_returned_entry_equals_the_stored_one_for_tuples_number_keys_and_lone_surrogates(tmp_path) -> None:
    ledger = Ledger(tmp_path / "l")
    entry = ledger.append("odd", {"pair": (1, 2), "by_number": {10: "ten", 9: "nine"}, "text": "a\ud800b\u2028 ü"})
    assert entry.payload == {"pair": [1, 2], "by_number": {"10": "ten", "9": "nine"}, "text": "a\ud800b\u2028 ü"}
    assert Ledger(tmp_path / "l").entries() == [entry]
    (tmp_path / "l").read_bytes().decode("utf-8")


def test_equal_histories_have_equal_heads_and_bytes(tmp_path) -> None:
    one, two = filled(tmp_path / "one"), filled(tmp_path / "two")
    assert one.head == two.head
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_torn_last_line_is_cut_off_and_its_bytes_kept(tmp_path, cut) -> None:
    path = tmp_path / "events.jsonl"
    kept = filled(path).entries()[:4]
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    ledger = Ledger(path)
    assert ledger.entries() == kept
    assert ledger.num_torn_bytes > 0
    torn = (tmp_path / "events.jsonl.torn").read_bytes()
    assert path.read_bytes() + torn == whole[:-cut] + b"\n"
    ledger.append("step", {"number": 4})
    assert path.read_bytes() == whole


@pytest.mark.parametrize("tail", [b"\0" * 100, b"\0" * 50 + b"\n", b'{"hash":"\n', b"\xff\xfe\n", b"x"])
def test_garbage_after_the_last_entry_counts_as_torn(tmp_path, tail) -> None:
    path = tmp_path / "l"
    entries = filled(path).entries()
    with path.open("ab") as file:
        file.write(tail)
    assert Ledger(path).entries() == entries
    assert (tmp_path / "l.torn").read_bytes() == tail + b"\n"


def test_a_changed_byte_anywhere_before_the_end_is_refused_with_its_line(tmp_path) -> None:
    path = tmp_path / "l"
    filled(path)
    whole = path.read_bytes()
    third = len(b"".join(whole.splitlines(keepends=True)[:2]))
    for offset in (third + 20, third + 90, third + 130):
        damaged = bytearray(whole)
        damaged[offset] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(LedgerError, match="line 3"):
            Ledger(path)


def test_a_removed_or_repeated_line_breaks_the_chain(tmp_path) -> None:
    path = tmp_path / "l"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(LedgerError, match="line 3: the chain is broken"):
        Ledger(path)
    path.write_bytes(b"".join(lines[:2] + lines[1:]))
    with pytest.raises(LedgerError, match="line 3: the chain is broken"):
        Ledger(path)


def test_a_complete_last_line_with_a_wrong_hash_is_damage_not_a_torn_write(tmp_path) -> None:
    path = tmp_path / "l"
    filled(path)
    path.write_bytes(path.read_bytes().replace(b'"number":4', b'"number":5'))
    with pytest.raises(LedgerError, match="line 5"):
        Ledger(path)


def test_readonly_skips_a_torn_tail_and_changes_nothing(tmp_path) -> None:
    path = tmp_path / "l"
    entries = filled(path).entries()
    with path.open("ab") as file:
        file.write(b'{"hash":"ab')
    before = path.read_bytes()
    ledger = Ledger(path, readonly=True)
    assert ledger.entries() == entries
    assert path.read_bytes() == before
    assert not (tmp_path / "l.torn").exists()
    with pytest.raises(LedgerError, match="read-only"):
        ledger.append("step", {})
    with pytest.raises(FileNotFoundError):
        Ledger(tmp_path / "none", readonly=True)


@pytest.mark.parametrize("payload", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
def test_payload_that_json_cannot_hold_is_refused_and_nothing_of_the_batch_is_written(tmp_path, payload) -> None:
    ledger = filled(tmp_path / "l", 1)
    with pytest.raises((TypeError, ValueError), match="plain JSON"):
        ledger.append_many([("fine", {}), ("bad", payload)])
    assert len(ledger.entries()) == 1
    assert ledger.append("next", {}).seq == 1


def test_second_writer_is_noticed_before_it_can_break_the_chain(tmp_path) -> None:
    path = tmp_path / "l"
    first, second = Ledger(path), Ledger(path)
    first.append("mine", {})
    with pytest.raises(LedgerError, match="second writer"):
        second.append("theirs", {})
    assert len(Ledger(path)) == 1


def test_removed_file_is_noticed(tmp_path) -> None:
    ledger = filled(tmp_path / "l")
    (tmp_path / "l").unlink()
    with pytest.raises(LedgerError, match="removed"):
        ledger.append("step", {})


def test_append_that_does_not_fit_on_the_disk_leaves_nothing_behind_and_the_ledger_usable(tmp_path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from memory.ledger import Ledger, LedgerError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
ledger.append("small", {})
try:
    ledger.append("big", {"text": "x" * 5000})
except LedgerError as error:
    print(error)
ledger.append("small", {})
"""
    path = tmp_path / "l"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert "could not append 1 entries" in done.stdout
    assert [entry.kind for entry in Ledger(path).entries()] == ["small", "small"]


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path) -> None:
    script = """
import sys
from pathlib import Path
from memory.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
while True:
    batch = ledger.append_many([("step", {"text": "y" * 300}) for _ in range(7)])
    print(batch[-1].seq, flush=True)
"""
    path = tmp_path / "l"
    for trial in range(2):
        writer = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(5 + 11 * trial):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split("\n")[:-1])])
        writer.wait()
        assert len(Ledger(path)) > acknowledged


def test_publish_replaces_whole_files_and_leaves_no_temporary_ones(tmp_path) -> None:
    path = tmp_path / "deep" / "value.json"
    first = publish_json(path, {"b": 1, "a": ["ü", None]})
    assert read_json(path) == {"b": 1, "a": ["ü", None]}
    second = publish_json(path, Evidence(verifier="v", verdict="passed", digest="d"))
    assert first != second
    assert read_record(path, Evidence).verdict == "passed"
    assert [child.name for child in path.parent.iterdir()] == ["value.json"]
    assert publish_bytes(tmp_path / "raw", b"abc").startswith("ba7816bf")


def test_publish_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path) -> None:
    path = tmp_path / "value.json"
    publish_json(path, 1)
    with pytest.raises(ValueError, match="nan"):
        publish_json(path, float("nan"))
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        publish_bytes(tmp_path / "directory", b"x")
    assert read_json(path) == 1
    assert sorted(child.name for child in tmp_path.iterdir()) == ["directory", "value.json"]


def test_damaged_published_file_is_named_in_the_error(tmp_path) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(b"{")
    with pytest.raises(ValueError, match=r"value\.json: expected JSON"):
        read_json(path)
    path.write_bytes(json.dumps({"verifier": "v"}).encode())
    with pytest.raises(ValueError, match=r"value\.json: expected a Evidence"):
        read_record(path, Evidence)


def test_lock_excludes_a_second_holder_names_it_and_is_free_again_afterwards(tmp_path) -> None:
    with exclusive_lock(tmp_path):
        with pytest.raises(AlreadyLocked) as refused, exclusive_lock(tmp_path):
            pass
        assert refused.value.pid == os.getpid()
        assert refused.value.path == tmp_path / ".lock"
    with exclusive_lock(tmp_path):
        pass


def test_lock_is_waited_for_as_long_as_asked_and_no_longer(tmp_path) -> None:
    began = time.monotonic()
    with exclusive_lock(tmp_path), pytest.raises(AlreadyLocked), exclusive_lock(tmp_path, wait_s=0.2):
        pass
    assert 0.2 <= time.monotonic() - began < 10.0


def test_lock_of_a_killed_process_is_free(tmp_path) -> None:
    script = """
import sys, time
from pathlib import Path
from memory.ledger import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(AlreadyLocked) as refused, exclusive_lock(tmp_path):
        pass
    assert refused.value.pid == holder.pid
    holder.kill()
    holder.wait()
    with exclusive_lock(tmp_path):
        pass


def test_first_entry_follows_the_zero_hash(tmp_path) -> None:
    ledger = Ledger(tmp_path / "l")
    assert ledger.head == GENESIS
    assert ledger.append("first", {}).prev == GENESIS
    assert ledger.append_many([]) == []
