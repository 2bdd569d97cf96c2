"""The shared store: published whole or not at all, verified before use, the same over a path and a URL."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from serving.adapter_share import FolderShare, SharedAdapters, ShareError, UrlShare, bring, open_share
from serving.adapters import Adapter, AdapterCorrupt, AdapterMissing, AdapterStore, sweep
from tests.serving.lora_files import admitted

WEIGHTS, CONFIG, RECORD = "adapter_model.safetensors", "adapter_config.json", "adapter.json"
ODD_NAMES = ["", "..", "../x", "/etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "/..", "a" * 64 + "\n", "a\0b"]


@pytest.fixture(params=["path", "url"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "path":
        yield str(tmp_path / "share")
        return
    url = f"memory://share-{secrets.token_hex(4)}"
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True) if fsspec.filesystem("memory").exists(url) else None


def change(where: str, file: str, edit: Callable[[bytes], bytes | None]) -> None:
    """Writes, or removes, a file of the shared store behind its back."""
    files, root = fsspec.core.url_to_fs(where)
    (at,) = [name for name in files.find(root) if name.endswith(f"/{file}")]
    data = edit(files.cat_file(at))
    files.rm_file(at)
    if data is not None:
        files.pipe_file(at, data)


def published(tmp_path: Path, where: str, value: float = 1.0) -> Adapter:
    run = AdapterStore(tmp_path / "run")
    adapter = admitted(run, tmp_path / "scratch", value)
    SharedAdapters(tmp_path / "publisher", where).publish(adapter.hash, run)
    return adapter


def node(tmp_path: Path, where: str) -> SharedAdapters:
    return SharedAdapters(tmp_path / "node", where)


def test_a_node_fetches_what_another_published_and_keeps_it(tmp_path: Path, where: str) -> None:
    adapter, store = published(tmp_path, where), node(tmp_path, where)
    found = store.get(adapter.hash)
    assert found.model_copy(update={"path": None, "shared": None}) == adapter.model_copy(update={"path": None})
    assert (found.shared, found.path) == (where, (tmp_path / "node" / adapter.hash).resolve())
    change(where, RECORD, lambda data: None)
    assert store.path(adapter.hash) == found.path  # from its own disk
    assert [one.hash for one in store.list()] == [adapter.hash]


def test_what_was_not_published_is_missing(tmp_path: Path, where: str) -> None:
    with pytest.raises(AdapterMissing, match="promote it again"):
        node(tmp_path, where).get("a" * 64)
    assert not open_share(where).holds("a" * 64)


def test_an_adapter_without_its_record_is_not_there(tmp_path: Path, where: str) -> None:
    adapter = published(tmp_path, where)
    change(where, RECORD, lambda data: None)
    with pytest.raises(AdapterMissing):
        node(tmp_path, where).get(adapter.hash)


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        (WEIGHTS, lambda data: data[:-1] + b"\x01"),
        (WEIGHTS, lambda data: data[:-9]),
        (WEIGHTS, lambda data: b""),
        (WEIGHTS, lambda data: None),
        (CONFIG, lambda data: data.replace(b'"lora_alpha": 4', b'"lora_alpha": 8')),
        (CONFIG, lambda data: None),
        (RECORD, lambda data: data[:20]),
        (RECORD, lambda data: b"[]"),
        (RECORD, lambda data: data.replace(b'"rank": 2', b'"rank": 1')),
        (RECORD, lambda data: data.replace(b'"base": "f', b'"base": "e')),
        (RECORD, lambda data: b" " * (2**20 + 1)),
    ],
)
def test_a_damaged_or_forged_adapter_is_never_used(
    tmp_path: Path, where: str, file: str, edit: Callable[[bytes], bytes | None]
) -> None:
    adapter, store = published(tmp_path, where), node(tmp_path, where)
    change(where, file, edit)
    with pytest.raises((AdapterCorrupt, ShareError)):
        store.get(adapter.hash)
    assert not (tmp_path / "node" / adapter.hash).exists()
    assert list((tmp_path / "node").iterdir()) == []  # nothing half-fetched is left


def test_another_adapter_under_its_name_is_not_it(tmp_path: Path, where: str) -> None:
    one, two = published(tmp_path, where, 1.0), published(tmp_path, where, 2.0)
    files, root = fsspec.core.url_to_fs(where)
    for name in (WEIGHTS, CONFIG, RECORD):
        files.pipe_file(f"{root}/{one.hash}/{name}", files.cat_file(f"{root}/{two.hash}/{name}"))
    with pytest.raises(AdapterCorrupt, match="hash"):
        node(tmp_path, where).get(one.hash)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_that_are_no_hashes_never_reach_the_disk(tmp_path: Path, where: str, name: str) -> None:
    share, store = open_share(where), node(tmp_path, where)
    for act in (store.get, store.path, AdapterStore(tmp_path).get, AdapterStore(tmp_path).path, share.holds):
        with pytest.raises(AdapterMissing, match="64 hexadecimal digits"):
            act(name)
    with pytest.raises(AdapterMissing, match="64 hexadecimal digits"):
        store.receive(name, lambda into: None)
    with pytest.raises(AdapterMissing, match="64 hexadecimal digits"):
        bring(store, Adapter(hash=name, base="b", rank=1, path=tmp_path))


def test_publishing_twice_at_once_publishes_once(tmp_path: Path, where: str) -> None:
    run = AdapterStore(tmp_path / "run")
    adapter = admitted(run, tmp_path / "scratch")
    stores = [SharedAdapters(tmp_path / f"publisher-{number}", where) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda store: store.publish(adapter.hash, run), stores))
    assert {one.hash for one in found} == {adapter.hash}
    files, root = fsspec.core.url_to_fs(where)
    assert len(files.find(root)) == 3


def test_fetching_twice_at_once_on_one_node_is_no_conflict(tmp_path: Path) -> None:
    where = str(tmp_path / "share")  # fsspec's memory has one read position for all readers
    adapter = published(tmp_path, where)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: node(tmp_path, where).get(adapter.hash), range(8)))
    assert len({one.path for one in found}) == 1


def test_a_damaged_adapter_of_a_run_is_not_published(tmp_path: Path, where: str) -> None:
    run = AdapterStore(tmp_path / "run")
    adapter = admitted(run, tmp_path / "scratch")
    weights = tmp_path / "run" / adapter.hash / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(AdapterCorrupt):
        SharedAdapters(tmp_path / "publisher", where).publish(adapter.hash, run)
    assert not open_share(where).holds(adapter.hash)


@pytest.mark.parametrize("file", [WEIGHTS, RECORD])
def test_publishing_again_replaces_a_damaged_copy(tmp_path: Path, where: str, file: str) -> None:
    adapter = published(tmp_path, where)
    change(where, file, lambda data: data[:-9] + b"\x01")
    SharedAdapters(tmp_path / "second", where).publish(adapter.hash, AdapterStore(tmp_path / "run"))
    assert node(tmp_path, where).get(adapter.hash).hash == adapter.hash


def test_what_a_kill_left_is_swept_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / ".publish-old", tmp_path / ".receive-new"
    for directory in (old, new, tmp_path / "kept"):
        directory.mkdir()
        (directory / WEIGHTS).write_bytes(b"half")
    for directory in (old, tmp_path / "kept"):
        os.utime(directory, (0, 0))
    sweep(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".receive-new", "kept"]


def test_a_half_written_one_is_not_visible_and_the_next_publisher_completes_it(tmp_path: Path) -> None:
    where = f"memory://half-{secrets.token_hex(4)}"
    run = AdapterStore(tmp_path / "run")
    adapter = admitted(run, tmp_path / "scratch")
    files, root = fsspec.core.url_to_fs(where)
    files.pipe_file(f"{root}/{adapter.hash}/{WEIGHTS}", b"half")
    assert not open_share(where).holds(adapter.hash)
    SharedAdapters(tmp_path / "publisher", where).publish(adapter.hash, run)
    assert node(tmp_path, where).get(adapter.hash).hash == adapter.hash


def _publish_and_die(run: Path, share: str, adapter: str) -> None:
    folder = FolderShare(Path(share))
    real = Path.rename
    Path.rename = lambda self, target: os._exit(9)  # type: ignore[method-assign,assignment,misc]
    try:
        folder.publish(adapter, AdapterStore(run).path(adapter))
    finally:
        Path.rename = real  # type: ignore[method-assign]


def test_a_publisher_killed_before_the_rename_leaves_nothing_visible(tmp_path: Path) -> None:
    run, share = AdapterStore(tmp_path / "run"), tmp_path / "share"
    adapter = admitted(run, tmp_path / "scratch")
    child = multiprocessing.get_context("fork").Process(
        target=_publish_and_die, args=(run.root, str(share), adapter.hash)
    )
    child.start()
    child.join()
    assert child.exitcode == 9
    assert not open_share(str(share)).holds(adapter.hash)
    assert [entry.name[:9] for entry in share.iterdir()] == [".publish-"]
    SharedAdapters(tmp_path / "publisher", str(share)).publish(adapter.hash, run)
    assert node(tmp_path, str(share)).get(adapter.hash).hash == adapter.hash


def test_links_in_a_shared_folder_are_not_followed(tmp_path: Path) -> None:
    where = str(tmp_path / "share")
    adapter = published(tmp_path, where)
    weights = tmp_path / "share" / adapter.hash / WEIGHTS
    shutil.move(weights, tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ShareError, match="cannot be fetched"):
        node(tmp_path, where).get(adapter.hash)


def test_a_store_that_cannot_be_written_or_opened_is_said_as_such(tmp_path: Path) -> None:
    run = AdapterStore(tmp_path / "run")
    adapter = admitted(run, tmp_path / "scratch")
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(ShareError, match="cannot be published"):
        SharedAdapters(tmp_path / "a", str(tmp_path / "file" / "share")).publish(adapter.hash, run)
    with pytest.raises(ShareError, match="fsspec can open"):
        SharedAdapters(tmp_path / "b", "gopher://share").publish(adapter.hash, run)


def test_file_urls_are_paths() -> None:
    assert isinstance(open_share("file:///somewhere/share"), FolderShare)
    assert isinstance(open_share("channels/adapters"), FolderShare)
    assert isinstance(open_share("s3://bucket/adapters"), UrlShare)


def test_a_process_takes_over_the_adapter_it_is_told_of(tmp_path: Path, where: str) -> None:
    adapter = published(tmp_path, where)
    told = node(tmp_path, where).get(adapter.hash)
    near = bring(AdapterStore(tmp_path / "near"), told)
    assert near.path == (tmp_path / "near" / adapter.hash).resolve()
    shutil.rmtree(tmp_path / "node")
    far = bring(AdapterStore(tmp_path / "far"), told)  # of its path nothing is here
    assert far.path == (tmp_path / "far" / adapter.hash).resolve()
    assert bring(AdapterStore(tmp_path / "far"), told.model_copy(update={"shared": None})) == far
    with pytest.raises(AdapterMissing, match="in no shared store"):
        bring(AdapterStore(tmp_path / "none"), told.model_copy(update={"shared": None}))
