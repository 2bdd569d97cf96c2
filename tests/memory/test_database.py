"""The SQLite file: where it may lie, what is refused as something else, and disks that are full or read-only."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from memory.database import (
    FILE_NAME,
    NETWORK_FILE_SYSTEMS,
    SCHEMA_VERSION,
    SchemaMismatch,
    SchemaTooNew,
    StoreError,
    _check_sqlite,
    connect,
    file_system,
    transaction,
)
from memory.store import Memory
from memory.types import Kind
from tests.memory.doubles import APPLES, EMBEDDER, note, raw, shown, solved

MOUNTS = """\
/dev/root / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
tmpfs /tmp tmpfs rw 0 0
server:/export /mnt/team nfs4 rw,vers=4.2 0 0
/dev/sdb1 /mnt/team/local xfs rw 0 0
//files/share /mnt/with\\040space cifs rw 0 0
server:/ue /mnt/übung nfs rw 0 0
me@host:/home /home/me/remote fuse.sshfs rw 0 0
overlay /layered overlay rw 0 0
server:/over /layered nfs rw 0 0
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/memory", "ext4"),
        ("/", "ext4"),
        ("/tmp/x", "tmpfs"),
        ("/mnt/team", "nfs4"),
        ("/mnt/team/a/b", "nfs4"),
        ("/mnt/team/local/a", "xfs"),
        ("/mnt/teamwork", "ext4"),
        ("/mnt/with space/a", "cifs"),
        ("/mnt/übung/x", "nfs"),
        ("/home/me/remote/memory", "fuse.sshfs"),
        ("/layered/x", "nfs"),
    ],
)
def test_the_innermost_and_latest_mount_says_what_a_path_lies_on(path, kind) -> None:
    assert file_system(Path(path), MOUNTS) == kind


def test_mounts_that_name_nothing_say_nothing() -> None:
    assert file_system(Path("/x"), "") == file_system(Path("/x"), "\n\nodd\n") == ""


def test_common_network_file_systems_are_known() -> None:
    assert {"nfs", "nfs4", "cifs", "fuse.sshfs", "lustre", "ceph"} <= NETWORK_FILE_SYSTEMS
    assert not {"ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs"} & NETWORK_FILE_SYSTEMS


@pytest.mark.parametrize("readonly", [True, False])
def test_a_network_file_system_is_refused_before_anything_is_made(tmp_path, monkeypatch, readonly) -> None:
    monkeypatch.setattr("memory.database.file_system", lambda path, mounts: "nfs4")
    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*memory actor"):
        connect(tmp_path, readonly=readonly)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_syncs_every_commit_and_overwrites_what_it_deletes(tmp_path) -> None:
    connection = connect(tmp_path, readonly=False)
    pragmas = {name: connection.pragma(name) for name in ("journal_mode", "synchronous", "secure_delete")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1}
    assert connection.pragma("foreign_keys") == 1
    connection.close()


@pytest.mark.parametrize(
    ("version", "error", "advice"),
    [(SCHEMA_VERSION + 97, SchemaTooNew, "use a newer evomesh"), (1, SchemaMismatch, "move the directory away")],
)
def test_another_schema_is_refused_untouched(tmp_path, version, error, advice) -> None:
    Memory.open(tmp_path, EMBEDDER).close()
    connection = raw(tmp_path / FILE_NAME)
    connection.pragma("user_version", version)
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    for readonly in (True, False):
        with pytest.raises(error, match=f"got {version}.*{advice}"):
            Memory.open(tmp_path, EMBEDDER, readonly=readonly)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_files_that_are_no_memory_are_refused_with_a_reason(tmp_path) -> None:
    with pytest.raises(StoreError, match="got no file"):
        Memory.open(tmp_path, EMBEDDER, readonly=True)
    (tmp_path / FILE_NAME).write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreError, match="not an SQLite file"):
        Memory.open(tmp_path, EMBEDDER)
    (tmp_path / FILE_NAME).unlink()
    other = raw(tmp_path / FILE_NAME)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(StoreError, match="another SQLite file"):
        Memory.open(tmp_path, EMBEDDER)
    with pytest.raises(StoreError, match="expected a directory"):
        Memory.open(tmp_path / FILE_NAME / "below", EMBEDDER)


def test_an_sqlite_that_loses_commits_is_refused() -> None:
    _check_sqlite("3.51.3")
    _check_sqlite("3.100.0")
    with pytest.raises(StoreError, match=r"3\.51\.3 or later, got 3\.40\.1"):
        _check_sqlite("3.40.1")


def test_a_block_that_fails_leaves_nothing_of_its_writes(tmp_path) -> None:
    connection = connect(tmp_path, readonly=False)

    def write_and_fail() -> None:
        with transaction(connection):
            connection.execute("INSERT INTO meta VALUES ('a', 'b')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert connection.execute("SELECT count(*) FROM meta").get == 0
    assert not connection.in_transaction
    connection.close()


def test_a_read_only_directory_can_be_read_but_not_written() -> None:
    directory = Path(tempfile.mkdtemp())  # not below tmp_path, which other users cannot enter
    try:
        with Memory.open(directory, EMBEDDER) as memory:
            memory.remember(*solved(APPLES, "5"))
        directory.chmod(0o555)
        script = """
import os, sys
from pathlib import Path
from memory.database import StoreError
from memory.embed import HashedNgramEmbedder
from memory.store import Memory
from memory.types import Cue
if os.geteuid() == 0:
    os.setuid(65534)
cue = Cue(text="How many apples are left of seven apples?", namespaces=("default/default/default",))
with Memory.open(Path(sys.argv[1]), HashedNgramEmbedder(), readonly=True) as memory:
    print(len(memory.recall(cue).shown), memory.check())
try:
    Memory.open(Path(sys.argv[1]), HashedNgramEmbedder())
except StoreError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", script, directory], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        assert done.stdout.startswith("1 1\n")
        assert "expected a writable directory" in done.stdout
    finally:
        directory.chmod(0o755)
        shutil.rmtree(directory)


def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
        memory.embed_pending()
        pages = memory._connection.pragma("page_count")
        memory._connection.pragma("max_page_count", pages + 2)
        head = memory.head
        with pytest.raises(StoreError, match="the disk is full"):
            memory.remember([note(Kind.PROBLEM, f"{number} " * 500) for number in range(100)])
        assert memory.head == head
        assert len(shown(memory, APPLES)) == 1
        memory._connection.pragma("max_page_count", pages + 2_000)
        memory.remember([note(Kind.PROBLEM, f"{number} " * 500) for number in range(100)])
        assert memory.check() == 2
